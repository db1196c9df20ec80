// What stands between the matrix products of blocked attention: softmax of a block of scores, and its gradient.
//
// Rows of a block are (query, head of the group): row r of z = (batch, kv head) is query first_query + r / G of query head
// kv·G + r % G. Scores are float [Z, rows, n_keys], with the keys from first_key on; query i sees lower[batch, i] ... i +
// q_offset of all keys.

// Where something lies in [batch, time, kv, width] and in [batch, kv, time, width], all counted in packs of one size.
struct Place {
    unsigned batch, time, kv, e;
};

// Of number i in the first order, or in the second.
__device__ inline Place place_by_time(unsigned i, unsigned n_times, unsigned n_kv, unsigned width) {
    const unsigned token = i / width, kv = token % n_kv, rest = token / n_kv;
    return {rest / n_times, rest % n_times, kv, i % width};
}

__device__ inline Place place_by_head(unsigned i, unsigned n_times, unsigned n_kv, unsigned width) {
    const unsigned row = i / width, time = row % n_times, rest = row / n_times;
    return {rest / n_kv, time, rest % n_kv, i % width};
}

// SIZE elements, moved by as few instructions as there can be.
template <int SIZE, typename E> struct alignas(SIZE * sizeof(E) < 16 ? SIZE * sizeof(E) : 16) Some {
    E values[SIZE];
};

template <int SIZE>
__device__ inline void split(
    const T* x, T* y, long long n, long long batch_stride, long long time_stride, int n_times, int n_kv, int width) {
    GRID_STRIDE(i, 0, n / SIZE) {
        const Place at = place_by_head(static_cast<unsigned>(i), n_times, n_kv, width / SIZE);
        const long long from = at.batch * batch_stride + at.time * time_stride + static_cast<long long>(at.kv) * width;
        reinterpret_cast<Some<SIZE, T>*>(y)[i] = *reinterpret_cast<const Some<SIZE, T>*>(x + from + at.e * SIZE);
    }
}

// y [batch, kv, time, width] = x [batch, time, kv, width], which may have gaps between batches and times.
extern "C" __global__ void split_heads(
    const T* strided_x, T* y, long long n, long long batch_stride, long long time_stride, int n_times, int n_kv,
    int width) {
    constexpr int SIZE = Pack<T>::SIZE;
    const bool in_packs = is_aligned(strided_x) && is_aligned(y) && width % SIZE == 0 && batch_stride % SIZE == 0 &&
                          time_stride % SIZE == 0;
    if (in_packs) {
        split<SIZE>(strided_x, y, n, batch_stride, time_stride, n_times, n_kv, width);
    } else {
        split<1>(strided_x, y, n, batch_stride, time_stride, n_times, n_kv, width);
    }
}

template <int SIZE, typename From>
__device__ inline void join(const From* x, T* y, long long n, int n_times, int n_kv, int width) {
    GRID_STRIDE(i, 0, n / SIZE) {
        const Place at = place_by_time(static_cast<unsigned>(i), n_times, n_kv, width / SIZE);
        const long long row = (static_cast<long long>(at.batch) * n_kv + at.kv) * n_times + at.time;
        const Some<SIZE, From> read = *reinterpret_cast<const Some<SIZE, From>*>(x + row * width + at.e * SIZE);
        Some<SIZE, T> written;
#pragma unroll
        for (int j = 0; j < SIZE; j++) {
            written.values[j] = from_float<T>(to_float(read.values[j]));
        }
        reinterpret_cast<Some<SIZE, T>*>(y)[i] = written;
    }
}

// The way back, from an array of type T or float.
template <typename From>
__device__ inline void join_all(const From* x, T* y, long long n, int n_times, int n_kv, int width) {
    constexpr int SIZE = Pack<T>::SIZE;
    if (is_aligned(x) && is_aligned(y) && width % SIZE == 0) {
        join<SIZE>(x, y, n, n_times, n_kv, width);
    } else {
        join<1>(x, y, n, n_times, n_kv, width);
    }
}

extern "C" __global__ void join_heads(const T* x, T* y, long long n, int n_times, int n_kv, int width) {
    join_all(x, y, n, n_times, n_kv, width);
}

extern "C" __global__ void join_sums(const float* x, T* y, long long n, int n_times, int n_kv, int width) {
    join_all(x, y, n, n_times, n_kv, width);
}

struct Row {
    long long start;  // of the row in the block's scores
    long long lse;    // its place in lse [batch, heads, queries]
    int first, last;  // of the keys that it sees, counted from the first one of the block

    __device__ bool sees(int key) const {
        return key >= first && key <= last;
    }
};

// Grid: (rows, Z). The keys of a block are those from first_key on; query i sees those up to i + diagonal among them.
__device__ inline Row row_of_block(
    const int* lower, int first_query, int group, int n_kv, int n_queries, int n_keys, int diagonal,
    int first_key) {
    const int row = blockIdx.x, z = blockIdx.y;
    const int query = first_query + row / group, batch = z / n_kv, head = z % n_kv * group + row % group;
    Row found;
    found.start = (static_cast<long long>(z) * gridDim.x + row) * n_keys;
    found.lse = (static_cast<long long>(batch) * n_kv * group + head) * n_queries + query;
    found.first = lower[static_cast<long long>(batch) * n_queries + query] - first_key;
    found.last = query + diagonal;
    return found;
}

__device__ inline float capped(float score, float softcap) {
    return softcap == 0.0f ? score : softcap * tanhf(score / softcap);
}

