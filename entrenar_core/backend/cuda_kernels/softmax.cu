// Softmax of rows and its gradient: one block a row.

extern "C" __global__ void softmax(const T* x, T* y, int width) {
    x += static_cast<long long>(blockIdx.x) * width;
    y += static_cast<long long>(blockIdx.x) * width;
    float own = -INFINITE, sum = 0.0f;
    over_run<1>({x}, NO_RESULT, width, [&](int, const float* in) { return own = Largest()(own, in[0]); });
    const float largest = block_largest(own);
    // NaN for -∞ - -∞, which a row of all -∞ asks for
    over_run<1>({x}, NO_RESULT, width, [&](int, const float* in) { return sum += expf(in[0] - largest); });
    const float total = block_sum(sum);
    over_run<1>({x}, y, width, [=](int, const float* in) { return expf(in[0] - largest) / total; });
}

// dx = y·(dy - <dy, y>)
extern "C" __global__ void softmax_backward(const T* dy, const T* y, T* dx, int width) {
    dy += static_cast<long long>(blockIdx.x) * width;
    y += static_cast<long long>(blockIdx.x) * width;
    dx += static_cast<long long>(blockIdx.x) * width;
    float sum = 0.0f;
    over_run<2>({dy, y}, NO_RESULT, width, [&](int, const float* in) { return sum += in[0] * in[1]; });
    const float along = block_sum(sum);
    over_run<2>({dy, y}, dx, width, [=](int, const float* in) { return in[1] * (in[0] - along); });
}
