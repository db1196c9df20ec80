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

// y [M, N] += bias [N]
extern "C" __global__ void add_bias(const T* y, const float* bias, T* out, long long n, int width) {
    over_elements<1, 1>({y}, {out}, n, [=](long long i, const float* in, float* sum) { sum[0] = in[0] + bias[i % width]; });
}

extern "C" __global__ void to_float32(const T* a, float* out, long long n) {
    GRID_STRIDE(i, 0, n) {
        out[i] = to_float(a[i]);
    }
}

extern "C" __global__ void from_float32(const float* a, T* out, long long n) {
    GRID_STRIDE(i, 0, n) {
        out[i] = from_float<T>(a[i]);
    }
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
