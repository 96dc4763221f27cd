/* peer_logits.c - logits of token ids as llama.cpp computes them, for bench/quality.py.
 *
 * Ids are read from stdin as int32, evaluated as one batch in an empty context, and every
 * position's logits are written to stdout as f32. llama.cpp's structs change between versions, so
 * quality.py compiles this against the headers of the build that it measures.
 */
#include <llama.h>

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define IDS_MAX 65536

static int fail(const char *what)
{
    fprintf(stderr, "peer_logits: %s\n", what);
    return 1;
}

static int logits_write(struct llama_context *context, llama_token *id, int32_t n, int32_t n_vocab)
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
    for (int32_t i = 0; i < n && !status; i++) {
        const float *row = llama_get_logits_ith(context, i);
        size_t size = (size_t)n_vocab * sizeof *row;
        status = !row || fwrite(row, 1, size, stdout) != size ? fail("logits") : 0;
    }
    llama_batch_free(batch);
    return status || fflush(stdout) ? 1 : 0;
}

int main(int argc, char **argv)
{
    static llama_token id[IDS_MAX];
    if (argc < 3) {
        return fail("MODEL THREADS [kv-f32] [no-flash] [no-repack] < ids");
    }
    struct llama_model_params model_params = llama_model_default_params();
    struct llama_context_params params = llama_context_default_params();
    int32_t n = (int32_t)fread(id, sizeof *id, IDS_MAX, stdin);
    params.n_ctx = params.n_batch = params.n_ubatch = (uint32_t)n;
    params.n_threads = params.n_threads_batch = (int32_t)strtol(argv[2], NULL, 10);
    model_params.n_gpu_layers = 0;
    for (int i = 3; i < argc; i++) {
        if (!strcmp(argv[i], "kv-f32")) {
            params.type_k = params.type_v = GGML_TYPE_F32;
        } else if (!strcmp(argv[i], "no-flash")) {
            params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
        } else if (!strcmp(argv[i], "no-repack")) {
            model_params.use_extra_bufts = false;
        } else {
            return fail(argv[i]);
        }
    }
    llama_backend_init();
    struct llama_model *model = llama_model_load_from_file(argv[1], model_params);
    struct llama_context *context = model ? llama_init_from_model(model, params) : NULL;
    if (!context) {
        return fail("the model cannot be opened");
    }
    int32_t n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
    int status = logits_write(context, id, n, n_vocab);
    llama_free(context);
    llama_model_free(model);
    return status;
}
