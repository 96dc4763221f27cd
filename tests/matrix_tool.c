/* matrix_tool.c - the bit-exactness matrix: however a pass is cut and whoever computes it, every
 * stage and every logit has the same bits.
 *
 *     matrix_tool sample SEED [2]           tiny models of all weight types, or of every
 *                                           second one, a covering array
 *     matrix_tool archs SEED                tiny models of all architectures, a covering array
 *     matrix_tool full NAME                 one of these models, by its weight type or the name of
 *                                           its architecture, every combination
 *     matrix_tool list                      the names of the architectures
 *     matrix_tool model FILE SEED PROMPT... a real model on text files, a covering array
 *     matrix_tool --device NAME FOLDER ...  any of these with a device as the only kernels; its
 *                                           plugin lies in FOLDER
 *
 * The axes are: kernels (each table this machine has, with packed weights and from the file),
 * threads, chunk, batch, type of the KV cache, activation contract, and weight type. A
 * configuration runs sequences in the same passes: a main one and, in a batch, company of other
 * lengths; the last four tokens of each are decoded. The truth for each sequence is a run of its
 * own, all tokens in one pass, one thread, by the reference kernels. Hashes and statistics of every
 * row of every stage, and all wanted logits, are compared as integers.
 *
 * A covering array holds every value and every pair of values of any two axes; it is built greedily
 * from random candidates, whose seed is printed. The answer is TAP: one test per kernel table, or
 * per weight type. Differences are named by their first place in the order of computation, and by
 * the values that all differing configurations have in common.
 */
#include "kernel/kernel.h"
#include "stage_bits.h"
#include "tiny_model.h"

#include <inttypes.h>
#include <time.h>

enum { AXIS_TYPE, AXIS_KERNEL, AXIS_THREAD, AXIS_CHUNK, AXIS_BATCH, AXIS_KV, AXIS_ACT, AXIS_COUNT };
#define VALUES_MAX  16 /* of an axis */
#define N_DECODE    4
#define N_MAIN      3
#define N_COMPANY   (BITS_SEQUENCES_MAX - 1)
#define N_SEQUENCE  (N_MAIN + N_COMPANY)
#define N_LONG      540 /* tokens: over 512, so that a chunk of 512 is not the whole */
#define N_SHORT     150
#define CONFIGS_MAX 2048
#define CANDIDATES  100
/* Positions whose rows get statistics: around tile bounds, and where sequences end. */
#define SELECTED    "0-16,20,29-33,39,48,60-71,127-129,145-151,191,192,319,320,511,512,530-539"
#define DETAILS_MAX 4 /* differences told of one test */

typedef struct setting {
    uint8_t value[AXIS_COUNT];
} setting;

static const int32_t threads[] = {1, 2, 3};
static const int32_t chunks[] = {1, 7, 32, 64, 512, N_LONG};
static const int32_t batches[] = {1, 2, 8};

typedef struct kernel_choice {
    const kernel_table *table;
    int from_file; /* no packed weights */
} kernel_choice;

/* What one configuration differs in; the first in the order of computation. */
typedef struct difference {
    const char *what; /* NULL: nothing differs */
    int32_t sequence, position, layer;
    stage name;
} difference;

typedef struct matrix {
    const char *device, *plugins; /* NULL: the CPU */
    kernel_choice kernel[VALUES_MAX];
    uint8_t n_value[AXIS_COUNT]; /* values in play: 0 .. n - 1 */
    uint8_t first_type;          /* the only one, where n_value[AXIS_TYPE] is 1 */
    uint8_t type_step;           /* of values of the axis in `models` */
    setting *config;             /* (n_config), in the order in which they run */
    uint8_t *differs;            /* (n_config) */
    size_t n_config;
    const kernel_table *truth;
    /* The model in use, and its sequences. */
    const char *path;         /* of the real model; NULL: tiny ones */
    const bits_model *models; /* these */
    char tiny[TINY_PATH];
    int type, kernel_index;
    greta_model *model;
    greta_model_info info;
    int32_t id[N_LONG]; /* main 0; the others have parts of it, or their own */
    int32_t *prompt_id[N_MAIN], company_id[N_COMPANY][128];
    bits_sequence sequence[N_SEQUENCE];    /* mains, then company; n 0: there is none */
    stage_bits expected[2][2][N_SEQUENCE]; /* (kv, act, sequence); made when first needed */
    /* Counts. */
    uint64_t n_run, n_row, n_value_seen, n_logits, n_canary, n_canary_found, canary;
    size_t n_test;
} matrix;

