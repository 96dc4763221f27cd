/* mkmodel.c - writes GGUF models with random weights: command line.
 *
 * For the small models the tests run on, so that no binary model lies in the repository, and for
 * big shapes in benchmarks, where weights matter only by their size. The program shares nothing
 * with the library: a bug in our reader cannot hide in our writer.
 *
 * The same options give the same bytes everywhere. What was not given comes from a shape, either
 * of a known model or tiny and as odd as the block size allows. A model that no reader could run is
 * refused here, where the option can be named.
 */
#include "mkmodel.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "usage: mkmodel --out FILE [options]\n"
    "Writes a GGUF model with random weights; same options, same bytes.\n"
    "  --arch NAME           llama qwen2 qwen3 qwen3moe gemma2 gemma3 olmo2 or phi3, with what\n"
    "                        belongs to it (default llama)\n"
    "  --seed N              of the generator (default 1)\n"
    "  --type TYPE           of matmul weights: F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q2_K Q3_K\n"
    "                        Q4_K Q5_K Q6_K IQ4_NL IQ4_XS or MXFP4 (default Q8_0); or a mix as\n"
    "                        llama.cpp's quantiser makes it: Q2_K_MIX Q3_K_M or Q4_K_M\n"
    "  --embd-type TYPE      of the embedding (default: Q8_0, or TYPE where that is a float type,\n"
    "                        or what the mix says)\n"
    "  --shape NAME          135m, 1b or 8b; options below override it. Default: a tiny shape, as\n"
    "                        odd as the block size allows\n"
    "  --layers N --embd N --heads N --heads-kv N --head-dim N --ff N --vocab N --ctx N\n"
    "  --rope-base X         (default 10000)       --eps X  of the norms (default 1e-5)\n"
    "  --untied              an own output head, of TYPE\n"
    "  --bias                biases of q, k and v\n"
    "  --rope-factors        rope_freqs.weight\n"
    "  --window N            sliding window (default of gemma2, gemma3 and phi3: 37)\n"
    "  --window-period N     every n-th layer has none (default: the architecture's)\n"
    "  --rope-base-local X   of layers with a window (default of gemma3: 1000)\n"
    "  --rope-scaling KIND   none, linear, yarn or longrope (default of phi3: longrope)\n"
    "  --rope-factor X       of linear and yarn (default 4)\n"
    "  --ctx-original N      before scaling (default 100)\n"
    "  --score-cap X --logit-cap X    soft-caps (defaults of gemma2: 2, 3)\n"
    "  --attn-scale X        of scores\n"
    "  --experts N --experts-used N --ff-expert N    (defaults of qwen3moe: 5, 2, and one block)\n"
    "  --split-experts       one tensor per expert\n"
    "  --rounded             Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 hold the values that F32 has with this "
    "seed,\n"
    "                        rounded to nearest: one model in several types (with --shape)\n"
    "  --pre NAME            pre-tokenizer (default smollm)\n"
    "  --gguf-version N      2 or 3 (default 3)\n"
    "exit: 0 written, 2 usage, 4 the file cannot be written\n";

static int usage_error(const char *subject, const char *what, const char *expected)
{
    fprintf(stderr, "mkmodel: %.60s: %s (%s); see mkmodel --help\n", subject, what, expected);
    return EXIT_USAGE;
}

typedef enum kind { OPTION_FLAG, OPTION_TEXT, OPTION_COUNT, OPTION_SEED, OPTION_REAL } kind;

/* The largest values keep every product of sizes below 2^51. */
typedef struct option_traits {
    const char *name;
    kind kind;
    size_t place;
    int64_t min, max;
} option_traits;

