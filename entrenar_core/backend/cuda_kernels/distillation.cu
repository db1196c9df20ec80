// Divergence from a teacher and cross-entropy of rows of logits [M, V], their gradient written over the logits: one
// block a row. With p = softmax(z/T) over the n columns that the teacher knows, and v = P·dD/dP of each outcome, the
// gradient is a·(v - p·Σv) + c·(softmax(z) - onehot), as in backend.reference_losses.
//
// Terms of D are those of Q·log(Q/P) - Q + P, which are never negative: an error of a log-sum-exp, which all share,
// counts by its square only, and sums in float32 keep their digits (float64 would be the limit on consumer cards). A row
// is read for its softmaxes, for D and Σv, and for the gradient; D waits for the gradient where Σv is known before.

enum Kind { FORWARD_KL, REVERSE_KL, SYMMETRIC_KL, JENSEN_SHANNON, LOGIT_MSE };

constexpr float LOWEST = -3.402823466e38f;  // unlike -∞ it may be subtracted from itself

// Their product, 0 where the probability is, whatever the value.
__device__ inline float times(float probability, float value) {
    return probability == 0.0f ? 0.0f : probability * value;
}

// a·log(a/b) - a + b ≥ 0, given x = log(a/b); by its series where a and b are nearly the same.
__device__ inline float relative_entropy(float a, float x, float b) {
    if (fabsf(x) < 0.1f) {
        const float series = (((x / 720.0f - 1.0f / 120.0f) * x + 1.0f / 24.0f) * x - 1.0f / 6.0f) * x + 0.5f;
        return a * (x * x * series);
    }
    return times(a, x) - a + b;
}

// log(mixture / larger) of two outcomes whose logs differ by the distance ≥ 0; `own` is the share of the larger.
__device__ inline float log_mixture_to_larger(float own, float other, float distance) {
    const float ratio = own + other * expf(-distance);
    return ratio < 0.5f ? logf(ratio) : log1pf(other * expm1f(-distance));
}

// How a row is compared. Of the student: the largest logit, and the log of its softmax's denominator. per_column: 1/n.
struct Comparison {
    int kind;
    float teacher_share, student_share, inverse_temperature, per_column, largest, log_total;

    __device__ float log_p(float z) const {
        return (z - largest) * inverse_temperature - log_total;
    }

    // The term of D of a column: its logit z, and what the teacher says of it. For logit_mse, p is 0 and v the slope.
    __device__ float column(float z, float known, float& p, float& v) const {
        if (kind == LOGIT_MSE) {
            const float difference = z - known;
            p = 0.0f;
            v = 2.0f * per_column * difference;
            return per_column * difference * difference;
        }
        return outcome(log_p(z), known, p, v);
    }

    __device__ float outcome(float log_p, float log_q, float& p, float& v) const {
        p = expf(log_p);
        const float q = expf(log_q), gap = log_q - log_p;
        if (kind == FORWARD_KL) {
            v = -q;
            return relative_entropy(q, gap, p);
        }
        if (kind == JENSEN_SHANNON) {
            return jensen_shannon(p, q, gap, v);
        }
        v = times(p, -gap);
        const float reverse = relative_entropy(p, -gap, q);
        if (kind == REVERSE_KL) {
            return reverse;
        }
        v = 0.5f * (v - q);
        return 0.5f * (relative_entropy(q, gap, p) + reverse);
    }

    __device__ float jensen_shannon(float p, float q, float gap, float& v) const {
        const float distance = fabsf(gap);
        const bool teacher_larger = gap > 0.0f;
        const float own = teacher_larger ? teacher_share : student_share;
        const float other = teacher_larger ? student_share : teacher_share;
        const float log_larger = -log_mixture_to_larger(own, other, distance), log_smaller = log_larger - distance;
        const float log_q_ratio = teacher_larger ? log_larger : log_smaller;
        const float log_p_ratio = teacher_larger ? log_smaller : log_larger;
        const float mixture = teacher_share * q + student_share * p;
        v = student_share * times(p, log_p_ratio);
        return teacher_share * relative_entropy(q, log_q_ratio, mixture)
            + student_share * relative_entropy(p, log_p_ratio, mixture);
    }
};

// Σ e^((z-largest)/T) and Σ e^(z-largest) of some logits, in one pass over them.
struct SoftmaxSums {
    float largest = LOWEST, tempered = 0.0f, plain = 0.0f;

    __device__ void add(float z, float inverse_temperature) {
        if (!(z <= largest)) {  // NaN too, which then stays
            rescale(z, inverse_temperature);
        }
        tempered += expf((z - largest) * inverse_temperature);
        plain += expf(z - largest);
    }

    __device__ void rescale(float to, float inverse_temperature) {
        tempered *= expf((largest - to) * inverse_temperature);
        plain *= expf(largest - to);
        largest = to;
    }

