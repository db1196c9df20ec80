// Parts of blocks with scales of their own, which are searched for: a thread has a part of SIZE values, and the COUNT
// parts of a block are neighbouring threads of a warp. Each does what a lane of k_lanes_kernels.py does.

// The CPU's min and max, which take the first unless the second is smaller (larger): zeros of either sign go their way.
__device__ inline float smaller(float first, float second) {
    return second < first ? second : first;
}

__device__ inline float larger(float first, float second) {
    return second > first ? second : first;
}

// The nearest whole number, ties to even, for |x| < 2^22; cut to a range.
__device__ inline float nearest(float x, float lowest, float highest) {
    return smaller(larger((x + 12582912.0f) - 12582912.0f, lowest), highest);
}

__device__ inline float inverse_or_zero(float x) {
    return x != 0.0f ? 1.0f / x : 0.0f;
}

constexpr float SMALLEST_NORMAL_HALF = 1.0f / 16384.0f;
constexpr float SMALLEST_HALF = 1.0f / 16777216.0f;

// x >= 0 to the nearest float16; what is too large for one keeps its size.
__device__ inline float rounded_to_half(float x) {
    if (x < SMALLEST_NORMAL_HALF) {
        return (x + 0.75f) - 0.75f;
    }
    const float spread = x * 8193.0f;
    return spread - (spread - x);
}

// The same, but from below 2^-14 to the next above: else the largest number is cut off.
__device__ inline float half_step(float wanted) {
    const float half = rounded_to_half(wanted);
    return half < wanted && wanted < SMALLEST_NORMAL_HALF ? half + SMALLEST_HALF : half;
}

struct Smaller {
    __device__ float operator()(float a, float b) const {
        return smaller(a, b);
    }
};

struct Larger {
    __device__ float operator()(float a, float b) const {
        return larger(a, b);
    }
};

// The values of a block's threads combined, in any order.
template <int COUNT, typename Combine> __device__ inline float over_parts(float value, Combine combine) {
    for (int distance = COUNT / 2; distance > 0; distance /= 2) {
        value = combine(value, __shfl_xor_sync(ALL_LANES, value, distance));
    }
    return value;
}

// The sum over a block's threads, added up in their order.
template <int COUNT> __device__ inline float sum_in_order(float value) {
    const int first = threadIdx.x % WARP / COUNT * COUNT;
    float sum = 0.0f;
    for (int k = 0; k < COUNT; k++) {
        sum += __shfl_sync(ALL_LANES, value, first + k);
    }
    return sum;
}

// a(i) for i < SIZE, added up in fours.
template <int SIZE, typename Term> __device__ inline float sum_in_fours(Term a) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < SIZE; i += 4) {
        sum += (a(i) + a(i + 1)) + (a(i + 2) + a(i + 3));
    }
    return sum;
}

template <int SIZE> struct Part {
    float values[SIZE], weights[SIZE];
    float low, width, energy;  // least value (at most 0), largest less least, sum of squares

    __device__ void measure() {
        low = 0.0f;
        float high = values[0];
#pragma unroll
        for (int i = 0; i < SIZE; i++) {
            low = smaller(low, values[i]);
            high = larger(high, values[i]);
        }
        width = high - low;
        energy = sum_in_fours<SIZE>([&](int i) { return values[i] * values[i]; });
    }

    // The mean square of the part + x².
    __device__ void weigh_by_square() {
        const float floor = energy / static_cast<float>(SIZE);
#pragma unroll
        for (int i = 0; i < SIZE; i++) {
            weights[i] = floor + values[i] * values[i];
        }
    }

    // importance·sqrt(2·mean square of the block + x²); the weights are the importance.
    template <int COUNT> __device__ void weigh_by_importance() {
        const float mean = 2.0f * sum_in_order<COUNT>(energy) / static_cast<float>(SIZE * COUNT);
#pragma unroll
        for (int i = 0; i < SIZE; i++) {
            weights[i] *= sqrtf(mean + values[i] * values[i]);
        }
    }
};

struct Rounded {
    float step, code, value;
};

