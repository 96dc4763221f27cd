/* gpu.h - what a GPU plugin gives the engine: devices, memory, and every op on the rows of a pass.
 *
 * A plugin is a shared library (libgreta-cuda.so, libgreta-hip.so) with one symbol,
 * greta_gpu_plugin, so that greta itself needs no library of a vendor. Its kernels obey
 * docs/numerics.md to the last bit, as every kernel table does. C on both sides.
 *
 * Ops are enqueued on one stream of the device and run in order. They cannot fail one by one: the
 * first error of a device is kept, and `sync` tells it. All pointers are the device's, unless a
 * name begins with host_. Operands never overlap, but x and y of element-wise ops may be equal.
 */
#ifndef GRETA_KERNEL_GPU_GPU_H
#define GRETA_KERNEL_GPU_GPU_H

#include "kernel/kernel.h"

#include <stddef.h>
#include <stdint.h>

#define GPU_PLUGIN_VERSION 2
#define GPU_PLUGIN_SYMBOL  "greta_gpu_plugin"

typedef struct gpu_device gpu_device; /* one opened device: its stream, scratch, first error */

typedef enum gpu_status {
    GPU_OK,
    GPU_NO_DEVICE, /* none with this number */
    GPU_NO_DRIVER, /* absent, or older than the plugin needs */
    GPU_NO_MEMORY,
    GPU_FAILED, /* lost, or a fault of ours: no further work on it */
} gpu_status;

typedef struct gpu_info {
    char name[128];      /* as the vendor spells it */
    char arch[32];       /* "sm_90", "gfx942" */
    int32_t n_processor; /* multiprocessors, compute units */
    uint64_t memory, memory_free;
} gpu_info;

/* A row of a pass, as the caller of the engine gave it: greta_row of greta.h. */
typedef struct gpu_row {
    int32_t token, position, sequence, want_logits;
} gpu_row;

/* Rows of an edge: that of token t lies at base + (index ? index[t] : t) * stride. Stride 0: every
 * token reads the same row. */
typedef struct gpu_rows {
    uint8_t *base;
    int64_t stride;       /* bytes */
    const int32_t *index; /* NULL: none */
} gpu_rows;

/* A matrix in the device's layout (weight_bytes, weight_upload), and rows of it. */
typedef struct gpu_weight {
    dtype type;
    int64_t n_row, k;
    const uint8_t *data;
} gpu_weight;

typedef struct gpu_view {
    gpu_weight weight;
    int64_t first; /* row */
} gpu_view;

typedef struct gpu_embed {
    gpu_rows token; /* of gpu_row */
    gpu_view w;     /* (n_vocab, k) */
    gpu_rows y;     /* (k) floats */
    int64_t n_token;
} gpu_embed;

/* Ops that follow each other may be one call, and then are one launch: its results are those of the
 * ops by themselves, and all of them are written. */

typedef struct gpu_norm {
    gpu_rows x, y;       /* (n_head, n) floats */
    gpu_rows a, b;       /* (n): x = a + b is made first; base NULL: x is there */
    gpu_rows q8;         /* y quantised, act_q8 of n; base NULL: not wanted */
    const float *weight; /* (n) */
    int64_t n_token, n_head, n;
    int64_t count; /* divisor of the mean */
    float eps;
    float *inv_rms; /* (n_token) out; NULL: not wanted, as with more than one head */
} gpu_norm;

typedef struct gpu_quantize {
    gpu_rows x, y; /* (k) floats; act_q8 of k */
    int64_t n_token, k;
} gpu_quantize;

typedef struct gpu_matmul {
    gpu_view w;        /* n_out rows from w.first on */
    const float *bias; /* (n_out), or NULL */
    gpu_rows x, y;     /* (k): act_q8 if x_is_q8, else floats; (n_out) floats */
    int64_t n_token, n_out;
    int x_is_q8;
} gpu_matmul;

#define GPU_MATMUL_MAX 3 /* of a call: queries, keys, values; gate, up */

/* Keys or values of one layer: sequences lie sequence_bytes apart (kernel.h says how). */
typedef struct gpu_cache {
    uint8_t *base; /* NULL: none */
    size_t sequence_bytes;
    kv_shape shape;
    kv_side side;
} gpu_cache;

/* Heads that are turned by their position's angles, or pass as they are, to y, into the cache, or
 * both. */
