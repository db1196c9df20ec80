// needs blocks.cuh
// Types of 32 values with one scale, and one-, two- and three-level types; see blocks.cuh.

// 4-bit codes: the low nibbles are the first half of 32 values.
__device__ inline int nibble(Bytes codes, int i) {
    return i < 16 ? codes[i] & 15 : codes[i - 16] >> 4;
}

__device__ inline int fifth_bit(Bytes bits, int i) {
    return (bits[i / 8] >> i % 8 & 1) << 4;
}

struct Q4_0 {
    __device__ void operator()(Bytes block, int first, float* values) const {
        const float scale = half_at(block);
#pragma unroll
        for (int k = 0; k < GROUP; k++) {
            values[k] = scale * static_cast<float>(nibble(block + 2, first + k) - 8);
        }
    }
};

struct Q4_1 {
    __device__ void operator()(Bytes block, int first, float* values) const {
        const float scale = half_at(block), minimum = half_at(block + 2);
#pragma unroll
        for (int k = 0; k < GROUP; k++) {
            values[k] = affine(scale, static_cast<float>(nibble(block + 4, first + k)), minimum);
        }
    }
};

struct Q5_0 {
    __device__ void operator()(Bytes block, int first, float* values) const {
        const float scale = half_at(block);
#pragma unroll
        for (int k = 0; k < GROUP; k++) {
            const int i = first + k;
            values[k] = scale * static_cast<float>((nibble(block + 6, i) | fifth_bit(block + 2, i)) - 16);
        }
    }
};

struct Q5_1 {
    __device__ void operator()(Bytes block, int first, float* values) const {
        const float scale = half_at(block), minimum = half_at(block + 2);
#pragma unroll
        for (int k = 0; k < GROUP; k++) {
            const int i = first + k;
            values[k] = affine(scale, static_cast<float>(nibble(block + 8, i) | fifth_bit(block + 4, i)), minimum);
        }
    }
};

struct Q8_0 {
    __device__ void operator()(Bytes block, int first, float* values) const {
        const float scale = half_at(block);
#pragma unroll
        for (int k = 0; k < GROUP; k++) {
            values[k] = scale * static_cast<float>(static_cast<signed char>(block[2 + first + k]));
        }
    }
};

// Five values a byte, as digits to the base 3: each is the first digit of the fraction byte·power/256.
struct TQ1_0 {
    __device__ static unsigned digit(unsigned byte, int place) {
        unsigned power = 1;
        for (int k = 0; k < place; k++) {
            power *= 3;
        }
        return (byte * power & 255u) * 3u >> 8;
    }
    __device__ void operator()(Bytes block, int first, float* values) const {
        const float d = half_at(block + 52);
        for (int k = 0; k < GROUP; k++) {
            const int i = first + k;
            unsigned found;
            if (i < 160) {
                found = digit(block[i % 32], i / 32);
            } else if (i < 240) {
                found = digit(block[32 + (i - 160) % 16], (i - 160) / 16);
            } else {
                found = digit(block[48 + (i - 240) % 4], (i - 240) / 4);
            }
            values[k] = d * (static_cast<float>(found) - 1.0f);
        }
    }
};

struct TQ2_0 {
    __device__ void operator()(Bytes block, int first, float* values) const {
        const float d = half_at(block + 64);
#pragma unroll
        for (int k = 0; k < GROUP; k++) {
            const int i = first + k, r = i % 128;
            const int code = block[i / 128 * 32 + r % 32] >> r / 32 * 2 & 3;
            values[k] = d * (static_cast<float>(code) - 1.0f);
        }
    }
};

struct Q1_0 {
    __device__ void operator()(Bytes block, int first, float* values) const {
        const float d = half_at(block);
        const int bits = block[2 + first / 8];
#pragma unroll
        for (int k = 0; k < GROUP; k++) {
            values[k] = bits >> k & 1 ? d : -d;
        }
    }
};

// Types without blocks: calls value(place) for each value, n of them, width in a row; ids as in over_groups.
template <typename Value>
__device__ inline void over_floats(const int* ids, T* out, long long n, int width, int n_rows, Value value) {
    GRID_STRIDE(i, 0, n) {
        const int id = ids == nullptr ? 0 : ids[i / width];
        const bool known = id >= 0 && id < n_rows;
        const long long place = ids == nullptr ? i : static_cast<long long>(id) * width + i % width;
        out[i] = from_float<T>(known ? value(place) : NOT_A_NUMBER);
    }
}

extern "C" __global__ void decode_f16(
    const unsigned char* blocks, const int* ids, T* out, long long n, int width, int n_rows) {
    over_floats(ids, out, n, width, n_rows, [=](long long place) { return half_at(blocks + 2 * place); });
}

extern "C" __global__ void decode_bf16(
    const unsigned char* blocks, const int* ids, T* out, long long n, int width, int n_rows) {
    over_floats(ids, out, n, width, n_rows, [=](long long place) { return as_float(halfword(blocks + 2 * place) << 16); });
}

extern "C" __global__ void decode_f32(
    const unsigned char* blocks, const int* ids, T* out, long long n, int width, int n_rows) {
    over_floats(ids, out, n, width, n_rows, [=](long long place) {
        return as_float(halfword(blocks + 4 * place) | halfword(blocks + 4 * place + 2) << 16);
    });
}

extern "C" __global__ void decode_q4_0(
    const unsigned char* blocks, const int* ids, T* out, long long n_groups, int groups_per_row, int n_rows) {
    over_groups<32, 18>(blocks, ids, out, n_groups, groups_per_row, n_rows, Q4_0());
}

extern "C" __global__ void decode_q4_1(
    const unsigned char* blocks, const int* ids, T* out, long long n_groups, int groups_per_row, int n_rows) {
    over_groups<32, 20>(blocks, ids, out, n_groups, groups_per_row, n_rows, Q4_1());
}

extern "C" __global__ void decode_q5_0(
    const unsigned char* blocks, const int* ids, T* out, long long n_groups, int groups_per_row, int n_rows) {
    over_groups<32, 22>(blocks, ids, out, n_groups, groups_per_row, n_rows, Q5_0());
}

extern "C" __global__ void decode_q5_1(
    const unsigned char* blocks, const int* ids, T* out, long long n_groups, int groups_per_row, int n_rows) {
    over_groups<32, 24>(blocks, ids, out, n_groups, groups_per_row, n_rows, Q5_1());
}

extern "C" __global__ void decode_q8_0(
    const unsigned char* blocks, const int* ids, T* out, long long n_groups, int groups_per_row, int n_rows) {
    over_groups<32, 34>(blocks, ids, out, n_groups, groups_per_row, n_rows, Q8_0());
}

extern "C" __global__ void decode_tq1_0(
    const unsigned char* blocks, const int* ids, T* out, long long n_groups, int groups_per_row, int n_rows) {
    over_groups<256, 54>(blocks, ids, out, n_groups, groups_per_row, n_rows, TQ1_0());
}

extern "C" __global__ void decode_tq2_0(
    const unsigned char* blocks, const int* ids, T* out, long long n_groups, int groups_per_row, int n_rows) {
    over_groups<256, 66>(blocks, ids, out, n_groups, groups_per_row, n_rows, TQ2_0());
}

extern "C" __global__ void decode_q1_0(
    const unsigned char* blocks, const int* ids, T* out, long long n_groups, int groups_per_row, int n_rows) {
    over_groups<128, 18>(blocks, ids, out, n_groups, groups_per_row, n_rows, Q1_0());
}
