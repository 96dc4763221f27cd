/* emulator.cpp - fibers as the threads of a block, host memory as that of a device.
 *
 * EMULATOR_FLUSH=1 makes its threads take subnormals for zero, as kernels compiled with -ftz=true.
 */
#include "emulator.cuh"

#include <algorithm>
#include <map>
#include <mutex>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <vector>
#include <xmmintrin.h>

dim3 threadIdx, blockIdx, blockDim, gridDim;

#define WARP         32
#define THREADS_MAX  1024
#define SHARED_MAX   232448 /* of sm_90 */
#define STACK_BYTES  ((size_t)64 << 10)
#define EXCHANGE_MAX 32
#define PAGE         ((size_t)4096)
#define MEMORY_TOTAL ((size_t)8 << 30)
#define PROCESSORS   4

static std::recursive_mutex lock; /* there is one device */

[[noreturn]] static void wrong(const char *what)
{
    fprintf(stderr, "emulator: %s in block (%u, %u, %u), thread %u\n", what, blockIdx.x, blockIdx.y,
            blockIdx.z, threadIdx.x);
    abort();
}

/* ---- Fibers ---------------------------------------------------------------------------------- */

enum fiber_state { RUNS, WAITS_WARP, WAITS_BLOCK, DONE };

struct fiber {
    void *stack_pointer;
    unsigned char *stack;
    fiber_state state;
    unsigned n_exchange;
};

static fiber fibers[THREADS_MAX];
static void *home;
static unsigned current, n_thread;
static const std::function<void()> *body;
static unsigned char *shared_memory;
static unsigned char slots[2][THREADS_MAX][EXCHANGE_MAX];

/* Saves what a call must keep, stores the stack pointer at `save`, goes on at `to`. */
extern "C" void emulator_switch(void **save, void *to);
asm(".text\n.globl emulator_switch\n.hidden emulator_switch\nemulator_switch:\n"
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp, (%rdi)\nmov %rsi, %rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n");

static void fiber_leave(fiber_state state)
{
    fibers[current].state = state;
    emulator_switch(&fibers[current].stack_pointer, home);
}

static void fiber_main()
{
    (*body)();
    fiber_leave(DONE);
    wrong("a thread that came back");
}

static void fiber_start(fiber *f)
{
    if (!f->stack) {
        f->stack = (unsigned char *)mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (f->stack == (unsigned char *)MAP_FAILED) {
            wrong("no memory for a stack");
        }
    }
    /* As after a call of emulator_switch that returns into fiber_main: six registers, the return
     * address, and a word that keeps the stack on 16 bytes. */
    void **top = (void **)(f->stack + STACK_BYTES) - 2;
    *top = (void *)fiber_main;
    f->stack_pointer = top - 6;
    f->state = RUNS;
    f->n_exchange = 0;
}

void emulator_block_barrier()
{
    fiber_leave(WAITS_BLOCK);
}

void emulator_warp_barrier()
{
    fiber_leave(WAITS_WARP);
}

unsigned char *emulator_shared()
{
    return shared_memory;
}

void emulator_exchange(void *v, size_t bytes, int lane)
{
    unsigned turn = fibers[current].n_exchange++ % 2;
    if (bytes > EXCHANGE_MAX || lane < 0 || lane >= WARP) {
        wrong("an exchange of lanes");
    }
    memcpy(slots[turn][current], v, bytes);
    emulator_warp_barrier();
    memcpy(v, slots[turn][current / WARP * WARP + (unsigned)lane], bytes);
}

/* ---- Blocks ---------------------------------------------------------------------------------- */

static uint64_t random_state = 1;

static unsigned random_below(unsigned n)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(random_state >> 33) % n;
}

static bool warps_release()
{
    bool any = false;
    for (unsigned w = 0; w < n_thread; w += WARP) {
        unsigned last = std::min(w + WARP, n_thread), waits = 0, done = 0;
        for (unsigned i = w; i < last; i++) {
            waits += fibers[i].state == WAITS_WARP;
            done += fibers[i].state == DONE;
        }
        if (waits > 0 && waits + done == last - w) {
            any = true;
            for (unsigned i = w; i < last; i++) {
                fibers[i].state = fibers[i].state == WAITS_WARP ? RUNS : fibers[i].state;
            }
        }
    }
    return any;
}

static bool block_release()
{
    unsigned waits = 0, done = 0;
    for (unsigned i = 0; i < n_thread; i++) {
        waits += fibers[i].state == WAITS_BLOCK;
        done += fibers[i].state == DONE;
    }
    if (waits == 0 || waits + done != n_thread) {
        return false;
    }
    for (unsigned i = 0; i < n_thread; i++) {
        fibers[i].state = fibers[i].state == WAITS_BLOCK ? RUNS : fibers[i].state;
    }
    return true;
}

