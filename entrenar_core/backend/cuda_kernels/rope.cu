// Rotary position embedding: one block a row, one thread a pair of components; components behind the pairs are copied.

// x, y [rows, heads, width]; cosines, sines [rows, n_pairs]; sign -1 turns back.
extern "C" __global__ void rope(
    const T* x, const float* cosines, const float* sines, T* y, int n_heads, int width, int n_pairs, bool interleaved,
    float sign) {
    const long long start = static_cast<long long>(blockIdx.x) * n_heads * width;
    cosines += static_cast<long long>(blockIdx.x) * n_pairs;
    sines += static_cast<long long>(blockIdx.x) * n_pairs;
    const int n_slots = width - n_pairs;  // the pairs, and each component behind them
    for (int i = threadIdx.x; i < n_heads * n_slots; i += blockDim.x) {
        const int slot = i % n_slots, head = i / n_slots * width;
        const T* from = x + start + head;
        T* to = y + start + head;
        if (slot >= n_pairs) {
            to[slot + n_pairs] = from[slot + n_pairs];
            continue;
        }
        const int first = interleaved ? 2 * slot : slot, second = interleaved ? first + 1 : slot + n_pairs;
        const float cosine = cosines[slot], sine = sign * sines[slot];
        const float a = to_float(from[first]), b = to_float(from[second]);
        to[first] = from_float<T>(a * cosine - b * sine);
        to[second] = from_float<T>(a * sine + b * cosine);
    }
}