    // The sums of all threads of the block, on every thread.
    __device__ void combine(float inverse_temperature) {
        rescale(block_largest(largest), inverse_temperature);
        tempered = block_sum(tempered);
        plain = block_sum(plain);
    }

    __device__ void merge(SoftmaxSums other, float inverse_temperature) {
        const float top = Largest()(largest, other.largest);
        rescale(top, inverse_temperature);
        other.rescale(top, inverse_temperature);
        tempered += other.tempered;
        plain += other.plain;
    }
};

__device__ inline SoftmaxSums softmax_sums(const float* row, int n, float inverse_temperature) {
    SoftmaxSums sums;
    over_run<1>({row}, static_cast<float*>(nullptr), n, [&](int, const float* z) {
        sums.add(z[0], inverse_temperature);
        return 0.0f;
    });
    sums.combine(inverse_temperature);
    return sums;
}

// The cross-entropy of a row of `width` logits with its target; without targets it is 0, and so is its gradient.
struct CrossEntropy {
    float* row;
    int width, target;
    bool wanted;
    float target_logit, top = 0.0f, factor = 0.0f, plain_factor = 0.0f;

    // Looks at the target's logit, so before the row changes.
    __device__ CrossEntropy(float* row, int width, const int* targets)
        : row(row), width(width), target(targets == nullptr ? -1 : targets[blockIdx.x]), wanted(targets != nullptr),
          target_logit(target >= 0 && target < width ? row[target] : NOT_A_NUMBER) {}

    // Given the sums of the first n columns; the loss is to be multiplied by `scale`.
    __device__ float finish(SoftmaxSums sums, int n, float scale) {
        if (!wanted) {
            return 0.0f;
        }
        if (n < width) {
            sums.merge(softmax_sums(row + n, width - n, 1.0f), 1.0f);
        }
        top = sums.largest;
        factor = scale;
        plain_factor = scale / sums.plain;
        return logf(sums.plain) - (target_logit - top);
    }

    __device__ float slope(int column, float z) const {
        return wanted ? plain_factor * expf(z - top) - (column == target ? factor : 0.0f) : 0.0f;
    }

    // The gradient of the columns from n on.
    __device__ void write_from(int n) const {
        over_run<1>({row + n}, row + n, width - n, [&](int i, const float* z) { return slope(n + i, z[0]); });
    }
};

// Teacher [M, n]. targets and weights may be null. factors: of the gradients of D/T and of the cross-entropy.
extern "C" __global__ void distillation(
    float* logits, const float* teacher, const int* targets, const float* weights, float* divergences, float* losses,
    int width, int n, int kind, float temperature, float inverse_temperature, float teacher_share,
    float student_share, float divergence_factor, float plain_factor, bool write) {
    float* row = logits + static_cast<long long>(blockIdx.x) * width;
    const float* known = teacher + static_cast<long long>(blockIdx.x) * n;
    float* const nowhere = nullptr;
    CrossEntropy cross_entropy(row, width, targets);
    const bool is_early = kind == FORWARD_KL || kind == LOGIT_MSE;  // Σv is -Σq, or does not count

    SoftmaxSums sums;
    float v_sum = 0.0f, divergence = 0.0f;
    if (kind == FORWARD_KL && write) {
        over_run<2>({row, known}, nowhere, n, [&](int, const float* x) {
            sums.add(x[0], inverse_temperature);
            v_sum -= expf(x[1]);
            return 0.0f;
        });
        sums.combine(inverse_temperature);
    } else if (kind != LOGIT_MSE || cross_entropy.wanted) {
        sums = softmax_sums(row, n, inverse_temperature);
    }
    const float loss = cross_entropy.finish(sums, n, plain_factor);
    const Comparison comparison = {
        kind, teacher_share, student_share, inverse_temperature, 1.0f / n, sums.largest, logf(sums.tempered)};

    if (!is_early || !write) {
        over_run<2>({row, known}, nowhere, n, [&](int, const float* x) {
            float p, v;
            divergence += comparison.column(x[0], x[1], p, v);
            v_sum += v;
            return 0.0f;
        });
    }
    if (write) {
        v_sum = block_sum(v_sum);
        const float factor = divergence_factor * (weights == nullptr ? 1.0f : weights[blockIdx.x]);
        __syncthreads();  // the target's logit has been read
        over_run<2>({row, known}, row, n, [&](int i, const float* x) {
            float p, v;
            const float term = comparison.column(x[0], x[1], p, v);
            divergence += is_early ? term : 0.0f;
            return factor * (v - p * v_sum) + cross_entropy.slope(i, x[0]);
        });
        cross_entropy.write_from(n);
    }
    divergence = block_sum(divergence);
    if (threadIdx.x == 0) {
        divergences[blockIdx.x] = divergence * temperature * temperature;
        losses[blockIdx.x] = loss;
    }
}

