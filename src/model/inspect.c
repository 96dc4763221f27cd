/* inspect.c - what is in a file and what running it takes.
 *
 * The directory describes itself (gguf_describe, hf_describe); for an architecture we know, the
 * memory of a session is added: weights stay in the mapped file, the KV cache costs bytes per
 * position, activations bytes per row of a pass. In JSON this is the object "memory"; "model" holds
 * the configuration, or says why there is none in "not_runnable".
 */
#include "model/config.h"

#include "base/text.h"
#include "model/hf.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_SHOWN 512
#define CTX_SHOWN   4096

typedef struct memory_need {
    uint64_t weights, kv_position_f16, activation_row, rope_position;
} memory_need;

/* Buffers of a row: about four of n_embd, two of q, two of n_ff, each 64-byte aligned, and the
 * logits. */
static memory_need need_of(uint64_t bytes_weights, const config *c)
{
    memory_need need = {.weights = bytes_weights};
    need.kv_position_f16 =
        2 * 2 * (uint64_t)c->n_layer * (uint64_t)c->n_head_kv * (uint64_t)c->head_dim;
    need.rope_position = 4 * (uint64_t)c->rope.dim;
    need.activation_row =
        4 * (4 * (uint64_t)c->n_embd + 2 * (uint64_t)c->n_head * (uint64_t)c->head_dim +
             3 * (uint64_t)c->n_ff + (uint64_t)c->n_vocab);
    return need;
}

static uint64_t need_total(const memory_need *n, uint64_t n_ctx, uint64_t n_chunk)
{
    return n->weights + n_ctx * (n->kv_position_f16 + n->rope_position) +
           n_chunk * n->activation_row;
}

static uint64_t ctx_shown(const config *c)
{
    return c->n_ctx_train > 0 && c->n_ctx_train < CTX_SHOWN ? (uint64_t)c->n_ctx_train : CTX_SHOWN;
}

static void human_add(uint64_t bytes_weights, const config *c, const greta_error *why, text *out)
{
    char number[5][NUMBER_MAX];
    if (!c) {
        text_format(out, "\nnot runnable: %s\n", why->message);
        return;
    }
    memory_need need = need_of(bytes_weights, c);
    text_format(out,
                "\nmodel: %s, %" PRId32 " layers x %" PRId32 ", %" PRId32 " heads on %" PRId32
                " kv heads of %" PRId32 ", ffn %" PRId32 ", vocabulary %" PRId32
                ", context %" PRId32 "\n",
                c->arch, c->n_layer, c->n_embd, c->n_head, c->n_head_kv, c->head_dim, c->n_ff,
                c->n_vocab, c->n_ctx_train);
    text_format(
        out,
        "memory: %s of weights (mapped), %s per position (f16 KV), %s per row of a pass (logits\n"
        "        included, touched when used); %s with a context of %" PRIu64
        " and passes of 1 row, "
        "at most %s with passes of %d\n",
        number_bytes(need.weights, number[0]), number_bytes(need.kv_position_f16, number[1]),
        number_bytes(need.activation_row, number[2]),
        number_bytes(need_total(&need, ctx_shown(c), 1), number[3]), ctx_shown(c),
        number_bytes(need_total(&need, ctx_shown(c), CHUNK_SHOWN), number[4]), CHUNK_SHOWN);
}

static void json_add(uint64_t bytes_weights, const config *c, const greta_error *why, json_t *root)
{
    if (!c) {
        json_object_set_new(root, "not_runnable", json_string(why->message));
        return;
    }
    memory_need need = need_of(bytes_weights, c);
    json_object_set_new(root, "model",
                        json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i}", "arch", c->arch,
                                  "n_layer", c->n_layer, "n_embd", c->n_embd, "n_head", c->n_head,
                                  "n_head_kv", c->n_head_kv, "head_dim", c->head_dim, "n_ff",
                                  c->n_ff, "n_vocab", c->n_vocab, "n_ctx_train", c->n_ctx_train));
    json_object_set_new(
        root, "memory",
        json_pack("{s:I, s:I, s:I, s:I, s:I}", "bytes_weights", (json_int_t)need.weights,
                  "bytes_per_position_kv_f16", (json_int_t)need.kv_position_f16, "bytes_per_row",
                  (json_int_t)need.activation_row, "n_ctx", (json_int_t)ctx_shown(c), "bytes_total",
                  (json_int_t)need_total(&need, ctx_shown(c), CHUNK_SHOWN)));
}

/* Adds what running takes to the directory's own description, which is freed. */
static greta_status complete(char *directory, uint64_t bytes_weights, const config *c,
                             const greta_error *why, int json, char **out, greta_error *err)
{
    if (!json) {
        text t = {0};
        text_string(&t, directory);
        greta_free(directory);
        human_add(bytes_weights, c, why, &t);
        return text_take(&t, out, err);
    }
    json_t *root = json_loads(directory, 0, NULL);
    greta_free(directory);
    if (root) {
        json_add(bytes_weights, c, why, root);
        *out = json_dumps(root, JSON_INDENT(2));
        json_decref(root);
    }
    return *out ? GRETA_OK : error_memory(err, "the description", 0);
}

static greta_status inspect_gguf(const char *path, int json, char **out, greta_error *err)
{
    gguf *g = NULL;
    config cfg;
    greta_error why = {0};
    uint64_t bytes = 0;
    char *directory = NULL;
    GRETA_TRY(gguf_open(path, &g, err));
    const config *known = config_read(g, &cfg, &why) == GRETA_OK ? &cfg : NULL;
    for (size_t i = 0; i < g->n_tensor; i++) {
        bytes += g->tensor[i].bytes;
    }
    greta_status status = gguf_describe(g, json, &directory, err);
    gguf_close(g);
    GRETA_TRY(status);
    return complete(directory, bytes, known, &why, json, out, err);
}

static greta_status inspect_folder(const char *path, int json, char **out, greta_error *err)
{
    hf_folder *f = NULL;
    config cfg;
    greta_error why = {0};
    uint64_t bytes = 0;
    char *directory = NULL;
    GRETA_TRY(hf_open(path, &f, err));
    const config *known = hf_config(f, &cfg, &why) == GRETA_OK ? &cfg : NULL;
    for (size_t i = 0; i < f->weights->n_tensor; i++) {
        bytes += f->weights->tensor[i].bytes;
    }
    greta_status status = hf_describe(f, json, &directory, err);
    hf_close(f);
    GRETA_TRY(status);
    return complete(directory, bytes, known, &why, json, out, err);
}

greta_status greta_inspect(const char *path, int json, char **text_out, greta_error *err)
{
    *text_out = NULL;
    greta_status status = is_folder(path) ? inspect_folder(path, json, text_out, err)
                                          : inspect_gguf(path, json, text_out, err);
    error_file(status == GRETA_OK ? NULL : err, path);
    return status;
}
