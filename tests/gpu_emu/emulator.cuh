/* emulator.cuh - enough of CUDA to run src/kernel/gpu on the CPU, for tests without a GPU.
 *
 * A launch runs its blocks one after another. Threads of a block are fibers: each runs until it
 * waits for its warp or its block, in an order that is shuffled at every turn, so that what depends
 * on the order of threads, as a missing barrier does, seldom gives the same bits twice. What a
 * device would hide is an error here: a barrier that not all threads reach, shared memory read
 * before it was written (poisoned with NaN), and global memory past its end (a guard page).
 */
#ifndef GRETA_TESTS_GPU_EMU_EMULATOR_H
#define GRETA_TESTS_GPU_EMU_EMULATOR_H

#include <functional>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <tuple>

#define __global__
#define __device__
#define __host__
#define __shared__   static
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)

struct int2 {
    int x, y;
};
struct alignas(8) uint2 {
    uint32_t x, y;
};
struct alignas(16) int4 {
    int x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct dim3 {
    unsigned x, y, z;
    dim3(unsigned nx = 1, unsigned ny = 1, unsigned nz = 1) : x(nx), y(ny), z(nz)
    {
    }
};

extern dim3 threadIdx, blockIdx, blockDim, gridDim;

/* ---- Threads --------------------------------------------------------------------------------- */

/* Arguments are taken when a kernel is launched, as by a graph that runs it later. */
void emulator_launch(const std::function<void()> &body, dim3 grid, dim3 block, size_t shared);
void emulator_block_barrier();
void emulator_warp_barrier();
unsigned char *emulator_shared();
/* Gives `bytes` at v to the lanes of this warp, takes those of `lane`. */
void emulator_exchange(void *v, size_t bytes, int lane);

#define GPU_LAUNCH(kernel, grid, block, bytes, device, ...)                                        \
    emulator_launch([args = std::make_tuple(                                                       \
                         __VA_ARGS__)] { std::apply([](auto... a) { kernel(a...); }, args); },     \
                    grid, block, bytes)
#define GPU_SHARED(name) unsigned char *name = emulator_shared()

#define __syncthreads emulator_block_barrier
#define __syncwarp    emulator_warp_barrier

template <class T> T __shfl_sync(unsigned, T v, int lane)
{
    emulator_exchange(&v, sizeof v, lane);
    return v;
}
template <class T> T __shfl_xor_sync(unsigned, T v, int mask)
{
    emulator_exchange(&v, sizeof v, (int)(threadIdx.x % 32) ^ mask);
    return v;
}
template <class T> T __shfl_down_sync(unsigned, T v, int by)
{
    int lane = (int)(threadIdx.x % 32) + by;
    emulator_exchange(&v, sizeof v, lane < 32 ? lane : (int)(threadIdx.x % 32));
    return v;
}

/* Blocks run one after another. */
inline uint32_t atomicAdd(uint32_t *at, uint32_t by)
{
    uint32_t before = *at;
    *at = before + by;
    return before;
}
inline void __threadfence()
{
}

/* ---- Integers -------------------------------------------------------------------------------- */

int __dp4a(int a, int b, int c);
uint32_t __byte_perm(uint32_t low, uint32_t high, uint32_t pick);
/* PTX ISA, mma.m16n8k32 and m16n8k16 of s8: fragments as gemm.cuh deals them. */
void emulated_mma_32(int c[4], int2 low, int2 high, int2 x);
void emulated_mma_16(int c[4], int low, int high, int x);

/* ---- The runtime ----------------------------------------------------------------------------- */

enum cudaError_t {
    cudaSuccess,
    cudaErrorMemoryAllocation,
    cudaErrorNoDevice,
    cudaErrorInvalidDevice,
    cudaErrorInsufficientDriver,
    cudaErrorInvalidValue,
};
enum { cudaHostRegisterDefault };
enum { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum { cudaFuncAttributeMaxDynamicSharedMemorySize, cudaStreamCaptureModeThreadLocal };

struct cudaDeviceProp {
    char name[256];
    int major, minor, multiProcessorCount;
};
typedef struct emulator_stream *cudaStream_t;
typedef struct emulator_graph *cudaGraph_t;
typedef struct emulator_graph *cudaGraphExec_t;

const char *cudaGetErrorString(cudaError_t e);
cudaError_t cudaGetLastError();
cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int number);
cudaError_t cudaGetDevice(int *number);
cudaError_t cudaSetDevice(int number);
cudaError_t cudaMemGetInfo(size_t *free, size_t *total);
cudaError_t cudaMalloc(void **memory, size_t bytes);
cudaError_t cudaFree(void *memory);
cudaError_t cudaMallocHost(void **memory, size_t bytes);
cudaError_t cudaFreeHost(void *memory);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, int, cudaStream_t);
cudaError_t cudaMemsetAsync(void *to, int byte, size_t bytes, cudaStream_t stream);
cudaError_t cudaMemcpy2DAsync(void *to, size_t to_stride, const void *from, size_t stride,
                              size_t bytes, size_t n, int, cudaStream_t);
cudaError_t cudaHostRegister(void *memory, size_t bytes, unsigned flags);
cudaError_t cudaHostUnregister(void *memory);
cudaError_t cudaFuncSetAttribute(const void *kernel, int attribute, int bytes);
cudaError_t cudaStreamCreate(cudaStream_t *stream);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, int mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *ready, cudaGraph_t graph, int);
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph);

#endif
