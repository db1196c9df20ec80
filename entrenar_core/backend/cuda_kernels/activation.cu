// Activations and their gradients; formulas as in backend.base.Backend.

__device__ inline float sigmoid(float x) {
    const float decay = expf(-fabsf(x));  // no overflow on either side
    return (x >= 0.0f ? 1.0f : decay) / (1.0f + decay);
}

__device__ inline float silu_slope(float x) {
    const float sigma = sigmoid(x);
    return sigma * (1.0f + x * (1.0f - sigma));
}

// Φ(x), exact in both tails
__device__ inline float normal_cdf(float x) {
    return 0.5f * erfcf(-0.70710678f * x);
}

constexpr float SQRT_2_OVER_PI = 0.79788456f;
constexpr float GELU_CUBIC = 0.044715f;
constexpr float INV_SQRT_2_PI = 0.39894228f;

struct Relu {
    __device__ static float value(float x) {
        return x > 0.0f || x != x ? x : 0.0f;
    }
    __device__ static float slope(float x) {
        return x > 0.0f ? 1.0f : 0.0f;
    }
};

struct Gelu {
    __device__ static float value(float x) {
        return x * normal_cdf(x);
    }
    __device__ static float slope(float x) {
        return normal_cdf(x) + x * (expf(-0.5f * x * x) * INV_SQRT_2_PI);
    }
};

struct GeluTanh {
    // (1 + tanh(u))/2 = σ(2u), which keeps its digits in the lower tail
    __device__ static float gate(float x) {
        return sigmoid(2.0f * SQRT_2_OVER_PI * (x + GELU_CUBIC * x * x * x));
    }
    __device__ static float value(float x) {
        return x * gate(x);
    }
    __device__ static float slope(float x) {
        const float sigma = gate(x);
        return sigma + x * (2.0f * sigma * (1.0f - sigma)) * (SQRT_2_OVER_PI * (1.0f + 3.0f * GELU_CUBIC * x * x));
    }
};

struct Silu {
    __device__ static float value(float x) {
        return x * sigmoid(x);
    }
    __device__ static float slope(float x) {
        return silu_slope(x);
    }
};

template <typename Kind> __device__ inline void forward(const T* x, T* y, long long n) {
    over_elements<1, 1>({x}, {y}, n, [](long long, const float* in, float* out) { out[0] = Kind::value(in[0]); });
}

template <typename Kind> __device__ inline void backward(const T* dy, const T* x, T* dx, long long n) {
    over_elements<2, 1>({dy, x}, {dx}, n, [](long long, const float* in, float* out) {
        const float slope = Kind::slope(in[1]);
        out[0] = slope == 0.0f ? 0.0f : in[0] * slope;
    });
}

extern "C" __global__ void relu(const T* x, T* y, long long n) {
    forward<Relu>(x, y, n);
}

extern "C" __global__ void relu_backward(const T* dy, const T* x, T* dx, long long n) {
    backward<Relu>(dy, x, dx, n);
}

extern "C" __global__ void gelu(const T* x, T* y, long long n) {
    forward<Gelu>(x, y, n);
}

extern "C" __global__ void gelu_backward(const T* dy, const T* x, T* dx, long long n) {
    backward<Gelu>(dy, x, dx, n);
}

extern "C" __global__ void gelu_tanh(const T* x, T* y, long long n) {
    forward<GeluTanh>(x, y, n);
}

extern "C" __global__ void gelu_tanh_backward(const T* dy, const T* x, T* dx, long long n) {
    backward<GeluTanh>(dy, x, dx, n);
}

extern "C" __global__ void silu(const T* x, T* y, long long n) {
    forward<Silu>(x, y, n);
}

extern "C" __global__ void silu_backward(const T* dy, const T* x, T* dx, long long n) {
    backward<Silu>(dy, x, dx, n);
}

extern "C" __global__ void swiglu(const T* gate, const T* up, T* y, long long n) {
    over_elements<2, 1>({gate, up}, {y}, n, [](long long, const float* in, float* out) {
        out[0] = Silu::value(in[0]) * in[1];
    });
}

extern "C" __global__ void swiglu_backward(const T* dy, const T* gate, const T* up, T* dgate, T* dup, long long n) {
    over_elements<3, 2>({dy, gate, up}, {dgate, dup}, n, [](long long, const float* in, float* out) {
        out[0] = in[0] * in[2] * silu_slope(in[1]);
        out[1] = in[0] * Silu::value(in[1]);
    });
}
