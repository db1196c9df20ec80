// needs blocks.cuh
// K-types: 256 values whose parts of 16 or 32 have small scales of their own; see blocks.cuh.

struct Q2_K {
    __device__ void operator()(Bytes block, int first, float* values) const {
        const int r = first % 128, part = first / 16;
        const float step = half_at(block + 80) * static_cast<float>(block[part] & 15);
        const float minimum = half_at(block + 82) * static_cast<float>(block[part] >> 4);
        Bytes codes = block + 16 + first / 128 * 32 + r % 32;
#pragma unroll
        for (int k = 0; k < GROUP; k++) {
            values[k] = affine(step, static_cast<float>(codes[k] >> r / 32 * 2 & 3), -minimum);
        }
    }
};

struct Q3_K {
    __device__ void operator()(Bytes block, int first, float* values) const {
        const int r = first % 128, part = first / 16, bit = first / 32;
        const int low = block[96 + part % 8] >> part / 8 * 4 & 15, high = block[104 + part % 4] >> part / 4 * 2 & 3;
        const float step = half_at(block + 108) * (static_cast<float>(low | high << 4) - 32.0f);
        Bytes codes = block + 32 + first / 128 * 32 + r % 32, tops = block + r % 32;
#pragma unroll
        for (int k = 0; k < GROUP; k++) {
            const int code = (codes[k] >> r / 32 * 2 & 3) | (tops[k] >> bit & 1) << 2;
            values[k] = step * (static_cast<float>(code) - 4.0f);
        }
    }
};

// Scale and minimum of part j of 8, six bits each in 12 bytes.
__device__ inline void scale_and_minimum(Bytes packed, int j, int& scale, int& minimum) {
    if (j < 4) {
        scale = packed[j] & 63;
        minimum = packed[4 + j] & 63;
    } else {
        scale = (packed[4 + j] & 15) | (packed[j - 4] >> 2 & 48);
        minimum = packed[4 + j] >> 4 | (packed[j] >> 2 & 48);
    }
}

// Q4_K, or with fifth bits Q5_K.
template <bool FIFTH> struct Affine_K {
    __device__ void operator()(Bytes block, int first, float* values) const {
        const int part = first / 32;
        int scale, low;
        scale_and_minimum(block + 4, part, scale, low);
        const float step = half_at(block) * static_cast<float>(scale);
        const float minimum = half_at(block + 2) * static_cast<float>(low);
        Bytes codes = block + (FIFTH ? 48 : 16) + part / 2 * 32 + first % 32, fifths = block + 16 + first % 32;
#pragma unroll
        for (int k = 0; k < GROUP; k++) {
            int code = codes[k] >> part % 2 * 4 & 15;
            if (FIFTH) {
                code |= (fifths[k] >> part & 1) << 4;
            }
            values[k] = affine(step, static_cast<float>(code), -minimum);
        }
    }
};

struct Q6_K {
    __device__ void operator()(Bytes block, int first, float* values) const {
        const int half = first / 128, quarter = first % 128 / 32, l = first % 32;
        const float scale = static_cast<float>(static_cast<signed char>(block[192 + first / 16]));
        const float step = half_at(block + 208) * scale;
        Bytes low = block + half * 64 + quarter % 2 * 32 + l, high = block + 128 + half * 32 + l;
#pragma unroll
        for (int k = 0; k < GROUP; k++) {
            const int code = (low[k] >> quarter / 2 * 4 & 15) | (high[k] >> quarter * 2 & 3) << 4;
            values[k] = step * (static_cast<float>(code) - 32.0f);
        }
    }
};

extern "C" __global__ void decode_q2_k(
    const unsigned char* blocks, const int* ids, T* out, long long n_groups, int groups_per_row, int n_rows) {
    over_groups<256, 84>(blocks, ids, out, n_groups, groups_per_row, n_rows, Q2_K());
}

extern "C" __global__ void decode_q3_k(
    const unsigned char* blocks, const int* ids, T* out, long long n_groups, int groups_per_row, int n_rows) {
    over_groups<256, 110>(blocks, ids, out, n_groups, groups_per_row, n_rows, Q3_K());
}

extern "C" __global__ void decode_q4_k(
    const unsigned char* blocks, const int* ids, T* out, long long n_groups, int groups_per_row, int n_rows) {
    over_groups<256, 144>(blocks, ids, out, n_groups, groups_per_row, n_rows, Affine_K<false>());
}

extern "C" __global__ void decode_q5_k(
    const unsigned char* blocks, const int* ids, T* out, long long n_groups, int groups_per_row, int n_rows) {
    over_groups<256, 176>(blocks, ids, out, n_groups, groups_per_row, n_rows, Affine_K<true>());
}

extern "C" __global__ void decode_q6_k(
    const unsigned char* blocks, const int* ids, T* out, long long n_groups, int groups_per_row, int n_rows) {
    over_groups<256, 210>(blocks, ids, out, n_groups, groups_per_row, n_rows, Q6_K());
}