static _Noreturn void stop(const char *what, const greta_error *err)
{
    char line[GRETA_ERROR_LINE];
    printf("Bail out! %s: %s\n", what, err ? greta_error_line(err, line) : "failed");
    exit(1);
}

static void check(greta_status status, const char *what, const greta_error *err)
{
    if (status != GRETA_OK) {
        stop(what, err);
    }
}

/* ---- Axes ------------------------------------------------------------------------------------ */

static const char *axis_name(int axis)
{
    static const char *const name[] = {"weights", "kernels", "threads", "chunk",
                                       "batch",   "kv",      "act"};
    return name[axis];
}

static const char *model_name(const bits_model *model)
{
    return model->name ? model->name : model->type;
}

static const bits_model *model_of(const matrix *m, int type)
{
    return &m->models[type * m->type_step + m->first_type];
}

static const char *value_name(const matrix *m, int axis, int value, char text[32])
{
    const kernel_choice *k = &m->kernel[value];
    switch (axis) {
    case AXIS_TYPE:
        return m->path ? "as in the file" : model_name(model_of(m, value));
    case AXIS_KERNEL:
        snprintf(text, 32, "%s%s", m->device ? m->device : k->table->name,
                 k->from_file ? " from the file" : "");
        return text;
    case AXIS_KV:
        return value ? "f32" : "f16";
    case AXIS_ACT:
        return value ? "f32" : "q8";
    default:
        break;
    }
    int32_t number = axis == AXIS_THREAD  ? threads[value]
                     : axis == AXIS_CHUNK ? chunks[value]
                                          : batches[value];
    snprintf(text, 32, axis == AXIS_CHUNK && number == N_LONG ? "all" : "%" PRId32, number);
    return text;
}

static void axes_set(matrix *m)
{
    uint8_t n = 0;
    for (const kernel_table *const *t = kernel_tables(); *t && n + 2 <= VALUES_MAX; t++) {
        m->kernel[n++] = (kernel_choice){*t, 0};
        if ((*t)->layout != 0) {
            m->kernel[n++] = (kernel_choice){*t, 1};
        }
    }
    m->n_value[AXIS_KERNEL] = m->device ? 1 : n;
    m->n_value[AXIS_THREAD] = m->device ? 1 : sizeof threads / sizeof *threads;
    m->n_value[AXIS_CHUNK] = sizeof chunks / sizeof *chunks;
    m->n_value[AXIS_BATCH] = sizeof batches / sizeof *batches;
    m->n_value[AXIS_KV] = m->n_value[AXIS_ACT] = 2;
    /* Equal to `ref` by contract, itself one of the kernels compared, and much faster. */
    m->truth = kernel_find("ref-avx2");
    m->truth = m->truth ? m->truth : kernel_find("ref");
}

/* ---- Which configurations run ---------------------------------------------------------------- */

