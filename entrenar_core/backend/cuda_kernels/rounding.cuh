// no fused multiply-adds
// Values as their type gives them back, operation for operation what the codec does on the CPU, so bit for bit.
//
// `refused` becomes the number of the first block that does not fit (a NaN, an infinity, a scale beyond float16), whose
// values are left as they are. `inside` (may be null) says which values lie within half a step of what their block can
// represent; a block of scale 0 clips nothing. Everything is float, whatever T is.

#define INFINITE_BITS 0x7f800000
#define LARGEST 3.402823466e38f

// A number without its sign, and not finite from INFINITE_BITS on.
__device__ inline int magnitude_bits(float x) {
    return __float_as_int(x) & 0x7fffffff;
}

// A float16's bits nearest to x, ties to even.
__device__ inline unsigned short half_bits(float x) {
    unsigned short half;
#ifdef __CUDA_ARCH__
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(x));
#else
    const unsigned bits = __float_as_uint(x), magnitude = bits & 0x7fffffffu;
    unsigned found;
    if (magnitude > 0x7f800000u) {
        found = 0x7fffu;
    } else if (magnitude >= 0x477ff000u) {
        found = 0x7c00u;
    } else if (magnitude >= 0x38800000u) {
        found = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
    } else {
        const int wanted = 126 - static_cast<int>(magnitude >> 23), shift = wanted > 25 ? 25 : wanted;
        const unsigned mantissa = (magnitude & 0x7fffffu) | 0x800000u;
        found = (mantissa + (1u << (shift - 1)) - 1u + (mantissa >> shift & 1u)) >> shift;
    }
    half = static_cast<unsigned short>(found | (bits >> 16 & 0x8000u));
#endif
    return half;
}

__device__ inline bool overflows(unsigned short half) {
    return (half & 0x7c00) == 0x7c00;
}

// Whether x lies within half a step (`share` of the range) of the ends.
__device__ inline bool in_range(float x, float first, float second, float share) {
    const float low = first < second ? first : second, high = first < second ? second : first;
    const float half = (high - low) * share;
    return low == high || (x >= low - half && x <= high + half);
}

// Ordered as the numbers are, with -0 below 0 and NaNs at the ends.
__device__ inline int order_key(float x) {
    const int bits = __float_as_int(x);
    return bits ^ (bits >> 31 & 0x7fffffff);
}

__device__ inline float of_order_key(int key) {
    return __int_as_float(key ^ (key >> 31 & 0x7fffffff));
}
