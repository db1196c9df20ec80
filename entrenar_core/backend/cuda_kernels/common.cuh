// What every kernel file is compiled after: the element type, conversions, reductions over a warp and a block.
//
// A file is compiled once for each element type T of its arrays (ELEMENT is float or bf16). Arithmetic is float32
// throughout; parameters, statistics and losses are float whatever T is. Only built-in types are used, and inline PTX
// stands behind __CUDA_ARCH__ beside plain C++ with the same result, so that the same text also compiles for a host.

struct alignas(2) bf16 {
    unsigned short bits;
};

typedef ELEMENT T;

#ifdef __CUDA_ARCH__
#define DYNAMIC_SHARED(type, name) extern __shared__ __align__(16) unsigned char dynamic_shared[]; \
    type* name = reinterpret_cast<type*>(dynamic_shared)
#endif

constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;
#define INFINITE __int_as_float(0x7f800000)
#define NOT_A_NUMBER __int_as_float(0x7fc00000)

__device__ inline float as_float(unsigned bits) {
    return __int_as_float(static_cast<int>(bits));
}

__device__ inline float to_float(float x) {
    return x;
}

__device__ inline float to_float(bf16 x) {
    return as_float(static_cast<unsigned>(x.bits) << 16);
}

template <typename To> __device__ inline To from_float(float x);

template <> __device__ inline float from_float<float>(float x) {
    return x;
}

// Nearest, ties to even; NaN stays NaN.
template <> __device__ inline bf16 from_float<bf16>(float x) {
    bf16 result;
#ifdef __CUDA_ARCH__
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(x));
#else
    unsigned bits = static_cast<unsigned>(__float_as_int(x));
    bits = x != x ? 0x7fff0000u : bits + 0x7fffu + ((bits >> 16) & 1u);
    result.bits = static_cast<unsigned short>(bits >> 16);
#endif
    return result;
}

// The value of a float16.
__device__ inline float half_value(unsigned short half) {
#ifdef __CUDA_ARCH__
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
    return value;
#else
    const unsigned sign = (half & 0x8000u) << 16, exponent = half >> 10 & 31u, mantissa = half & 0x3ffu;
    if (exponent == 31u) {
        return as_float(sign | 0x7f800000u | mantissa << 13);
    }
    const float magnitude = exponent == 0u ? mantissa * (1.0f / 16777216.0f)
                                           : as_float((exponent + 112u) << 23 | mantissa << 13);
    return sign ? -magnitude : magnitude;
#endif
}

// 16 bytes of elements, moved by one instruction.
template <typename E> struct alignas(16) Pack {
    static constexpr int SIZE = 16 / sizeof(E);
    E values[SIZE];
};

template <typename E> __device__ inline bool is_aligned(const E* pointer) {
    return reinterpret_cast<unsigned long long>(pointer) % 16 == 0;
}

__device__ inline long long global_thread() {
    return static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
}

__device__ inline long long global_threads() {
    return static_cast<long long>(gridDim.x) * blockDim.x;
}

#define GRID_STRIDE(i, first, stop) for (long long i = (first) + global_thread(); i < (stop); i += global_threads())

// Calls step(i, inputs' values at i, outputs' values at i) for i < n; arrays move 16 bytes at a time where all of them
// are aligned, as whole buffers are.
template <int INPUTS, int OUTPUTS, typename E, typename Step>
__device__ inline void over_elements(const E* const (&inputs)[INPUTS], E* const (&outputs)[OUTPUTS], long long n, Step step) {
    constexpr int SIZE = Pack<E>::SIZE;
    bool aligned = true;
    for (int k = 0; k < INPUTS; k++) {
        aligned = aligned && is_aligned(inputs[k]);
    }
    for (int k = 0; k < OUTPUTS; k++) {
        aligned = aligned && is_aligned(outputs[k]);
    }
    const long long packs = aligned ? n / SIZE : 0;
    GRID_STRIDE(p, 0, packs) {
        Pack<E> read[INPUTS], written[OUTPUTS];
#pragma unroll
        for (int k = 0; k < INPUTS; k++) {
            read[k] = reinterpret_cast<const Pack<E>*>(inputs[k])[p];
        }
#pragma unroll
        for (int j = 0; j < SIZE; j++) {
            float in[INPUTS], out[OUTPUTS];
#pragma unroll
            for (int k = 0; k < INPUTS; k++) {
                in[k] = to_float(read[k].values[j]);
            }
            step(p * SIZE + j, in, out);
#pragma unroll
            for (int k = 0; k < OUTPUTS; k++) {
                written[k].values[j] = from_float<E>(out[k]);
            }
        }
#pragma unroll
        for (int k = 0; k < OUTPUTS; k++) {
            reinterpret_cast<Pack<E>*>(outputs[k])[p] = written[k];
        }
    }
    GRID_STRIDE(i, packs * SIZE, n) {
        float in[INPUTS], out[OUTPUTS];
        for (int k = 0; k < INPUTS; k++) {
            in[k] = to_float(inputs[k][i]);
        }
        step(i, in, out);
        for (int k = 0; k < OUTPUTS; k++) {
            outputs[k][i] = from_float<E>(out[k]);
        }
    }
}

