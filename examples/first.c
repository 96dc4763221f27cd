/* first.c - prints the best next token: first MODEL TEXT; cc first.c $(pkg-config --libs greta) */
#include <greta.h>
#include <stdio.h>
#include <string.h>
int main(int argc, char **argv)
{
    const char *path = argc > 1 ? argv[1] : "model.gguf", *text = argc > 2 ? argv[2] : "The sky is";
    greta_error err = {0};
    greta_model *model = NULL;
    greta_session *session = NULL;
    greta_tokens ids = {0};
    if (greta_model_open(path, &model, &err) || greta_session_new(model, NULL, &session, &err) ||
        greta_tokenize(model, text, strlen(text), NULL, &ids, &err) ||
        greta_session_feed(session, ids.id, ids.n, 0, &err)) {
        return fprintf(stderr, "first: %s\n", err.message) > 0;
    }
    int32_t best = greta_sample(&(greta_sampler){0}, greta_session_logits(session, 0),
                                greta_model_describe(model).n_vocab, &err);
    puts(greta_token_bytes(model, best, NULL));
}
