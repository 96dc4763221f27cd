/* sizes.cu - measures the open sizes of the arithmetic on a GPU: segment length, attention tile.
 *
 * `sizes [small] [1 2 3 4 5]` runs the sections named (all, if none is):
 *   1  decode, Q8_0, one token            2  decode, F16, BF16, F32, one token
 *   3  prefill of 512 tokens: Q8_0 on tensor cores, F16 and F32 on CUDA cores
 *   4  decode of 8 tokens, Q8_0 and F16   5  decode attention, keys and values in F16
 * and prints one line per kind, shape and length: median, least and most microseconds of one call
 * over REPEATS, its share of the rate measured by a probe (bytes read; int8 multiply-adds on tensor
 * cores; FMAs), and whether every bit checked is the host's (check.cuh). Of several thread shapes
 * of a kernel all are checked and the fastest is printed, its name after the kind.
 *
 * Decode reads its weights from memory, as a model does: calls go round copies of the operands that
 * together exceed the second-level cache; one such round is a graph, timed as a whole. Each section
 * is a process of its own: a device fault or a hang in one does not lose the others. `small` is for
 * compute-sanitizer: small shapes, one repeat, times without meaning.
 */
#include "check.cuh"

#include <algorithm>
#include <cuda_runtime.h>
#include <string>
#include <sys/mman.h>
#include <sys/wait.h>
#include <type_traits>
#include <unistd.h>

#define REPEATS         25
#define WARM_UPS        3
#define SECTION_SECONDS 150
#define ROUND_BYTES     ((size_t)256 << 20) /* of the operands of one round, at least */
#define COPIES_MAX      128
#define SHARED_BYTES    232448 /* of a thread block, compute capability 9.0 */
#define PREFILL_TOKENS  512

/* What every section needs; the rates are section 0's, in memory the processes share. */
struct setting {
    double bytes_per_s, mma_per_s, fma_per_s; /* mma: int8 multiply-adds */
    int n_sm, is_small;
};

static setting *the;
static cudaStream_t queue; /* of the section's process */
static bool all_equal = true;

#define CUDA_CHECK(call) cuda_check((call), __LINE__)

static void cuda_check(cudaError_t status, int line)
{
    if (status != cudaSuccess) {
        fprintf(stderr, "sizes: line %d: %s\n", line, cudaGetErrorString(status));
        fflush(stdout);
        _exit(2);
    }
}

template <class T> struct device_array {
    T *at = NULL;
    size_t n;

    explicit device_array(size_t n) : n(n)
    {
        CUDA_CHECK(cudaMalloc((void **)&at, n * sizeof(T)));
    }
    ~device_array()
    {
        cudaFree(at);
    }
    device_array(const device_array &) = delete;
    device_array &operator=(const device_array &) = delete;

    /* Values of `once` places, again and again. */
    template <class F> void set(size_t once, F f)
    {
        fill<<<2048, 256, 0, queue>>>(at, n, once, f);
        CUDA_CHECK(cudaGetLastError());
    }
    std::vector<T> host() const
    {
        std::vector<T> out(n);
        CUDA_CHECK(cudaMemcpy(out.data(), at, n * sizeof(T), cudaMemcpyDeviceToHost));
        return out;
    }
};

static int copies_of(size_t bytes)
{
    size_t copies = (ROUND_BYTES + bytes - 1) / bytes;
    return the->is_small ? 2 : (int)std::min<size_t>(copies, COPIES_MAX);
}

/* ---- Timing and report ----------------------------------------------------------------------- */

struct sample {
    double median = 0, least = 0, most = 0; /* microseconds */
};

