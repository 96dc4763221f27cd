/* peer_record.c - every node of llama.cpp's graph for one prompt: operands, parameters, result.
 *
 * With the option `tokens` stdin is a text instead, and its ids go to stdout.
 *
 * Ids are read from stdin as int32 and evaluated as one batch in an empty context. The callback of
 * the scheduler sees each node twice. Asked before a node is computed, it answers yes, so that
 * nodes are computed one by one, and writes the operands, before a result can overwrite them; told
 * afterwards, it writes the result. Tensors go to OUT.blob packed in their own type, in the order
 * of their dimensions whatever their strides; OUT gets one JSON line a node. Weights are named, not
 * written: a reader has them from the model file, and a build may have repacked them. llama.cpp's
 * structs change between versions: run.sh compiles this against the headers of the build it judges.
 */
#include <ggml-backend.h>
#include <ggml.h>
#include <llama.h>

#include <errno.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define IDS_MAX 65536

typedef struct recorder {
    FILE *lines, *blob;
    uint64_t at;
    int failed;
} recorder;

static int fail(const char *what)
{
    fprintf(stderr, "peer_record: %s%s%s\n", what, errno ? ": " : "", errno ? strerror(errno) : "");
    return 1;
}

/* ---- Tensors --------------------------------------------------------------------------------- */

static int is_weight(const struct ggml_tensor *t)
{
    const struct ggml_tensor *base = t->view_src ? t->view_src : t;
    return base->op == GGML_OP_NONE && base->buffer &&
           ggml_backend_buffer_get_usage(base->buffer) == GGML_BACKEND_BUFFER_USAGE_WEIGHTS;
}

static void put_name(recorder *r, const char *name)
{
    fputc('"', r->lines);
    for (; *name; name++) {
        fputc(*name < ' ' || *name == '"' || *name == '\\' ? '?' : *name, r->lines);
    }
    fputc('"', r->lines);
}

/* The values in the order of the dimensions; a row of blocks is copied as it lies. */
static void put_values(recorder *r, const struct ggml_tensor *t)
{
    size_t element = ggml_type_size(t->type), row = ggml_row_size(t->type, t->ne[0]);
    int is_row_whole = t->nb[0] == element || t->ne[0] == 1;
    for (int64_t i = 0; i < t->ne[1] * t->ne[2] * t->ne[3]; i++) {
        size_t at = (size_t)(i % t->ne[1]) * t->nb[1] +
                    (size_t)(i / t->ne[1] % t->ne[2]) * t->nb[2] +
                    (size_t)(i / t->ne[1] / t->ne[2]) * t->nb[3];
        const char *source = (const char *)t->data + at;
        for (int64_t k = 0; k < (is_row_whole ? 1 : t->ne[0]); k++) {
            size_t size = is_row_whole ? row : element;
            r->failed |= fwrite(source + (size_t)k * t->nb[0], 1, size, r->blob) != size;
        }
    }
    r->at += row * (size_t)(t->ne[1] * t->ne[2] * t->ne[3]);
}

static void put_tensor(recorder *r, const struct ggml_tensor *t)
{
    fputs("{\"name\":", r->lines);
    put_name(r, t->name);
    fprintf(r->lines,
            ",\"type\":\"%s\",\"ne\":[%" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64
            "],\"op\":\"%s\"",
            ggml_type_name(t->type), t->ne[0], t->ne[1], t->ne[2], t->ne[3], ggml_op_name(t->op));
    if (is_weight(t)) {
        fputs(",\"weight\":true}", r->lines);
        return;
    }
    if (!t->buffer || !ggml_backend_buffer_is_host(t->buffer)) {
        r->failed = 1;
    }
    fprintf(r->lines, ",\"at\":%" PRIu64 "}", r->at);
    put_values(r, t);
}

/* ---- Nodes ----------------------------------------------------------------------------------- */

static int is_computed(const struct ggml_tensor *t)
{
    return t->op != GGML_OP_NONE && t->op != GGML_OP_VIEW && t->op != GGML_OP_RESHAPE &&
           t->op != GGML_OP_PERMUTE && t->op != GGML_OP_TRANSPOSE;
}