static uint64_t random_next(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Pairs of values of two axes: seen[axis][value][axis'][value'], axis < axis'. */
typedef uint8_t pair_set[AXIS_COUNT][VALUES_MAX][AXIS_COUNT][VALUES_MAX];

/* Pairs of c that are not in the set; they are added if asked. */
static size_t pairs_new(pair_set seen, const setting *c, int add)
{
    size_t n = 0;
    for (int a = 0; a < AXIS_COUNT; a++) {
        for (int b = a + 1; b < AXIS_COUNT; b++) {
            uint8_t *pair = &seen[a][c->value[a]][b][c->value[b]];
            n += !*pair;
            *pair |= (uint8_t)add;
        }
    }
    return n;
}

static size_t pairs_total(const matrix *m)
{
    size_t n = 0;
    for (int a = 0; a < AXIS_COUNT; a++) {
        for (int b = a + 1; b < AXIS_COUNT; b++) {
            n += (size_t)m->n_value[a] * m->n_value[b];
        }
    }
    return n;
}

/* A candidate has a pair that is still missing; its other values are drawn. */
static setting candidate_draw(const matrix *m, pair_set seen, uint64_t *state)
{
    setting c;
    size_t n_missing = 0;
    int chosen[4] = {0};
    for (int a = 0; a < AXIS_COUNT; a++) {
        c.value[a] = (uint8_t)(random_next(state) % m->n_value[a]);
    }
    for (int a = 0; a < AXIS_COUNT; a++) {
        for (int b = a + 1; b < AXIS_COUNT; b++) {
            for (int i = 0; i < m->n_value[a] * m->n_value[b]; i++) {
                int va = i / m->n_value[b], vb = i % m->n_value[b];
                if (!seen[a][va][b][vb] && random_next(state) % ++n_missing == 0) {
                    memcpy(chosen, (int[4]){a, va, b, vb}, sizeof chosen);
                }
            }
        }
    }
    c.value[chosen[0]] = (uint8_t)chosen[1];
    c.value[chosen[2]] = (uint8_t)chosen[3];
    return c;
}

/* About how long a tiny model takes, in any unit: the scalar reference is slow on floats, rows of
 * 256 values make a bigger model, and big chunks go with the long sequence. */
static double setting_cost(const matrix *m, const setting *c)
{
    int is_ref = strcmp(m->kernel[c->value[AXIS_KERNEL]].table->name, "ref") == 0;
    const char *type = m->path ? "F32" : model_of(m, c->value[AXIS_TYPE])->type;
    int is_float = c->value[AXIS_ACT] == 1 || strcmp(type, "F32") == 0 || strstr(type, "F16");
    int is_large = strstr(type, "_K") || strstr(type, "_XS");
    int n_token = (chunks[c->value[AXIS_CHUNK]] >= 512 ? N_LONG : N_SHORT) +
                  30 * (batches[c->value[AXIS_BATCH]] - 1);
    return 1 + 0.01 * n_token * (is_large ? 3 : 1) * (!is_ref ? 0.3 : is_float ? 4 : 0.6);
}

/* The candidate with most new pairs for its cost, again and again. */
static void configs_cover(matrix *m, uint64_t seed)
{
    static pair_set seen;
    memset(seen, 0, sizeof seen);
    for (size_t left = pairs_total(m); left > 0 && m->n_config < CONFIGS_MAX; m->n_config++) {
        setting best = {{0}};
        double best_worth = 0;
        for (int i = 0; i < CANDIDATES; i++) {
            setting c = candidate_draw(m, seen, &seed);
            double worth = (double)pairs_new(seen, &c, 0) / setting_cost(m, &c);
            if (worth > best_worth) {
                best = c;
                best_worth = worth;
            }
        }
        left -= pairs_new(seen, &best, 1);
        m->config[m->n_config] = best;
    }
}

static void configs_all(matrix *m)
{
    setting c = {{0}};
    int axis = 0;
    while (axis < AXIS_COUNT && m->n_config < CONFIGS_MAX) {
        m->config[m->n_config++] = c;
        for (axis = 0; axis < AXIS_COUNT && ++c.value[axis] == m->n_value[axis]; axis++) {
            c.value[axis] = 0;
        }
    }
}

/* By weight type, then kernels: a model is packed once. */
static int config_order(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(setting));
}

/* ---- Sequences ------------------------------------------------------------------------------- */

