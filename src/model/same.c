/* same.c - whether two models are one model: every number of the configuration, whatever the files
 * are called and however their weights are stored.
 *
 * The numbers are listed by name, so that a difference can be named. Tokenizers are not asked:
 * whoever pairs two runs pairs token ids.
 */
#include "model/model.h"

#include "base/text.h"

#include <stdio.h>
#include <string.h>

typedef enum number_kind { NUMBER_WHOLE, NUMBER_REAL } number_kind;

typedef struct number {
    const char *name;
    number_kind kind;
    size_t place;
} number;

#define WHOLE(field)                                                                               \
    {                                                                                              \
#field, NUMBER_WHOLE, offsetof(config, field)                                              \
    }
#define REAL(field)                                                                                \
    {                                                                                              \
#field, NUMBER_REAL, offsetof(config, field)                                               \
    }

static const number numbers[] = {
    WHOLE(n_layer),
    WHOLE(n_embd),
    WHOLE(n_ff),
    WHOLE(n_vocab),
    WHOLE(n_head),
    WHOLE(n_head_kv),
    WHOLE(head_dim),
    WHOLE(n_ctx_train),
    REAL(rms_eps),
    WHOLE(activation),
    REAL(embd_scale),
    REAL(attn_scale),
    REAL(attn_softcap),
    REAL(logit_softcap),
    WHOLE(rope.pairing),
    WHOLE(rope.dim),
    REAL(rope.freq_base),
    REAL(rope.freq_base_local),
    WHOLE(rope.scaling),
    REAL(rope.factor),
    WHOLE(rope.n_ctx_original),
    REAL(rope.attn_factor),
    REAL(rope.beta_fast),
    REAL(rope.beta_slow),
    REAL(rope.ext_factor),
    REAL(rope.low_freq_factor),
    REAL(rope.high_freq_factor),
    WHOLE(window),
    WHOLE(n_expert),
    WHOLE(n_expert_used),
    WHOLE(n_ff_expert),
    WHOLE(expert_weights_norm),
};

static_assert(sizeof(activation) == sizeof(int32_t) && sizeof(rope_pairing) == sizeof(int32_t) &&
                  sizeof(rope_scaling) == sizeof(int32_t),
              "WHOLE reads them as int32_t");

static bool number_differs(const number *at, const config *a, const config *b,
                           char out[MODEL_DIFFERENCE_MAX])
{
    const uint8_t *x = (const uint8_t *)a + at->place, *y = (const uint8_t *)b + at->place;
    char value[2][NUMBER_MAX];
    if (memcmp(x, y, sizeof(int32_t)) == 0) {
        return false;
    }
    for (int s = 0; s < 2; s++) {
        float real;
        int32_t whole;
        memcpy(&real, s == 0 ? x : y, sizeof real);
        memcpy(&whole, s == 0 ? x : y, sizeof whole);
        if (at->kind == NUMBER_REAL) {
            number_f32(real, value[s]);
        } else {
            snprintf(value[s], sizeof value[s], "%d", (int)whole);
        }
    }
    snprintf(out, MODEL_DIFFERENCE_MAX, "%s is %s and %s", at->name, value[0], value[1]);
    return true;
}

static bool factors_differ(const float *a, const float *b, int32_t n)
{
    return (a == NULL) != (b == NULL) || (a && memcmp(a, b, (size_t)n * sizeof *a) != 0);
}

bool model_differs(const struct greta_model *a, const struct greta_model *b,
                   char out[MODEL_DIFFERENCE_MAX])
{
    out[0] = '\0';
    if (strcmp(a->cfg.arch, b->cfg.arch) != 0) {
        snprintf(out, MODEL_DIFFERENCE_MAX, "the architecture is %.31s and %.31s", a->cfg.arch,
                 b->cfg.arch);
        return true;
    }
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        if (number_differs(&numbers[i], &a->cfg, &b->cfg, out)) {
            return true;
        }
    }
    for (int32_t l = 0; l < a->cfg.n_layer; l++) {
        if (a->cfg.is_local[l] != b->cfg.is_local[l]) {
            snprintf(out, MODEL_DIFFERENCE_MAX, "the window of layer %d is in one of them only",
                     (int)l);
            return true;
        }
    }
    const int32_t n = a->cfg.rope.dim / 2;
    if (factors_differ(a->rope_factors, b->rope_factors, n) ||
        factors_differ(a->rope_long, b->rope_long, n) ||
        factors_differ(a->rope_short, b->rope_short, n)) {
        snprintf(out, MODEL_DIFFERENCE_MAX, "the factors of the rotary frequencies differ");
        return true;
    }
    return false;
}