static void put_operands(recorder *r, const struct ggml_tensor *t)
{
    fprintf(r->lines, "{\"op\":\"%s\",\"params\":[", ggml_op_desc(t));
    for (size_t i = 0; i < sizeof t->op_params / sizeof t->op_params[0]; i++) {
        fprintf(r->lines, "%s%" PRId32, i ? "," : "", t->op_params[i]);
    }
    fputs("],\"src\":[", r->lines);
    for (int i = 0; i < GGML_MAX_SRC; i++) {
        fputs(i ? "," : "", r->lines);
        if (t->src[i]) {
            put_tensor(r, t->src[i]);
        } else {
            fputs("null", r->lines);
        }
    }
    fputs("],\"out\":", r->lines);
}

static bool node_seen(struct ggml_tensor *t, bool ask, void *user)
{
    recorder *r = user;
    if (is_computed(t)) {
        if (ask) {
            put_operands(r, t);
        } else {
            put_tensor(r, t);
            fputs("}\n", r->lines);
        }
    }
    return ask || !r->failed;
}

/* ---- The run --------------------------------------------------------------------------------- */

static int evaluate(struct llama_context *context, llama_token *id, int32_t n)
{
    struct llama_batch batch = llama_batch_init(n, 0, 1);
    batch.n_tokens = n;
    for (int32_t i = 0; i < n; i++) {
        batch.token[i] = id[i];
        batch.pos[i] = i;
        batch.n_seq_id[i] = 1;
        batch.seq_id[i][0] = 0;
        batch.logits[i] = 1;
    }
    int status = llama_decode(context, batch) ? fail("llama_decode") : 0;
    llama_batch_free(batch);
    return status;
}

/* Ids of stdin's text, with what the model adds in front of one, to stdout. */
static int tokens_write(const char *path, struct llama_model_params params)
{
    static char text[IDS_MAX];
    static llama_token id[IDS_MAX];
    params.vocab_only = true;
    struct llama_model *model = llama_model_load_from_file(path, params);
    if (!model) {
        return fail("the model cannot be opened");
    }
    int32_t length = (int32_t)fread(text, 1, sizeof text, stdin);
    const struct llama_vocab *vocab = llama_model_get_vocab(model);
    int32_t n = llama_tokenize(vocab, text, length, id, IDS_MAX, true, false);
    int status = n < 0 || fwrite(id, sizeof *id, (size_t)n, stdout) != (size_t)n;
    llama_model_free(model);
    return status || fflush(stdout) ? fail("ids") : 0;
}

static int options_read(int argc, char **argv, struct llama_model_params *model,
                        struct llama_context_params *context)
{
    for (int i = 4; i < argc; i++) {
        if (!strcmp(argv[i], "kv-f32")) {
            context->type_k = context->type_v = GGML_TYPE_F32;
        } else if (!strcmp(argv[i], "no-flash")) {
            context->flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
        } else if (!strcmp(argv[i], "no-repack")) {
            model->use_extra_bufts = false;
        } else {
            return fail(argv[i]);
        }
    }
    return 0;
}

int main(int argc, char **argv)
{
    static llama_token id[IDS_MAX];
    char blob[4096];
    recorder r = {0};
    if (argc < 4) {
        return fail("MODEL OUT THREADS [kv-f32] [no-flash] [no-repack] < ids, or tokens < text");
    }
    struct llama_model_params model_params = llama_model_default_params();
    struct llama_context_params params = llama_context_default_params();
    if (argc == 5 && !strcmp(argv[4], "tokens")) {
        return tokens_write(argv[1], model_params);
    }
    int32_t n = (int32_t)fread(id, sizeof *id, IDS_MAX, stdin);
    params.n_ctx = params.n_batch = params.n_ubatch = (uint32_t)n;
    params.n_threads = params.n_threads_batch = (int32_t)strtol(argv[3], NULL, 10);
    params.cb_eval = node_seen;
    params.cb_eval_user_data = &r;
    model_params.n_gpu_layers = 0;
    if (options_read(argc, argv, &model_params, &params)) {
        return 1;
    }
    snprintf(blob, sizeof blob, "%s.blob", argv[2]);
    r.lines = fopen(argv[2], "w");
    r.blob = fopen(blob, "wb");
    if (!r.lines || !r.blob) {
        return fail(argv[2]);
    }
    llama_backend_init();
    struct llama_model *model = llama_model_load_from_file(argv[1], model_params);
    if (!model) {
        return fail("the model cannot be opened");
    }
    struct llama_context *context = llama_init_from_model(model, params);
    int status = context ? evaluate(context, id, n) : fail("no context");
    if (fclose(r.lines) || fclose(r.blob) || r.failed) {
        status = fail("the record could not be written");
    }
    llama_free(context);
    llama_model_free(model);
    return status;
}
