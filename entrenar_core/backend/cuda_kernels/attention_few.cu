// Attention of a few queries to many keys, as when tokens are written one by one: keys and values are read once, where
// they lie, and nobody makes a matrix of scores.
//
// One warp takes one query of one head and a stretch of the keys; the heads of a group share a block, and so the cache.
// What the warps of all stretches found is put together in the order of the stretches.

constexpr int MOST_COMPONENTS = 8;  // of a head, for one lane

// The components of a head that a lane holds are lane, lane + 32, ...
struct Components {
    float values[MOST_COMPONENTS];

    __device__ void clear() {
#pragma unroll
        for (int c = 0; c < MOST_COMPONENTS; c++) {
            values[c] = 0.0f;
        }
    }

    template <typename E> __device__ void read(const E* head, int width) {
#pragma unroll
        for (int c = 0; c < MOST_COMPONENTS; c++) {
            const int e = static_cast<int>(threadIdx.x % WARP) + c * WARP;
            values[c] = e < width ? to_float(head[e]) : 0.0f;
        }
    }
};

// Of the scores seen so far: the largest, and the sum of exp(score - largest). `parts` [queries, n_parts, heads, width]
// are sums of exp(score - largest)·v, and `sums` [queries, n_parts, heads, 2] largest and sum. Grid: (n_parts, n_kv,
// batch·queries), a warp for each head of the group.
extern "C" __global__ void attend_few(
    const T* q, const T* strided_k, const T* strided_v, const int* lower, float* parts, float* sums,
    long long k_batch_stride, long long k_time_stride, long long v_batch_stride, long long v_time_stride, int group,
    int width, int n_queries, int q_offset, int keys_of_a_part, float scale, float softcap) {
    const int part = blockIdx.x, kv = blockIdx.y, query = blockIdx.z, batch = query / n_queries;
    const int n_heads = gridDim.y * group, head = kv * group + static_cast<int>(threadIdx.x) / WARP;
    const int first = max(lower[query], part * keys_of_a_part);
    const int stop = min(query % n_queries + q_offset + 1, (part + 1) * keys_of_a_part);
    const T* k = strided_k + batch * k_batch_stride + static_cast<long long>(kv) * width;
    const T* v = strided_v + batch * v_batch_stride + static_cast<long long>(kv) * width;
    Components own, key, value, result;
    own.read(q + (static_cast<long long>(query) * n_heads + head) * width, width);
    result.clear();
    float largest = -INFINITE, total = 0.0f;
    for (int j = first; j < stop; j++) {
        key.read(k + j * k_time_stride, width);
        value.read(v + j * v_time_stride, width);
        float score = 0.0f;
#pragma unroll
        for (int c = 0; c < MOST_COMPONENTS; c++) {
            score += own.values[c] * key.values[c];
        }
        score = over_warp(score, Sum()) * scale;
        if (softcap != 0.0f) {
            score = softcap * tanhf(score / softcap);
        }
        const float before = largest;
        largest = Largest()(largest, score);
        const float kept = expf(before - largest), weight = expf(score - largest);
        total = total * kept + weight;
#pragma unroll
        for (int c = 0; c < MOST_COMPONENTS; c++) {
            result.values[c] = result.values[c] * kept + weight * value.values[c];
        }
    }
    const long long place = (static_cast<long long>(query) * gridDim.x + part) * n_heads + head;
    const int lane = threadIdx.x % WARP;
#pragma unroll
    for (int c = 0; c < MOST_COMPONENTS; c++) {
        if (lane + c * WARP < width) {
            parts[place * width + lane + c * WARP] = result.values[c];
        }
    }
    if (lane == 0) {
        sums[place * 2] = largest;
        sums[place * 2 + 1] = total;
    }
}

// Grid: (heads, batch·queries), one warp.
extern "C" __global__ void join_few(
    const float* parts, const float* sums, T* out, float* lse, int width, int n_queries, int n_parts) {
    const int head = blockIdx.x, query = blockIdx.y, n_heads = gridDim.x, lane = threadIdx.x;
    const long long first = static_cast<long long>(query) * n_parts * n_heads + head;
    float largest = -INFINITE, total = 0.0f;
    for (int part = 0; part < n_parts; part++) {
        largest = Largest()(largest, sums[(first + static_cast<long long>(part) * n_heads) * 2]);
    }
    Components result;
    result.clear();
    for (int part = 0; part < n_parts; part++) {
        const long long place = first + static_cast<long long>(part) * n_heads;
        const float weight = expf(sums[place * 2] - largest);  // 0 for a part that saw no key
        total += weight * sums[place * 2 + 1];
#pragma unroll
        for (int c = 0; c < MOST_COMPONENTS; c++) {
            const int e = lane + c * WARP;
            result.values[c] += e < width ? weight * parts[place * width + e] : 0.0f;
        }
    }
#pragma unroll
    for (int c = 0; c < MOST_COMPONENTS; c++) {
        const int e = lane + c * WARP;
        if (e < width) {
            out[(static_cast<long long>(query) * n_heads + head) * width + e] = from_float<T>(result.values[c] / total);
        }
    }
    if (lane == 0) {
        const int batch = query / n_queries;
        lse[(static_cast<long long>(batch) * n_heads + head) * n_queries + query % n_queries] = largest + logf(total);
    }
}
