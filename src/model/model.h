/* model.h - an opened model: directory, configuration, tokenizer and bound weights. */
#ifndef GRETA_MODEL_MODEL_H
#define GRETA_MODEL_MODEL_H

#include "model/config.h"
#include "model/op.h"
#include "model/tokenizer.h"

#include "base/hash.h"

#include <pthread.h>
#include <stdatomic.h>

typedef struct layer_weights {
    const weight *attn_norm, *ffn_norm; /* (n_embd) f32 */
    const weight *q, *k, *v; /* (n_head*head_dim, n_embd), (n_head_kv*head_dim, n_embd) x 2 */
    const weight *q_bias, *k_bias, *v_bias; /* NULL: none */
    const weight *o;                        /* (n_embd, n_head*head_dim) */
    const weight *gate, *up;                /* (n_ff, n_embd) */
    const weight *down;                     /* (n_embd, n_ff) */
} layer_weights;

struct greta_model {
    atomic_int references;
    gguf *file;
    config cfg;
    tokenizer *tok;
    weight *weight; /* one per tensor of the file, same order */
    size_t n_weight;
    layer_weights *layer;                            /* (n_layer) */
    const weight *token_embd, *output_norm, *output; /* output == token_embd when tied */
    const float
        *rope_factors; /* (rope_dim / 2) divisors of inv_freq from rope_freqs.weight; NULL */
    _Atomic uint64_t file_hash; /* xxh3 of the whole file(s); read with model_file_hash */
    atomic_int has_file_hash;
    /* Content hashes of whole weights, filled on demand by the engine under the lock. */
    pthread_mutex_t weight_lock;
    row_hash *weight_hash; /* (n_weight) */
    uint8_t *has_weight_hash;
    /* Weights in a kernel table's layout (engine/pack.c), shared by sessions, freed with the model.
     */
    uint8_t **packed;  /* (n_weight), NULL: not packed; all of one layout */
    int packed_layout; /* 0: nothing is packed yet */
};

/* xxh3-64 of the file, or of all files in order, computed once, on first use. */
uint64_t model_file_hash(struct greta_model *model);
/* xxh3-64 of the tokens and merges, in order. */
uint64_t model_tokenizer_hash(const struct greta_model *model);

#endif
