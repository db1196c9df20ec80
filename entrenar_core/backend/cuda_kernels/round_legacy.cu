// needs rounding.cuh
// Types of 32 values with one scale: a warp a block, a lane a value, as legacy_kernels.py does it. And floats.

struct Least {
    template <typename V> __device__ V operator()(V a, V b) const {
        return a < b ? a : b;
    }
};

struct Step {
    float inverse, rounding;
};

__device__ inline Step step_of(float scale, float rounding) {
    const float inverse = scale == 0.0f ? 0.0f : 1.0f / scale;
    const bool usable = fabsf(inverse) <= LARGEST;
    return {usable ? inverse : 0.0f, usable ? rounding : 0.0f};
}

__device__ inline int code_of(float x, Step step, int levels) {
    const float scaled = x * step.inverse + step.rounding;
    const int code = static_cast<int>(scaled);
    return code < 0 ? 0 : code > levels ? levels : code;
}

// The first of the values of largest magnitude in the warp's block.
__device__ inline float furthest(float x) {
    const int lane = threadIdx.x % WARP;
    const long long magnitude = magnitude_bits(x);
    const long long found = over_warp(magnitude << 8 | (WARP - 1 - lane), Largest());
    return __shfl_sync(ALL_LANES, x, WARP - 1 - static_cast<int>(found & 255));
}

// Calls block(x, value back, ends of the range) for each block of 32; false where it does not fit.
template <typename Block>
__device__ inline void over_blocks(
    const float* values, float* out, bool* inside, int* refused, long long n_blocks, float share, Block block) {
    const long long first = global_thread() / WARP, step = global_threads() / WARP;
    const int lane = threadIdx.x % WARP;
    for (long long b = first; b < n_blocks; b += step) {
        const float x = values[b * WARP + lane];
        float back = x, low = 0.0f, high = 0.0f;
        if (!block(x, back, low, high)) {
            if (lane == 0) {
                atomicMin(refused, static_cast<int>(b));
            }
            continue;
        }
        out[b * WARP + lane] = back;
        if (inside != nullptr) {
            inside[b * WARP + lane] = in_range(x, low, high, share);
        }
    }
}

// scale·(code - level): Q4_0 (level 8), Q5_0 (16).
__device__ inline void symmetric(
    const float* values, float* out, bool* inside, int* refused, long long n_blocks, int level) {
    const int levels = 2 * level - 1;
    over_blocks(values, out, inside, refused, n_blocks, 0.5f / levels, [=](float x, float& back, float& low, float& high) {
        float extreme = furthest(x);
        if (magnitude_bits(extreme) >= INFINITE_BITS) {
            return false;
        }
        extreme = extreme == 0.0f ? 0.0f : extreme;
        const float scale = extreme / -static_cast<float>(level);
        const unsigned short half = half_bits(scale);
        if (overflows(half)) {
            return false;
        }
        const Step step = step_of(scale, level + 0.5f);
        const float d = half_value(half);
        back = static_cast<float>(code_of(x, step, levels) - level) * d;
        low = -static_cast<float>(level) * d;
        high = static_cast<float>(levels - level) * d;
        return true;
    });
}

extern "C" __global__ void round_q4_0(
    const float* values, float* out, bool* inside, int* refused, long long n_blocks) {
    symmetric(values, out, inside, refused, n_blocks, 8);
}

extern "C" __global__ void round_q5_0(
    const float* values, float* out, bool* inside, int* refused, long long n_blocks) {
    symmetric(values, out, inside, refused, n_blocks, 16);
}

// scale·code + minimum: Q4_1 (15 levels above the lowest), Q5_1 (31).
__device__ inline void with_minimum(
    const float* values, float* out, bool* inside, int* refused, long long n_blocks, int levels) {
    over_blocks(values, out, inside, refused, n_blocks, 0.5f / levels, [=](float x, float& back, float& low, float& high) {
        const int key = order_key(x), least = over_warp(key, Least()), most = over_warp(key, Largest());
        const float minimum = of_order_key(least), highest = of_order_key(most);
        const float scale = (highest - minimum) / static_cast<float>(levels);
        const unsigned short half = half_bits(scale), low_half = half_bits(minimum);
        if (overflows(half) || overflows(low_half)) {
            return false;
        }
        const Step step = step_of(scale, 0.5f);
        const float d = half_value(half), m = half_value(low_half);
        const int code = code_of(x - minimum, step, levels);
        back = static_cast<float>(code) * d + m;
        low = 0.0f * d + m;
        high = static_cast<float>(levels) * d + m;
        return true;
    });
}

extern "C" __global__ void round_q4_1(
    const float* values, float* out, bool* inside, int* refused, long long n_blocks) {
    with_minimum(values, out, inside, refused, n_blocks, 15);
}

extern "C" __global__ void round_q5_1(
    const float* values, float* out, bool* inside, int* refused, long long n_blocks) {
    with_minimum(values, out, inside, refused, n_blocks, 31);
}

extern "C" __global__ void round_q8_0(
    const float* values, float* out, bool* inside, int* refused, long long n_blocks) {
    over_blocks(values, out, inside, refused, n_blocks, 0.5f / 255, [](float x, float& back, float& low, float& high) {
        const int magnitude = over_warp(magnitude_bits(x), Largest());
        const float scale = __int_as_float(magnitude) / 127.0f;
        const unsigned short half = half_bits(scale);
        if (overflows(half)) {
            return false;
        }
        const Step step = step_of(scale, 0.0f);
        const float d = half_value(half), scaled = x * step.inverse;
        const int code = static_cast<signed char>(static_cast<int>(scaled + copysignf(0.49999997f, scaled)));
        back = static_cast<float>(code) * d;
        low = -128.0f * d;
        high = 127.0f * d;
        return true;
    });
}

// F16 and BF16, value by value; `refused` becomes the first finite one that would become infinite.
template <typename Round>
__device__ inline void over_values(const float* values, float* out, int* refused, long long n, int width, Round round) {
    GRID_STRIDE(i, 0, n) {
        const float x = values[i], back = round(x);
        const bool was_finite = magnitude_bits(x) < INFINITE_BITS;
        if (was_finite && magnitude_bits(back) >= INFINITE_BITS) {
            atomicMin(refused, static_cast<int>(i / width));
        } else {
            out[i] = back;
        }
    }
}

extern "C" __global__ void round_f16(const float* values, float* out, int* refused, long long n, int width) {
    over_values(values, out, refused, n, width, [](float x) { return half_value(half_bits(x)); });
}

extern "C" __global__ void round_bf16(const float* values, float* out, int* refused, long long n, int width) {
    over_values(values, out, refused, n, width, [](float x) { return to_float(from_float<bf16>(x)); });
}