static void block_run()
{
    unsigned n_done = 0;
    for (unsigned i = 0; i < n_thread; i++) {
        fiber_start(&fibers[i]);
    }
    while (n_done < n_thread) {
        unsigned start = random_below(n_thread), flip = random_below(2);
        bool any = false;
        for (unsigned j = 0; j < n_thread; j++) {
            unsigned i = (start + (flip ? n_thread - j : j)) % n_thread;
            if (fibers[i].state == RUNS) {
                any = true;
                current = i;
                threadIdx = dim3(i, 0, 0);
                emulator_switch(&home, fibers[i].stack_pointer);
                n_done += fibers[i].state == DONE;
            }
        }
        bool freed = warps_release();
        freed = block_release() || freed;
        if (!any && !freed && n_done < n_thread) {
            wrong("a barrier that not all threads reach");
        }
    }
}

static void launch_now(const std::function<void()> &f, dim3 grid, dim3 block, size_t shared)
{
    static unsigned char *memory = (unsigned char *)mmap(
        NULL, SHARED_MAX + 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block.x > THREADS_MAX || block.y * block.z != 1 || shared > SHARED_MAX || grid.x == 0 ||
        grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535) {
        wrong("a launch that no device takes");
    }
    body = &f;
    n_thread = block.x;
    gridDim = grid;
    blockDim = block;
    shared_memory = memory;
    for (unsigned z = 0; z < grid.z; z++) {
        for (unsigned y = 0; y < grid.y; y++) {
            for (unsigned x = 0; x < grid.x; x++) {
                blockIdx = dim3(x, y, z);
                memset(memory, 0xff, shared);
                memset(memory + shared, 0x5a, 64);
                block_run();
                for (int i = 0; i < 64; i++) {
                    if (memory[shared + (size_t)i] != 0x5a) {
                        wrong("a write past the end of shared memory");
                    }
                }
            }
        }
    }
}

/* ---- Integers -------------------------------------------------------------------------------- */

static int byte_of(int word, int i)
{
    return (int8_t)((uint32_t)word >> (8 * i));
}

int __dp4a(int a, int b, int c)
{
    for (int i = 0; i < 4; i++) {
        c += byte_of(a, i) * byte_of(b, i);
    }
    return c;
}

uint32_t __byte_perm(uint32_t low, uint32_t high, uint32_t pick)
{
    uint64_t both = (uint64_t)high << 32 | low;
    uint32_t out = 0;
    for (int i = 0; i < 4; i++) {
        uint32_t at = pick >> (4 * i) & 15;
        uint32_t byte = (uint32_t)(both >> (8 * (at & 7))) & 255;
        byte = at & 8 ? (byte & 128 ? 255 : 0) : byte;
        out |= byte << (8 * i);
    }
    return out;
}

struct fragments {
    int a[4], b[2];
};

/* Row and column of an output, then K by the lanes of a quad; `words` of b: 1 or 2. */
static void mma(int c[4], fragments mine, int words)
{
    unsigned turn = fibers[current].n_exchange++ % 2, warp = current / WARP * WARP;
    static_assert(sizeof mine <= EXCHANGE_MAX, "slots");
    memcpy(slots[turn][current], &mine, sizeof mine);
    emulator_warp_barrier();
    unsigned lane = threadIdx.x % WARP, group = lane / 4, quad = lane % 4;
    for (unsigned i = 0; i < 4; i++) {
        unsigned row = i / 2, column = 2 * quad + i % 2;
        for (unsigned t = 0; t < 4; t++) {
            fragments x, y;
            memcpy(&x, slots[turn][warp + group * 4 + t], sizeof x);
            memcpy(&y, slots[turn][warp + column * 4 + t], sizeof y);
            for (int w = 0; w < words; w++) {
                c[i] = __dp4a(x.a[row + 2 * (unsigned)w], y.b[w], c[i]);
            }
        }
    }
}

void emulated_mma_32(int c[4], int2 low, int2 high, int2 x)
{
    mma(c, {{low.x, high.x, low.y, high.y}, {x.x, x.y}}, 2);
}

void emulated_mma_16(int c[4], int low, int high, int x)
{
    mma(c, {{low, high, 0, 0}, {x, 0}}, 1);
}

/* ---- The runtime ----------------------------------------------------------------------------- */

struct emulator_stream {
    bool is_capturing;
};
struct emulator_graph {
    std::vector<std::function<void()>> step;
    int n_owner;
};

static emulator_stream the_stream;
static emulator_graph *captured;
static std::map<void *, std::pair<void *, size_t>> memory_of; /* what mmap gave, its bytes */
static size_t memory_used;

#define FLUSH 0x8040u /* FTZ and DAZ of MXCSR */

static void launch(const std::function<void()> &f, dim3 grid, dim3 block, size_t shared)
{
    static const char *flush = getenv("EMULATOR_FLUSH");
    unsigned saved = _mm_getcsr();
    _mm_setcsr(flush ? saved | FLUSH : saved);
    launch_now(f, grid, block, shared);
    _mm_setcsr(saved);
}