static void sequences_tiny(matrix *m)
{
    static const int32_t length[N_COMPANY] = {70, 33, 64, 5, 65, 21, 12};
    uint64_t state = 4;
    for (int32_t i = 0; i < N_LONG; i++) {
        m->id[i] = (int32_t)(random_next(&state) % (uint64_t)m->info.n_vocab);
    }
    m->sequence[0] = (bits_sequence){m->id, N_LONG, 1};
    m->sequence[1] = (bits_sequence){m->id, N_SHORT, 1};
    for (int i = 0; i < N_COMPANY; i++) {
        for (int32_t t = 0; t < length[i]; t++) {
            m->company_id[i][t] = (int32_t)(random_next(&state) % (uint64_t)m->info.n_vocab);
        }
        m->sequence[N_MAIN + i] = (bits_sequence){m->company_id[i], length[i], 1};
    }
}

/* A prompt file as tokens; the main sequence 0 is all prompts in a row, from the last to the first,
 * until it has N_LONG tokens, and company is pieces of it. */
static void sequences_real(matrix *m, char **file)
{
    static char text[1 << 16];
    static const int32_t length[N_COMPANY] = {9, 40, 5, 17, 24, 12, 7};
    greta_tokenize_options special = {.size = sizeof special, .special = 1};
    greta_error err = {0};
    greta_tokens ids[N_MAIN];
    for (int i = 0; i < N_MAIN; i++) {
        FILE *f = fopen(file[i], "rb");
        size_t n = f ? fread(text, 1, sizeof text, f) : 0;
        if (f) {
            fclose(f);
        }
        check(greta_tokenize(m->model, text, n, &special, &ids[i], &err), file[i], &err);
        m->prompt_id[i] = ids[i].id;
    }
    for (int32_t n = 0, i = N_MAIN - 1; n < N_LONG; i = i ? i - 1 : N_MAIN - 1) {
        for (size_t t = 0; t < ids[i].n && n < N_LONG; t++) {
            m->id[n++] = ids[i].id[t];
        }
    }
    m->sequence[0] = (bits_sequence){m->id, N_LONG, 0};
    for (int i = 1; i < N_MAIN; i++) {
        m->sequence[i] = (bits_sequence){ids[i - 1].id, (int32_t)ids[i - 1].n, 0};
    }
    for (int i = 0; i < N_COMPANY; i++) {
        m->sequence[N_MAIN + i] = (bits_sequence){m->id + 50 * (i + 1), length[i], 0};
    }
}

/* Which main sequences a configuration runs: small chunks meet all their bounds in the short one,
 * and the kernels for any machine are slow on a real model. */
static int main_is_run(const matrix *m, const setting *c, int i)
{
    if (m->sequence[i].n == 0) {
        return 0;
    }
    if (m->path) {
        int is_slow = strcmp(m->kernel[c->value[AXIS_KERNEL]].table->name, "ref") == 0;
        return i == 1 || !is_slow;
    }
    return (chunks[c->value[AXIS_CHUNK]] >= 512) == (i == 0);
}

/* ---- Runs ------------------------------------------------------------------------------------ */

static void expected_forget(matrix *m)
{
    for (int i = 0; i < 4 * N_SEQUENCE; i++) {
        bits_free(&m->expected[i / 2 % 2][i % 2][i / 4]);
    }
}

static void model_use(matrix *m, const setting *c)
{
    greta_error err = {0};
    int type = c->value[AXIS_TYPE], kernel = c->value[AXIS_KERNEL];
    if (m->model && m->type == type && m->kernel_index == kernel) {
        return;
    }
    int is_other = m->type != type;
    greta_model_release(m->model);
    m->model = NULL;
    if (is_other && !m->path) {
        char options[TINY_PATH];
        expected_forget(m);
        unlink(m->tiny);
        snprintf(options, sizeof options, "--type %s %s", model_of(m, type)->type,
                 model_of(m, type)->extras);
        if (!tiny_model("matrix", options, m->tiny)) {
            stop("mkmodel", NULL);
        }
    }
    check(greta_model_open(m->path ? m->path : m->tiny, &m->model, &err), "the model", &err);
    m->info = greta_model_describe(m->model);
    m->type = type;
    m->kernel_index = kernel;
    if (is_other && !m->path) {
        sequences_tiny(m);
    }
}

