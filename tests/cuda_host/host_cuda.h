// Runs the text of a CUDA kernel on the host, one block after another, for tests where there is no GPU.
//
// Each thread of a block is a fiber with a stack of its own; a barrier or a shuffle hands the processor on. Threads that
// never wait run one after another on one fiber. A barrier that not every living thread reaches aborts the process, as
// it would hang a GPU.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

using std::isfinite;
using std::isinf;
using std::isnan;

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__
#define __launch_bounds__(...)
#define __constant__ static
#define __shared__ static
#define __align__(n)
#define DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(host::dynamic_shared())

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
};

static uint3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;

namespace host {

constexpr size_t STACK_BYTES = 128 << 10;
constexpr int MOST_THREADS = 1024;
constexpr int LANES = 32;

enum class State { fresh, ready, at_warp_barrier, at_block_barrier, done };

struct Fiber {
    void* stack = nullptr;
    void* stack_pointer = nullptr;
    State state = State::fresh;
};

static Fiber fibers[MOST_THREADS];
static void* scheduler_pointer = nullptr;
static int current = 0;
static int n_threads = 0;
static void (*body)(void*) = nullptr;
static void* body_arguments = nullptr;
static unsigned char lanes[MOST_THREADS][8];

extern "C" void host_cuda_switch(void** save, void* load);
asm(R"(
.text
.local host_cuda_switch
.type host_cuda_switch, @function
host_cuda_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size host_cuda_switch, .-host_cuda_switch
)");

inline void place(int thread) {
    current = thread;
    threadIdx.x = thread % blockDim.x;
    threadIdx.y = thread / blockDim.x % blockDim.y;
    threadIdx.z = thread / blockDim.x / blockDim.y;
}

// Runs its own thread, then every thread that nobody has begun, until one of them waits.
inline void fiber_main() {
    for (;;) {
        const int thread = current;
        body(body_arguments);
        fibers[thread].state = State::done;
        // The fiber that finishes a fresh thread goes on with the next fresh one, if its stack is its own.
        int next = thread + 1;
        if (next < n_threads && fibers[next].state == State::fresh && next % LANES != 0) {
            std::swap(fibers[thread].stack, fibers[next].stack);
            fibers[next].state = State::ready;
            place(next);
            continue;
        }
        host_cuda_switch(&fibers[thread].stack_pointer, scheduler_pointer);
    }
}

inline void begin(Fiber& fiber) {
    if (fiber.stack == nullptr) {
        fiber.stack = aligned_alloc(64, STACK_BYTES);
    }
    void** top = reinterpret_cast<void**>(static_cast<unsigned char*>(fiber.stack) + STACK_BYTES - 64);
    *--top = nullptr;  // fiber_main never returns; keeps the stack aligned as after a call
    *--top = reinterpret_cast<void*>(&fiber_main);
    for (int i = 0; i < 6; i++) {
        *--top = nullptr;
    }
    fiber.stack_pointer = top;
}

inline void resume(int thread) {
    Fiber& fiber = fibers[thread];
    if (fiber.state == State::fresh) {
        begin(fiber);
    }
    fiber.state = State::ready;
    place(thread);
    host_cuda_switch(&scheduler_pointer, fiber.stack_pointer);
}

inline void wait(State why) {
    const int thread = current;
    fibers[thread].state = why;
    host_cuda_switch(&fibers[thread].stack_pointer, scheduler_pointer);
}

inline bool release(int first, int stop, State waiting) {
    bool any = false;
    for (int t = first; t < stop; t++) {
        if (fibers[t].state == State::done) {
            continue;
        }
        if (fibers[t].state != waiting) {
            return false;
        }
        any = true;
    }
    for (int t = first; t < stop; t++) {
        if (fibers[t].state == waiting) {
            fibers[t].state = State::ready;
        }
    }
    return any;
}

inline bool run_warp(int first, int stop) {
    bool ran = false;
    do {
        for (int t = first; t < stop; t++) {
            if (fibers[t].state == State::fresh || fibers[t].state == State::ready) {
                resume(t);
                ran = true;
            }
        }
    } while (release(first, stop, State::at_warp_barrier));
    return ran;
}

inline void run_block() {
    for (int t = 0; t < n_threads; t++) {
        fibers[t].state = State::fresh;
    }
    bool ran;
    do {
        ran = false;
        for (int first = 0; first < n_threads; first += LANES) {
            ran |= run_warp(first, first + LANES < n_threads ? first + LANES : n_threads);
        }
        ran |= release(0, n_threads, State::at_block_barrier);
    } while (ran);
    for (int t = 0; t < n_threads; t++) {
        if (fibers[t].state != State::done) {
            fprintf(stderr, "block %u,%u: thread %d waits at a barrier that others never reach\n", blockIdx.x, blockIdx.y, t);
            abort();
        }
    }
}

inline std::vector<unsigned char>& shared_bytes() {
    static std::vector<unsigned char> bytes;
    return bytes;
}

inline void* dynamic_shared() {
    auto& bytes = shared_bytes();
    return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(bytes.data()) + 63) / 64 * 64);
}

