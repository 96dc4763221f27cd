/* runtime.cuh - one source for CUDA, for HIP, and for the emulator of the tests.
 *
 * The three agree but for names. GPU(Malloc) is cudaMalloc or hipMalloc. A warp here is 32 lanes
 * that exchange values: on a device whose wavefront has 64 lanes, each half of it. Kernels use
 * plain operators, which the build must not contract (-fmad=false, -ffp-contract=off), and fmaf
 * where docs/numerics.md says so; elementary.h, half_bits.h and hash.h are the same text as on the
 * CPU.
 */
#ifndef GRETA_KERNEL_GPU_RUNTIME_CUH
#define GRETA_KERNEL_GPU_RUNTIME_CUH

#if defined GPU_EMULATED
#include <emulator.cuh>
#define GPU(name)  cuda##name
#define GPU_VENDOR "emu"
typedef cudaDeviceProp gpu_properties;
#elif defined __HIP__
#include <hip/hip_fp16.h>
#include <hip/hip_runtime.h>
#define GPU(name)  hip##name
#define GPU_VENDOR "hip"
typedef hipDeviceProp_t gpu_properties;
#else
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#define GPU(name)  cuda##name
#define GPU_VENDOR "cuda"
typedef cudaDeviceProp gpu_properties;
#endif

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define GPU_WARP 32

/* A launch on a device's stream, with bytes of shared memory whose size is known only now.
 *
 * Kernels may overlap at their edges where the hardware can (sm_90): the next one of the stream
 * becomes resident while this one runs, after let_next(), and waits in after_last() until it is
 * done and its results are visible. So every kernel calls both, the second before it touches what
 * another wrote; what no kernel writes, weights and the rows of the pass, may be read before. */
#if defined GPU_EMULATED
__device__ inline void let_next()
{
}
__device__ inline void after_last()
{
}
#elif defined __HIP__
#define GPU_LAUNCH(kernel, grid, block, bytes, device, ...)                                        \
    kernel<<<grid, block, bytes, (device)->stream>>>(__VA_ARGS__)
#define GPU_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
__device__ inline void let_next()
{
}
__device__ inline void after_last()
{
}
#else
#define GPU_LAUNCH(kernel, grid, block, bytes, device, ...)                                        \
    launch_overlapped(kernel, grid, block, bytes, device, __VA_ARGS__)
#define GPU_SHARED(name) extern __shared__ __align__(16) unsigned char name[]

__device__ inline void let_next()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ inline void after_last()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

template <class... P, class D, class... A>
static void launch_overlapped(void (*kernel)(P...), dim3 grid, dim3 block, size_t bytes, D *device,
                              A... args)
{
    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute overlap = {};
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = bytes;
    config.stream = device->stream;
    config.attrs = &overlap;
    config.numAttrs = device->overlaps ? 1 : 0;
    (void)cudaLaunchKernelEx(&config, kernel, P(args)...); /* the caller asks for the last error */
}
#endif

/* Lets lines of a range come to the second cache while the kernel waits; the threads of a block
 * together. */
__device__ inline void ask_ahead(const void *from, int64_t bytes)
{
#if !defined GPU_EMULATED && __CUDA_ARCH__ >= 900
    for (int64_t at = (int64_t)threadIdx.x * 128; at < bytes; at += (int64_t)blockDim.x * 128) {
        asm volatile("prefetch.global.L2 [%0];" ::"l"((const uint8_t *)from + at));
    }
#else
    (void)from, (void)bytes;
#endif
}

/* The definitions of the arithmetic, for the host as they are, for the device too. */
#if !defined GPU_EMULATED
#define inline __host__ __device__ inline
#endif
#include "base/half_bits.h"
#include "base/hash.h"
#include "kernel/elementary.h"
#if !defined GPU_EMULATED
#undef inline
#endif

/* ---- Calls that differ by more than a prefix ------------------------------------------------- */

static inline GPU(Error_t) host_alloc(void **memory, size_t bytes)
{
#if defined __HIP__
    return hipHostMalloc(memory, bytes, 0);
#else
    return cudaMallocHost(memory, bytes);
#endif
}

static inline GPU(Error_t) host_free(void *memory)
{
#if defined __HIP__
    return hipHostFree(memory);
#else
    return cudaFreeHost(memory);
#endif
}

static inline GPU(Error_t) graph_ready(GPU(GraphExec_t) * ready, GPU(Graph_t) graph)
{
#if defined __HIP__
    return hipGraphInstantiate(ready, graph, NULL, NULL, 0);
#else
    return cudaGraphInstantiate(ready, graph, 0);
#endif
}

/* ---- Lanes ----------------------------------------------------------------------------------- */