typedef struct gpu_rope {
    gpu_rows x, y, row;   /* (n_head, head_dim) floats, y base NULL: not wanted; of gpu_row */
    const float *cos_sin; /* (n_ctx, rope_dim / 2, 2) */
    gpu_cache cache;
    int64_t n_token;
    int32_t n_head, head_dim, rope_dim; /* rope_dim 0: nothing is turned */
    rope_pairing pairing;
} gpu_rope;

#define GPU_ROPE_MAX 3 /* of a call: queries, keys, values */

/* Rows of the cache, each gathered: y (n_head_kv, head_dim) values of the cache's type. */
typedef struct gpu_kv_load {
    gpu_rows row, y; /* of gpu_row */
    gpu_cache cache;
    int64_t n_token;
} gpu_kv_load;

typedef struct gpu_attention {
    gpu_rows q, y, row; /* (n_head, head_dim) floats; of gpu_row */
    const uint8_t *k, *v;
    size_t sequence_bytes;
    int32_t k_shift, v_shift; /* added to a row's sequence: 0 in a healthy list */
    kv_shape shape;
    int64_t n_token;
    int64_t n_position; /* none of the rows stands at this position or above */
    int32_t n_head;
    float scale, softcap;
    int64_t window;
    gpu_rows q8; /* y quantised, if head_dim is a multiple of ACT_BLOCK; base NULL: not wanted */
} gpu_attention;

typedef enum gpu_column_kind { GPU_ADD, GPU_SCALE, GPU_SOFTCAP, GPU_GLU } gpu_column_kind;

typedef struct gpu_columns {
    gpu_column_kind kind;
    gpu_rows a, b, y; /* (n) floats; b of GPU_ADD and GPU_GLU (gate a, up b; base NULL: none) */
    int64_t n_token, n;
    float factor; /* of GPU_SCALE; the cap of GPU_SOFTCAP */
    activation f;
    gpu_rows q8; /* y quantised, act_q8 of n; base NULL: not wanted */
} gpu_columns;

typedef struct gpu_top_k {
    gpu_rows x, ids; /* (n) floats; (n_used) int32 */
    int64_t n_token;
    int32_t n, n_used;
} gpu_top_k;

typedef struct gpu_expert_weights {
    gpu_rows router, ids, y; /* (n), (n_used) int32, (n_used) */
    int64_t n_token;
    int32_t n, n_used;
    int is_norm;
} gpu_expert_weights;

/* y (n_used, n_out) = the matrix of each chosen expert times x, or times its part of x. */
typedef struct gpu_expert_matmul {
    const gpu_view *expert; /* (n_expert) on the device: the first row of each one's n_out */
    gpu_weight shape;       /* type and k of all of them */
    gpu_rows x, ids, y;     /* (k) or (n_used, k), act_q8 or floats; (n_used) int32; floats */
    int64_t n_token, n_out;
    int32_t n_expert, n_used;
    int x_is_q8;
    int x_is_ranked; /* x is (n_used, k), one act_q8 row of n_used * k where it is quantised */
} gpu_expert_matmul;

typedef struct gpu_expert_sum {
    gpu_rows weight, x, y; /* (n_used), (n_used, n), (n) */
    int64_t n_token, n;
    int32_t n_used;
} gpu_expert_sum;

#define GPU_STATS_MAX 128 /* ops of a call */

/* Statistics and hashes of rows of F32, F16 or ACT_Q8, as kernel_table.row_stats takes them, hashes
 * alone of I32; or of what a pass has stored in the cache. */
typedef struct gpu_stats {
    dtype type;
    gpu_rows x; /* (n) values; with a cache of gpu_row, which say where its rows lie */
    int64_t n_token, n;
    row_stats *stats; /* (n_token) out */
    gpu_cache cache;  /* base NULL: x has the values */
} gpu_stats;

/* `bytes` of each of n rows. */
typedef struct gpu_rows_out {
    void *host_to;
    size_t host_stride;
    const void *from;
    size_t stride, bytes, n;
} gpu_rows_out;

/* The highest logit of each row, lowest id among equals, NaN never (-1: all are). */
typedef struct gpu_argmax {
    gpu_rows x; /* (n) floats */
    int64_t n_token, n;
    int32_t *id; /* (n_token) out */
} gpu_argmax;

