/* device.h - a session on a GPU: the plugin that drives it, memory there, and ops as calls of it.
 *
 * The walk, the op list and the plan are those of a CPU session; what differs is who computes and
 * where rows lie. Device memory has the layout of the host's: the plan's buffers, the KV cache and
 * the rows of a pass lie there at the same offsets, so rows_read and rows_written serve both. The
 * host's own buffers are a shadow: nothing is in them but the logits of the last pass, and what a
 * trace or a capture has fetched.
 *
 * Weights are uploaded once per model and device and belong to the model, like packed ones.
 */
#ifndef GRETA_ENGINE_DEVICE_H
#define GRETA_ENGINE_DEVICE_H

#include "engine/engine.h"
#include "kernel/gpu/gpu.h"

#define DEVICE_NAME_MAX 24 /* "cuda:1" */
#define DEVICE_WHY_MAX  200

/* ---- Which device (device_find.c) ------------------------------------------------------------ */

typedef struct device_spec {
    char plugin[16]; /* "cuda" */
    int32_t number;
} device_spec;

/* NULL and "cpu". */
int device_is_cpu(const char *name);
/* "cuda", "cuda:1". GRETA_USAGE if it is neither. */
greta_status device_parse(const char *name, device_spec *out, greta_error *err);
/* Opens libgreta-NAME.so of the first folder that has one: `folder` (NULL: none), that of the
 * program, its plugins/ and ../lib/greta, that of the library and its greta/, LIBDIR/greta. Plugins
 * stay loaded. GRETA_IO: there is none (and which there are), or it does not fit this library. */
greta_status plugin_load(const char *name, const char *folder, const gpu_plugin **plugin,
                         greta_error *err);
/* GRETA_IO, what a status means: `why` is the plugin's line. */
greta_status device_error(const device_spec *spec, gpu_status status, const char *why,
                          greta_error *err);

#define PLUGIN_FOLDERS_MAX 7

typedef struct plugin_folders {
    char path[PLUGIN_FOLDERS_MAX][4096];
    size_t n;
} plugin_folders;

/* Where plugins are looked for, in order; `first` may be NULL. *out is malloc'd. */
greta_status plugin_folders_find(const char *first, plugin_folders **out, greta_error *err);

typedef struct plugin_place {
    char name[16];
    char path[4096];
} plugin_place;

/* The plugins of all folders, each name once, as plugin_load would find it. *list is malloc'd. */
greta_status plugin_list(const char *folder, plugin_place **list, size_t *n, greta_error *err);

/* ---- Weights (device_weight.c) --------------------------------------------------------------- */

/* What an op reads beside rows, on the device. */
typedef struct device_op {
    gpu_view matrix;        /* of MATMUL, EMBED; of EXPERT_MATMUL expert 0 */
    const gpu_view *expert; /* of EXPERT_MATMUL: (n_expert) on the device */
    const float *floats;    /* a norm's weight, a product's bias; NULL: none */
} device_op;

/* An upload that belongs to one session: a tensor that is not the model's, a table. */
typedef struct device_piece {
    struct device_piece *next;
    const void *key; /* a weight */
    int is_matrix;
    void *data;
} device_piece;

typedef struct device_store device_store; /* the weights of a model on one device */

typedef struct device_ops {
    device_op *op;       /* (n_op) of a list */
    gpu_view *expert;    /* device memory of all arrays of experts */
    device_piece *piece; /* what was uploaded for this list alone */
    float **cos_sin;     /* (n_cos_sin) of ops with rope_table ROPE_TABLE_OTHER, .. */
    int32_t n_cos_sin;
} device_ops;

/* The ops of a pass as a graph, for passes of the same shape that follow (device_walk.c). */
typedef struct device_graph {
    int64_t n_row, n_want, n_position;
    void *graph; /* NULL: such a pass was seen once */
} device_graph;

/* What a capture of the session wants of the pass at hand (device_look.c). */
typedef struct device_look {
    row_stats *stats;  /* on the device: of a pass, in the capture's order; NULL: no capture */
    uint8_t *gathered; /* (n_chunk, kv_row_bytes) rows of the cache, on the device */
    int32_t *turn;     /* (n_edge) edges before it that have the same buffer */
    gpu_stats wanted[GPU_STATS_MAX];
    int32_t n; /* of them */
} device_look;

typedef struct device {
    const gpu_plugin *plugin;
    gpu_device *gpu;
    device_spec spec;
    char name[DEVICE_NAME_MAX];
    gpu_info info;
    greta_error lost; /* why nothing works any more; code GRETA_OK: it does */
    device_ops healthy, override;
    uint8_t *plan, *kv;
    gpu_row *row[2]; /* (n_chunk) of this pass, of the one before */
    int32_t *want;   /* (n_chunk) */
    float *inv_rms;  /* (n_chunk) */
    float *cos_sin[2];
    device_store *store;
    device_graph graph[2]; /* of a plain pass, of one that is captured */
    device_look look;
    void *logits_pinned; /* the first rows of the host's logits; NULL: none */
    int64_t n_logits_pinned;
} device;

