/* plugin.cu - the table that a plugin gives the engine: devices, memory, weights, ops, graphs. */
#include "kernel/gpu/launch.cuh"

#define STAGING_BYTES ((size_t)64 << 20)
#define SCRATCH_LEAST ((size_t)16 << 20) /* statistics of a row of LIMIT_VOCAB values, and more */
#define SCRATCH_MOST  ((size_t)256 << 20)

static gpu_status status_of(GPU(Error_t) e)
{
    switch (e) {
    case GPU(Success):
        return GPU_OK;
    case GPU(ErrorMemoryAllocation):
        return GPU_NO_MEMORY;
    case GPU(ErrorNoDevice):
    case GPU(ErrorInvalidDevice):
        return GPU_NO_DEVICE;
    case GPU(ErrorInsufficientDriver):
        return GPU_NO_DRIVER;
    default:
        return GPU_FAILED;
    }
}

static gpu_status explain(GPU(Error_t) e, char *why, size_t why_bytes)
{
    if (e != GPU(Success)) {
        snprintf(why, why_bytes, "%s", GPU(GetErrorString)(e));
    }
    return status_of(e);
}

static gpu_status plugin_count(int32_t *n, char *why, size_t why_bytes)
{
    int count = 0;
    GPU(Error_t) e = GPU(GetDeviceCount)(&count);
    (void)GPU(GetLastError)();
    *n = count;
    return explain(e, why, why_bytes);
}

static gpu_status plugin_describe(int32_t number, gpu_info *info, char *why, size_t why_bytes)
{
    gpu_properties p;
    size_t free = 0, total = 0;
    GPU(Error_t) e = GPU(GetDeviceProperties)(&p, number);
    int before = 0;
    if (e == GPU(Success) && GPU(GetDevice)(&before) == GPU(Success)) {
        e = GPU(SetDevice)(number);
        e = e == GPU(Success) ? GPU(MemGetInfo)(&free, &total) : e;
        (void)GPU(SetDevice)(before);
    }
    (void)GPU(GetLastError)();
    if (e != GPU(Success)) {
        return explain(e, why, why_bytes);
    }
    snprintf(info->name, sizeof info->name, "%.127s", p.name);
#if defined __HIP__ && !defined GPU_EMULATED
    snprintf(info->arch, sizeof info->arch, "%.31s", p.gcnArchName);
#else
    snprintf(info->arch, sizeof info->arch, "sm_%d%d", p.major, p.minor);
#endif
    info->n_processor = p.multiProcessorCount;
    info->memory = total;
    info->memory_free = free;
    return GPU_OK;
}

static void plugin_close(gpu_device *d)
{
    if (!d) {
        return;
    }
    device_take(d);
    (void)GPU(Free)(d->staging);
    (void)GPU(Free)(d->scratch);
    (void)GPU(Free)(d->arrived);
    (void)host_free(d->host_staging);
    if (d->stream) {
        (void)GPU(StreamDestroy)(d->stream);
    }
    (void)GPU(GetLastError)();
    delete d;
}

static gpu_status plugin_open(int32_t number, gpu_device **device, char *why, size_t why_bytes)
{
    *device = NULL;
    gpu_info info;
    gpu_status status = plugin_describe(number, &info, why, why_bytes);
    if (status != GPU_OK) {
        return status;
    }
    gpu_device *d = new gpu_device();
    d->number = number;
    d->n_processor = info.n_processor;
    d->can_overlap = strncmp(info.arch, "sm_9", 4) == 0 || strncmp(info.arch, "sm_1", 4) == 0;
    d->scratch_bytes = SCRATCH_LEAST;
    keep_error(d, GPU(SetDevice)(number));
    keep_error(d, GPU(StreamCreate)(&d->stream));
    keep_error(d, GPU(Malloc)((void **)&d->scratch, d->scratch_bytes));
    keep_error(d, GPU(Malloc)((void **)&d->arrived, ARRIVED_MAX * sizeof *d->arrived));
    if (d->first == GPU(Success)) {
        keep_error(d, GPU(MemsetAsync)(d->arrived, 0, ARRIVED_MAX * sizeof *d->arrived, d->stream));
    }
    if (d->first != GPU(Success)) {
        status = explain(d->first, why, why_bytes);
        plugin_close(d);
        return status;
    }
    *device = d;
    return GPU_OK;
}