template <typename... A, size_t... I>
void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_reference_t<A>*>(arguments[I])...);
}

template <typename... A> void launch(void (*kernel)(A...), const unsigned* shape, size_t shared, void** arguments) {
    struct Call {
        void (*kernel)(A...);
        void** arguments;
    } one{kernel, arguments};
    gridDim = {shape[0], shape[1], shape[2]};
    blockDim = {shape[3], shape[4], shape[5]};
    n_threads = blockDim.x * blockDim.y * blockDim.z;
    if (n_threads < 1 || n_threads > MOST_THREADS) {
        fprintf(stderr, "a block of %d threads\n", n_threads);
        abort();
    }
    shared_bytes().assign(shared + 128, 0xff);
    body_arguments = &one;
    body = [](void* pointer) {
        auto* call_ = static_cast<Call*>(pointer);
        call(call_->kernel, call_->arguments, std::index_sequence_for<A...>{});
    };
    for (unsigned z = 0; z < gridDim.z; z++) {
        for (unsigned y = 0; y < gridDim.y; y++) {
            for (unsigned x = 0; x < gridDim.x; x++) {
                blockIdx = {x, y, z};
                run_block();
            }
        }
    }
}

template <typename V> V exchange(V value, int from) {
    static_assert(sizeof(V) <= 8, "");
    const int thread = current, first = thread / LANES * LANES;
    memcpy(lanes[thread], &value, sizeof(V));
    wait(State::at_warp_barrier);
    if (from >= 0 && from < LANES && first + from < n_threads) {
        memcpy(&value, lanes[first + from], sizeof(V));
    }
    wait(State::at_warp_barrier);
    return value;
}

inline int lane() {
    return current % LANES;
}

}  // namespace host

inline void __syncthreads() {
    host::wait(host::State::at_block_barrier);
}
inline void __syncwarp(unsigned = 0xffffffffu) {
    host::wait(host::State::at_warp_barrier);
}
template <typename V> V __shfl_sync(unsigned, V value, int from) {
    return host::exchange(value, from);
}
template <typename V> V __shfl_xor_sync(unsigned, V value, int distance) {
    return host::exchange(value, host::lane() ^ distance);
}
template <typename V> V __shfl_down_sync(unsigned, V value, int distance) {
    return host::exchange(value, host::lane() + distance);
}
template <typename V> V __shfl_up_sync(unsigned, V value, int distance) {
    return host::exchange(value, host::lane() - distance);
}
inline unsigned __ballot_sync(unsigned, int predicate) {
    unsigned bits = 0;
    for (int lane = 0; lane < host::LANES; lane++) {
        const int there = host::exchange(predicate, lane);
        bits |= (there ? 1u : 0u) << lane;
    }
    return bits;
}

template <typename V> V atomicAdd(V* address, V value) {
    const V old = *address;
    *address = old + value;
    return old;
}
template <typename V> V atomicMax(V* address, V value) {
    const V old = *address;
    *address = old > value ? old : value;
    return old;
}

inline float __int_as_float(int bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
inline int __float_as_int(float value) {
    int bits;
    memcpy(&bits, &value, 4);
    return bits;
}
inline unsigned __float_as_uint(float value) {
    return static_cast<unsigned>(__float_as_int(value));
}
inline float __uint_as_float(unsigned bits) {
    return __int_as_float(static_cast<int>(bits));
}
inline float rsqrtf(float x) {
    return 1.0f / sqrtf(x);
}
inline int __popc(unsigned x) {
    return __builtin_popcount(x);
}
inline int min(int a, int b) {
    return a < b ? a : b;
}
inline int max(int a, int b) {
    return a > b ? a : b;
}
inline long long min(long long a, long long b) {
    return a < b ? a : b;
}
inline long long max(long long a, long long b) {
    return a > b ? a : b;
}
inline unsigned min(unsigned a, unsigned b) {
    return a < b ? a : b;
}
inline unsigned max(unsigned a, unsigned b) {
    return a > b ? a : b;
}
