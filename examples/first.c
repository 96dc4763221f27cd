/* first.c - how a model goes on after "The sky is": first MODEL */
#include <greta.h>
#include <stdio.h>
int main(int argc, char **argv)
{
    size_t n = 0;
    greta_error err = {0};
    greta_model *llm = NULL;
    greta_session *run = NULL;
    greta_tokens ids = {0};
    if (greta_model_open(argv[argc - 1], &llm, &err) || greta_session_new(llm, NULL, &run, &err) ||
        greta_tokenize(llm, "The sky is", 10, NULL, &ids, &err) ||
        greta_session_feed(run, ids.id, ids.n, 0, &err)) {
        return fprintf(stderr, "first: %s\n", err.message) > 0;
    }
    int32_t best = greta_sample(&(greta_sampler){0}, greta_session_logits(run, 0),
                                greta_model_describe(llm).n_vocab, &err);
    const char *word = greta_token_bytes(llm, best, &n);
    printf("The sky is%.*s\n", (int)n, word);
}
