// What stands between the matrix products of blocked attention: softmax of a block of scores, and its gradient.
//
// Rows of a block are (query, head of the group): row r of z = (batch, kv head) is query first_query + r / G of query head
// kv·G + r % G. Scores are float [Z, rows, n_keys], in which query i sees the keys lower[batch, i] ... i + q_offset.

// y [batch, kv, time, width] = x [batch, time, kv, width], which may have gaps between batches and times.
extern "C" __global__ void split_heads(
    const T* strided_x, T* y, long long n, long long batch_stride, long long time_stride, int n_times, int n_kv,
    int width) {
    GRID_STRIDE(i, 0, n) {
        const int e = static_cast<int>(i % width);
        long long rest = i / width;
        const int time = static_cast<int>(rest % n_times);
        rest /= n_times;
        const int kv = static_cast<int>(rest % n_kv);
        y[i] = strided_x[rest / n_kv * batch_stride + time * time_stride + static_cast<long long>(kv) * width + e];
    }
}

// The way back, from an array of type T or float.
template <typename From> __device__ inline void join(const From* x, T* y, long long n, int n_times, int n_kv, int width) {
    GRID_STRIDE(i, 0, n) {
        const int e = static_cast<int>(i % width);
        long long rest = i / width;
        const int kv = static_cast<int>(rest % n_kv);
        rest /= n_kv;
        const long long time = rest % n_times, batch = rest / n_times;
        y[i] = from_float<T>(to_float(x[((batch * n_kv + kv) * n_times + time) * width + e]));
    }
}

extern "C" __global__ void join_heads(const T* x, T* y, long long n, int n_times, int n_kv, int width) {
    join(x, y, n, n_times, n_kv, width);
}

extern "C" __global__ void join_sums(const float* x, T* y, long long n, int n_times, int n_kv, int width) {
    join(x, y, n, n_times, n_kv, width);
}

struct Row {
    long long start;  // of the row in the block's scores
    long long lse;    // its place in lse [batch, heads, queries]
    int first_key, last_key;
};

// Grid: (rows, Z).
__device__ inline Row row_of_block(
    const int* lower, int first_batch, int first_query, int group, int n_kv, int n_queries, int n_keys, int q_offset) {
    const int row = blockIdx.x, z = blockIdx.y;
    const int query = first_query + row / group, batch = first_batch + z / n_kv, head = z % n_kv * group + row % group;
    Row found;
    found.start = (static_cast<long long>(z) * gridDim.x + row) * n_keys;
    found.lse = (static_cast<long long>(batch) * n_kv * group + head) * n_queries + query;
    found.first_key = lower[static_cast<long long>(batch) * n_queries + query];
    found.last_key = query + q_offset;
    return found;
}

__device__ inline float capped(float score, float softcap) {
    return softcap == 0.0f ? score : softcap * tanhf(score / softcap);
}

// P = softmax of the scores that a row sees, 0 elsewhere; and the log of the sum of their exponentials.
extern "C" __global__ void attention_softmax(
    const float* scores, T* probabilities, float* lse, const int* lower, int first_batch, int first_query, int group,
    int n_kv, int n_queries, int n_keys, int q_offset, float softcap) {
    const Row row = row_of_block(lower, first_batch, first_query, group, n_kv, n_queries, n_keys, q_offset);
    const float* score = scores + row.start;
    T* probability = probabilities + row.start;
    float largest = -INFINITE;
    for (int j = row.first_key + static_cast<int>(threadIdx.x); j <= row.last_key; j += blockDim.x) {
        largest = Largest()(largest, capped(score[j], softcap));
    }
    largest = block_largest(largest);
    float total = 0.0f;
    for (int j = row.first_key + static_cast<int>(threadIdx.x); j <= row.last_key; j += blockDim.x) {
        total += expf(capped(score[j], softcap) - largest);
    }
    total = block_sum(total);
    const float inverse = 1.0f / total;
    for (int j = threadIdx.x; j < n_keys; j += blockDim.x) {
        const bool seen = j >= row.first_key && j <= row.last_key;
        probability[j] = from_float<T>(seen ? expf(capped(score[j], softcap) - largest) * inverse : 0.0f);
    }
    if (threadIdx.x == 0) {
        lse[row.lse] = largest + logf(total);
    }
}

// delta [rows] = Σ dout·out over each row of [rows, width]: one warp a row.
extern "C" __global__ void attention_delta(const T* dout, const T* out, float* delta, long long n_rows, int width) {
    const long long row = (static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x) / WARP;
    if (row >= n_rows) {
        return;
    }
    float sum = 0.0f;
    for (int e = threadIdx.x % WARP; e < width; e += WARP) {
        sum += to_float(dout[row * width + e]) * to_float(out[row * width + e]);
    }
    sum = over_warp(sum, Sum());
    if (threadIdx.x % WARP == 0) {
        delta[row] = sum;
    }
}

// P again from scores and lse, and dS = P·(dP - delta)·slope of the soft cap; delta [batch, kv, queries, group].
extern "C" __global__ void attention_backward(
    const float* scores, const float* dprobabilities, const float* lse, const float* delta, T* probabilities,
    T* dscores, const int* lower, int first_batch, int first_query, int group, int n_kv, int n_queries, int n_keys,
    int q_offset, float softcap) {
    const Row row = row_of_block(lower, first_batch, first_query, group, n_kv, n_queries, n_keys, q_offset);
    const float log_sum = lse[row.lse];
    const long long z = static_cast<long long>(first_batch) * n_kv + blockIdx.y;
    const float own = delta[(z * n_queries + first_query) * group + blockIdx.x];
    for (int j = threadIdx.x; j < n_keys; j += blockDim.x) {
        const bool seen = j >= row.first_key && j <= row.last_key;
        float p = 0.0f, ds = 0.0f;
        if (seen) {
            const float score = capped(scores[row.start + j], softcap);
            const float saturation = softcap == 0.0f ? 0.0f : score / softcap;
            p = expf(score - log_sum);
            ds = p * (dprobabilities[row.start + j] - own) * (1.0f - saturation * saturation);
        }
        probabilities[row.start + j] = from_float<T>(p);
        dscores[row.start + j] = from_float<T>(ds);
    }
}
