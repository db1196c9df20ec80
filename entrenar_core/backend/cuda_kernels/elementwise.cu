// Elementwise work on arrays of one shape, sums over rows, and conversions.

extern "C" __global__ void add(const T* a, const T* b, T* out, long long n) {
    over_elements<2, 1>({a, b}, {out}, n, [](long long, const float* in, float* sum) { sum[0] = in[0] + in[1]; });
}

extern "C" __global__ void multiply(const T* a, const T* b, T* out, long long n) {
    over_elements<2, 1>({a, b}, {out}, n, [](long long, const float* in, float* product) { product[0] = in[0] * in[1]; });
}

extern "C" __global__ void scale(const T* a, float factor, T* out, long long n) {
    over_elements<1, 1>({a}, {out}, n, [=](long long, const float* in, float* scaled) { scaled[0] = in[0] * factor; });
}

// NaN stays NaN where it is not kept, as in a product.
extern "C" __global__ void keep_where(const T* a, const bool* kept, T* out, long long n) {
    over_elements<1, 1>({a}, {out}, n, [=](long long i, const float* in, float* result) {
        result[0] = in[0] * (kept[i] ? 1.0f : 0.0f);
    });
}

// y [M, N] += bias [N]: one block a row.
extern "C" __global__ void add_bias(T* y, const float* bias, int width) {
    y += static_cast<long long>(blockIdx.x) * width;
    over_run<1>({y}, y, width, [=](int i, const float* in) { return in[0] + bias[i]; });
}

// Each pair of types moves 16 bytes of the smaller at a time.
template <typename From, typename To> __device__ inline void convert(const From* a, To* out, long long n) {
    struct alignas(16) Read {
        From values[8];
    };
    struct alignas(16) Written {
        To values[8];
    };
    const long long packs = is_aligned(a) && is_aligned(out) ? n / 8 : 0;
    GRID_STRIDE(p, 0, packs) {
        const Read read = reinterpret_cast<const Read*>(a)[p];
        Written written;
#pragma unroll
        for (int k = 0; k < 8; k++) {
            written.values[k] = from_float<To>(to_float(read.values[k]));
        }
        reinterpret_cast<Written*>(out)[p] = written;
    }
    GRID_STRIDE(i, packs * 8, n) {
        out[i] = from_float<To>(to_float(a[i]));
    }
}

extern "C" __global__ void to_float32(const T* a, float* out, long long n) {
    convert(a, out, n);
}

extern "C" __global__ void from_float32(const float* a, T* out, long long n) {
    convert(a, out, n);
}

// Block (c, p) sums rows_per_part rows of x [M, N] from row p·rows_per_part on, in the columns c·blockDim ..., into
// partials [parts, N].
extern "C" __global__ void sum_rows(const T* x, float* partials, long long n_rows, int width, int rows_per_part) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= width) {
        return;
    }
    const long long first = static_cast<long long>(blockIdx.y) * rows_per_part;
    const long long stop = first + rows_per_part < n_rows ? first + rows_per_part : n_rows;
    float sum = 0.0f;
    for (long long row = first; row < stop; row++) {
        sum += to_float(x[row * width + column]);
    }
    partials[static_cast<long long>(blockIdx.y) * width + column] = sum;
}