// Calls step(capped score) for each key that a row sees, shared out over the threads of the block.
template <int SIZE, typename Step>
__device__ inline void over_seen(const float* scores, const Row& row, float softcap, Step step) {
    for (int pack = row.first / SIZE + threadIdx.x; pack * SIZE <= row.last; pack += blockDim.x) {
        const Some<SIZE, float> read = reinterpret_cast<const Some<SIZE, float>*>(scores)[pack];
#pragma unroll
        for (int j = 0; j < SIZE; j++) {
            if (row.sees(pack * SIZE + j)) {
                step(capped(read.values[j], softcap));
            }
        }
    }
}

template <int SIZE>
__device__ inline void softmax_of_row(
    const float* scores, T* probabilities, float* lse, const Row& row, int n_keys, float softcap) {
    float largest = -INFINITE, total = 0.0f;
    over_seen<SIZE>(scores, row, softcap, [&](float score) { largest = Largest()(largest, score); });
    largest = block_largest(largest);
    over_seen<SIZE>(scores, row, softcap, [&](float score) { total += expf(score - largest); });
    total = block_sum(total);
    const float inverse = 1.0f / total;
    for (int pack = threadIdx.x; pack < n_keys / SIZE; pack += blockDim.x) {
        const int key = pack * SIZE;
        Some<SIZE, T> written;
        Some<SIZE, float> read;
        if (key + SIZE > row.first && key <= row.last) {
            read = reinterpret_cast<const Some<SIZE, float>*>(scores)[pack];
        }
#pragma unroll
        for (int j = 0; j < SIZE; j++) {
            const bool seen = row.sees(key + j);
            written.values[j] =
                from_float<T>(seen ? expf(capped(read.values[j], softcap) - largest) * inverse : 0.0f);
        }
        reinterpret_cast<Some<SIZE, T>*>(probabilities)[pack] = written;
    }
    if (threadIdx.x == 0) {
        lse[row.lse] = largest + logf(total);
    }
}

// P = softmax of the scores that a row sees, 0 elsewhere; and the log of the sum of their exponentials.
extern "C" __global__ void attention_softmax(
    const float* scores, T* probabilities, float* lse, const int* lower, int first_query, int group,
    int n_kv, int n_queries, int n_keys, int diagonal, int first_key, float softcap) {
    const Row row = row_of_block(lower, first_query, group, n_kv, n_queries, n_keys, diagonal, first_key);
    constexpr int SIZE = Pack<T>::SIZE;
    if (n_keys % SIZE == 0 && is_aligned(scores) && is_aligned(probabilities)) {
        softmax_of_row<SIZE>(scores + row.start, probabilities + row.start, lse, row, n_keys, softcap);
    } else {
        softmax_of_row<1>(scores + row.start, probabilities + row.start, lse, row, n_keys, softcap);
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

template <int SIZE>
__device__ inline void gradient_of_row(
    const float* scores, const float* dprobabilities, T* probabilities, T* dscores, const Row& row, float log_sum,
    float delta, int n_keys, float softcap) {
    for (int pack = threadIdx.x; pack < n_keys / SIZE; pack += blockDim.x) {
        const int key = pack * SIZE;
        Some<SIZE, float> score, dprobability;
        Some<SIZE, T> probability, dscore;
        if (key + SIZE > row.first && key <= row.last) {
            score = reinterpret_cast<const Some<SIZE, float>*>(scores)[pack];
            dprobability = reinterpret_cast<const Some<SIZE, float>*>(dprobabilities)[pack];
        }
#pragma unroll
        for (int j = 0; j < SIZE; j++) {
            float p = 0.0f, ds = 0.0f;
            if (row.sees(key + j)) {
                const float capped_score = capped(score.values[j], softcap);
                const float saturation = softcap == 0.0f ? 0.0f : capped_score / softcap;
                p = expf(capped_score - log_sum);
                ds = p * (dprobability.values[j] - delta) * (1.0f - saturation * saturation);
            }
            probability.values[j] = from_float<T>(p);
            dscore.values[j] = from_float<T>(ds);
        }
        reinterpret_cast<Some<SIZE, T>*>(probabilities)[pack] = probability;
        reinterpret_cast<Some<SIZE, T>*>(dscores)[pack] = dscore;
    }
}

// P again from scores and lse, and dS = P·(dP - delta)·slope of the soft cap; delta [batch, kv, queries, group].
extern "C" __global__ void attention_backward(
    const float* scores, const float* dprobabilities, const float* lse, const float* delta, T* probabilities,
    T* dscores, const int* lower, int first_query, int group, int n_kv, int n_queries, int n_keys,
    int diagonal, int first_key, float softcap) {
    const Row row = row_of_block(lower, first_query, group, n_kv, n_queries, n_keys, diagonal, first_key);
    const float log_sum = lse[row.lse];
    const float own = delta[(static_cast<long long>(blockIdx.y) * n_queries + first_query) * group + blockIdx.x];
    scores += row.start;
    dprobabilities += row.start;
    probabilities += row.start;
    dscores += row.start;
    constexpr int SIZE = Pack<T>::SIZE;
    const bool aligned = is_aligned(scores) && is_aligned(dprobabilities) && is_aligned(probabilities);
    if (n_keys % SIZE == 0 && aligned && is_aligned(dscores)) {
        gradient_of_row<SIZE>(scores, dprobabilities, probabilities, dscores, row, log_sum, own, n_keys, softcap);
    } else {
        gradient_of_row<1>(scores, dprobabilities, probabilities, dscores, row, log_sum, own, n_keys, softcap);
    }
}