void emulator_launch(const std::function<void()> &f, dim3 grid, dim3 block, size_t shared)
{
    std::lock_guard<std::recursive_mutex> held(lock);
    if (captured) {
        captured->step.push_back([=] { launch(f, grid, block, shared); });
    } else {
        launch(f, grid, block, shared);
    }
}

const char *cudaGetErrorString(cudaError_t e)
{
    return e == cudaErrorMemoryAllocation ? "out of memory"
           : e == cudaErrorInvalidDevice  ? "invalid device ordinal"
                                          : "emulated error";
}

cudaError_t cudaGetLastError()
{
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *n)
{
    *n = 1;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int number)
{
    *p = {"emulated device", 9, 0, PROCESSORS};
    return number == 0 ? cudaSuccess : cudaErrorInvalidDevice;
}

cudaError_t cudaGetDevice(int *number)
{
    *number = 0;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int number)
{
    return number == 0 ? cudaSuccess : cudaErrorInvalidDevice;
}

cudaError_t cudaMemGetInfo(size_t *free, size_t *total)
{
    *total = MEMORY_TOTAL;
    *free = MEMORY_TOTAL - memory_used;
    return cudaSuccess;
}

/* Poisoned, and ended by a page that may not be touched. */
cudaError_t cudaMalloc(void **memory, size_t bytes)
{
    std::lock_guard<std::recursive_mutex> held(lock);
    size_t used = (bytes + 255) / 256 * 256, whole = (used + PAGE - 1) / PAGE * PAGE;
    if (bytes > MEMORY_TOTAL - memory_used) {
        return cudaErrorMemoryAllocation;
    }
    unsigned char *base = (unsigned char *)mmap(NULL, whole + PAGE, PROT_READ | PROT_WRITE,
                                                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == (unsigned char *)MAP_FAILED) {
        return cudaErrorMemoryAllocation;
    }
    mprotect(base + whole, PAGE, PROT_NONE);
    memset(base, 0xff, whole);
    *memory = base + (whole - used);
    memory_of[*memory] = {base, whole + PAGE};
    memory_used += whole + PAGE;
    return cudaSuccess;
}

cudaError_t cudaFree(void *memory)
{
    std::lock_guard<std::recursive_mutex> held(lock);
    auto found = memory_of.find(memory);
    if (found == memory_of.end()) {
        return memory ? cudaErrorInvalidValue : cudaSuccess;
    }
    munmap(found->second.first, found->second.second);
    memory_used -= found->second.second;
    memory_of.erase(found);
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **memory, size_t bytes)
{
    *memory = malloc(bytes);
    return *memory ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaFreeHost(void *memory)
{
    free(memory);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, int, cudaStream_t)
{
    std::lock_guard<std::recursive_mutex> held(lock);
    if (captured) {
        captured->step.push_back([=] { memcpy(to, from, bytes); });
    } else {
        memcpy(to, from, bytes);
    }
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *to, int byte, size_t bytes, cudaStream_t)
{
    std::lock_guard<std::recursive_mutex> held(lock);
    if (captured) {
        captured->step.push_back([=] { memset(to, byte, bytes); });
    } else {
        memset(to, byte, bytes);
    }
    return cudaSuccess;
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_stride, const void *from, size_t stride,
                              size_t bytes, size_t n, int kind, cudaStream_t stream)
{
    if (bytes > to_stride || bytes > stride) {
        return cudaErrorInvalidValue;
    }
    for (size_t i = 0; i < n; i++) {
        cudaMemcpyAsync((char *)to + i * to_stride, (const char *)from + i * stride, bytes, kind,
                        stream);
    }
    return cudaSuccess;
}

/* What is pinned may not be pinned again, nor unpinned twice. */
static std::map<void *, size_t> pinned;

cudaError_t cudaHostRegister(void *memory, size_t bytes, unsigned)
{
    std::lock_guard<std::recursive_mutex> held(lock);
    for (const auto &one : pinned) {
        if ((char *)memory < (char *)one.first + one.second &&
            (char *)one.first < (char *)memory + bytes) {
            return cudaErrorInvalidValue;
        }
    }
    pinned[memory] = bytes;
    return cudaSuccess;
}

cudaError_t cudaHostUnregister(void *memory)
{
    std::lock_guard<std::recursive_mutex> held(lock);
    return pinned.erase(memory) ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaFuncSetAttribute(const void *, int, int bytes)
{
    return bytes <= SHARED_MAX ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    *stream = &the_stream;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t)
{
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t)
{
    return captured ? cudaErrorInvalidValue : cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t, int)
{
    captured = new emulator_graph();
    captured->n_owner = 1;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t *graph)
{
    *graph = captured;
    captured = NULL;
    return *graph ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *ready, cudaGraph_t graph, int)
{
    graph->n_owner++;
    *ready = graph;
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t)
{
    std::lock_guard<std::recursive_mutex> held(lock);
    for (const auto &step : graph->step) {
        step();
    }
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    if (--graph->n_owner == 0) {
        delete graph;
    }
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph)
{
    return cudaGraphDestroy(graph);
}
