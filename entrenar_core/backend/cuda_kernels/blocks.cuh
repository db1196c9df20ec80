// no fused multiply-adds
// Blocks of GGML types to values, bit for bit as the codecs on the CPU give them; rounded to T at the end.
//
// A thread decodes a group of 8 neighbouring values, which share their scale in every type, and stores them 16 bytes at a
// time. Blocks have odd sizes, so nothing is known of their alignment. Without ids the groups of whole rows follow each
// other as the blocks do; with ids int [M], row m of the result is row ids[m] of n_rows, and NaN if there is none.
//
// A type has SIZE values in BYTES bytes, a Scale for the group from value `first` on, and a code for each value.

typedef const unsigned char* Bytes;

constexpr int GROUP = 8;

__device__ inline unsigned halfword(Bytes bytes) {
    return bytes[0] | bytes[1] << 8;
}

__device__ inline float half_at(Bytes bytes) {
    return half_value(static_cast<unsigned short>(halfword(bytes)));
}

__device__ inline float affine(float scale, float code, float minimum) {
    return scale * code + minimum;
}

// Calls value(block's bytes, index in the block, place in the group) for the values of each group.
template <int SIZE, int BYTES, typename Decoder>
__device__ inline void over_groups(
    Bytes blocks, const int* ids, T* out, long long n_groups, int groups_per_row, int n_rows, Decoder decoder) {
    GRID_STRIDE(g, 0, n_groups) {
        float values[GROUP];
        long long source = g;
        bool known = true;
        if (ids != nullptr) {
            const int id = ids[g / groups_per_row];
            known = id >= 0 && id < n_rows;
            source = static_cast<long long>(id) * groups_per_row + g % groups_per_row;
        }
        if (known) {
            Bytes block = blocks + source / (SIZE / GROUP) * BYTES;
            decoder(block, static_cast<int>(source % (SIZE / GROUP)) * GROUP, values);
        } else {
#pragma unroll
            for (int k = 0; k < GROUP; k++) {
                values[k] = NOT_A_NUMBER;
            }
        }
#pragma unroll
        for (int p = 0; p < GROUP / Pack<T>::SIZE; p++) {
            Pack<T> pack;
#pragma unroll
            for (int k = 0; k < Pack<T>::SIZE; k++) {
                pack.values[k] = from_float<T>(values[p * Pack<T>::SIZE + k]);
            }
            reinterpret_cast<Pack<T>*>(out)[g * (GROUP / Pack<T>::SIZE) + p] = pack;
        }
    }
}