static gpu_status plugin_sync(gpu_device *d, char *why, size_t why_bytes)
{
    keep_error(d, GPU(StreamSynchronize)(d->stream));
    return explain(d->first, why, why_bytes);
}

static gpu_status plugin_alloc(gpu_device *d, size_t bytes, void **memory)
{
    *memory = NULL;
    device_take(d);
    GPU(Error_t) e = GPU(Malloc)(memory, bytes > 0 ? bytes : 1);
    (void)GPU(GetLastError)(); /* a refusal is answered here, and is no error of later work */
    return status_of(e);
}

static void plugin_free(gpu_device *d, void *memory)
{
    device_take(d);
    (void)GPU(Free)(memory);
}

static void plugin_copy_in(gpu_device *d, void *to, const void *host_from, size_t bytes)
{
    keep_error(d, GPU(MemcpyAsync)(to, host_from, bytes, GPU(MemcpyHostToDevice), d->stream));
}

static void plugin_copy_out(gpu_device *d, void *host_to, const void *from, size_t bytes)
{
    keep_error(d, GPU(MemcpyAsync)(host_to, from, bytes, GPU(MemcpyDeviceToHost), d->stream));
    keep_error(d, GPU(StreamSynchronize)(d->stream));
}

static void plugin_copy(gpu_device *d, void *to, const void *from, size_t bytes)
{
    keep_error(d, GPU(MemcpyAsync)(to, from, bytes, GPU(MemcpyDeviceToDevice), d->stream));
}

static void plugin_rows_out(gpu_device *d, const gpu_rows_out *a)
{
    keep_error(d, GPU(Memcpy2DAsync)(a->host_to, a->host_stride, a->from, a->stride, a->bytes, a->n,
                                     GPU(MemcpyDeviceToHost), d->stream));
}

static gpu_status plugin_host_pin(gpu_device *d, void *host, size_t bytes)
{
    device_take(d);
    GPU(Error_t) e = GPU(HostRegister)(host, bytes, GPU(HostRegisterDefault));
    (void)GPU(GetLastError)(); /* a refusal is answered here: copies then take longer */
    return status_of(e);
}

static void plugin_host_unpin(gpu_device *d, void *host)
{
    device_take(d);
    keep_error(d, GPU(HostUnregister)(host));
}

/* ---- Weights --------------------------------------------------------------------------------- */

static size_t plugin_weight_bytes(dtype type, int64_t n_row, int64_t k)
{
    if (is_quantised(type)) {
        const uint8_t *base = (const uint8_t *)PLANE_STEP; /* an address that planes accept */
        return (size_t)(planes_of(type, base, n_row, k).end - base);
    }
    if (float_bytes(type) > 0) {
        int64_t n_tile = (n_row + TILE_ROWS - 1) / TILE_ROWS;
        return (size_t)(n_tile * float_vectors(type, k) * TILE_ROWS * 16);
    }
    return 0;
}

/* Two halves of the staging memory in turn: one is filled while the other is on its way. A half
 * holds at least a tile of rows. */
static bool staging_ready(gpu_device *d, int64_t row_bytes)
{
    size_t tile = (size_t)row_bytes * TILE_ROWS, bytes = STAGING_BYTES / 2;
    bytes = bytes < tile ? tile : bytes;
    if (d->staging_half < bytes) {
        (void)GPU(Free)(d->staging);
        (void)host_free(d->host_staging);
        d->staging = d->host_staging = NULL;
        keep_error(d, GPU(Malloc)((void **)&d->staging, 2 * bytes));
        keep_error(d, host_alloc((void **)&d->host_staging, 2 * bytes));
        d->staging_half = d->first == GPU(Success) ? bytes : 0;
    }
    return d->first == GPU(Success);
}

