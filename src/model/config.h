/* config.h - what a model's metadata says, validated: the numbers the op list is built from. */
#ifndef GRETA_MODEL_CONFIG_H
#define GRETA_MODEL_CONFIG_H

#include "format/gguf.h"

typedef struct config {
    char arch[32];  /* "llama" */
    char name[128]; /* general.name, cut; "" if absent */
    int32_t n_layer, n_embd, n_ff, n_vocab;
    int32_t n_head, n_head_kv, head_dim;
    int32_t n_ctx_train;
    int32_t rope_dim; /* even, <= head_dim; the first rope_dim values of a head turn */
    float rope_freq_base,
        rope_scale; /* position is divided by rope_scale (linear scaling); 1: none */
    float rms_eps;
} config;

/* Reads <arch>.* keys. Every error names the key, its value and what was expected. */
greta_status config_read(const gguf *g, config *cfg, greta_error *err);

#endif
