// needs blocks.cuh
// IQ1, IQ2 and IQ3: magnitudes are rows of a grid, words of 8 (IQ3: 4) int8 values; signs are words of 8 int8 masks, 0 or
// -1, by their byte (or by seven bits, the eighth making their number even). Both come from the codecs.

typedef unsigned long long Word;

__device__ inline int int8_of(Word word, int k) {
    return static_cast<signed char>(word >> 8 * k);
}

// step·(±code) of a group, with codes and masks as words.
__device__ inline void store_signed(float step, Word codes, Word masks, float* values) {
#pragma unroll
    for (int k = 0; k < GROUP; k++) {
        const int mask = int8_of(masks, k), code = int8_of(codes, k);
        values[k] = step * static_cast<float>((code ^ mask) - mask);
    }
}

__device__ inline unsigned word_at(Bytes bytes) {
    return halfword(bytes) | halfword(bytes + 2) << 16;
}

__device__ inline int nibble_of(Bytes bytes, int index) {
    return bytes[index / 2] >> index % 2 * 4 & 15;
}

struct IQ2_XXS {
    const Word *grid, *masks;
    __device__ void operator()(Bytes block, int first, float* values) const {
        Bytes part = block + 2 + first / 32 * 8;
        const int k = first % 32 / 8;
        const unsigned word = word_at(part + 4);
        const float step = half_at(block) * (0.5f + static_cast<float>(word >> 28)) * 0.25f;
        store_signed(step, grid[part[k]], masks[word >> 7 * k & 127], values);
    }
};

struct IQ2_XS {
    const Word *grid, *masks;
    __device__ void operator()(Bytes block, int first, float* values) const {
        const unsigned word = halfword(block + 2 + first / 8 * 2);
        const float step = half_at(block) * (0.5f + static_cast<float>(nibble_of(block + 66, first / 16))) * 0.25f;
        store_signed(step, grid[word & 511], masks[word >> 9], values);
    }
};

struct IQ2_S {
    const Word *grid, *masks;
    __device__ void operator()(Bytes block, int first, float* values) const {
        const int k = first / 8;
        const int high = block[66 + k / 4] >> k % 4 * 2 & 3;
        const float step = half_at(block) * (0.5f + static_cast<float>(nibble_of(block + 74, first / 16))) * 0.25f;
        store_signed(step, grid[block[2 + k] | high << 8], masks[block[34 + k]], values);
    }
};

// Two rows of 4 as one word of 8.
__device__ inline Word pair_of(const unsigned* grid, int low, int high) {
    return static_cast<Word>(grid[high]) << 32 | grid[low];
}

struct IQ3_XXS {
    const unsigned* grid;
    const Word* masks;
    __device__ void operator()(Bytes block, int first, float* values) const {
        const unsigned word = word_at(block + 66 + first / 32 * 4);
        const float step = half_at(block) * (0.5f + static_cast<float>(word >> 28)) * 0.5f;
        Bytes rows = block + 2 + first / 4;
        store_signed(step, pair_of(grid, rows[0], rows[1]), masks[word >> 7 * (first % 32 / 8) & 127], values);
    }
};

struct IQ3_S {
    const unsigned* grid;
    const Word* masks;
    __device__ static int row(Bytes block, int k) {
        return block[2 + k] | (block[66 + k / 8] >> k % 8 & 1) << 8;
    }
    __device__ void operator()(Bytes block, int first, float* values) const {
        const float step = half_at(block) * static_cast<float>(1 + 2 * nibble_of(block + 106, first / 32));
        const int k = first / 4;
        store_signed(step, pair_of(grid, row(block, k), row(block, k + 1)), masks[block[74 + first / 8]], values);
    }
};

// step·(code + shift)/8 of a group: the grid holds eight times its codes, the shift is 1 or -1.
__device__ inline void store_shifted(float step, Word codes, int shift, float* values) {
#pragma unroll
    for (int k = 0; k < GROUP; k++) {
        values[k] = step * (static_cast<float>(int8_of(codes, k) + shift) * 0.125f);
    }
}