/* A round, launch(copy) for every copy, as a graph: the gaps between kernels are the device's. */
template <class F> cudaGraphExec_t round_of(int n_copy, F launch)
{
    cudaGraph_t graph;
    cudaGraphExec_t round;
    CUDA_CHECK(cudaStreamBeginCapture(queue, cudaStreamCaptureModeThreadLocal));
    for (int copy = 0; copy < n_copy; copy++) {
        launch(copy);
        CUDA_CHECK(cudaGetLastError());
    }
    CUDA_CHECK(cudaStreamEndCapture(queue, &graph));
    CUDA_CHECK(cudaGraphInstantiate(&round, graph, 0));
    CUDA_CHECK(cudaGraphDestroy(graph));
    return round;
}

template <class F> sample measure(int n_copy, F launch)
{
    cudaGraphExec_t round = round_of(n_copy, launch);
    cudaEvent_t start, stop;
    CUDA_CHECK(cudaEventCreate(&start));
    CUDA_CHECK(cudaEventCreate(&stop));
    std::vector<double> us;
    int repeats = the->is_small ? 1 : REPEATS, warm_ups = the->is_small ? 0 : WARM_UPS;
    for (int i = -warm_ups; i < repeats; i++) {
        CUDA_CHECK(cudaEventRecord(start, queue));
        CUDA_CHECK(cudaGraphLaunch(round, queue));
        CUDA_CHECK(cudaEventRecord(stop, queue));
        CUDA_CHECK(cudaEventSynchronize(stop));
        float ms;
        CUDA_CHECK(cudaEventElapsedTime(&ms, start, stop));
        if (i >= 0) {
            us.push_back((double)ms * 1000 / n_copy);
        }
    }
    CUDA_CHECK(cudaEventDestroy(start));
    CUDA_CHECK(cudaEventDestroy(stop));
    CUDA_CHECK(cudaGraphExecDestroy(round));
    std::sort(us.begin(), us.end());
    return {us[us.size() / 2], us.front(), us.back()};
}

static void report(const std::string &kind, const std::string &shape, const std::string &length,
                   sample s, double work_per_s, double peak, const char *equal)
{
    printf("%s\t%s\t%s\t%.2f\t%.2f\t%.2f\t%.3f\t%s\n", kind.c_str(), shape.c_str(), length.c_str(),
           s.median, s.least, s.most, work_per_s / peak, equal);
    fflush(stdout);
}

/* One line: a kind at a shape and length, the fastest of the variants tried. */
struct contest {
    std::string kind, shape, length, best;
    double work, peak; /* of one call; per second */
    sample fastest;
    bool is_equal = true;

    void enter(const std::string &variant, sample s, bool equal)
    {
        is_equal = is_equal && equal;
        if (best.empty() || s.median < fastest.median) {
            best = variant;
            fastest = s;
        }
    }
    std::string name(const std::string &variant) const
    {
        return kind + "/" + variant + " " + shape + " " + length;
    }
    void print() const
    {
        all_equal = all_equal && is_equal;
        report(kind + "/" + best, shape, length, fastest, work / (fastest.median * 1e-6), peak,
               is_equal ? "yes" : "NO");
    }
};

struct shape {
    int k, n;
};

static std::vector<shape> shapes()
{
    if (the->is_small) {
        return {{2048, 128}, {6144, 256}};
    }
    return {{2048, 8192}, {8192, 2048}, {4096, 14336}, {14336, 4096}, {4096, 4096}};
}

/* The lengths below K, then K itself. */
static std::vector<extent> extents(shape s, std::vector<int> lengths)
{
    std::vector<extent> out;
    for (int length : lengths) {
        if (length < s.k) {
            out.push_back({s.k, s.n, length, (s.k + length - 1) / length});
        }
    }
    out.push_back({s.k, s.n, s.k, 1});
    return out;
}

static contest contest_of(const char *kind, extent e, double work, double peak)
{
    contest c;
    c.kind = kind;
    c.shape = std::to_string(e.k) + "x" + std::to_string(e.n);
    c.length = e.length == e.k ? "whole" : std::to_string(e.length);
    c.work = work;
    c.peak = peak;
    return c;
}

