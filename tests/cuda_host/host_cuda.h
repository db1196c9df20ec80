// Runs the text of a CUDA kernel on the host, one block after another, for tests where there is no GPU.
//
// Each thread of a block is a fiber with a stack of its own; a barrier or a shuffle hands the processor on. Threads that
// never wait run one after another on one fiber. Threads run in ascending or descending order, so that a result which
// depends on a barrier that is not there can be told. What a GPU would hang at or leave undefined aborts the process: a
// barrier that not every living thread reaches, or that threads reach in different places; a shuffle with part of a warp,
// or from a lane that has ended.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <sys/mman.h>
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
constexpr size_t SLACK_BYTES = 512 << 10;  // below a stack: what goes too far is noticed before it spoils anything else
constexpr int MOST_THREADS = 1024;
constexpr int LANES = 32;
constexpr unsigned long long CANARY = 0x5afe57ac4b0771e5ull;

enum class State { fresh, ready, at_warp_barrier, at_block_barrier, done };

struct Fiber {
    unsigned long long* stack = nullptr;
    void* stack_pointer = nullptr;
    State state = State::fresh;
    int barrier = 0;  // the line of the one it waits at
};

static Fiber fibers[MOST_THREADS];
static void* scheduler_pointer = nullptr;
static int current = 0;
static int n_threads = 0;
static bool descending = false;
static void (*body)(void*) = nullptr;
static void* body_arguments = nullptr;
static unsigned char lanes[MOST_THREADS][8];

[[noreturn]] inline void fail(int thread, const char* why) {
    fprintf(stderr, "block %u,%u,%u: thread %d %s\n", blockIdx.x, blockIdx.y, blockIdx.z, thread, why);
    abort();
}

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

// The thread that the scheduler would begin after this one, or -1 where it has others to look at first.
inline int next_fresh(int thread) {
    const int next = descending ? thread - 1 : thread + 1;
    const bool same_warp = next >= 0 && next < n_threads && next / LANES == thread / LANES;
    return same_warp && fibers[next].state == State::fresh ? next : -1;
}

// Runs its own thread, then those after it of the same warp that nobody has begun, until one of them waits. A thread that
// is begun here takes over the stack that is in use, and leaves its own to the one that has ended.
inline void fiber_main() {
    for (;;) {
        body(body_arguments);
        const int ended = current, next = next_fresh(ended);
        fibers[ended].state = State::done;
        if (next < 0) {
            host_cuda_switch(&fibers[ended].stack_pointer, scheduler_pointer);
            abort();  // what has ended is not resumed
        }
        std::swap(fibers[ended].stack, fibers[next].stack);
        fibers[next].state = State::ready;
        place(next);
    }
}

