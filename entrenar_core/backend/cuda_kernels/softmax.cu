// Softmax of rows and its gradient: one block a row.

extern "C" __global__ void softmax(const T* x, T* y, int width) {
    x += static_cast<long long>(blockIdx.x) * width;
    y += static_cast<long long>(blockIdx.x) * width;
    float largest = -INFINITE;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        largest = Largest()(largest, to_float(x[i]));
    }
    largest = block_largest(largest);
    float total = 0.0f;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        total += expf(to_float(x[i]) - largest);  // NaN for -∞ - -∞, which a row of all -∞ asks for
    }
    total = block_sum(total);
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        y[i] = from_float<T>(expf(to_float(x[i]) - largest) / total);
    }
}

// dx = y·(dy - <dy, y>)
extern "C" __global__ void softmax_backward(const T* dy, const T* y, T* dx, int width) {
    dy += static_cast<long long>(blockIdx.x) * width;
    y += static_cast<long long>(blockIdx.x) * width;
    dx += static_cast<long long>(blockIdx.x) * width;
    float along = 0.0f;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        along += to_float(dy[i]) * to_float(y[i]);
    }
    along = block_sum(along);
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        dx[i] = from_float<T>(to_float(y[i]) * (to_float(dy[i]) - along));
    }
}