#if defined __HIP__
template <class T> __device__ inline T lane_down(T v, int by)
{
    return __shfl_down(v, by, GPU_WARP);
}
template <class T> __device__ inline T lane_xor(T v, int mask)
{
    return __shfl_xor(v, mask, GPU_WARP);
}
template <class T> __device__ inline T lane_from(T v, int lane)
{
    return __shfl(v, lane, GPU_WARP);
}
/* Lanes of a wavefront run in step; the fence orders what they wrote to shared memory. */
__device__ inline void warp_sync()
{
    __builtin_amdgcn_fence(__ATOMIC_ACQ_REL, "wavefront");
    __builtin_amdgcn_wave_barrier();
}
#else
template <class T> __device__ inline T lane_down(T v, int by)
{
    return __shfl_down_sync(0xffffffffu, v, by);
}
template <class T> __device__ inline T lane_xor(T v, int mask)
{
    return __shfl_xor_sync(0xffffffffu, v, mask);
}
template <class T> __device__ inline T lane_from(T v, int lane)
{
    return __shfl_sync(0xffffffffu, v, lane);
}
__device__ inline void warp_sync()
{
    __syncwarp();
}
#endif

/* Of a warp's lanes, in all of them. */
__device__ inline uint32_t lanes_max(uint32_t v)
{
#if !defined GPU_EMULATED && __CUDA_ARCH__ >= 800
    return __reduce_max_sync(0xffffffffu, v);
#else
    for (int stride = GPU_WARP / 2; stride > 0; stride /= 2) {
        uint32_t other = lane_xor(v, stride);
        v = v > other ? v : other;
    }
    return v;
#endif
}

__device__ inline int lanes_sum(int v)
{
#if !defined GPU_EMULATED && __CUDA_ARCH__ >= 800
    return __reduce_add_sync(0xffffffffu, v);
#else
    for (int stride = GPU_WARP / 2; stride > 0; stride /= 2) {
        v += lane_xor(v, stride);
    }
    return v;
#endif
}

__device__ inline int lane_id()
{
    return threadIdx.x % GPU_WARP;
}

__device__ inline int warp_id()
{
    return threadIdx.x / GPU_WARP;
}

/* ---- Blocks that wait for no one ------------------------------------------------------------- */

/* Whether this block is the last of n to come here; then it sees, with fresh(), what all of them
 * wrote before. All threads of a block call it. `count` is 0 before, and again after. */
__device__ inline bool arrives_last(uint32_t *count, uint32_t n)
{
    __shared__ bool is_last;
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        is_last = atomicAdd(count, 1u) == n - 1;
        if (is_last) {
            *count = 0;
        }
        __threadfence();
    }
    __syncthreads();
    return is_last;
}

/* A value that another block of this kernel may have written: not from this one's first cache. */
__device__ inline float fresh(const float *at)
{
#if defined GPU_EMULATED || defined __HIP__
    return *(const volatile float *)at;
#else
    return __ldcg(at);
#endif
}

/* ---- Integers -------------------------------------------------------------------------------- */

/* c + the dot of four signed bytes. */
__device__ inline int dot_4(int a, int b, int c)
{
#if defined __HIP__
    return __builtin_amdgcn_sdot4(a, b, c, false);
#else
    return __dp4a(a, b, c);
#endif
}

/* Bytes of the eight of (low, high) that the four nibbles of `pick` name, each below 8. */
__device__ inline uint32_t pick_bytes(uint32_t low, uint32_t high, uint32_t pick)
{
#if defined __HIP__ /* v_perm_b32 takes a byte for each pick, and counts from the other operand */
    uint32_t wide =
        (pick & 0xfu) | (pick & 0xf0u) << 4 | (pick & 0xf00u) << 8 | (pick & 0xf000u) << 12;
    return __builtin_amdgcn_perm(high, low, wide);
#else
    return __byte_perm(low, high, pick);
#endif
}

/* ---- Floats ---------------------------------------------------------------------------------- */

/* Exact, in hardware. */
__device__ inline float widen_half(uint16_t bits)
{
#if defined GPU_EMULATED
    return half_to_float(bits);
#else
    return __half2float(__ushort_as_half(bits));
#endif
}

/* NaN if either is; +0 above -0. */
__device__ inline float max_nan(float a, float b)
{
    float most = a > b ? a : b;
    most = a == b && signbit(a) ? b : a == b ? a : most;
    return a != a || b != b ? NAN : most;
}

/* The row sum of 64 terms, of which a lane has terms lane and lane + 32: in lane 0. */
__device__ inline float group_sum(float low, float high)
{
    float sum = low + high;
    for (int stride = GPU_WARP / 2; stride > 0; stride /= 2) {
        sum = sum + lane_down(sum, stride);
    }
    return sum;
}

#define GPU_INFINITY __builtin_huge_valf()

__device__ inline bool is_finite(float x)
{
    return fabsf(x) <= 0x1.fffffep+127f;
}

#endif