typedef struct gpu_plugin {
    int32_t version;    /* GPU_PLUGIN_VERSION */
    int32_t arithmetic; /* ARITHMETIC_VERSION */
    const char *name;   /* "cuda", "hip": the device's name in options, and that of its kernels */

    /* Devices of this machine; status and, if it is not GPU_OK, a line that says why. */
    gpu_status (*count)(int32_t *n, char *why, size_t why_bytes);
    gpu_status (*describe)(int32_t number, gpu_info *info, char *why, size_t why_bytes);
    gpu_status (*open)(int32_t number, gpu_device **device, char *why, size_t why_bytes);
    void (*close)(gpu_device *device); /* NULL is allowed; frees nothing else */

    /* Waits for all that was enqueued, and tells the first error since `open`. */
    gpu_status (*sync)(gpu_device *device, char *why, size_t why_bytes);

    /* 256-byte aligned; *memory NULL when there is too little. Not cleared. Memory of one opening
     * is valid in every other of the same number. */
    gpu_status (*alloc)(gpu_device *device, size_t bytes, void **memory);
    void (*free)(gpu_device *device, void *memory); /* NULL is allowed */
    /* In order with the ops. copy_in may still read host_from until `sync`, and what rows_out
     * copies has arrived then; copy_out has when it returns. */
    void (*copy_in)(gpu_device *device, void *to, const void *host_from, size_t bytes);
    void (*copy_out)(gpu_device *device, void *host_to, const void *from, size_t bytes);
    void (*copy)(gpu_device *device, void *to, const void *from, size_t bytes);
    void (*rows_out)(gpu_device *device, const gpu_rows_out *a);
    /* Copies to memory of the host that is pinned go on while the host does; `unpin` names the same
     * start. A copy has all of its end pinned, or nothing of it. */
    gpu_status (*host_pin)(gpu_device *device, void *host, size_t bytes);
    void (*host_unpin)(gpu_device *device, void *host);

    /* Bytes of a matrix of n_row rows of k values in the device's layout; 0: no such type. */
    size_t (*weight_bytes)(dtype type, int64_t n_row, int64_t k);
    /* Rows [first, first + n) from the file's layout into w->data; host_rows is row `first`
     * of the file, and is read before it returns. first is a multiple of 32, and so is n unless the
     * rows are the last. */
    void (*weight_upload)(gpu_device *device, const gpu_weight *w, const uint8_t *host_rows,
                          int64_t row_bytes, int64_t first, int64_t n);

    /* Scratch that later ops of this size need, taken once so that ops allocate nothing:
     * attention over n_position positions of n_token rows, n_head heads of head_dim. */
    gpu_status (*reserve)(gpu_device *device, int64_t n_token, int64_t n_position, int32_t n_head,
                          int32_t head_dim);

    void (*embed)(gpu_device *device, const gpu_embed *a);
    void (*rms_norm)(gpu_device *device, const gpu_norm *a);
    void (*quantize)(gpu_device *device, const gpu_quantize *a);
    /* n products of the same rows x */
    void (*matmul)(gpu_device *device, const gpu_matmul *a, int32_t n);
    /* n ops on the rows of one pass, none of which reads what another writes */
    void (*rope)(gpu_device *device, const gpu_rope *a, int32_t n);
    void (*kv_load)(gpu_device *device, const gpu_kv_load *a);
    void (*attention)(gpu_device *device, const gpu_attention *a);
    void (*columns)(gpu_device *device, const gpu_columns *a);
    void (*top_k)(gpu_device *device, const gpu_top_k *a);
    void (*expert_weights)(gpu_device *device, const gpu_expert_weights *a);
    void (*expert_matmul)(gpu_device *device, const gpu_expert_matmul *a);
    void (*expert_sum)(gpu_device *device, const gpu_expert_sum *a);
    void (*stats)(gpu_device *device, const gpu_stats *a, int32_t n); /* of n ops, at once */
    void (*argmax)(gpu_device *device, const gpu_argmax *a);

    /* What is enqueued between the two is not run but becomes a graph, which graph_launch enqueues
     * whole: the same ops on the same pointers. NULL members: the plugin has none. */
    void (*graph_begin)(gpu_device *device);
    gpu_status (*graph_end)(gpu_device *device, void **graph);
    void (*graph_launch)(gpu_device *device, void *graph);
    void (*graph_free)(gpu_device *device, void *graph);
} gpu_plugin;

typedef const gpu_plugin *gpu_plugin_function(void);

#endif
