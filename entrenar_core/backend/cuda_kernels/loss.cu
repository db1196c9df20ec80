// Losses of rows of logits: one block a row.

// The largest of a row and Σ exp(row - largest), on every thread, in one pass.
__device__ inline void log_sum_exp_parts(const float* row, int width, float factor, float& largest, float& total) {
    largest = -INFINITE;
    total = 0.0f;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        const float value = row[i] * factor;
        if (value > largest || value != value) {
            total = largest == -INFINITE ? 0.0f : total * expf(largest - value);
            largest = value;
        }
        total += value == -INFINITE && largest == -INFINITE ? 0.0f : expf(value - largest);
    }
    const float own = largest;
    largest = block_largest(largest);
    total = block_sum(total == 0.0f ? 0.0f : total * expf(own - largest));
    if (largest == -INFINITE) {
        total = NOT_A_NUMBER;  // -∞ - -∞
    }
}

// -log softmax(row)[label]; with `write`, logits become grad_scale·(softmax - onehot).
extern "C" __global__ void cross_entropy(
    float* logits, const int* labels, float* losses, int width, float grad_scale, bool write) {
    float* row = logits + static_cast<long long>(blockIdx.x) * width;
    const int label = labels[blockIdx.x];
    float largest, total;
    log_sum_exp_parts(row, width, 1.0f, largest, total);
    if (threadIdx.x == 0) {
        const bool known = label >= 0 && label < width;
        losses[blockIdx.x] = known ? logf(total) - (row[label] - largest) : NOT_A_NUMBER;
    }
    if (!write) {
        return;
    }
    __syncthreads();  // row[label] has been read
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        row[i] = grad_scale * (expf(row[i] - largest) / total - (i == label ? 1.0f : 0.0f));
    }
}

extern "C" __global__ void log_softmax(float* logits, int width, float inv_temperature) {
    float* row = logits + static_cast<long long>(blockIdx.x) * width;
    float largest, total;
    log_sum_exp_parts(row, width, inv_temperature, largest, total);
    const float log_total = logf(total);
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        row[i] = row[i] * inv_temperature - largest - log_total;
    }
}