static void repack_run(gpu_device *d, const repack_args &a)
{
    if (is_quantised(a.type)) {
        int64_t n = a.n * (a.k / UNIT);
        GPU_LAUNCH(repack_units, blocks(n, FLAT), FLAT, 0, d, a);
    } else {
        int64_t n = (a.n + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS * float_vectors(a.type, a.k);
        GPU_LAUNCH(repack_floats, blocks(n, FLAT), FLAT, 0, d, a);
    }
    keep_launch(d);
}

static void plugin_weight_upload(gpu_device *d, const gpu_weight *w, const uint8_t *host_rows,
                                 int64_t row_bytes, int64_t first, int64_t n)
{
    device_take(d);
    if (!staging_ready(d, row_bytes)) {
        return;
    }
    int64_t most = (int64_t)d->staging_half / row_bytes / TILE_ROWS * TILE_ROWS;
    int half = 0;
    for (int64_t r = 0; r < n && d->first == GPU(Success); r += most, half ^= 1) {
        int64_t rows = n - r < most ? n - r : most;
        size_t at = (size_t)half * d->staging_half, bytes = (size_t)(rows * row_bytes);
        if (r >= 2 * most) { /* what was staged here two pieces ago may still be under way */
            keep_error(d, GPU(StreamSynchronize)(d->stream));
        }
        memcpy(d->host_staging + at, host_rows + r * row_bytes, bytes);
        plugin_copy_in(d, d->staging + at, d->host_staging + at, bytes);
        repack_args a = {(int)w->type, d->staging + at,    row_bytes, first + r,
                         rows,         (uint8_t *)w->data, w->n_row,  w->k};
        repack_run(d, a);
    }
    keep_error(d, GPU(StreamSynchronize)(d->stream));
}

static gpu_status plugin_reserve(gpu_device *d, int64_t n_token, int64_t n_position, int32_t n_head,
                                 int32_t head_dim)
{
    size_t row = part_bytes(tiles_seen(n_position, 0), n_head, head_dim);
    size_t bytes = row * (size_t)(n_token < 32 ? n_token : 32);
    bytes = bytes < SCRATCH_MOST ? bytes : SCRATCH_MOST;
    if (bytes <= d->scratch_bytes) {
        return GPU_OK;
    }
    void *larger = NULL;
    gpu_status status = plugin_alloc(d, bytes, &larger);
    if (status == GPU_OK) {
        keep_error(d, GPU(StreamSynchronize)(d->stream));
        plugin_free(d, d->scratch);
        d->scratch = (float *)larger;
        d->scratch_bytes = bytes;
    }
    return status;
}

/* ---- Graphs ---------------------------------------------------------------------------------- */

static void plugin_graph_begin(gpu_device *d)
{
    device_take(d);
    keep_error(d, GPU(StreamBeginCapture)(d->stream, GPU(StreamCaptureModeThreadLocal)));
}

static gpu_status plugin_graph_end(gpu_device *d, void **graph)
{
    GPU(Graph_t) captured = NULL;
    GPU(GraphExec_t) ready = NULL;
    *graph = NULL;
    keep_error(d, GPU(StreamEndCapture)(d->stream, &captured));
    if (d->first == GPU(Success)) {
        keep_error(d, graph_ready(&ready, captured));
    }
    if (captured) {
        (void)GPU(GraphDestroy)(captured);
    }
    *graph = (void *)ready;
    return status_of(d->first);
}

static void plugin_graph_launch(gpu_device *d, void *graph)
{
    device_take(d);
    keep_error(d, GPU(GraphLaunch)((GPU(GraphExec_t))graph, d->stream));
}

static void plugin_graph_free(gpu_device *, void *graph)
{
    if (graph) {
        (void)GPU(GraphExecDestroy)((GPU(GraphExec_t))graph);
    }
}

static const gpu_plugin plugin = {
    GPU_PLUGIN_VERSION, ARITHMETIC_VERSION,  GPU_VENDOR,
    plugin_count,       plugin_describe,     plugin_open,
    plugin_close,       plugin_sync,         plugin_alloc,
    plugin_free,        plugin_copy_in,      plugin_copy_out,
    plugin_copy,        plugin_rows_out,     plugin_host_pin,
    plugin_host_unpin,  plugin_weight_bytes, plugin_weight_upload,
    plugin_reserve,     embed_run,           norm_run,
    quantize_run,       matmul_run,          rope_run,
    kv_load_run,        attention_run,       columns_run,
    top_k_run,          expert_weights_run,  expert_matmul_run,
    expert_sum_run,     stats_run,           argmax_run,
    plugin_graph_begin, plugin_graph_end,    plugin_graph_launch,
    plugin_graph_free,
};

extern "C" __attribute__((visibility("default"))) const gpu_plugin *greta_gpu_plugin(void)
{
    return &plugin;
}
