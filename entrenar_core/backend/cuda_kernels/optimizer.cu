// Optimizer updates and reductions over many arrays in one launch: block b works on chunk b of the list.
//
// A list of arrays comes as a table of int64: for each chunk, its place in the arrays (first element, how many), and the
// addresses of the arrays' beginnings: [chunks, 2 + arrays per parameter]. Everything is float32.

constexpr int TABLE_HEAD = 2;

enum { LOSS, NORM, FACTOR };  // places in what `clip_factor` writes

struct Chunk {
    const long long* entry;
    long long first;
    int count;
    __device__ Chunk(const long long* table, int n_arrays)
        : entry(table + static_cast<long long>(blockIdx.x) * (TABLE_HEAD + n_arrays)), first(entry[0]),
          count(static_cast<int>(entry[1])) {}
    __device__ float* array(int k) const {
        return reinterpret_cast<float*>(entry[TABLE_HEAD + k]) + first;
    }
};

// Calls step(values of the arrays at one element), four elements at a time where the arrays are aligned; the arrays from
// FIRST_WRITTEN on are written back.
template <int ARRAYS, int FIRST_WRITTEN, typename Step> __device__ inline void over_chunk(const Chunk& chunk, Step step) {
    float* arrays[ARRAYS];
    bool aligned = true;
    for (int k = 0; k < ARRAYS; k++) {
        arrays[k] = chunk.array(k);
        aligned = aligned && is_aligned(arrays[k]);
    }
    const int packs = aligned ? chunk.count / 4 : 0;
    for (int p = threadIdx.x; p < packs; p += blockDim.x) {
        Pack<float> values[ARRAYS];
#pragma unroll
        for (int k = 0; k < ARRAYS; k++) {
            values[k] = reinterpret_cast<const Pack<float>*>(arrays[k])[p];
        }
#pragma unroll
        for (int j = 0; j < 4; j++) {
            float element[ARRAYS];
#pragma unroll
            for (int k = 0; k < ARRAYS; k++) {
                element[k] = values[k].values[j];
            }
            step(element);
#pragma unroll
            for (int k = FIRST_WRITTEN; k < ARRAYS; k++) {
                values[k].values[j] = element[k];
            }
        }
#pragma unroll
        for (int k = FIRST_WRITTEN; k < ARRAYS; k++) {
            reinterpret_cast<Pack<float>*>(arrays[k])[p] = values[k];
        }
    }
    for (int i = 4 * packs + threadIdx.x; i < chunk.count; i += blockDim.x) {
        float element[ARRAYS];
        for (int k = 0; k < ARRAYS; k++) {
            element[k] = arrays[k][i];
        }
        step(element);
        for (int k = FIRST_WRITTEN; k < ARRAYS; k++) {
            arrays[k][i] = element[k];
        }
    }
}

// What gradients are multiplied by: 1 without a `clipping`, which is what `clip_factor` writes. NaN: nothing may change.
__device__ inline float factor_of(const double* clipping) {
    return clipping == nullptr ? 1.0f : static_cast<float>(clipping[FACTOR]);
}

// Arrays of a parameter: gradient, parameter, m, v. See backend.parameters.AdamParams.
extern "C" __global__ void adam(
    const long long* table, const double* clipping, float l2_decay, float keep, float beta1, float rest1, float beta2,
    float rest2, float rate, float inverse_root, float eps) {
    const float factor = factor_of(clipping);
    if (factor != factor) {
        return;
    }
    over_chunk<4, 1>(Chunk(table, 4), [=](float* x) {
        const float p = x[1], g = x[0] * factor + l2_decay * p;
        x[2] = beta1 * x[2] + rest1 * g;
        x[3] = beta2 * x[3] + rest2 * (g * g);
        x[1] = p * keep - rate * x[2] / (sqrtf(x[3]) * inverse_root + eps);
    });
}

// Arrays: gradient, parameter.
extern "C" __global__ void sgd(const long long* table, const double* clipping, float decay, float lr) {
    const float factor = factor_of(clipping);
    if (factor != factor) {
        return;
    }
    over_chunk<2, 1>(Chunk(table, 2), [=](float* x) { x[1] -= lr * (x[0] * factor + decay * x[1]); });
}

// Arrays: gradient, parameter, momentum buffer, which on the first step becomes the gradient whatever it held.
extern "C" __global__ void sgd_momentum(
    const long long* table, const double* clipping, float decay, float lr, float momentum, bool nesterov,
    bool first_step) {
    const float factor = factor_of(clipping);
    if (factor != factor) {
        return;
    }
    over_chunk<3, 1>(Chunk(table, 3), [=](float* x) {
        const float g = x[0] * factor + decay * x[1];
        x[2] = first_step ? g : momentum * x[2] + g;
        x[1] -= lr * (nesterov ? g + momentum * x[2] : x[2]);
    });
}

// sums [chunks]: Σ x² of each chunk, in float64.
extern "C" __global__ void sums_of_squares(const long long* table, double* sums) {
    double sum = 0.0;
    over_chunk<1, 1>(Chunk(table, 1), [&](float* x) { sum += static_cast<double>(x[0]) * x[0]; });
    sum = block_sum(sum);
    if (threadIdx.x == 0) {
        sums[blockIdx.x] = sum;
    }
}

// largest [chunks]: the largest |x| of each chunk as bits; 0x7f800000 (infinity) or more is not finite.
extern "C" __global__ void largest_magnitude_bits(const long long* table, int* largest) {
    int most = 0;
    over_chunk<1, 1>(Chunk(table, 1), [&](float* x) {
        const int bits = __float_as_int(x[0]) & 0x7fffffff;
        most = bits > most ? bits : most;
    });
    most = over_block(most, Largest(), 0);
    if (threadIdx.x == 0) {
        largest[blockIdx.x] = most;
    }
}

// One block: of `clipping` [3] the loss, the norm √Σ sums, and the factor min(1, max_norm/(norm + eps)) that clips
// gradients to it, which is NaN where loss or norm are not finite. sums [n] are those of chunks.
extern "C" __global__ void clip_factor(
    const double* sums, int n, const double* loss, double max_norm, double eps, double* clipping) {
    double sum = 0.0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        sum += sums[i];
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) {
        const double norm = sqrt(sum), limited = max_norm / (norm + eps);
        const bool finite = isfinite(norm) && isfinite(loss[0]);
        clipping[LOSS] = loss[0];
        clipping[NORM] = norm;
        clipping[FACTOR] = !finite ? NOT_A_NUMBER : limited < 1.0 ? limited : 1.0;
    }
}
