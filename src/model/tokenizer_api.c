/* tokenizer_api.c - the token functions of greta.h, on an opened model. */
#include "model/model.h"

#include <string.h>

/* A caller built against an older header gives a shorter struct: what it lacks is 0. */
static greta_status options_read(const greta_tokenize_options *given,
                                 greta_tokenize_options *options, greta_error *err)
{
    *options = (greta_tokenize_options){.size = sizeof *options};
    if (given == NULL) {
        return GRETA_OK;
    }
    if (given->size < sizeof given->size || given->size > sizeof *options) {
        return error_set(err, GRETA_USAGE, "tokenize options of %zu bytes (%zu)", given->size,
                         sizeof *options);
    }
    memcpy(options, given, given->size);
    return GRETA_OK;
}

greta_status greta_tokenize(const greta_model *model, const char *text, size_t bytes,
                            const greta_tokenize_options *options, greta_tokens *tokens,
                            greta_error *err)
{
    greta_tokenize_options known;
    *tokens = (greta_tokens){0};
    GRETA_TRY(options_read(options, &known, err));
    return tokenizer_encode(model->tok, text, bytes, &known, tokens, err);
}

greta_status greta_detokenize(const greta_model *model, const int32_t *id, size_t n,
                              const greta_detokenize_options *options, char **text, size_t *bytes,
                              greta_error *err)
{
    greta_detokenize_options known = {.size = sizeof known};
    *text = NULL;
    *bytes = 0;
    if (options != NULL && (options->size < sizeof options->size || options->size > known.size)) {
        return error_set(err, GRETA_USAGE, "detokenize options of %zu bytes (%zu)", options->size,
                         known.size);
    }
    memcpy(&known, options == NULL ? &known : options, options == NULL ? 0 : options->size);
    return tokenizer_decode(model->tok, id, n, &known, text, bytes, err);
}

const char *greta_token_bytes(const greta_model *model, int32_t id, size_t *bytes)
{
    return tokenizer_bytes(model->tok, id, bytes);
}

int greta_token_is_end(const greta_model *model, int32_t id)
{
    return tokenizer_is_end(model->tok, id);
}

int greta_token_is_control(const greta_model *model, int32_t id)
{
    return tokenizer_is_control(model->tok, id);
}

greta_status greta_chat(const greta_model *model, const greta_message *messages, size_t n,
                        const greta_chat_options *options, char **text, greta_error *err)
{
    greta_chat_options known = {.size = sizeof known};
    *text = NULL;
    if (options != NULL && (options->size < sizeof options->size || options->size > known.size)) {
        return error_set(err, GRETA_USAGE, "chat options of %zu bytes (%zu)", options->size,
                         known.size);
    }
    memcpy(&known, options == NULL ? &known : options, options == NULL ? 0 : options->size);
    return chat_render(model->tok, messages, n, &known, text, err);
}
