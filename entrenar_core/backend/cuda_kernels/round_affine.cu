// needs rounding.cuh parts.cuh
// Q2_K, Q4_K and Q5_K: x = scale·code - minimum in parts of 16 or 32 values, as k_affine_kernels.py searches it.

// The values of a part are y = x - least, so that sums of squares do not cancel; `offset` is a minimum counted from there.
template <int SIZE, int LEVELS> struct Search {
    Part<SIZE>& part;
    float sum_w, sum_wy;
    float sum_q, sum_qq, sum_qy;
    float gain, scale, offset;

    __device__ void weigh_by_magnitude() {
        const float root = sqrtf(part.energy / static_cast<float>(SIZE));
#pragma unroll
        for (int i = 0; i < SIZE; i++) {
            part.weights[i] = root + fabsf(part.values[i]);
        }
    }

    __device__ void subtract_least() {
#pragma unroll
        for (int i = 0; i < SIZE; i++) {
            part.values[i] -= part.low;
        }
        sum_w = sum_in_fours<SIZE>([&](int i) { return part.weights[i]; });
        sum_wy = sum_in_fours<SIZE>([&](int i) { return part.weights[i] * part.values[i]; });
    }

    // Weighted sums over the codes q of (y - offset)·inverse: of q, q² and q·y.
    __device__ void sum_codes(float inverse) {
        sum_q = sum_qq = sum_qy = 0.0f;
#pragma unroll
        for (int i = 0; i < SIZE; i += 4) {
            float q[4], wq[4];
#pragma unroll
            for (int k = 0; k < 4; k++) {
                q[k] = nearest((part.values[i + k] - offset) * inverse, 0.0f, LEVELS);
                wq[k] = part.weights[i + k] * q[k];
            }
            const float* y = part.values + i;
            sum_q += (wq[0] + wq[1]) + (wq[2] + wq[3]);
            sum_qq += (wq[0] * q[0] + wq[1] * q[1]) + (wq[2] * q[2] + wq[3] * q[3]);
            sum_qy += (wq[0] * y[0] + wq[1] * y[1]) + (wq[2] * y[2] + wq[3] * y[3]);
        }
    }

    // Scale and offset of least squares for these codes, where they lower the error: a gain is the sum of squares less
    // the error. No minimum is above zero, for which the format has no sign.
    __device__ void keep_better() {
        const float mean_q = sum_q / sum_w, mean_y = sum_wy / sum_w;
        const float spread = sum_qq - mean_q * sum_q;
        const float fitted = (sum_qy - mean_q * sum_wy) / spread;
        const float at_zero = (sum_qy + part.low * sum_q) / sum_qq;
        const float fitted_offset = mean_y - fitted * mean_q;
        const bool above = fitted_offset + part.low > 0.0f;
        const float new_offset = above ? -part.low : fitted_offset, new_scale = above ? at_zero : fitted;
        float new_gain = new_scale * (2.0f * (sum_qy - new_offset * sum_q) - new_scale * sum_qq);
        new_gain += new_offset * (2.0f * sum_wy - new_offset * sum_w);
        if (new_gain > gain && spread > 1e-5f * sum_qq) {
            gain = new_gain;
            scale = new_scale;
            offset = new_offset;
        }
    }

    // Tries scales that make targets[n] of the width, each from the best offset so far, and the best one once more.
    __device__ void find_scale(const float* targets, int n_targets) {
        gain = offset = 0.0f;
        scale = part.width / LEVELS;
        for (int n = 0; n < n_targets; n++) {
            const float rest = part.width - offset;
            sum_codes(rest > 0.0f ? targets[n] / rest : 0.0f);
            keep_better();
        }
        sum_codes(inverse_or_zero(scale));
        keep_better();
    }

    // What a unit of error of the scale costs, once the minimum has been fitted to it.
    __device__ float weight_of_scale() const {
        const float mean = sum_w > 0.0f ? sum_q / sum_w : 0.0f;
        return sum_qq - mean * sum_q;
    }

    // The minimum (not below 0) that fits a rounded scale best, for the codes that it gives.
    __device__ float refit_minimum(float rounded_scale) {
        sum_codes(inverse_or_zero(rounded_scale));
        const float fitted = (sum_wy - rounded_scale * sum_q) / sum_w;
        return larger(-(part.low + (sum_w > 0.0f ? fitted : offset)), 0.0f);
    }
};

struct Line {
    float inverse, offset;  // of codes
    float scale, minimum;   // as they are stored

    __device__ Line of_lane(int lane) const {
        return {__shfl_sync(ALL_LANES, inverse, lane), __shfl_sync(ALL_LANES, offset, lane),
                __shfl_sync(ALL_LANES, scale, lane), __shfl_sync(ALL_LANES, minimum, lane)};
    }
    __device__ float scaled(float x) const {
        return (x + offset) * inverse;
    }
    __device__ float value(float code) const {
        return scale * code - minimum;
    }
};

// LIMIT: the largest code of a scale; TRIES: how many steps of scales and of minima are tried.
template <int SIZE, int LEVELS, int LIMIT, int TRIES>
__device__ inline void round_affine(const Blocks& all, const float* targets, int n_targets) {
    constexpr int COUNT = 256 / SIZE;
    round_parts<SIZE, COUNT, Line>(all, Whole<0, LEVELS>(), [&](long long, Part<SIZE>& part, Line& line) {
        Search<SIZE, LEVELS> search{part};
        part.measure();
        if (all.importance != nullptr) {
            part.template weigh_by_importance<COUNT>();
        } else {
            search.weigh_by_magnitude();
        }
        search.subtract_least();
        search.find_scale(targets, n_targets);
        const Rounded scale = round_row<COUNT>(search.scale, search.weight_of_scale(), 0.0f, LIMIT, TRIES);
        const float wanted = search.refit_minimum(scale.value);
        const Rounded minimum = round_row<COUNT>(wanted, search.sum_w, 0.0f, LIMIT, TRIES);
        const unsigned short step = half_bits(scale.step), low_step = stored_step<COUNT>(minimum.step, part.energy);
        line = {inverse_or_zero(scale.value), minimum.value, half_value(step) * scale.code,
                half_value(low_step) * minimum.code};
        return !(overflows(step) || overflows(low_step));
    });
}

extern "C" __global__ void round_q2_k(
    const float* values, const float* importance, const float* targets, float* out, bool* inside, int* refused,
    long long n_blocks, int blocks_per_row, int n_targets) {
    round_affine<16, 3, 15, 3>({values, importance, out, inside, refused, n_blocks, blocks_per_row}, targets, n_targets);
}

extern "C" __global__ void round_q4_k(
    const float* values, const float* importance, const float* targets, float* out, bool* inside, int* refused,
    long long n_blocks, int blocks_per_row, int n_targets) {
    round_affine<32, 15, 63, 6>({values, importance, out, inside, refused, n_blocks, blocks_per_row}, targets, n_targets);
}

extern "C" __global__ void round_q5_k(
    const float* values, const float* importance, const float* targets, float* out, bool* inside, int* refused,
    long long n_blocks, int blocks_per_row, int n_targets) {
    round_affine<32, 31, 63, 6>({values, importance, out, inside, refused, n_blocks, blocks_per_row}, targets, n_targets);
}