/* Results of a launch, from memory that held NaNs before. */
template <class F> std::vector<float> results(const device_array<float> &y, F launch)
{
    CUDA_CHECK(cudaMemset(y.at, 0xff, y.n * sizeof(float)));
    launch(0);
    CUDA_CHECK(cudaGetLastError());
    CUDA_CHECK(cudaDeviceSynchronize());
    return y.host();
}

/* Times one variant and checks it. */
template <class Host, class F>
void try_variant(contest *c, const std::string &variant, const Host &host, extent e, int n_token,
                 int n_copy, const device_array<float> &y, F launch)
{
    bool equal = check_matmul(c->name(variant).c_str(), host, e, n_token, results(y, launch));
    c->enter(variant, measure(n_copy, launch), equal);
}

template <class K> bool allow_shared(K kernel, size_t bytes)
{
    if (bytes > SHARED_BYTES) {
        return false;
    }
    CUDA_CHECK(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
    return true;
}

/* What a plain read of the same bytes takes: the ceiling of a call this short. */
static void report_read(const char *kind, shape s, const void *from, size_t bytes, int n_copy)
{
    device_array<int> sink(1);
    sample t = measure(n_copy, [&](int copy) {
        const int4 *at = (const int4 *)((const uint8_t *)from + copy * bytes);
        read_probe<<<the->n_sm * 8, 256, 0, queue>>>(at, bytes / 16, sink.at);
    });
    report(kind, std::to_string(s.k) + "x" + std::to_string(s.n), "-", t, bytes / (t.median * 1e-6),
           the->bytes_per_s, "-");
}

/* ---- 0: what this device can do -------------------------------------------------------------- */

static void section_rates()
{
    cudaDeviceProp device;
    CUDA_CHECK(cudaGetDeviceProperties(&device, 0));
    the->n_sm = device.multiProcessorCount;
    size_t bytes = (size_t)(the->is_small ? 1 : 1024) << 20;
    device_array<uint32_t> memory(bytes / 4);
    memory.set(memory.n, floats{SEED_WEIGHT});
    int blocks = the->n_sm * 8;
    const int4 *from = (const int4 *)memory.at;
    sample read = measure(
        1, [&](int) { read_probe<<<blocks, 512, 0, queue>>>(from, bytes / 16, (int *)memory.at); });
    sample fma =
        measure(1, [&](int) { fma_probe<<<blocks, 256, 0, queue>>>((float *)memory.at, 0.5f); });
    sample mma =
        measure(1, [&](int) { mma_probe<<<blocks, 256, 0, queue>>>((int *)memory.at, 7); });
    double steps = (double)blocks * 256 * PROBE_STEPS * PROBE_CHAINS;
    the->bytes_per_s = bytes / (read.median * 1e-6);
    the->fma_per_s = steps / (fma.median * 1e-6);
    the->mma_per_s = steps / 32 * 4096 / (mma.median * 1e-6);
    printf("# %s, %d SMs; read %.0f GB/s; FMA %.2f T/s; int8 tensor %.1f T multiply-adds/s\n",
           device.name, the->n_sm, the->bytes_per_s * 1e-9, the->fma_per_s * 1e-12,
           the->mma_per_s * 1e-12);
    printf("kind\tshape\tlength\tmedian_us\tmin\tmax\tshare\tbits_equal\n");
}

/* ---- 1: decode, Q8_0 ------------------------------------------------------------------------- */

#define Q8_WARPS 4

template <int ROWS>
void try_q8_matvec(contest *c, const host_q8 &host, extent e, int n_copy, q8_operand w,
                   q8_operand x, const device_array<float> &y)
{
    size_t bytes = (size_t)Q8_WARPS * ROWS * e.n_segment * (e.length / BLOCK + 1) * sizeof(float2);
    if (!allow_shared(q8_matvec<ROWS>, bytes)) {
        return;
    }
    auto launch = [&](int copy) {
        q8_operand own = w;
        own.code += (size_t)copy * e.n * e.k;
        own.weight += (size_t)copy * e.n * (e.k / BLOCK);
        q8_matvec<ROWS><<<e.n / (Q8_WARPS * ROWS), Q8_WARPS * 32, bytes, queue>>>(e, own, x, y.at);
    };
    try_variant(c, "rows" + std::to_string(ROWS), host, e, 1, n_copy, y, launch);
}

static void section_q8_matvec()
{
    for (shape s : shapes()) {
        size_t n_code = (size_t)s.n * s.k, n_scale = n_code / BLOCK;
        size_t bytes = n_code + 2 * n_scale;
        int n_copy = copies_of(bytes);
        device_array<int8_t> code(n_code * n_copy), x_code(s.k);
        device_array<uint16_t> scale(n_scale * n_copy);
        device_array<uint32_t> x_scale(s.k / BLOCK);
        device_array<float> y(s.n);
        code.set(n_code, codes_of_weight());
        scale.set(n_scale, halves{SEED_SCALE});
        x_code.set(x_code.n, codes_of_act());
        x_scale.set(x_scale.n, floats{SEED_ACT_SCALE});
        report_read("read_codes", s, code.at, n_code, n_copy);
        q8_operand w = {code.at, (const __half *)scale.at, NULL};
        q8_operand x = {x_code.at, NULL, (const float *)x_scale.at};
        for (extent e : extents(s, {256, 512, 1024, 2048, 4096})) {
            contest c = contest_of("decode_q8_0", e, (double)bytes, the->bytes_per_s);
            host_q8 host(e, 1);
            try_q8_matvec<1>(&c, host, e, n_copy, w, x, y);
            try_q8_matvec<2>(&c, host, e, n_copy, w, x, y);
            try_q8_matvec<4>(&c, host, e, n_copy, w, x, y);
            c.print();
        }
    }
}

/* ---- 2 and 4: decode, float weights ---------------------------------------------------------- */

template <class T, int ROWS, int TOKENS, int STAGES>
void try_float_matvec(contest *c, const host_float<T> &host, extent e, int n_copy, const int4 *w,
                      const float *x, const device_array<float> &y)
{
    int sub = 32 / ROWS, warps_max = 32 / STAGES;
    int n_warp = std::min(warps_max, (e.n_segment + sub - 1) / sub);
    size_t bytes =
        (size_t)n_warp * STAGES * GROUP * 512 + (size_t)e.n_segment * TOKENS * ROWS * sizeof(float);
    if (!allow_shared(float_matvec<T, ROWS, TOKENS, STAGES>, bytes)) {
        return;
    }
    auto launch = [&](int copy) {
        const int4 *own = w + (size_t)copy * e.n * e.k * sizeof(T) / 16;
        float_matvec<T, ROWS, TOKENS, STAGES>
            <<<e.n / ROWS, n_warp * 32, bytes, queue>>>(e, own, x, y.at);
    };
    std::string variant = "rows" + std::to_string(ROWS) + "x" + std::to_string(n_warp) + "warps";
    try_variant(c, variant + ",ring" + std::to_string(STAGES), host, e, TOKENS, n_copy, y, launch);
}

/* All lengths of one layout; the contests of both layouts are printed together. */
template <class T, int ROWS, int TOKENS>
void float_matvec_layout(std::vector<contest> *contests, const std::vector<extent> &lengths,
                         shape s)
{
    size_t n_value = (size_t)s.n * s.k, bytes = n_value * sizeof(T);
    int n_copy = copies_of(bytes);
    device_array<T> w(n_value * n_copy);
    device_array<uint32_t> x((size_t)s.k * TOKENS);
    device_array<float> y((size_t)s.n * TOKENS);
    w.set(n_value, packed_floats<T>{(uint32_t)s.k, ROWS});
    x.set(x.n, floats_turned{SEED_ACT, TOKENS, (uint32_t)s.k});
    if (ROWS == 32) {
        report_read("read_floats", s, w.at, bytes, n_copy);
    }
    const int4 *at = (const int4 *)w.at;
    const float *in = (const float *)x.at;
    for (size_t i = 0; i < lengths.size(); i++) {
        host_float<T> host(lengths[i], TOKENS);
        contest *c = &(*contests)[i];
        try_float_matvec<T, ROWS, TOKENS, 4>(c, host, lengths[i], n_copy, at, in, y);
        try_float_matvec<T, ROWS, TOKENS, 16>(c, host, lengths[i], n_copy, at, in, y);
    }
}

template <class T, int TOKENS> void float_matvec_shapes(const char *kind, std::vector<int> lengths)
{
    for (shape s : shapes()) {
        std::vector<extent> e = extents(s, lengths);
        std::vector<contest> contests;
        for (extent one : e) {
            double bytes = (double)s.n * s.k * sizeof(T);
            contests.push_back(contest_of(kind, one, bytes, the->bytes_per_s));
        }
        float_matvec_layout<T, 32, TOKENS>(&contests, e, s);
        float_matvec_layout<T, 8, TOKENS>(&contests, e, s);
        for (const contest &c : contests) {
            c.print();
        }
    }
}

static void section_float_matvec()
{
    std::vector<int> lengths = {64, 128, 256, 512, 1024, 2048, 4096};
    float_matvec_shapes<f16_bits, 1>("decode_f16", lengths);
    float_matvec_shapes<bf16_bits, 1>("decode_bf16", lengths);
    float_matvec_shapes<f32_bits, 1>("decode_f32", lengths);
}

static void q8_batch_shape(shape s)
{
    size_t bytes = (size_t)s.n * (s.k / BLOCK) * (BLOCK + 2);
    int n_copy = copies_of(bytes);
    device_array<uint8_t> w(bytes * n_copy);
    device_array<int8_t> x_code((size_t)s.k * BATCH_TOKENS);
    device_array<uint32_t> x_scale(x_code.n / BLOCK);
    device_array<float> y((size_t)s.n * BATCH_TOKENS);
    w.set(bytes, packed_records{(uint32_t)s.k});
    x_code.set(x_code.n, packed_acts{(uint32_t)s.k});
    x_scale.set(x_scale.n, floats_turned{SEED_ACT_SCALE, BATCH_TOKENS, (uint32_t)s.k / BLOCK});
    q8_operand x = {x_code.at, NULL, (const float *)x_scale.at};
    for (extent e : extents(s, {512, 1024, 2048})) {
        contest c = contest_of("batch8_q8_0", e, (double)bytes, the->bytes_per_s);
        host_q8 host(e, BATCH_TOKENS);
        for (int warps_max = 4; warps_max <= 8; warps_max *= 2) {
            int n_warp = std::min(e.n_segment, warps_max);
            size_t shared = (size_t)n_warp * BATCH_RING + e.n_segment * 32 * sizeof(float4);
            allow_shared(q8_batch, shared);
            auto launch = [&](int copy) {
                const uint8_t *own = w.at + copy * bytes;
                q8_batch<<<s.n / BATCH_ROWS, n_warp * 32, shared, queue>>>(e, own, x, y.at);
            };
            std::string variant = std::to_string(n_warp) + "warps";
            try_variant(&c, variant, host, e, BATCH_TOKENS, n_copy, y, launch);
        }
        c.print();
    }
}

static void section_batch()
{
    for (shape s : shapes()) {
        q8_batch_shape(s);
    }
    float_matvec_shapes<f16_bits, BATCH_TOKENS>("batch8_f16", {512, 1024, 2048});
}

/* ---- 3: prefill ------------------------------------------------------------------------------ */

static dim3 gemm_grid(shape s, int n_token)
{
    return dim3(n_token / TILE_TOKENS, s.n / TILE_ROWS);
}

static void q8_gemm_shape(shape s, int n_token)
{
    size_t n_code = (size_t)s.n * s.k;
    device_array<int8_t> code(n_code), x_code((size_t)n_token * s.k);
    device_array<uint16_t> scale(n_code / BLOCK);
    device_array<uint32_t> x_scale(x_code.n / BLOCK);
    device_array<float> y((size_t)n_token * s.n);
    code.set(n_code, codes_of_weight());
    scale.set(scale.n, halves_turned{SEED_SCALE, (uint32_t)s.n, (uint32_t)s.k / BLOCK});
    x_code.set(x_code.n, codes_of_act());
    x_scale.set(x_scale.n, floats_turned{SEED_ACT_SCALE, (uint32_t)n_token, (uint32_t)s.k / BLOCK});
    q8_gemm_operands o = {{code.at, (const __half *)scale.at, NULL},
                          {x_code.at, NULL, (const float *)x_scale.at},
                          n_token};
    size_t shared = CHUNK_STAGES * sizeof(q8_chunk) + TOTAL_BYTES;
    allow_shared(q8_gemm, shared);
    dim3 grid = gemm_grid(s, n_token);
    for (extent e : extents(s, {512, 1024, 2048})) {
        contest c = contest_of("prefill_q8_0", e, (double)n_token * n_code, the->mma_per_s);
        auto launch = [&](int) { q8_gemm<<<grid, TILE_THREADS, shared, queue>>>(e, o, y.at); };
        try_variant(&c, "tile128", host_q8(e, n_token), e, n_token, 1, y, launch);
        c.print();
    }
}

template <class T> void float_gemm_shape(const char *kind, shape s, int n_token)
{
    device_array<T> w((size_t)s.n * s.k);
    device_array<uint32_t> x((size_t)n_token * s.k);
    device_array<float> y((size_t)n_token * s.n);
    w.set(w.n, packed_floats<T>{(uint32_t)s.k, 32});
    x.set(x.n, floats{SEED_ACT});
    size_t shared = 2 * sizeof(float_step) + TOTAL_BYTES;
    allow_shared(float_gemm<T>, shared);
    dim3 grid = gemm_grid(s, n_token);
    const int4 *at = (const int4 *)w.at;
    const float *in = (const float *)x.at;
    for (extent e : extents(s, {512, 1024, 2048})) {
        contest c = contest_of(kind, e, (double)n_token * s.n * s.k, the->fma_per_s);
        auto launch = [&](int) {
            float_gemm<T><<<grid, TILE_THREADS, shared, queue>>>(e, at, in, y.at);
        };
        try_variant(&c, "tile128", host_float<T>(e, n_token), e, n_token, 1, y, launch);
        c.print();
    }
}

static void section_prefill()
{
    int n_token = the->is_small ? TILE_TOKENS : PREFILL_TOKENS;
    for (shape s : shapes()) {
        q8_gemm_shape(s, n_token);
        float_gemm_shape<f16_bits>("prefill_f16", s, n_token);
        float_gemm_shape<f32_bits>("prefill_f32", s, n_token);
    }
}

/* ---- 5: decode attention --------------------------------------------------------------------- */

/* Keys and values of one depth, and the two kernels with tiles of TILE positions. */
template <int D, int TILE>
void attention_tile(const host_attention &host, attend_args a, int n_copy)
{
    typedef attend_sizes<D, TILE> z;
    size_t shared = (size_t)ATTEND_RING * z::bytes, n_value = host.k.size();
    allow_shared(attend_tiles<D, TILE>, shared);
    int resident;
    CUDA_CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, attend_tiles<D, TILE>,
                                                             ATTEND_THREADS, shared));
    a.n_tile = host.depth / TILE;
    int runs = std::max(1, std::min(a.n_tile, the->n_sm * resident / N_HEAD_KV));
    a.run = (a.n_tile + runs - 1) / runs;
    dim3 grid((a.n_tile + a.run - 1) / a.run, N_HEAD_KV);
    device_array<float> max((size_t)N_HEAD * a.n_tile), sum(max.n), out(max.n * D), y(N_HEAD * D);
    a.max = max.at;
    a.sum = sum.at;
    a.out = out.at;
    auto launch = [&](int copy) {
        attend_args own = a;
        own.k += copy * n_value;
        own.v += copy * n_value;
        attend_tiles<D, TILE><<<grid, ATTEND_THREADS, shared, queue>>>(own);
        attend_fold<D><<<dim3(D / 32, N_HEAD), FOLD_TILES, 0, queue>>>(own, y.at);
    };
    contest c;
    c.kind = "attention_f16";
    c.shape = "dim" + std::to_string(D) + "@" + std::to_string(host.depth);
    c.length = std::to_string(TILE);
    c.work = 2.0 * n_value * sizeof(uint16_t);
    c.peak = the->bytes_per_s;
    std::string variant = std::to_string(grid.x * N_HEAD_KV) + "blocks";
    CUDA_CHECK(cudaMemset(out.at, 0xff, out.n * sizeof(float)));
    bool equal = host.check(c.name(variant).c_str(), TILE, results(y, launch));
    c.enter(variant, measure(n_copy, launch), equal);
    c.print();
}