// Calls step(i, inputs' values at i) for i < n, shared out over the threads of one block, and writes what it returns to
// `out` unless that is null; 16 bytes at a time where all arrays are aligned. `out` may be an input.
template <int INPUTS, typename E, typename Step>
__device__ inline void over_run(const E* const (&inputs)[INPUTS], E* out, int n, Step step) {
    constexpr int SIZE = Pack<E>::SIZE;
    bool aligned = is_aligned(out);
    for (int k = 0; k < INPUTS; k++) {
        aligned = aligned && is_aligned(inputs[k]);
    }
    const int packs = aligned ? n / SIZE : 0;
    for (int p = threadIdx.x; p < packs; p += blockDim.x) {
        Pack<E> read[INPUTS], written;
#pragma unroll
        for (int k = 0; k < INPUTS; k++) {
            read[k] = reinterpret_cast<const Pack<E>*>(inputs[k])[p];
        }
#pragma unroll
        for (int j = 0; j < SIZE; j++) {
            float in[INPUTS];
#pragma unroll
            for (int k = 0; k < INPUTS; k++) {
                in[k] = to_float(read[k].values[j]);
            }
            written.values[j] = from_float<E>(step(p * SIZE + j, in));
        }
        if (out != nullptr) {
            reinterpret_cast<Pack<E>*>(out)[p] = written;
        }
    }
    for (int i = packs * SIZE + threadIdx.x; i < n; i += blockDim.x) {
        float in[INPUTS];
        for (int k = 0; k < INPUTS; k++) {
            in[k] = to_float(inputs[k][i]);
        }
        const float value = step(i, in);
        if (out != nullptr) {
            out[i] = from_float<E>(value);
        }
    }
}

#define NO_RESULT static_cast<T*>(nullptr)

struct Sum {
    template <typename V> __device__ V operator()(V a, V b) const {
        return a + b;
    }
};

// The larger, and NaN where either is.
struct Largest {
    template <typename V> __device__ V operator()(V a, V b) const {
        return (a > b || a != a) ? a : b;
    }
};

// The value of all lanes combined, on every lane; each lane combines in the same tree.
template <typename V, typename Combine> __device__ inline V over_warp(V value, Combine combine) {
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        value = combine(value, __shfl_xor_sync(ALL_LANES, value, distance));
    }
    return value;
}

// The value of all threads of the block combined, on every thread. blockDim.x is a multiple of 32; all threads call it.
template <typename V, typename Combine> __device__ inline V over_block(V value, Combine combine, V neutral) {
    __shared__ V parts[WARP];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, n_warps = blockDim.x / WARP;
    value = over_warp(value, combine);
    if (n_warps == 1) {
        return value;
    }
    __syncthreads();  // parts of an earlier call have been read
    if (lane == 0) {
        parts[warp] = value;
    }
    __syncthreads();
    return over_warp(lane < n_warps ? parts[lane] : neutral, combine);
}

__device__ inline float block_sum(float value) {
    return over_block(value, Sum(), 0.0f);
}

__device__ inline double block_sum(double value) {
    return over_block(value, Sum(), 0.0);
}

__device__ inline float block_largest(float value) {
    return over_block(value, Largest(), -INFINITE);
}
