/* tokenizer.h - byte-level BPE from GGUF metadata (tokenizer.ggml.*), and chat templates.
 *
 * Truth: the `tokenizers` library on the same vocabulary, merges and pre-tokenizer. Ids are equal
 * on valid UTF-8; on anything, decode(encode(x)) = x byte for byte or one clear refusal.
 */
#ifndef GRETA_MODEL_TOKENIZER_H
#define GRETA_MODEL_TOKENIZER_H

#include "format/gguf.h"

typedef struct tokenizer tokenizer;

/* Reads and checks tokens, types, merges, ids, pre-tokenizer. Immutable afterwards; thread-safe.
 * n_embd_rows: rows of the embedding, which must equal the vocabulary. */
greta_status tokenizer_new(const gguf *g, uint64_t n_embd_rows, tokenizer **out, greta_error *err);
void tokenizer_free(tokenizer *t);

int32_t tokenizer_n_vocab(const tokenizer *t);
int32_t tokenizer_bos(const tokenizer *t); /* -1: none */
int32_t tokenizer_eos(const tokenizer *t);
/* Tokens that are empty or repeat an earlier one, and repeated merges: kept, never used (the first
 * wins). For a warning and the header of a trace. */
size_t tokenizer_n_shadowed(const tokenizer *t);
int tokenizer_is_end(const tokenizer *t, int32_t id);
int tokenizer_is_control(const tokenizer *t, int32_t id);
const char *tokenizer_bytes(const tokenizer *t, int32_t id, size_t *bytes);
/* See greta_tokenize. */
greta_status tokenizer_encode(const tokenizer *t, const char *text, size_t bytes,
                              const greta_tokenize_options *options, greta_tokens *tokens,
                              greta_error *err);

/* See greta_chat. */
greta_status chat_render(const gguf *g, const tokenizer *t, const greta_message *messages, size_t n,
                         int add_generation_prompt, char **text, greta_error *err);

#endif
