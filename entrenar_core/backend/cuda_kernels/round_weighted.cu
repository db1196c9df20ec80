// needs rounding.cuh parts.cuh
// Q4_0, Q4_1, Q5_0 and Q5_1 with an importance: a thread searches the scale of a block of 32 values, as
// legacy_search_kernels.py does.

constexpr int SIZE = 32;
constexpr float FURTHEST = 4.0f;  // how many times finer than the plain scale a scale may be

// The mean square of each row: a warp a row, float sums of 32 added up in double.
extern "C" __global__ void row_mean_squares(const float* values, float* means, int n_rows, int width) {
    const int lane = threadIdx.x % WARP;
    for (long long row = global_thread() / WARP; row < n_rows; row += global_threads() / WARP) {
        double total = 0.0;
        for (int column = lane; column < width; column += WARP) {
            const float x = values[row * width + column];
            total += static_cast<double>(over_warp(x * x, Sum()));
        }
        if (lane == 0) {
            means[row] = static_cast<float>(total / width);
        }
    }
}

// a(i) for i < 32, added up by halves: a(i) + a(i + 16), of those i and i + 8, and so on.
template <int DISTANCE = 1, typename Term> __device__ __forceinline__ auto sum_by_halves(Term a, int i = 0) {
    if constexpr (DISTANCE == SIZE) {
        return a(i);
    } else {
        return sum_by_halves<2 * DISTANCE>(a, i) + sum_by_halves<2 * DISTANCE>(a, i + DISTANCE);
    }
}

// Weighted sums over the codes k of a line: of k, k² and k·u, with u the value above the line's lowest.
struct Sums {
    float firsts, squares, products;

    __device__ Sums operator+(const Sums& other) const {
        return {firsts + other.firsts, squares + other.squares, products + other.products};
    }
};

// A whole number of `y` cut to 0 ... MOST.
template <int MOST> struct Truncated {
    static constexpr int STEPS = MOST;

    __device__ float of(float y) const {
        const int code = static_cast<int>(y);
        return static_cast<float>(code < 0 ? 0 : code > MOST ? MOST : code);
    }
    __device__ float least() const {
        return 0.0f;
    }
    __device__ float most() const {
        return MOST;
    }
};

