// needs blocks.cuh
// Types whose 4-bit codes stand for one of 16 levels; see blocks.cuh. levels [16], and scales by byte [256] where a byte
// is a scale, come from the codecs.

struct IQ4_NL {
    const float *levels, *scales;
    __device__ void operator()(Bytes block, int first, float* values) const {
        const float scale = half_at(block);
#pragma unroll
        for (int k = 0; k < GROUP; k++) {
            values[k] = scale * levels[block[2 + (first + k) % 16] >> first / 16 * 4 & 15];
        }
    }
};

struct IQ4_XS {
    const float *levels, *scales;
    __device__ void operator()(Bytes block, int first, float* values) const {
        const int part = first / 32;
        const int low = block[4 + part / 2] >> part % 2 * 4 & 15, high = block[2 + part / 4] >> part % 4 * 2 & 3;
        const float scale = half_at(block) * (static_cast<float>(low | high << 4) - 32.0f);
        Bytes codes = block + 8 + part * 16 + first % 16;
#pragma unroll
        for (int k = 0; k < GROUP; k++) {
            values[k] = scale * levels[codes[k] >> first % 32 / 16 * 4 & 15];
        }
    }
};

struct MXFP4 {
    const float *levels, *scales;
    __device__ void operator()(Bytes block, int first, float* values) const {
        const float scale = scales[block[0]];
#pragma unroll
        for (int k = 0; k < GROUP; k++) {
            values[k] = scale * levels[block[1 + (first + k) % 16] >> first / 16 * 4 & 15];
        }
    }
};

struct NVFP4 {
    const float *levels, *scales;
    __device__ void operator()(Bytes block, int first, float* values) const {
        const float scale = scales[block[first / 16]];
        Bytes codes = block + 4 + first / 16 * 8;
#pragma unroll
        for (int k = 0; k < GROUP; k++) {
            values[k] = scale * levels[codes[k] >> first % 16 / 8 * 4 & 15];
        }
    }
};

extern "C" __global__ void decode_iq4_nl(
    const unsigned char* blocks, const int* ids, T* out, const float* levels, const float* scales, long long n_groups,
    int groups_per_row, int n_rows) {
    over_groups<32, 18>(blocks, ids, out, n_groups, groups_per_row, n_rows, IQ4_NL{levels, scales});
}

extern "C" __global__ void decode_iq4_xs(
    const unsigned char* blocks, const int* ids, T* out, const float* levels, const float* scales, long long n_groups,
    int groups_per_row, int n_rows) {
    over_groups<256, 136>(blocks, ids, out, n_groups, groups_per_row, n_rows, IQ4_XS{levels, scales});
}

extern "C" __global__ void decode_mxfp4(
    const unsigned char* blocks, const int* ids, T* out, const float* levels, const float* scales, long long n_groups,
    int groups_per_row, int n_rows) {
    over_groups<32, 17>(blocks, ids, out, n_groups, groups_per_row, n_rows, MXFP4{levels, scales});
}

extern "C" __global__ void decode_nvfp4(
    const unsigned char* blocks, const int* ids, T* out, const float* levels, const float* scales, long long n_groups,
    int groups_per_row, int n_rows) {
    over_groups<64, 36>(blocks, ids, out, n_groups, groups_per_row, n_rows, NVFP4{levels, scales});
}