template <int D> void attention_depth(int depth)
{
    host_attention host(depth, D);
    size_t n_value = host.k.size();
    int n_copy = copies_of(2 * n_value * sizeof(uint16_t));
    device_array<uint16_t> k(n_value * n_copy), v(n_value * n_copy);
    device_array<uint32_t> q(N_HEAD * D);
    k.set(n_value, halves{SEED_KEY});
    v.set(n_value, halves{SEED_VALUE});
    q.set(q.n, floats{SEED_QUERY});
    attend_args a = {k.at, v.at, (const float *)q.at, 1.0f / sqrtf((float)D), 0, 0, NULL,
                     NULL, NULL};
    attention_tile<D, 32>(host, a, n_copy);
    attention_tile<D, 64>(host, a, n_copy);
    attention_tile<D, 128>(host, a, n_copy);
    attention_tile<D, 256>(host, a, n_copy);
}

static void section_attention()
{
    std::vector<int> depths = {512, 2048, 8192, 32768};
    if (the->is_small) {
        depths = {512, 8192};
    }
    for (int depth : depths) {
        attention_depth<64>(depth);
        attention_depth<128>(depth);
    }
}

/* ---- Sections as processes ------------------------------------------------------------------- */

static void (*const sections[])() = {section_rates,   section_q8_matvec, section_float_matvec,
                                     section_prefill, section_batch,     section_attention};
