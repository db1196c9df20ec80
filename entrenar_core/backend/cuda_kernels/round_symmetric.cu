// needs rounding.cuh parts.cuh
// Q3_K, Q6_K, IQ4_NL and IQ4_XS: x = scale·code in parts of 16 or 32 values, as k_symmetric_kernels.py and
// iq4_encode_kernels.py search it.

// Sixteen levels as codes, found by comparing with the borders half-way between them: no branches, no memory.
struct Levels {
    static constexpr int STEPS = 15;
    float first, borders[STEPS], rises[STEPS];

    __device__ explicit Levels(const float* levels) : first(levels[0]) {
#pragma unroll
        for (int k = 0; k < STEPS; k++) {
            borders[k] = (levels[k] + levels[k + 1]) * 0.5f;
            rises[k] = levels[k + 1] - levels[k];
        }
    }
    __device__ float of(float y) const {
        float level = first;
#pragma unroll
        for (int k = 0; k < STEPS; k++) {
            level += y > borders[k] ? rises[k] : 0.0f;
        }
        return level;
    }
    __device__ float least() const {
        return first;
    }
    __device__ float most() const {
        return of(INFINITE);
    }
};

// RUN: how many values the CPU adds up before it adds them to a sum: 1 or 4.
template <int SIZE, int RUN, typename Codes> struct Search {
    Part<SIZE>& part;
    const Codes& codes;
    float sum_qq, sum_qx;
    float gain, scale;

    __device__ static float total(const float (&run)[1]) {
        return run[0];
    }
    __device__ static float total(const float (&run)[4]) {
        return (run[0] + run[1]) + (run[2] + run[3]);
    }

    // Weighted sums over the codes q of x·inverse: of q² and q·x.
    __device__ void sum_codes(float inverse) {
        sum_qq = sum_qx = 0.0f;
#pragma unroll
        for (int i = 0; i < SIZE; i += RUN) {
            float qq[RUN], qx[RUN];
#pragma unroll
            for (int k = 0; k < RUN; k++) {
                const float x = part.values[i + k], q = codes.of(x * inverse), wq = part.weights[i + k] * q;
                qq[k] = wq * q;
                qx[k] = wq * x;
            }
            sum_qq += total(qq);
            sum_qx += total(qx);
        }
    }

    // The scale of least squares for these codes, where it lowers the error.
    __device__ void keep_better() {
        const float new_scale = sum_qx / sum_qq, new_gain = new_scale * sum_qx;
        if (new_gain > gain && sum_qq > 0.0f) {
            gain = new_gain;
            scale = new_scale;
        }
    }

    // Tries the scales that make targets[n] of the value of largest magnitude, and the best one once more.
    __device__ void find_scale(const float* targets, int n_targets) {
        const float high = part.width + part.low, extreme = high > -part.low ? high : part.low;
        gain = 0.0f;
        scale = extreme / codes.least();
        for (int n = 0; n < n_targets; n++) {
            sum_codes(extreme != 0.0f ? targets[n] / extreme : 0.0f);
            keep_better();
        }
        sum_codes(inverse_or_zero(scale));
        keep_better();
    }

    // By how much a scale lowers the error of the codes that were summed.
    __device__ float gain_of(float of_scale) const {
        return of_scale * (2.0f * sum_qx - of_scale * sum_qq);
    }
};

struct Line {
    float inverse;  // of codes
    float scale;    // as it is stored

    __device__ Line of_lane(int lane) const {
        return {__shfl_sync(ALL_LANES, inverse, lane), __shfl_sync(ALL_LANES, scale, lane)};
    }
    __device__ float scaled(float x) const {
        return x * inverse;
    }
    __device__ float value(float code) const {
        return scale * code;
    }
};

// As round_row, and then the code of the scale or the one on its other side, whichever gives the lower error: of a scale
// far below the largest of its block little is left after rounding, and one that is too small cuts values off.
template <int COUNT, typename Search>
__device__ inline Rounded round_carefully(Search& search, float lowest, float highest, int tries) {
    const float exact = search.scale;
    Rounded rounded = round_row<COUNT>(exact, search.sum_qq, lowest, highest, tries);
    search.sum_codes(inverse_or_zero(rounded.value));
    const float gain = search.gain_of(rounded.value);
    const float side = exact * inverse_or_zero(rounded.step) > rounded.code ? 1.0f : -1.0f;
    const float other = smaller(larger(rounded.code + side, lowest), highest), value = rounded.step * other;
    search.sum_codes(inverse_or_zero(value));
    if (search.gain_of(value) > gain) {
        rounded.code = other;
        rounded.value = value;
    }
    return rounded;
}

