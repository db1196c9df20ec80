// Dropout whose mask is a function of a counter: SplitMix64 (Steele, Lea & Flood 2014), as in backend.base.

__device__ inline unsigned long long splitmix64(unsigned long long z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

extern "C" __global__ void dropout(
    const T* x, T* y, unsigned long long key, unsigned threshold, float factor, long long n) {
    over_elements<1, 1>({x}, {y}, n, [=](long long i, const float* in, float* out) {
        const unsigned long long counter = static_cast<unsigned long long>(i + 1) * 0x9e3779b97f4a7c15ull;
        const unsigned drawn = static_cast<unsigned>(splitmix64(key + counter) >> 32);
        out[0] = drawn >= threshold ? in[0] * factor : 0.0f;
    });
}