inline void begin(Fiber& fiber) {
    if (fiber.stack == nullptr) {
        const int mode = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        void* pages = mmap(nullptr, SLACK_BYTES + STACK_BYTES, PROT_READ | PROT_WRITE, mode, -1, 0);
        if (pages == MAP_FAILED) {
            fail(current, "gets no stack");
        }
        fiber.stack = reinterpret_cast<unsigned long long*>(static_cast<unsigned char*>(pages) + SLACK_BYTES);
        *fiber.stack = CANARY;
    }
    void** top = reinterpret_cast<void**>(reinterpret_cast<unsigned char*>(fiber.stack) + STACK_BYTES - 64);
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

inline void wait(State why, int line) {
    Fiber& fiber = fibers[current];
    fiber.state = why;
    fiber.barrier = line;
    host_cuda_switch(&fiber.stack_pointer, scheduler_pointer);
}

// Lets threads first ... stop - 1 go on if all that live wait at the same barrier; whether there was any.
inline bool release(int first, int stop, State waiting) {
    int one = -1;
    for (int t = first; t < stop; t++) {
        if (fibers[t].state == State::done) {
            continue;
        }
        if (fibers[t].state != waiting) {
            return false;
        }
        if (one >= 0 && fibers[t].barrier != fibers[one].barrier) {
            fail(t, "waits at another barrier than the threads before it");
        }
        one = t;
    }
    for (int t = first; t < stop; t++) {
        if (fibers[t].state == waiting) {
            fibers[t].state = State::ready;
        }
    }
    return one >= 0;
}

inline bool run_warp(int first, int stop) {
    bool ran = false;
    do {
        for (int i = first; i < stop; i++) {
            const int t = descending ? first + stop - 1 - i : i;
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
    const int n_warps = (n_threads + LANES - 1) / LANES;
    bool ran;
    do {
        ran = false;
        for (int i = 0; i < n_warps; i++) {
            const int first = (descending ? n_warps - 1 - i : i) * LANES;
            ran |= run_warp(first, first + LANES < n_threads ? first + LANES : n_threads);
        }
        ran |= release(0, n_threads, State::at_block_barrier);
    } while (ran);
    for (int t = 0; t < n_threads; t++) {
        if (fibers[t].state != State::done) {
            fail(t, "waits at a barrier that others never reach");
        }
        if (fibers[t].stack != nullptr && *fibers[t].stack != CANARY) {
            fail(t, "has no room left on its stack");
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
    descending = shape[6] != 0;
    n_threads = blockDim.x * blockDim.y * blockDim.z;
    if (n_threads < 1 || n_threads > MOST_THREADS) {
        fprintf(stderr, "a block of %d threads\n", n_threads);
        abort();
    }
    body_arguments = &one;
    body = [](void* pointer) {
        auto* call_ = static_cast<Call*>(pointer);
        call(call_->kernel, call_->arguments, std::index_sequence_for<A...>{});
    };
    for (unsigned z = 0; z < gridDim.z; z++) {
        for (unsigned y = 0; y < gridDim.y; y++) {
            for (unsigned x = 0; x < gridDim.x; x++) {
                blockIdx = {x, y, z};
                shared_bytes().assign(shared + 128, 0xff);  // NaN: what a block left is nothing to the next
                run_block();
            }
        }
    }
}

inline void require_whole_warp(unsigned mask) {
    if (mask != 0xffffffffu) {
        fail(current, "shuffles with part of its warp");
    }
}

// Each lane shows a value, and gets to see that of a lane of its warp: its own if there is no such lane.
template <typename V> V exchange(unsigned mask, V value, int from) {
    static_assert(sizeof(V) <= 8, "");
    require_whole_warp(mask);
    const int thread = current, other = thread / LANES * LANES + from;
    memcpy(lanes[thread], &value, sizeof(V));
    wait(State::at_warp_barrier, 0);
    if (from >= 0 && from < LANES && other < n_threads) {
        if (fibers[other].state == State::done) {
            fail(thread, "asks for a value of a lane that has ended");
        }
        memcpy(&value, lanes[other], sizeof(V));
    }
    wait(State::at_warp_barrier, 0);
    return value;
}

inline unsigned ballot(unsigned mask, int predicate) {
    require_whole_warp(mask);
    const int thread = current, first = thread / LANES * LANES;
    lanes[thread][0] = predicate != 0;
    wait(State::at_warp_barrier, 0);
    unsigned bits = 0;
    for (int lane = 0; lane < LANES && first + lane < n_threads; lane++) {
        const bool lives = fibers[first + lane].state != State::done;
        bits |= (lives && lanes[first + lane][0] ? 1u : 0u) << lane;
    }
    wait(State::at_warp_barrier, 0);
    return bits;
}

inline int lane() {
    return current % LANES;
}

}  // namespace host

#define __syncthreads() host::wait(host::State::at_block_barrier, __LINE__)

inline void __syncwarp(unsigned mask = 0xffffffffu) {
    host::require_whole_warp(mask);
    host::wait(host::State::at_warp_barrier, 1);
}
template <typename V> V __shfl_sync(unsigned mask, V value, int from) {
    return host::exchange(mask, value, from & (host::LANES - 1));
}
template <typename V> V __shfl_xor_sync(unsigned mask, V value, int distance) {
    return host::exchange(mask, value, host::lane() ^ distance);
}
template <typename V> V __shfl_down_sync(unsigned mask, V value, int distance) {
    return host::exchange(mask, value, host::lane() + distance);
}
template <typename V> V __shfl_up_sync(unsigned mask, V value, int distance) {
    return host::exchange(mask, value, host::lane() - distance);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
    return host::ballot(mask, predicate);
}

template <typename V> V atomicAdd(V* address, V value) {
    const V old = *address;
    *address = old + value;
    return old;
}
template <typename V> V atomicMin(V* address, V value) {
    const V old = *address;
    *address = old < value ? old : value;
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
inline float __fmul_rn(float a, float b) {
    return a * b;
}
inline float __fadd_rn(float a, float b) {
    return a + b;
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