static greta_session_options options_of(const matrix *m, const setting *c)
{
    const kernel_choice *k = &m->kernel[c->value[AXIS_KERNEL]];
    return (greta_session_options){.size = sizeof(greta_session_options),
                                   .n_thread = threads[c->value[AXIS_THREAD]],
                                   .kv = c->value[AXIS_KV] ? GRETA_KV_F32 : GRETA_KV_F16,
                                   .act = c->value[AXIS_ACT] ? GRETA_ACT_F32 : GRETA_ACT_Q8,
                                   .cpu = k->table->name,
                                   .no_pack = k->from_file,
                                   .device = m->device,
                                   .plugins = m->plugins};
}

static void bits_make(stage_bits *b, const bits_sequence *s, const matrix *m)
{
    if (!bits_new(b, s, &m->info)) {
        stop("memory", NULL);
    }
}

/* The sequence alone, in one pass. Every op must have left a row at every position; those that run
 * only where logits are wanted leave one where the trace selects the position, too. */
static const stage_bits *expected_of(matrix *m, const setting *c, int sequence)
{
    stage_bits *b = &m->expected[c->value[AXIS_KV]][c->value[AXIS_ACT]][sequence];
    if (b->cell) {
        return b;
    }
    greta_error err = {0};
    greta_session_options options = options_of(m, c);
    options.n_thread = 1;
    options.cpu = m->truth->name;
    options.no_pack = 1;
    options.device = NULL;
    const bits_sequence *s = &m->sequence[sequence];
    bits_run run = {&options, &s, 1, s->n, 0, SELECTED};
    bits_make(b, s, m);
    check(bits_take(m->model, &run, b, &err), "the truth", &err);
    int32_t n_full = 0;
    for (int32_t p = 0; p < s->n; p++) {
        int32_t n_row = 0;
        for (int32_t i = 0; i < bits_width(b); i++) {
            const bits_cell *cell = &b->cell[p * bits_width(b) + i];
            n_row += cell->n != 0 && (cell->hash.ordered | cell->hash.bag) != 0;
        }
        if (n_row != b->n_op && n_row != b->n_op - b->n_op_wanted) {
            stop("the trace of the truth has holes", NULL);
        }
        n_full += n_row == b->n_op;
    }
    if (n_full == 0) {
        stop("the trace of the truth has no logits", NULL);
    }
    return b;
}

static const char *cell_compare(const bits_cell *expected, const bits_cell *found)
{
    return expected->n != found->n || expected->is_selected != found->is_selected
               ? "is not recorded, or with another width"
           : memcmp(&expected->hash, &found->hash, sizeof found->hash) != 0 ? "has other values"
           : memcmp(expected->stat, found->stat, sizeof found->stat) != 0   ? "has other statistics"
                                                                            : NULL;
}

/* The first difference in the order of computation: position, layer, stage. */
static difference bits_compare(matrix *m, const bits_sequence *sequence, const stage_bits *expected,
                               const stage_bits *found)
{
    if (found->n_twice) {
        return (difference){.what = "was recorded twice", .name = STAGE_NONE, .layer = -1};
    }
    for (int32_t p = 0; p < found->n_position; p++) {
        const bits_cell *e = expected->cell + (size_t)p * (size_t)bits_width(expected);
        const bits_cell *f = found->cell + (size_t)p * (size_t)bits_width(found);
        for (int32_t i = 0; i < bits_width(found); i++) {
            const char *what = cell_compare(&e[i], &f[i]);
            if (what) {
                return (difference){what, 0, p, bits_layer(found, i), (stage)(i % STAGE_COUNT)};
            }
            m->n_row += f[i].n != 0;
            m->n_value_seen += (uint64_t)f[i].n;
        }
        size_t at = (size_t)p * (size_t)found->n_vocab, n = (size_t)found->n_vocab;
        if (!bits_wants(sequence, p)) {
            continue;
        }
        if (memcmp(expected->logits + at, found->logits + at, n * sizeof *found->logits) != 0) {
            return (difference){"has other logits", 0, p, -1, STAGE_LOGITS};
        }
        m->n_logits += n;
    }
    return (difference){0};
}