/* Finds or makes the store of the model for the session's device. */
greta_status device_store_open(greta_session *s, greta_error *err);
/* Bytes still to be uploaded so that the list can run. */
greta_status device_missing(const greta_session *s, const op_list *list, uint64_t *bytes,
                            greta_error *err);
/* Uploads what is missing, and fills *out. Takes the model's weight_lock. */
greta_status device_ops_new(const greta_session *s, const op_list *list, device_ops *out,
                            greta_error *err);
void device_ops_free(const device *d, device_ops *ops);

/* ---- A session's device (device.c) ----------------------------------------------------------- */

/* Opens the device that the options name; s->device stays NULL for the CPU. */
greta_status device_open(greta_session *s, greta_error *err);
/* Memory and weights, once plan and cache are made; refuses before it copies anything when there is
 * too little memory. */
greta_status device_fill(greta_session *s, greta_error *err);
void device_free(greta_session *s);
/* Memory for a new plan; NULL: there is too little. */
greta_status device_plan_new(const greta_session *s, const plan *p, uint8_t **memory,
                             greta_error *err);
/* The plan is about to go, with the graphs that point to it; s->plan is new, and has `memory`. */
void device_plan_drop(greta_session *s);
void device_plan_take(greta_session *s, uint8_t *memory);
/* What an override needs, uploaded; GRETA_USAGE for one that swaps kernels. */
greta_status device_override_new(const greta_session *s, const session_override *override,
                                 device_ops *out, greta_error *err);
/* Copies the first bytes of a sequence's keys and values of each layer. */
void device_fork(const greta_session *s, int32_t source, int32_t target, size_t bytes);
/* An allocation through an opening of the session's device. */
typedef struct device_need {
    gpu_device *gpu;
    const char *what; /* "the KV cache" */
    uint64_t bytes;
} device_need;

/* GRETA_IO with needed and free bytes when there is too little. */
greta_status device_alloc(const device *d, const device_need *need, void **memory,
                          greta_error *err);
/* Waits; the first error of the device, which is lost from then on. */
greta_status device_sync(device *d, greta_error *err);
/* GRETA_IO if the device was lost before. */
greta_status device_check(const device *d, greta_error *err);

/* ---- A capture (device_look.c) --------------------------------------------------------------- */

/* A capture begins, whose passes have at most rows_max statistics; it has ended. */
greta_status device_look_begin(greta_session *s, int64_t rows_max, greta_error *err);
void device_look_end(greta_session *s);
/* Whether copies to that memory need not wait; then it is unpinned before it is freed. */
int device_pin(const device *d, void *host, size_t bytes);
void device_unpin(const device *d, void *host);
/* The row of its buffer from which an edge lies: not always 0, see there. */
int64_t edge_turn(const greta_session *s, int32_t e);
/* An op is about to write rows; op i has: `a` is what to look at, without its `stats`. */
void device_look_before(const greta_session *s, gpu_rows written);
void device_look_after(const greta_session *s, int32_t i, gpu_stats a);
/* All ops have been enqueued; their graph has: statistics go to the host. */
void device_look_rest(const greta_session *s);
void device_look_fetch(const greta_session *s);

/* ---- Ops (device_launch.c) ------------------------------------------------------------------- */

/* Enqueues an op for all its tokens, with the ops behind it that its call can take: how many ops,
 * at most FUSED_MAX. */
int32_t device_launch(const greta_session *s, const op *o);
/* What it wrote, or will, without `stats`; n_token 0: nothing. */
gpu_stats device_look_of(const greta_session *s, const op *o);
/* Row `row` of an edge, which may be one before the first: then no token reads it. */
uint8_t *device_row(const greta_session *s, const rows *r, int32_t e, int64_t row);
/* One more than the highest position of some rows; up to an eighth more than n, and at least 256:
 * the same for many passes. */
int64_t positions_seen(const greta_session *s, span token);
int64_t positions_bound(int64_t n, int64_t n_ctx);

/* ---- A pass (device_walk.c) ------------------------------------------------------------------ */

/* Forgets a graph: what it points to is about to change. */
void device_graph_drop(device *d, device_graph *graph);
/* Runs every op of the phase's list; logits are in the host's buffer afterwards. */
greta_status device_walk(greta_session *s, greta_error *err);
/* Rows of the pass that tokens of an op wrote, or read, copied to where the host would have them.
 * The tokens all run the op `o` itself. */
void device_fetch_written(const greta_session *s, const op *o, span tokens);
void device_fetch_read(const greta_session *s, const op *o, span tokens);

#endif
