/* logits.h - keeping the logits of chosen positions, for --logits, --logits-out and --top. */
#ifndef GRETA_CLI_LOGITS_H
#define GRETA_CLI_LOGITS_H

#include "output.h"

typedef struct logits_keeper {
    const uint8_t *chosen; /* by position; NULL: every row that comes */
    int32_t n_vocab;
    int32_t n_top;         /* highest logits to list; 0: none */
    bool bits;             /* keep the bits as text, unless there is a file */
    output_file file;      /* rows of little-endian f32; stream NULL: none */
    size_t n_row;          /* written to the file */
    json_t *list;          /* [{"position", "bits" | "row"}]; NULL: keep none */
    json_t *top;           /* [{"position", "top": [{"id", "logit"}]}]; NULL: keep none */
} logits_keeper;

/* A logits_sink: keeps one row as the fields of `user`, a logits_keeper, ask. */
greta_status logits_keep(void *user, int32_t position, const float *logits, greta_error *err);

#endif