/* Changes a bit, or changes it back. */
static void bit_flip(stage_bits *b, int kind, int32_t position, int32_t i)
{
    bits_cell *cell = &b->cell[position * bits_width(b) + i];
    cell->hash.ordered ^= kind == 0;
    cell->stat[i % 4] ^= kind == 1;
    b->logits[position * b->n_vocab + i % b->n_vocab] ^= kind == 2;
}

/* Changes one bit of what was found, in turn of a hash, a statistic and a logit, and expects the
 * comparison to name its place: a comparison that cannot fail proves nothing. */
static void canary_release(matrix *m, const bits_sequence *s, const stage_bits *expected,
                           stage_bits *found)
{
    uint64_t n_row = m->n_row, n_value = m->n_value_seen, n_logits = m->n_logits;
    int32_t position, i;
    do {
        position = (int32_t)(random_next(&m->canary) % (uint64_t)found->n_position);
        i = (int32_t)(random_next(&m->canary) % (uint64_t)bits_width(found));
    } while (found->cell[position * bits_width(found) + i].n == 0);
    int kind = (int)(m->n_run % (bits_wants(s, position) ? 3 : 2));
    bit_flip(found, kind, position, i);
    difference d = bits_compare(m, s, expected, found);
    bit_flip(found, kind, position, i);
    m->n_canary_found += d.what && d.position == position &&
                         d.layer == (kind == 2 ? -1 : bits_layer(found, i)) &&
                         d.name == (kind == 2 ? STAGE_LOGITS : (stage)(i % STAGE_COUNT));
    m->n_canary++;
    m->n_row = n_row;
    m->n_value_seen = n_value;
    m->n_logits = n_logits;
}

static difference config_run(matrix *m, const setting *c, int main_index)
{
    greta_error err = {0};
    int32_t n = batches[c->value[AXIS_BATCH]];
    const bits_sequence *sequence[BITS_SEQUENCES_MAX];
    int index[BITS_SEQUENCES_MAX];
    stage_bits found[BITS_SEQUENCES_MAX];
    for (int32_t q = 0; q < n; q++) {
        index[q] = q == 0 ? main_index : N_MAIN + q - 1;
        sequence[q] = &m->sequence[index[q]];
        bits_make(&found[q], sequence[q], m);
    }
    greta_session_options options = options_of(m, c);
    bits_run run = {&options, sequence, n, chunks[c->value[AXIS_CHUNK]], N_DECODE, SELECTED};
    check(bits_take(m->model, &run, found, &err), "a run", &err);
    difference first = {0};
    for (int32_t q = 0; q < n; q++) {
        difference d = bits_compare(m, sequence[q], expected_of(m, c, index[q]), &found[q]);
        if (d.what && !first.what) {
            first = d;
            first.sequence = q;
        } else if (q == 0) {
            canary_release(m, sequence[q], expected_of(m, c, index[q]), &found[q]);
        }
        bits_free(&found[q]);
    }
    m->n_run++;
    return first;
}

/* ---- Report ---------------------------------------------------------------------------------- */

static void print_config(const matrix *m, const setting *c)
{
    char text[32];
    for (int a = 0; a < AXIS_COUNT; a++) {
        printf("%s%s %s", a ? ", " : "", axis_name(a), value_name(m, a, c->value[a], text));
    }
}

static void print_difference(const matrix *m, const setting *c, const difference *d)
{
    printf("# {");
    print_config(m, c);
    printf("}\n#   against {%s, 1 thread, the sequence alone in one pass}: sequence %" PRId32
           ", position %" PRId32 ", ",
           m->truth->name, d->sequence, d->position);
    if (d->layer >= 0) {
        printf("layer %" PRId32 ", ", d->layer);
    }
    printf("%s %s\n", stage_name(d->name), d->what);
}