#define PLACE(field) offsetof(options, field)
static const option_traits option_list[] = {
    {"--out", OPTION_TEXT, PLACE(out), 0, 0},
    {"--seed", OPTION_SEED, PLACE(seed), 0, 0},
    {"--type", OPTION_TEXT, PLACE(type_name), 0, 0},
    {"--embd-type", OPTION_TEXT, PLACE(embd_type_name), 0, 0},
    {"--shape", OPTION_TEXT, PLACE(shape_name), 0, 0},
    {"--layers", OPTION_COUNT, PLACE(layers), 1, 1024},
    {"--embd", OPTION_COUNT, PLACE(embd), 1, 65536},
    {"--heads", OPTION_COUNT, PLACE(heads), 1, 1024},
    {"--heads-kv", OPTION_COUNT, PLACE(heads_kv), 1, 1024},
    {"--head-dim", OPTION_COUNT, PLACE(head_dim), 2, 1024},
    {"--ff", OPTION_COUNT, PLACE(ff), 1, 1048576},
    {"--vocab", OPTION_COUNT, PLACE(vocab), VOCAB_MIN, 1048576},
    {"--ctx", OPTION_COUNT, PLACE(ctx), 1, 16777216},
    {"--rope-base", OPTION_REAL, PLACE(rope_base), 0, 0},
    {"--eps", OPTION_REAL, PLACE(eps), 0, 0},
    {"--arch", OPTION_TEXT, PLACE(arch_name), 0, 0},
    {"--window", OPTION_COUNT, PLACE(window), 1, 16777216},
    {"--window-period", OPTION_COUNT, PLACE(window_period), 1, 1024},
    {"--rope-base-local", OPTION_REAL, PLACE(rope_base_local), 0, 0},
    {"--rope-scaling", OPTION_TEXT, PLACE(rope_scaling), 0, 0},
    {"--rope-factor", OPTION_REAL, PLACE(rope_factor), 0, 0},
    {"--ctx-original", OPTION_COUNT, PLACE(ctx_original), 2, 16777216},
    {"--score-cap", OPTION_REAL, PLACE(score_cap), 0, 0},
    {"--logit-cap", OPTION_REAL, PLACE(logit_cap), 0, 0},
    {"--attn-scale", OPTION_REAL, PLACE(attn_scale), 0, 0},
    {"--experts", OPTION_COUNT, PLACE(experts), 1, 1024},
    {"--experts-used", OPTION_COUNT, PLACE(experts_used), 1, 64},
    {"--ff-expert", OPTION_COUNT, PLACE(ff_expert), 1, 1048576},
    {"--split-experts", OPTION_FLAG, PLACE(split_experts), 0, 0},
    {"--rounded", OPTION_FLAG, PLACE(rounded), 0, 0},
    {"--untied", OPTION_FLAG, PLACE(untied), 0, 0},
    {"--bias", OPTION_FLAG, PLACE(bias), 0, 0},
    {"--rope-factors", OPTION_FLAG, PLACE(rope_factors), 0, 0},
    {"--pre", OPTION_TEXT, PLACE(pre), 0, 0},
    {"--gguf-version", OPTION_COUNT, PLACE(gguf_version), 2, 3},
    {"--help", OPTION_FLAG, PLACE(help), 0, 0},
};

static const option_traits *option_find(const char *name)
{
    for (size_t i = 0; i < sizeof option_list / sizeof option_list[0]; i++) {
        if (!strcmp(option_list[i].name, name)) {
            return &option_list[i];
        }
    }
    return NULL;
}

static int option_set(const option_traits *option, const char *value, options *p)
{
    char *field = (char *)p + option->place, *end = NULL, expected[64];
    errno = 0;
    switch (option->kind) {
    case OPTION_FLAG:
        *(bool *)field = true;
        return EXIT_OK;
    case OPTION_TEXT:
        *(const char **)field = value;
        return EXIT_OK;
    case OPTION_REAL: {
        double real = strtod(value, &end);
        if (end == value || *end || !(real > 0 && real < 1e30)) {
            return usage_error(option->name, value, "a number over 0");
        }
        *(double *)field = real;
        return EXIT_OK;
    }
    case OPTION_SEED: {
        unsigned long long seed = strtoull(value, &end, 10);
        if (*value < '0' || *value > '9' || *end || errno) {
            return usage_error(option->name, value, "a whole number below 2^64");
        }
        *(uint64_t *)field = seed;
        return EXIT_OK;
    }
    case OPTION_COUNT:
        break;
    }
    long long count = strtoll(value, &end, 10);
    if (end == value || *end || errno || count < option->min || count > option->max) {
        snprintf(expected, sizeof expected, "%" PRId64 " to %" PRId64, option->min, option->max);
        return usage_error(option->name, value, expected);
    }
    *(int64_t *)field = count;
    return EXIT_OK;
}

static int options_parse(int argc, char **argv, options *p)
{
    for (int i = 1; i < argc; i++) {
        const option_traits *option = option_find(argv[i]);
        if (!option) {
            return usage_error(argv[i], "unknown option", "as listed by --help");
        }
        if (option->kind != OPTION_FLAG && ++i == argc) {
            return usage_error(argv[i - 1], "value is missing", "option and value");
        }
        if (option_set(option, argv[i], p)) {
            return EXIT_USAGE;
        }
    }
    return EXIT_OK;
}