// LEVEL: the code of 0 where a block has no minimum; else 0.
template <int LEVEL, int MOST> struct Search {
    Part<SIZE>& part;
    float total;  // of the weights

    __device__ void weigh(float mean_square) {
#pragma unroll
        for (int i = 0; i < SIZE; i++) {
            part.weights[i] *= sqrtf(mean_square + part.values[i] * part.values[i]);
        }
        total = sum_by_halves([&](int i) { return part.weights[i]; });
        if (total > 0.0f && total <= LARGEST) {
            return;
        }
        total = SIZE;
#pragma unroll
        for (int i = 0; i < SIZE; i++) {
            part.weights[i] = 1.0f;
        }
    }

    __device__ Sums fit(float minimum, float inverse, float rounding) const {
        return sum_by_halves([&](int i) {
            const float moved = part.values[i] - minimum;
            const float level = Truncated<MOST>().of(moved * inverse + rounding) - LEVEL;
            const float weighted = part.weights[i] * level;
            return Sums{weighted, weighted * level, weighted * moved};
        });
    }

    // The weighted error of what is stored, times unit².
    __device__ float stored_error(unsigned short low, unsigned short half, float unit) const {
        const float minimum = half_value(low), scale = half_value(half), inverse = inverse_or_zero(scale);
        return sum_by_halves([&](int i) {
            const float x = part.values[i];
            const float level = Truncated<MOST>().of((x - minimum) * inverse + (LEVEL + 0.5f)) - LEVEL;
            const float lost = ((level * scale + minimum) - x) * unit;
            return part.weights[i] * (lost * lost);
        });
    }

    // The first of the values of largest magnitude; infinite where a value is not finite.
    __device__ float furthest() const {
        float found = part.values[0];
#pragma unroll
        for (int i = 1; i < SIZE; i++) {
            found = magnitude_bits(part.values[i]) > magnitude_bits(found) ? part.values[i] : found;
        }
        return magnitude_bits(found) < INFINITE_BITS ? found : INFINITE;
    }

    // The scale with the least weighted error.
    __device__ float best_scale(float extreme) const {
        constexpr float LEVELS = LEVEL;
        const float of_extreme = -1.0f / extreme;
        float best = -extreme / LEVELS, best_gain = 0.0f;
        for (int step = -9; step <= 12; step++) {  // the last three refine the best
            const float inverse = step <= 9 ? (LEVELS + 0.1f * static_cast<float>(step)) * of_extreme : 1.0f / best;
            if (!(fabsf(inverse * extreme) <= FURTHEST * LEVELS)) {
                continue;
            }
            const Sums sums = fit(0.0f, inverse, LEVELS + 0.5f);
            const float scale = sums.products / sums.squares, gain = sums.products * scale;
            if (sums.squares > 0.0f && gain > best_gain && fabsf(scale) * FURTHEST * LEVELS >= fabsf(extreme)) {
                best = scale;
                best_gain = gain;
            }
        }
        return best;
    }

    // The line with the least weighted error, in place of the plain one from `low` on, unless its range is nearly 0.
    __device__ void find_line(float& low, float& scale) const {
        constexpr float LEVELS = MOST;
        const float width = scale * LEVELS;
        if (!(width > 0.0f && 1.0f / width <= LARGEST && width <= LARGEST)) {
            return;
        }
        const float mass = sum_by_halves([&](int i) { return part.weights[i] * (part.values[i] - low); });
        float offset = 0.0f, best_gain = 0.0f;  // the best minimum so far lies `offset` above the lowest value
        for (int step = 0; step <= 39; step++) {  // the last three refine the best
            const float finer = (LEVELS + -0.9f + 0.05f * static_cast<float>(step)) / (width - offset);
            const float inverse = step <= 36 ? finer : 1.0f / scale;
            if (!(fabsf(inverse * width) <= FURTHEST * LEVELS)) {
                continue;
            }
            const Sums sums = fit(low, inverse, 0.5f - offset * inverse);
            const float spread = total * sums.squares - sums.firsts * sums.firsts;
            if (!(spread > 1e-5f * total * sums.squares)) {  // one code, and rounding made the rest
                continue;
            }
            const float slope = (total * sums.products - mass * sums.firsts) / spread;
            const float shift = (sums.squares * mass - sums.firsts * sums.products) / spread;
            const float gain = slope * sums.products + shift * mass;
            if (gain > best_gain && slope * FURTHEST * LEVELS >= width) {
                scale = slope;
                offset = shift;
                best_gain = gain;
            }
        }
        // The minimum that fits best once the scale has been rounded.
        const float rounded = half_value(half_bits(scale)), inverse = inverse_or_zero(rounded);
        if (fabsf(inverse * width) <= FURTHEST * LEVELS) {
            offset = (mass - rounded * fit(low, inverse, 0.5f - offset * inverse).firsts) / total;
        }
        low = low + offset;
    }

    // The first of the smallest values, the range over MOST, and the inverse of that if it has one.
    __device__ void plain_line(float& low, float& scale, float& inverse) const {
        int least = order_key(part.values[0]), most = least;
#pragma unroll
        for (int i = 1; i < SIZE; i++) {
            least = min(least, order_key(part.values[i]));
            most = max(most, order_key(part.values[i]));
        }
        low = of_order_key(least);
        if (low == 0.0f) {  // 0 and -0 are equal: the first counts
#pragma unroll
            for (int i = SIZE - 1; i >= 0; i--) {
                low = part.values[i] == 0.0f ? part.values[i] : low;
            }
        }
        scale = (of_order_key(most) - low) / MOST;
        inverse = inverse_or_zero(scale);
        inverse = fabsf(inverse) <= LARGEST ? inverse : 0.0f;
    }
};