/* Values that occur among the differing configurations, for each axis where some do not. */
static void print_common(const matrix *m, size_t first, size_t last)
{
    char text[32];
    int n_axis = 0;
    printf("#   those that differ have: ");
    for (int a = 0; a < AXIS_COUNT; a++) {
        uint8_t has[VALUES_MAX] = {0}, exists[VALUES_MAX] = {0};
        int n_has = 0, n_exists = 0;
        for (size_t i = first; i < last; i++) {
            int v = m->config[i].value[a];
            n_exists += !exists[v];
            exists[v] = 1;
            n_has += m->differs[i] && !has[v];
            has[v] |= m->differs[i];
        }
        const char *between = n_axis ? "; " : "";
        for (int v = 0; v < VALUES_MAX && n_has < n_exists; v++) {
            if (has[v]) {
                int is_first = between[0] != ' ';
                printf("%s%s%s", between, is_first ? axis_name(a) : "", is_first ? " " : "");
                printf("%s", value_name(m, a, v, text));
                between = " or ";
                n_axis += is_first;
            }
        }
    }
    printf("%s\n", n_axis ? "" : "any values");
}

/* Runs the configurations [first, last): one test. */
static void group_run(matrix *m, int axis, size_t first, size_t last)
{
    char text[32];
    size_t n_differ = 0;
    struct timespec from, to;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &from);
    for (size_t i = first; i < last; i++) {
        const setting *c = &m->config[i];
        model_use(m, c);
        for (int s = 0; s < N_MAIN; s++) {
            difference d = {0};
            if (main_is_run(m, c, s)) {
                d = config_run(m, c, s);
            }
            if (d.what && !m->differs[i]) {
                m->differs[i] = 1;
                if (n_differ++ < DETAILS_MAX) {
                    print_difference(m, c, &d);
                }
            }
        }
    }
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &to);
    if (n_differ) {
        printf("# %zu of %zu configurations differ\n", n_differ, last - first);
        print_common(m, first, last);
    }
    printf("%sok %zu - %s %s: %zu configurations (%.1f s cpu)\n", n_differ ? "not " : "",
           ++m->n_test, axis_name(axis), value_name(m, axis, m->config[first].value[axis], text),
           last - first,
           (double)(to.tv_sec - from.tv_sec) + 1e-9 * (double)(to.tv_nsec - from.tv_nsec));
    fflush(stdout);
}

/* One test per value of the axis by which the configurations are sorted. */
static int matrix_run(matrix *m, int axis)
{
    static pair_set seen;
    char cpu[256];
    size_t n_pair = 0, n_group = 0;
    qsort(m->config, m->n_config, sizeof *m->config, config_order);
    for (size_t i = 0; i < m->n_config; i++) {
        n_pair += pairs_new(seen, &m->config[i], 1);
        n_group += i == 0 || m->config[i].value[axis] != m->config[i - 1].value[axis];
    }
    printf("1..%zu\n# %s\n", n_group + 2, greta_cpu_describe(cpu, sizeof cpu));
    fflush(stdout);
    for (size_t first = 0, last; first < m->n_config; first = last) {
        for (last = first + 1;
             last < m->n_config && m->config[last].value[axis] == m->config[first].value[axis];
             last++) {
        }
        group_run(m, axis, first, last);
    }
    int is_covered = n_pair == pairs_total(m);
    size_t n_differ = 0;
    for (size_t i = 0; i < m->n_config; i++) {
        n_differ += m->differs[i];
    }
    if (n_differ) {
        printf("# of all %zu configurations %zu differ\n", m->n_config, n_differ);
        print_common(m, 0, m->n_config);
    }
    printf("# compared as integers: %" PRIu64 " rows of stages with %" PRIu64 " values, %" PRIu64
           " logits, in %" PRIu64 " runs\n",
           m->n_row, m->n_value_seen, m->n_logits, m->n_run);
    printf("%sok %zu - every pair of values ran: %zu of %zu, in %zu configurations\n",
           is_covered ? "" : "not ", ++m->n_test, n_pair, pairs_total(m), m->n_config);
    int is_seen = m->n_canary > 0 && m->n_canary_found == m->n_canary;
    printf("%sok %zu - a bit changed after the run is found in its place: %" PRIu64 " of %" PRIu64
           "\n",
           is_seen ? "" : "not ", ++m->n_test, m->n_canary_found, m->n_canary);
    return n_differ != 0 || !is_covered || !is_seen;
}