#define N_SECTION 6

/* Whether all of it ran and every bit was right. */
static bool section_run(int section)
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        alarm(SECTION_SECONDS);
        CUDA_CHECK(cudaStreamCreate(&queue));
        sections[section]();
        fflush(stdout);
        _exit(all_equal ? 0 : 1);
    }
    int status = -1;
    if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0) {
        fprintf(stderr, "sizes: section %d failed (status %d)\n", section, status);
        return false;
    }
    return true;
}

int main(int argc, char **argv)
{
    void *memory =
        mmap(NULL, sizeof *the, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        perror("sizes: mmap");
        return 2;
    }
    the = (setting *)memory;
    bool is_chosen[N_SECTION] = {}, is_any = false;
    for (int i = 1; i < argc; i++) {
        std::string word = argv[i];
        if (word == "small") {
            the->is_small = 1;
        } else if (word.size() == 1 && word[0] >= '1' && word[0] < '0' + N_SECTION) {
            is_chosen[word[0] - '0'] = is_any = true;
        } else {
            fprintf(stderr, "usage: sizes [small] [1 2 3 4 5]\n");
            return 2;
        }
    }
    bool is_started = section_run(0), is_good = is_started;
    for (int i = 1; is_started && i < N_SECTION; i++) {
        if (!is_any || is_chosen[i]) {
            is_good = section_run(i) && is_good;
        }
    }
    return is_good ? 0 : 1;
}
