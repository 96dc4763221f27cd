/* tokenizer_hf.h - the parts of reading a tokenizer.json: what stands around the model
 * (tokenizer_hf_steps.c) and the model with its tokens (tokenizer_hf.c). */
#ifndef GRETA_MODEL_TOKENIZER_HF_H
#define GRETA_MODEL_TOKENIZER_HF_H

#include "model/tokenizer_internal.h"

#include <jansson.h>

typedef struct hf {
    json_t *root;   /* tokenizer.json */
    json_t *config; /* tokenizer_config.json; NULL: none */
    tokenizer *t;
    bool decodes_byte_level, decodes_bytes, decodes_marks; /* what the decoder does to a token */
    greta_error *err;
} hf;

/* A member as text; NULL when it is absent, null or something else. */
const char *hf_text(const json_t *object, const char *name, size_t *bytes);
/* A member that is true or false; `absent` when it is absent or null. Else GRETA_BAD_INPUT. */
greta_status hf_bool(hf *h, const json_t *object, const char *name, bool absent, bool *value);
/* "x" of type "y" is not supported (list). */
greta_status hf_refuse(hf *h, const char *what, const char *type, const char *supported);

/* Each reads one member of the root into h->t. */
greta_status hf_read_normalizer(hf *h);
greta_status hf_read_pre_tokenizer(hf *h);
greta_status hf_read_decoder(hf *h);
/* The tokens must be there: it speaks of ids. */
greta_status hf_read_post_processor(hf *h);

#endif