// The same where a teacher is known on K < n of its tokens, ids, values [M, K], with the log of the others' probability
// log_tail [M]. Known logits are taken out of their row, into own [M, K], so that sums over it are those of the tail.
extern "C" __global__ void distillation_top_k(
    float* logits, const int* ids, const float* values, const float* log_tail, float* own, const int* targets,
    const float* weights, float* divergences, float* losses, int width, int n, int n_known, int kind, float temperature,
    float inverse_temperature, float teacher_share, float student_share, float divergence_factor, float plain_factor,
    bool write) {
    float* row = logits + static_cast<long long>(blockIdx.x) * width;
    ids += static_cast<long long>(blockIdx.x) * n_known;
    values += static_cast<long long>(blockIdx.x) * n_known;
    own += static_cast<long long>(blockIdx.x) * n_known;
    CrossEntropy cross_entropy(row, width, targets);
    __syncthreads();  // the target's logit has been read
    for (int k = threadIdx.x; k < n_known; k += blockDim.x) {
        const bool exists = ids[k] >= 0 && ids[k] < n;
        own[k] = exists ? row[ids[k]] : NOT_A_NUMBER;
        if (exists) {
            row[ids[k]] = -INFINITE;
        }
    }
    __syncthreads();

    const SoftmaxSums tail = softmax_sums(row, n, inverse_temperature);
    SoftmaxSums sums = softmax_sums(own, n_known, inverse_temperature);
    sums.merge(tail, inverse_temperature);
    const float loss = cross_entropy.finish(sums, n, plain_factor);
    const Comparison comparison = {
        kind, teacher_share, student_share, inverse_temperature, 1.0f / n_known, sums.largest, logf(sums.tempered)};

    float v_sum = 0.0f, divergence = 0.0f, tail_p = 0.0f, tail_v = 0.0f;
    for (int k = threadIdx.x; k < n_known; k += blockDim.x) {
        float p, v;
        divergence += comparison.column(own[k], values[k], p, v);
        v_sum += v;
    }
    divergence = block_sum(divergence);
    v_sum = block_sum(v_sum);
    if (kind != LOGIT_MSE) {
        const float log_p = (tail.largest - sums.largest) * inverse_temperature + logf(tail.tempered / sums.tempered);
        divergence += comparison.outcome(log_p, log_tail[blockIdx.x], tail_p, tail_v);
        v_sum += tail_v;
    }
    if (threadIdx.x == 0) {
        divergences[blockIdx.x] = divergence * temperature * temperature;
        losses[blockIdx.x] = loss;
    }

    const float factor = divergence_factor * (weights == nullptr ? 1.0f : weights[blockIdx.x]);
    if (write) {
        const float tail_factor = kind == LOGIT_MSE ? 0.0f : factor * (tail_v - tail_p * v_sum) / tail.tempered;
        over_run<1>({row}, row, n, [&](int i, const float* z) {
            return tail_factor * expf((z[0] - tail.largest) * inverse_temperature) + cross_entropy.slope(i, z[0]);
        });
        cross_entropy.write_from(n);
        __syncthreads();
    }
    for (int k = threadIdx.x; k < n_known; k += blockDim.x) {
        if (ids[k] < 0 || ids[k] >= n) {
            continue;
        }
        float p, v;
        comparison.column(own[k], values[k], p, v);
        row[ids[k]] = write ? factor * (v - p * v_sum) + cross_entropy.slope(ids[k], own[k]) : own[k];
    }
}

// teacher [M, n] of a row's n tokens that are all known: values [M, n] at ids, NaN where no id points.
extern "C" __global__ void spread_known(const int* ids, const float* values, float* teacher, int n) {
    const long long first = static_cast<long long>(blockIdx.x) * n;
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        teacher[first + i] = NOT_A_NUMBER;
    }
    __syncthreads();
    for (int k = threadIdx.x; k < n; k += blockDim.x) {
        const int id = ids[first + k];
        if (id >= 0 && id < n) {
            teacher[first + id] = values[first + k];
        }
    }
}

// out [M, n]: the columns of x [M, width] that are named; NaN for one that does not exist.
extern "C" __global__ void take_columns(const T* x, const int* columns, T* out, int width, int n) {
    x += static_cast<long long>(blockIdx.x) * width;
    out += static_cast<long long>(blockIdx.x) * n;
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        const int column = columns[i];
        out[i] = column >= 0 && column < width ? x[column] : from_float<T>(NOT_A_NUMBER);
    }
}

// x [M, width] += values [M, n] in the named columns, of which those that do not exist add nothing.
extern "C" __global__ void add_to_columns(T* x, const int* columns, const T* values, int width, int n) {
    x += static_cast<long long>(blockIdx.x) * width;
    values += static_cast<long long>(blockIdx.x) * n;
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        const int column = columns[i];
        if (column >= 0 && column < width) {
            x[column] = from_float<T>(to_float(x[column]) + to_float(values[i]));
        }
    }
}