static int usage(void)
{
    fputs("usage: matrix_tool [--device NAME FOLDER] WHAT; WHAT is\n"
          "       sample SEED [2] | archs SEED | full NAME | list |\n"
          "       model FILE SEED PROMPT PROMPT PROMPT\n",
          stderr);
    return 2;
}

/* The model of a weight type, or of an architecture, alone. */
static int model_choose(matrix *m, const char *name)
{
    for (size_t i = 0; i < BITS_MODELS + BITS_ARCHS; i++) {
        int is_arch = i >= BITS_MODELS;
        m->models = is_arch ? bits_archs : bits_models;
        m->first_type = (uint8_t)(is_arch ? i - BITS_MODELS : i);
        if (strcmp(model_name(&m->models[m->first_type]), name) == 0) {
            return 1;
        }
    }
    return 0;
}

static int matrix_tool(matrix *m, int argc, char **argv)
{
    greta_error err = {0};
    if (argc > 3 && strcmp(argv[1], "--device") == 0) {
        m->device = argv[2];
        m->plugins = argv[3];
        argc -= 3;
        argv += 3;
    }
    axes_set(m);
    m->type = m->kernel_index = -1;
    m->n_value[AXIS_TYPE] = 1;
    m->models = bits_models;
    m->type_step = 1;
    int is_archs = argc == 3 && strcmp(argv[1], "archs") == 0;
    if (is_archs || (argc >= 3 && argc <= 4 && strcmp(argv[1], "sample") == 0)) {
        printf("# seed %s\n", argv[2]);
        m->models = is_archs ? bits_archs : bits_models;
        m->type_step = argc == 4 && argv[3][0] == '2' ? 2 : 1;
        m->n_value[AXIS_TYPE] = (uint8_t)(is_archs ? BITS_ARCHS : BITS_MODELS / m->type_step);
        configs_cover(m, strtoull(argv[2], NULL, 10));
        return matrix_run(m, AXIS_TYPE);
    }
    if (argc == 2 && strcmp(argv[1], "list") == 0) {
        for (size_t i = 0; i < BITS_ARCHS; i++) {
            puts(bits_archs[i].name);
        }
        return 0;
    }
    if (argc == 3 && strcmp(argv[1], "full") == 0) {
        if (!model_choose(m, argv[2])) {
            return usage();
        }
        configs_all(m);
        return matrix_run(m, AXIS_KERNEL);
    }
    if (argc == 4 + N_MAIN && strcmp(argv[1], "model") == 0) {
        printf("# seed %s\n", argv[3]);
        m->path = argv[2];
        configs_cover(m, strtoull(argv[3], NULL, 10));
        check(greta_model_open(m->path, &m->model, &err), argv[2], &err);
        sequences_real(m, argv + 4);
        return matrix_run(m, AXIS_KERNEL);
    }
    return usage();
}

int main(int argc, char **argv)
{
    matrix *m = calloc(1, sizeof *m);
    setting *list = calloc(CONFIGS_MAX, sizeof *list);
    uint8_t *differs = calloc(CONFIGS_MAX, 1);
    if (!m || !list || !differs) {
        stop("memory", NULL);
    }
    m->config = list;
    m->differs = differs;
    int result = matrix_tool(m, argc, argv);
    expected_forget(m);
    for (int i = 0; i < N_MAIN; i++) {
        greta_free(m->prompt_id[i]);
    }
    greta_model_release(m->model);
    if (m->tiny[0]) {
        unlink(m->tiny);
    }
    free(list);
    free(differs);
    free(m);
    return result;
}
