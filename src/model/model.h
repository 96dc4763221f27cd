/* model.h - an opened model: directory, configuration, tokenizer and bound weights. */
#ifndef GRETA_MODEL_MODEL_H
#define GRETA_MODEL_MODEL_H

#include "model/config.h"
#include "model/op.h"
#include "model/tokenizer.h"

#include "base/hash.h"

#include <pthread.h>
#include <stdatomic.h>

/* Views, absent (tensor NULL) where the architecture has none. */
typedef struct layer_weights {
    weight_view attn_norm, ffn_norm;           /* (n_embd) f32 */
    weight_view attn_post_norm, ffn_post_norm; /* (n_embd) f32, of what a block adds */
    weight_view q, k, v; /* (n_head*head_dim, n_embd), (n_head_kv*head_dim, n_embd) x 2 */
    weight_view q_bias, k_bias, v_bias; /* of the rows of q, k, v; f32 */
    weight_view q_norm, k_norm;         /* (head_dim) f32, of each head; or of the whole row */
    weight_view o;                      /* (n_embd, n_head*head_dim) */
    weight_view gate, up;               /* (n_ff, n_embd), or (n_expert, n_ff_expert, n_embd) */
    weight_view down;                   /* (n_embd, n_ff), or (n_expert, n_embd, n_ff_expert) */
    weight_view router;                 /* (n_expert, n_embd) */
} layer_weights;

struct greta_model {
    atomic_int references;
    gguf *file;                /* NULL: from a folder */
    struct hf_folder *folder;  /* NULL: from GGUF */
    const mapped_file *mapped; /* (n_mapped) the files that hold the weights */
    size_t n_mapped;
    config cfg;
    tokenizer *tok;
    weight *weight; /* one per tensor of the file, same order; of a folder, see hf_weights */
    size_t n_weight;
    const weight **weight_by_name;               /* (n_weight), sorted */
    struct weight_parts *parts;                  /* weights made of experts stored one by one */
    layer_weights *layer;                        /* (n_layer) */
    weight_view token_embd, output_norm, output; /* output is token_embd when tied */
    /* (rope.dim / 2) divisors of inv_freq: rope_freqs.weight, and those of longrope; NULL: none */
    const float *rope_factors, *rope_long, *rope_short;
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
    /* Weights on devices (engine/device_weight.c), likewise. */
    struct device_store *device_store;
    void (*device_store_free)(struct device_store *stores);
};

/* By name; NULL: absent. */
const weight *model_weight(const struct greta_model *model, const char *name);
/* A new weight of n parts, owned by the model; the caller fills *part and the shape. NULL: no
 * memory. */
weight *model_weight_of_parts(struct greta_model *model, int32_t n, const weight ***part);
/* xxh3-64 of the file, or of all files in order, computed once, on first use. */
uint64_t model_file_hash(struct greta_model *model);
/* xxh3-64 of the tokens and merges, in order. */
uint64_t model_tokenizer_hash(const struct greta_model *model);

#define MODEL_DIFFERENCE_MAX 128
/* Whether a number of their configurations differs; `out` names the first that does ("rms_eps is
 * 1e-06 and 1e-05"). Weights and tokenizers are not looked at. */
bool model_differs(const struct greta_model *a, const struct greta_model *b,
                   char out[MODEL_DIFFERENCE_MAX]);

#endif