typedef struct shape {
    const char *name;
    int64_t layers, embd, heads, heads_kv, head_dim, ff, vocab, ctx;
    double rope_base;
    const char *pre;
    bool untied, rope_factors;
} shape;

/* The tiny shapes have heads * head_dim != embd, and an ff that fills one segment of 1024 and part
 * of a second. 135m is SmolLM2, 1b and 8b are Llama 3.2 and 3.1. */
static const shape shapes[] = {
    {"tiny", 2, 87, 3, 1, 22, 1063, 300, 512, 1e4, "smollm", false, false},
    {"tiny-32", 2, 96, 3, 1, 64, 1056, 300, 512, 1e4, "smollm", false, false},
    {"tiny-256", 2, 256, 4, 1, 128, 1280, 300, 512, 1e4, "smollm", false, false},
    {"135m", 30, 576, 9, 3, 64, 1536, 49152, 8192, 1e5, "smollm", false, false},
    {"1b", 16, 2048, 32, 8, 64, 8192, 128256, 131072, 5e5, "llama-bpe", false, true},
    {"8b", 32, 4096, 32, 8, 128, 14336, 128256, 131072, 5e5, "llama-bpe", true, true},
};

static const shape *shape_find(const char *name, const options *p)
{
    uint32_t embd = p->embd_type ? p->embd_type->block : 0;
    uint32_t block = p->type->block > embd ? p->type->block : embd;
    if (!name) {
        return &shapes[block == 1 ? 0 : block == 32 ? 1 : 2];
    }
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        if (!strcmp(shapes[i].name, name)) {
            return &shapes[i];
        }
    }
    return NULL;
}

static const family families[] = {
    {"llama", 0},
    {"qwen2", HAS_BIAS},
    {"qwen3", HAS_QK_NORM},
    {"qwen3moe", HAS_QK_NORM | HAS_EXPERTS},
    {"gemma2", HAS_POST_NORM | HAS_CAPS | HAS_WINDOW | HAS_TIED_HEAD},
    {"gemma3", HAS_QK_NORM | HAS_POST_NORM | HAS_WINDOW | HAS_TIED_HEAD | HAS_LOCAL_BASE},
    {"olmo2", HAS_QK_NORM | HAS_WHOLE_NORM | HAS_POST_NORM | HAS_NO_PRE_NORM},
    {"phi3", HAS_FUSED | HAS_WINDOW | HAS_LONGROPE},
};

const family *family_find(const char *name)
{
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++) {
        if (!strcmp(families[i].name, name)) {
            return &families[i];
        }
    }
    return NULL;
}

static bool is_one_of(const char *name, const char *const *list)
{
    for (; *list; list++) {
        if (!strcmp(name, *list)) {
            return true;
        }
    }
    return false;
}

/* What the architecture implies and was not given. */
static int family_complete(options *p)
{
    static const char *const kinds[] = {"none", "linear", "yarn", "longrope", NULL};
    p->family = family_find(p->arch_name ? p->arch_name : "llama");
    if (!p->family) {
        return usage_error("--arch", p->arch_name,
                           "llama qwen2 qwen3 qwen3moe gemma2 gemma3 olmo2 or phi3");
    }
    unsigned has = p->family->has;
    if (p->rope_scaling && !is_one_of(p->rope_scaling, kinds)) {
        return usage_error("--rope-scaling", p->rope_scaling, "none, linear, yarn or longrope");
    }
    if (!p->rope_scaling) {
        p->rope_scaling = has & HAS_LONGROPE ? "longrope" : "none";
    }
    if (p->untied && (has & HAS_TIED_HEAD)) {
        return usage_error("--untied", p->family->name, "its head is the embedding");
    }
    p->bias = p->bias || (has & HAS_BIAS);
    p->window = p->window == 0 && (has & HAS_WINDOW) ? 37 : p->window;
    p->rope_base_local =
        !(p->rope_base_local > 0) && (has & HAS_LOCAL_BASE) ? 1000 : p->rope_base_local;
    p->rope_factor = p->rope_factor > 0 ? p->rope_factor : 4;
    p->ctx_original = p->ctx_original ? p->ctx_original : 100;
    p->score_cap = !(p->score_cap > 0) && (has & HAS_CAPS) ? 2 : p->score_cap;
    p->logit_cap = !(p->logit_cap > 0) && (has & HAS_CAPS) ? 3 : p->logit_cap;
    p->experts = p->experts == 0 && (has & HAS_EXPERTS) ? 5 : p->experts;
    p->experts_used = p->experts_used ? p->experts_used : p->experts < 2 ? p->experts : 2;
    uint32_t block = p->type->block;
    p->ff_expert = p->ff_expert ? p->ff_expert : block == 1 ? 45 : 3 * (int64_t)block;
    return EXIT_OK;
}

