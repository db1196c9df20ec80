// What stands around the attention that a library does document by document.
//
// Tokens are counted through the batch: token t of a row of n_times is row·n_times + t. lse is [batch, heads, n_times].

// Where in lse the token of a sequence lies that is at `at` in stats [sequences, heads, room]; -1 beyond its end.
__device__ inline long long place_in_lse(
    int at, const int* starts, const int* lengths, int n_heads, int room, int n_times) {
    const int rest = at / room, i = at - rest * room;
    const int sequence = rest / n_heads, head = rest - sequence * n_heads;
    if (i >= lengths[sequence]) {
        return -1;
    }
    const int token = starts[sequence] + i, row = token / n_times;
    return (static_cast<long long>(row) * n_heads + head) * n_times + (token - row * n_times);
}

extern "C" __global__ void lse_of_stats(
    const float* stats, const int* starts, const int* lengths, float* lse, int n, int n_heads, int room, int n_times) {
    GRID_STRIDE(at, 0, n) {
        const long long place = place_in_lse(static_cast<int>(at), starts, lengths, n_heads, room, n_times);
        if (place >= 0) {
            lse[place] = stats[at];
        }
    }
}

// The way back. Beyond the end of a sequence stands a number that no weight survives: exp(score - 1e30) is 0.
extern "C" __global__ void stats_of_lse(
    const float* lse, const int* starts, const int* lengths, float* stats, int n, int n_heads, int room, int n_times) {
    GRID_STRIDE(at, 0, n) {
        const long long place = place_in_lse(static_cast<int>(at), starts, lengths, n_heads, room, n_times);
        stats[at] = place >= 0 ? lse[place] : 1e30f;
    }
}

// Tokens that see themselves alone have one weight, 1. One warp a token and head.
extern "C" __global__ void attend_alone(
    const T* q, const T* k, const T* v, T* out, float* lse, const int* tokens, int n_tokens, int n_heads, int n_kv,
    int width, int n_times, float scale) {
    const long long warp = global_thread() / WARP;
    if (warp >= static_cast<long long>(n_tokens) * n_heads) {
        return;
    }
    const int head = static_cast<int>(warp % n_heads);
    const long long token = tokens[warp / n_heads];
    const long long at = (token * n_heads + head) * width;
    const long long kv_at = (token * n_kv + head / (n_heads / n_kv)) * width;
    float score = 0.0f;
    for (int e = threadIdx.x % WARP; e < width; e += WARP) {
        score += to_float(q[at + e]) * to_float(k[kv_at + e]);
        out[at + e] = v[kv_at + e];
    }
    score = over_warp(score, Sum());
    if (threadIdx.x % WARP == 0) {
        lse[(token / n_times * n_heads + head) * n_times + token % n_times] = score * scale;
    }
}

// Its weight does not change with q and k, and dv is the sum of dout over the heads that share it. One warp a token and
// kv head.
extern "C" __global__ void attend_alone_backward(
    const T* dout, T* dq, T* dk, T* dv, const int* tokens, int n_tokens, int n_heads, int n_kv, int width) {
    const long long warp = global_thread() / WARP;
    if (warp >= static_cast<long long>(n_tokens) * n_kv) {
        return;
    }
    const int kv = static_cast<int>(warp % n_kv), group = n_heads / n_kv;
    const long long token = tokens[warp / n_kv];
    const long long kv_at = (token * n_kv + kv) * width;
    for (int e = threadIdx.x % WARP; e < width; e += WARP) {
        float sum = 0.0f;
        for (int g = 0; g < group; g++) {
            const long long at = (token * n_heads + kv * group + g) * width + e;
            sum += to_float(dout[at]);
            dq[at] = from_float<T>(0.0f);
        }
        dk[kv_at + e] = from_float<T>(0.0f);
        dv[kv_at + e] = from_float<T>(sum);
    }
}