extern "C" __global__ void round_q3_k(
    const float* values, const float* importance, const float* targets, float* out, bool* inside, int* refused,
    long long n_blocks, int blocks_per_row, int n_targets) {
    typedef Whole<-4, 3> Codes;
    const Blocks all = {values, importance, out, inside, refused, n_blocks, blocks_per_row};
    const Codes codes;
    round_parts<16, 16, Line>(all, codes, [&](long long, Part<16>& part, Line& line) {
        Search<16, 4, Codes> search{part, codes};
        part.measure();
        if (all.importance != nullptr) {
            part.weigh_by_importance<16>();
        } else {
            part.weigh_by_square();
        }
        search.find_scale(targets, n_targets);
        const Rounded rounded = round_carefully<16>(search, -32.0f, 31.0f, 3);
        const unsigned short step = stored_step<16>(rounded.step, part.energy);
        line = {inverse_or_zero(rounded.value), half_value(step) * rounded.code};
        return !overflows(step);
    });
}

extern "C" __global__ void round_q6_k(
    const float* values, const float* importance, const float* targets, float* out, bool* inside, int* refused,
    long long n_blocks, int blocks_per_row, int n_targets) {
    typedef Whole<-32, 31> Codes;
    const Blocks all = {values, importance, out, inside, refused, n_blocks, blocks_per_row};
    const Codes codes;
    round_parts<16, 16, Line>(all, codes, [&](long long, Part<16>& part, Line& line) {
        Search<16, 4, Codes> search{part, codes};
        part.measure();
        if (all.importance == nullptr) {
            part.weigh_by_square();
        }
        search.find_scale(targets, n_targets);
        const Rounded rounded = round_row<16>(search.scale, search.sum_qq, -128.0f, 127.0f, 1);
        const unsigned short step = stored_step<16>(rounded.step, part.energy);
        line = {inverse_or_zero(rounded.value), half_value(step) * rounded.code};
        return !overflows(step);
    });
}

// The best scale of a part of 32 levels, in a block of COUNT such parts.
template <int COUNT>
__device__ inline Search<32, 1, Levels> search_levels(
    Part<32>& part, const Levels& codes, bool has_importance, const float* targets, int n_targets) {
    Search<32, 1, Levels> search{part, codes};
    part.measure();
    if (has_importance) {
        part.weigh_by_importance<COUNT>();
    } else {
        part.weigh_by_square();
    }
    search.find_scale(targets, n_targets);
    return search;
}

extern "C" __global__ void round_iq4_nl(
    const float* values, const float* importance, const float* targets, const float* levels, float* out, bool* inside,
    int* refused, long long n_blocks, int blocks_per_row, int n_targets) {
    const Blocks all = {values, importance, out, inside, refused, n_blocks, blocks_per_row};
    const Levels codes(levels);
    round_parts<32, 1, Line>(all, codes, [&](long long, Part<32>& part, Line& line) {
        const float found = search_levels<1>(part, codes, all.importance != nullptr, targets, n_targets).scale;
        const float half = rounded_to_half(fabsf(found)), scale = found < 0.0f ? -half : half;
        const unsigned short step = stored_step<1>(scale, part.energy);
        line = {inverse_or_zero(scale), half_value(step)};
        return !overflows(step);
    });
}

extern "C" __global__ void round_iq4_xs(
    const float* values, const float* importance, const float* targets, const float* levels, float* out, bool* inside,
    int* refused, long long n_blocks, int blocks_per_row, int n_targets) {
    const Blocks all = {values, importance, out, inside, refused, n_blocks, blocks_per_row};
    const Levels codes(levels);
    round_parts<32, 8, Line>(all, codes, [&](long long, Part<32>& part, Line& line) {
        const Search<32, 1, Levels> search = search_levels<8>(part, codes, all.importance != nullptr, targets, n_targets);
        const Rounded rounded = round_row<8>(search.scale, search.sum_qq, -32.0f, 31.0f, 4);
        const unsigned short step = stored_step<8>(rounded.step, part.energy);
        line = {inverse_or_zero(rounded.value), half_value(step) * rounded.code};
        return !overflows(step);
    });
}
