/* tokenizer.h - text to token ids and back, from GGUF metadata or a Hugging Face tokenizer.json,
 * and chat templates.
 *
 * Truth: the `tokenizers` library on the same tokenizer.json, or on the same byte-level vocabulary,
 * merges and pre-tokenizer; the `sentencepiece` library on the same pieces, scores and types. Ids
 * are equal on valid UTF-8. On anything, a vocabulary that has every byte gives the bytes back,
 * unless a normalizer of the model changes them; what has no token becomes the unknown token where
 * the model has one, and is refused by its place where it has none.
 */
#ifndef GRETA_MODEL_TOKENIZER_H
#define GRETA_MODEL_TOKENIZER_H

#include "format/gguf.h"

typedef struct tokenizer tokenizer;

/* Reads and checks tokens, types, scores, merges, ids, pre-tokenizer of tokenizer.ggml.model gpt2
 * (byte-level BPE), llama (SentencePiece BPE) or t5 (SentencePiece unigram). Immutable afterwards;
 * thread-safe. n_embd_rows: rows of the embedding, which must equal the vocabulary. */
greta_status tokenizer_new(const gguf *g, uint64_t n_embd_rows, tokenizer **out, greta_error *err);

/* The files of a Hugging Face folder, in memory; nothing is kept of them. */
typedef struct tokenizer_files {
    const char *json; /* tokenizer.json */
    size_t json_bytes;
    const char *config; /* tokenizer_config.json; NULL: none */
    size_t config_bytes;
    const char *chat_template; /* chat_template.jinja; NULL: the one in the config, if any */
    size_t chat_template_bytes;
} tokenizer_files;

/* The same from tokenizer.json. n_embd_rows may exceed the vocabulary, as checkpoints pad it: ids
 * above it have no text. 0: as many rows as ids. Errors name the file in `file`. */
greta_status tokenizer_from_hf(const tokenizer_files *files, uint64_t n_embd_rows, tokenizer **out,
                               greta_error *err);
void tokenizer_free(tokenizer *t);

int32_t tokenizer_n_vocab(const tokenizer *t);
int32_t tokenizer_bos(const tokenizer *t); /* -1: none */
int32_t tokenizer_eos(const tokenizer *t);
/* xxh3-64 of tokens, merges and scores, in order. */
uint64_t tokenizer_hash(const tokenizer *t);
/* Tokens that are empty or repeat an earlier one, and repeated merges: kept, never used (the first
 * wins). For a warning and the header of a trace. */
size_t tokenizer_n_shadowed(const tokenizer *t);
int tokenizer_is_end(const tokenizer *t, int32_t id);
/* Further ids that end a text, as generation_config.json lists them. */
greta_status tokenizer_add_end(tokenizer *t, int64_t id, greta_error *err);
int tokenizer_is_control(const tokenizer *t, int32_t id);
const char *tokenizer_bytes(const tokenizer *t, int32_t id, size_t *bytes);
/* See greta_tokenize. */
greta_status tokenizer_encode(const tokenizer *t, const char *text, size_t bytes,
                              const greta_tokenize_options *options, greta_tokens *tokens,
                              greta_error *err);
/* See greta_detokenize. */
greta_status tokenizer_decode(const tokenizer *t, const int32_t *id, size_t n,
                              const greta_detokenize_options *options, char **text, size_t *bytes,
                              greta_error *err);

/* See greta_chat. */
greta_status chat_render(const tokenizer *t, const greta_message *messages, size_t n,
                         const greta_chat_options *options, char **text, greta_error *err);

#endif