template <int LEVEL> struct Line {
    float inverse, scale, minimum;

    __device__ Line of_lane(int lane) const {
        return {__shfl_sync(ALL_LANES, inverse, lane), __shfl_sync(ALL_LANES, scale, lane),
                __shfl_sync(ALL_LANES, minimum, lane)};
    }
    __device__ float scaled(float x) const {
        return (x - minimum) * inverse + (LEVEL + 0.5f);
    }
    __device__ float value(float code) const {
        const float product = (code - LEVEL) * scale;
        return LEVEL == 0 ? product + minimum : product;
    }
};

// scale·(code - LEVEL).
template <int LEVEL> __device__ inline void round_scaled(const Blocks& all, const float* mean_squares) {
    constexpr int MOST = 2 * LEVEL - 1;
    round_parts<SIZE, 1, Line<LEVEL>>(all, Truncated<MOST>(), [&](long long block, Part<SIZE>& part, Line<LEVEL>& line) {
        Search<LEVEL, MOST> search{part};
        search.weigh(mean_squares[block / all.blocks_per_row]);
        const float extreme = search.furthest();
        unsigned short half = half_bits(extreme / -static_cast<float>(LEVEL));
        line = {0.0f, half_value(half), 0.0f};
        if (overflows(half) || extreme == 0.0f) {
            return !overflows(half);
        }
        const unsigned short best = half_bits(search.best_scale(extreme));
        if (best != half && !overflows(best)) {
            const float unit = LEVEL / extreme;
            half = search.stored_error(0, best, unit) < search.stored_error(0, half, unit) ? best : half;
        }
        line.scale = half_value(half);
        line.inverse = inverse_or_zero(line.scale);
        return true;
    });
}

// scale·code + minimum.
template <int MOST> __device__ inline void round_lines(const Blocks& all, const float* mean_squares) {
    round_parts<SIZE, 1, Line<0>>(all, Truncated<MOST>(), [&](long long block, Part<SIZE>& part, Line<0>& line) {
        Search<0, MOST> search{part};
        search.weigh(mean_squares[block / all.blocks_per_row]);
        float minimum, scale, unit;
        search.plain_line(minimum, scale, unit);
        unsigned short low = half_bits(minimum), half = half_bits(scale);
        if (overflows(low) || overflows(half)) {
            return false;
        }
        search.find_line(minimum, scale);
        const unsigned short best_low = half_bits(minimum), best_half = half_bits(scale);
        if (!(overflows(best_low) || overflows(best_half)) &&
            search.stored_error(best_low, best_half, unit) < search.stored_error(low, half, unit)) {
            low = best_low;
            half = best_half;
        }
        line = {inverse_or_zero(half_value(half)), half_value(half), half_value(low)};
        return true;
    });
}

extern "C" __global__ void round_weighted_q4_0(
    const float* values, const float* importance, const float* mean_squares, float* out, bool* inside, int* refused,
    long long n_blocks, int blocks_per_row) {
    round_scaled<8>({values, importance, out, inside, refused, n_blocks, blocks_per_row}, mean_squares);
}

extern "C" __global__ void round_weighted_q5_0(
    const float* values, const float* importance, const float* mean_squares, float* out, bool* inside, int* refused,
    long long n_blocks, int blocks_per_row) {
    round_scaled<16>({values, importance, out, inside, refused, n_blocks, blocks_per_row}, mean_squares);
}

extern "C" __global__ void round_weighted_q4_1(
    const float* values, const float* importance, const float* mean_squares, float* out, bool* inside, int* refused,
    long long n_blocks, int blocks_per_row) {
    round_lines<15>({values, importance, out, inside, refused, n_blocks, blocks_per_row}, mean_squares);
}

extern "C" __global__ void round_weighted_q5_1(
    const float* values, const float* importance, const float* mean_squares, float* out, bool* inside, int* refused,
    long long n_blocks, int blocks_per_row) {
    round_lines<31>({values, importance, out, inside, refused, n_blocks, blocks_per_row}, mean_squares);
}