// A number of each of a block's threads as step·code, codes from lowest to highest, for the best of a few float16 steps:
// the number of largest magnitude gets the code of largest magnitude, or one of the `tries` - 1 next to it.
// `importance` weighs the squared errors.
template <int COUNT>
__device__ inline Rounded round_row(float x, float importance, float lowest, float highest, int tries) {
    const float low = over_parts<COUNT>(smaller(0.0f, x), Smaller());
    const float high = over_parts<COUNT>(larger(0.0f, x), Larger());
    const bool is_signed = lowest < 0.0f;
    const float magnitude = is_signed ? larger(high, -low) : high, limit = is_signed ? -lowest : highest;
    const float sign = is_signed && high > -low ? -1.0f : 1.0f;
    float best = 0.0f, least = INFINITE;
    for (int n = 0; n < tries; n++) {
        const float step = sign * half_step(magnitude / (limit - static_cast<float>(n)));
        const float lost = x - step * nearest(x * inverse_or_zero(step), lowest, highest);
        const float error = sum_in_order<COUNT>(importance * lost * lost);
        if (error < least || n == 0) {
            best = step;
            least = error;
        }
    }
    const float code = nearest(x * inverse_or_zero(best), lowest, highest);
    return {best, code, best * code};
}

// A step as the float16 that is stored: NaN and infinity stay where a value of the block is not finite.
template <int COUNT> __device__ inline unsigned short stored_step(float step, float energy) {
    return half_bits(step + sum_in_order<COUNT>(energy * 0.0f));
}

template <int SIZE> __device__ inline void load_part(const float* source, float (&values)[SIZE]) {
    if (is_aligned(source)) {
#pragma unroll
        for (int p = 0; p < SIZE / 4; p++) {
            const Pack<float> pack = reinterpret_cast<const Pack<float>*>(source)[p];
#pragma unroll
            for (int k = 0; k < 4; k++) {
                values[4 * p + k] = pack.values[k];
            }
        }
    } else {
#pragma unroll
        for (int i = 0; i < SIZE; i++) {
            values[i] = source[i];
        }
    }
}

// Whole numbers as codes.
template <int LEAST, int MOST> struct Whole {
    static constexpr int STEPS = MOST - LEAST;

    __device__ float of(float y) const {
        return nearest(y, LEAST, MOST);
    }
    __device__ float least() const {
        return LEAST;
    }
    __device__ float most() const {
        return MOST;
    }
};

// What all kernels here take: values and out float [n_blocks, COUNT·SIZE]; importance (may be null) of the values of
// blocks_per_row blocks, which is that of every row.
struct Blocks {
    const float *values, *importance;
    float* out;
    bool* inside;
    int* refused;
    long long n_blocks;
    int blocks_per_row;
};

// Calls search(block, part, line) for each part, with the importance as its weights if there is one; that says whether
// the block fits. A value's code is then codes.of(line.scaled(x)), and stands for line.value(code).
template <int SIZE, int COUNT, typename Line, typename Codes, typename Search>
__device__ inline void round_parts(const Blocks& all, const Codes& codes, Search search) {
    constexpr int PER_WARP = WARP / COUNT;
    constexpr float SHARE = static_cast<float>(0.5 / Codes::STEPS);
    const int lane = threadIdx.x % WARP, within = lane % COUNT * SIZE;
    const long long n_values = all.n_blocks * COUNT * SIZE;
    for (long long group = global_thread() / WARP; group * PER_WARP < all.n_blocks; group += global_threads() / WARP) {
        // Beyond the last block it is the last one again, which nobody stores.
        const long long wanted = group * PER_WARP + lane / COUNT;
        const long long block = wanted < all.n_blocks ? wanted : all.n_blocks - 1;
        Part<SIZE> part;
        load_part(all.values + block * (COUNT * SIZE) + within, part.values);
        if (all.importance != nullptr) {
            load_part(all.importance + block % all.blocks_per_row * (COUNT * SIZE) + within, part.weights);
        }
        Line mine;
        const int fits = search(block, part, mine);
        if (!fits && within == 0) {
            atomicMin(all.refused, static_cast<int>(block));
        }
        // Neighbouring lanes store neighbouring values, each by the line of the thread that has searched their part.
        for (int round = 0; round < SIZE; round++) {
            const int index = round * WARP + lane;
            const Line line = mine.of_lane(index / SIZE);
            const int is_stored = __shfl_sync(ALL_LANES, fits, index / SIZE);
            const long long i = group * (WARP * SIZE) + index;
            if (is_stored && i < n_values) {
                const float x = all.values[i], code = codes.of(line.scaled(x)) + 0.0f;  // -0 is no code
                all.out[i] = line.value(code);
                if (all.inside != nullptr) {
                    all.inside[i] = in_range(x, line.value(codes.least()), line.value(codes.most()), SHARE);
                }
            }
        }
    }
}
