// Rotary position embedding: one thread a pair of components; components behind the pairs are copied.

// x, y [rows, heads, width]; cosines, sines [rows, n_pairs]; sign -1 turns back.
extern "C" __global__ void rope(
    const T* x, const float* cosines, const float* sines, T* y, long long n_rows, int n_heads, int width, int n_pairs,
    bool interleaved, float sign) {
    const int n_slots = width - n_pairs;  // the pairs, and each component behind them
    const long long n = n_rows * n_heads * n_slots;
    GRID_STRIDE(i, 0, n) {
        const int slot = static_cast<int>(i % n_slots);
        const long long head = i / n_slots, row = head / n_heads;
        const T* from = x + head * width;
        T* to = y + head * width;
        if (slot >= n_pairs) {
            to[slot + n_pairs] = from[slot + n_pairs];
            continue;
        }
        const int first = interleaved ? 2 * slot : slot, second = interleaved ? first + 1 : slot + n_pairs;
        const float cosine = cosines[row * n_pairs + slot], sine = sign * sines[row * n_pairs + slot];
        const float a = to_float(from[first]), b = to_float(from[second]);
        to[first] = from_float<T>(a * cosine - b * sine);
        to[second] = from_float<T>(a * sine + b * cosine);
    }
}
