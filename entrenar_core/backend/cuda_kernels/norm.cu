// RMSNorm and LayerNorm: one block a row, statistics in float32; weight gradients as partial sums over runs of rows.

__device__ inline long long row_start(int width) {
    return static_cast<long long>(blockIdx.x) * width;
}

extern "C" __global__ void rms_norm(const T* x, const float* weight, T* y, float* inv_rms, int width, float eps) {
    x += row_start(width);
    y += row_start(width);
    float squares = 0.0f;
    over_run<1>({x}, NO_RESULT, width, [&](int, const float* in) {
        squares += in[0] * in[0];
        return 0.0f;
    });
    const float inverse = 1.0f / sqrtf(block_sum(squares) / width + eps);
    over_run<1>({x}, y, width, [=](int i, const float* in) { return weight[i] * in[0] * inverse; });
    if (threadIdx.x == 0) {
        inv_rms[blockIdx.x] = inverse;
    }
}

// dx = r·(w·dy - x̂·mean(w·dy·x̂)) with x̂ = x·r
extern "C" __global__ void rms_norm_backward(
    const T* dy, const T* x, const float* weight, const float* inv_rms, T* dx, int width) {
    dy += row_start(width);
    x += row_start(width);
    dx += row_start(width);
    const float inverse = inv_rms[blockIdx.x];
    float sum = 0.0f;
    over_run<2>({dy, x}, NO_RESULT, width, [&](int i, const float* in) {
        sum += in[0] * weight[i] * (in[1] * inverse);
        return 0.0f;
    });
    const float along = block_sum(sum) / width;
    over_run<2>({dy, x}, dx, width, [=](int i, const float* in) {
        return inverse * (in[0] * weight[i] - in[1] * inverse * along);
    });
}

extern "C" __global__ void layer_norm(
    const T* x, const float* gamma, const float* beta, T* y, float* means, float* inv_stds, int width, float eps) {
    x += row_start(width);
    y += row_start(width);
    float sum = 0.0f, squares = 0.0f;
    over_run<1>({x}, NO_RESULT, width, [&](int, const float* in) { return sum += in[0]; });
    const float mean = block_sum(sum) / width;
    over_run<1>({x}, NO_RESULT, width, [&](int, const float* in) {
        const float centred = in[0] - mean;
        return squares += centred * centred;
    });
    const float inverse = 1.0f / sqrtf(block_sum(squares) / width + eps);
    over_run<1>({x}, y, width, [=](int i, const float* in) { return gamma[i] * (in[0] - mean) * inverse + beta[i]; });
    if (threadIdx.x == 0) {
        means[blockIdx.x] = mean;
        inv_stds[blockIdx.x] = inverse;
    }
}

extern "C" __global__ void layer_norm_backward(
    const T* dy, const T* x, const float* gamma, const float* means, const float* inv_stds, T* dx, int width) {
    dy += row_start(width);
    x += row_start(width);
    dx += row_start(width);
    const float mean = means[blockIdx.x], inverse = inv_stds[blockIdx.x];
    float sum = 0.0f, product = 0.0f;
    over_run<2>({dy, x}, NO_RESULT, width, [&](int i, const float* in) {
        const float slope = in[0] * gamma[i];
        sum += slope;
        return product += slope * ((in[1] - mean) * inverse);
    });
    const float average = block_sum(sum) / width, along = block_sum(product) / width;
    over_run<2>({dy, x}, dx, width, [=](int i, const float* in) {
        return inverse * (in[0] * gamma[i] - average - (in[1] - mean) * inverse * along);
    });
}

// Block (c, p): Σ dy·(x - mean)·inverse over rows_per_part rows from row p·rows_per_part on, in the columns
// c·blockDim ..., into partials [parts, N]. Without means, the mean is 0.
extern "C" __global__ void norm_weight_grad(
    const T* dy, const T* x, const float* means, const float* inverses, float* partials, long long n_rows, int width,
    int rows_per_part) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= width) {
        return;
    }
    const long long first = static_cast<long long>(blockIdx.y) * rows_per_part;
    const long long stop = first + rows_per_part < n_rows ? first + rows_per_part : n_rows;
    float sum = 0.0f;
    for (long long row = first; row < stop; row++) {
        const float mean = means == nullptr ? 0.0f : means[row];
        sum += to_float(dy[row * width + column]) * ((to_float(x[row * width + column]) - mean) * inverses[row]);
    }
    partials[static_cast<long long>(blockIdx.y) * width + column] = sum;
}