/* What was not given comes from the shape. */
static int options_complete(options *p)
{
    const char *type_names = "F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q2_K Q3_K Q4_K Q5_K Q6_K "
                             "IQ4_NL IQ4_XS MXFP4 Q2_K_MIX Q3_K_M Q4_K_M";
    const type_traits *base = mix_base(p->type_name ? p->type_name : "");
    p->is_mix = base != NULL;
    p->type = base ? base : type_find(p->type_name ? p->type_name : "Q8_0");
    if (!p->type) {
        return usage_error("--type", p->type_name, type_names);
    }
    p->embd_type = p->embd_type_name     ? type_find(p->embd_type_name)
                   : p->is_mix           ? NULL /* follows from the shape */
                   : p->type->block == 1 ? p->type
                                         : type_find("Q8_0");
    if (!p->embd_type && (p->embd_type_name || !p->is_mix)) {
        return usage_error("--embd-type", p->embd_type_name, type_names);
    }
    const shape *s = shape_find(p->shape_name, p);
    if (!s) {
        return usage_error("--shape", p->shape_name, "135m, 1b or 8b");
    }
    p->layers = p->layers ? p->layers : s->layers;
    p->embd = p->embd ? p->embd : s->embd;
    p->heads = p->heads ? p->heads : s->heads;
    p->heads_kv = p->heads_kv ? p->heads_kv : s->heads_kv;
    p->head_dim = p->head_dim ? p->head_dim : s->head_dim;
    p->ff = p->ff ? p->ff : s->ff;
    p->vocab = p->vocab ? p->vocab : s->vocab;
    p->ctx = p->ctx ? p->ctx : s->ctx;
    p->rope_base = p->rope_base > 0 ? p->rope_base : s->rope_base;
    p->eps = p->eps > 0 ? p->eps : 1e-5;
    p->pre = p->pre ? p->pre : s->pre;
    p->untied = p->untied || s->untied;
    p->rope_factors = p->rope_factors || s->rope_factors;
    p->gguf_version = p->gguf_version ? p->gguf_version : 3;
    if (family_complete(p)) {
        return EXIT_USAGE;
    }
    if (!p->embd_type) {
        p->embd_type = type_mixed(p, -1, "token_embd.weight", p->embd);
    }
    return EXIT_OK;
}

/* A model that no reader could run is refused here, where the option can be named. */
static int options_check(const options *p, const tensor_list *list)
{
    char what[160];
    if (p->heads % p->heads_kv) {
        snprintf(what, sizeof what, "%" PRId64 " kv heads for %" PRId64 " heads", p->heads_kv,
                 p->heads);
        return usage_error("--heads-kv", what, "a divisor of the heads");
    }
    if (p->head_dim % 2) {
        return usage_error("--head-dim", "is odd", "even: rope turns pairs");
    }
    if (p->experts_used > p->experts) {
        return usage_error("--experts-used", "is more than there are", "1 to all");
    }
    for (size_t i = 0; p->rounded && i < list->n; i++) {
        if (!type_is_rounded(list->item[i].type)) {
            return usage_error("--rounded", list->item[i].type->name,
                               "F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 or Q5_1");
        }
    }
    for (size_t i = 0; i < list->n; i++) {
        const tensor *t = &list->item[i];
        if (t->n_col % t->type->block) {
            snprintf(what, sizeof what, "rows of %" PRId64 " values cannot be %s", t->n_col,
                     t->type->name);
            char expected[64];
            snprintf(expected, sizeof expected, "a multiple of %" PRIu32, t->type->block);
            return usage_error(t->name, what, expected);
        }
    }
    return EXIT_OK;
}

int main(int argc, char **argv)
{
    options p = {.seed = 1};
    tensor_list list = {0};
    int status = options_parse(argc, argv, &p);
    if (!status && p.help) {
        fputs(usage, stdout);
        return EXIT_OK;
    }
    if (!status && !p.out) {
        status = usage_error("--out", "is missing", "the file to write");
    }
    if (!status) {
        status = options_complete(&p);
    }
    if (!status && !tensors_build(&p, &list)) {
        fputs("mkmodel: out of memory\n", stderr);
        status = EXIT_IO;
    }
    if (!status) {
        status = options_check(&p, &list);
    }
    if (!status) {
        status = write_model(&p, &list);
    }
    free(list.item);
    return status;
}