struct IQ1_S {
    const Word* grid;
    __device__ void operator()(Bytes block, int first, float* values) const {
        const unsigned word = halfword(block + 34 + first / 32 * 2);
        const int k = first / 8;
        const float step = half_at(block) * static_cast<float>(2 * (word >> 12 & 7) + 1);
        store_shifted(step, grid[block[2 + k] | (word >> k % 4 * 3 & 7) << 8], word >> 15 ? -1 : 1, values);
    }
};

struct IQ1_M {
    const Word* grid;
    __device__ void operator()(Bytes block, int first, float* values) const {
        unsigned scattered = 0;  // d: the highest nibbles of the four words of scales
        for (int w = 0; w < 4; w++) {
            scattered |= static_cast<unsigned>(block[49 + 2 * w] >> 4) << 4 * w;
        }
        const int k = first / 8, part = first / 16, bits = nibble_of(block + 32, k);
        const int scale = halfword(block + 48 + part / 4 * 2) >> part % 4 * 3 & 7;
        const float step = half_value(static_cast<unsigned short>(scattered)) * static_cast<float>(2 * scale + 1);
        store_shifted(step, grid[block[k] | (bits & 7) << 8], bits >> 3 ? -1 : 1, values);
    }
};

extern "C" __global__ void decode_iq2_xxs(
    const unsigned char* blocks, const int* ids, T* out, const unsigned long long* grid, const unsigned long long* masks,
    long long n_groups, int groups_per_row, int n_rows) {
    over_groups<256, 66>(blocks, ids, out, n_groups, groups_per_row, n_rows, IQ2_XXS{grid, masks});
}

extern "C" __global__ void decode_iq2_xs(
    const unsigned char* blocks, const int* ids, T* out, const unsigned long long* grid, const unsigned long long* masks,
    long long n_groups, int groups_per_row, int n_rows) {
    over_groups<256, 74>(blocks, ids, out, n_groups, groups_per_row, n_rows, IQ2_XS{grid, masks});
}

extern "C" __global__ void decode_iq2_s(
    const unsigned char* blocks, const int* ids, T* out, const unsigned long long* grid, const unsigned long long* masks,
    long long n_groups, int groups_per_row, int n_rows) {
    over_groups<256, 82>(blocks, ids, out, n_groups, groups_per_row, n_rows, IQ2_S{grid, masks});
}

extern "C" __global__ void decode_iq3_xxs(
    const unsigned char* blocks, const int* ids, T* out, const unsigned* grid, const unsigned long long* masks,
    long long n_groups, int groups_per_row, int n_rows) {
    over_groups<256, 98>(blocks, ids, out, n_groups, groups_per_row, n_rows, IQ3_XXS{grid, masks});
}

extern "C" __global__ void decode_iq3_s(
    const unsigned char* blocks, const int* ids, T* out, const unsigned* grid, const unsigned long long* masks,
    long long n_groups, int groups_per_row, int n_rows) {
    over_groups<256, 110>(blocks, ids, out, n_groups, groups_per_row, n_rows, IQ3_S{grid, masks});
}

extern "C" __global__ void decode_iq1_s(
    const unsigned char* blocks, const int* ids, T* out, const unsigned long long* grid,
    long long n_groups, int groups_per_row, int n_rows) {
    over_groups<256, 50>(blocks, ids, out, n_groups, groups_per_row, n_rows, IQ1_S{grid});
}

extern "C" __global__ void decode_iq1_m(
    const unsigned char* blocks, const int* ids, T* out, const unsigned long long* grid,
    long long n_groups, int groups_per_row, int n_rows) {
    over_groups<256, 56>(blocks, ids, out, n_groups, groups_per_row, n_rows, IQ1_M{grid});
}
