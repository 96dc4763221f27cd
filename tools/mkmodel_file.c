/* mkmodel_file.c - the GGUF file: header, metadata with the vocabulary, directory, tensor data.
 *
 * Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Versions 2 and 3 differ in
 * the number only. Metadata is counted and written by the same code, run twice.
 *
 * The vocabulary is 3 control tokens, 256 bytes, then the results of merges: a list of common
 * English ones first, then systematically every string over the letters, shorter ones first, so
 * that any size can be written without keeping a table.
 */
#include "mkmodel.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define ALIGNMENT 32u
#define TOKEN_BYTES 32
#define N_CONTROL 3
#define N_BYTE 256
#define LETTERS "etaoinshrdlcumwfgypbvkjxqz"
#define N_LETTER 26

/* ---- Output -------------------------------------------------------------------------------- */

void put(output *o, const void *data, size_t bytes)
{
    if (!o->failed && fwrite(data, 1, bytes, o->file) != bytes) {
        o->failed = true;
    }
    o->bytes += bytes;
}

static void put_u32(output *o, uint32_t value)
{
    put(o, &value, sizeof value);
}

static void put_u64(output *o, uint64_t value)
{
    put(o, &value, sizeof value);
}

static void put_string(output *o, const char *string)
{
    size_t n = strlen(string);
    put_u64(o, n);
    put(o, string, n);
}

static void put_padding(output *o)
{
    static const uint8_t zero[ALIGNMENT];
    put(o, zero, (size_t)((ALIGNMENT - o->bytes % ALIGNMENT) % ALIGNMENT));
}

/* ---- Metadata ------------------------------------------------------------------------------ */

enum { KIND_U32 = 4, KIND_I32 = 5, KIND_F32 = 6, KIND_BOOL = 7, KIND_STRING = 8, KIND_ARRAY = 9 };

/* Keys are counted first and written second, by the same code. */
typedef struct key_writer {
    output *out; /* NULL: count only */
    uint64_t n;
} key_writer;

static bool key_begin(key_writer *w, const char *name, uint32_t kind)
{
    w->n++;
    if (w->out) {
        put_string(w->out, name);
        put_u32(w->out, kind);
    }
    return w->out != NULL;
}

static void key_u32(key_writer *w, const char *name, int64_t value)
{
    if (key_begin(w, name, KIND_U32)) {
        put_u32(w->out, (uint32_t)value);
    }
}

static void key_f32(key_writer *w, const char *name, double value)
{
    if (key_begin(w, name, KIND_F32)) {
        float narrow = (float)value;
        put(w->out, &narrow, sizeof narrow);
    }
}

static void key_bool(key_writer *w, const char *name, bool value)
{
    if (key_begin(w, name, KIND_BOOL)) {
        put(w->out, value ? "\1" : "\0", 1);
    }
}

static void key_string(key_writer *w, const char *name, const char *value)
{
    if (key_begin(w, name, KIND_STRING)) {
        put_string(w->out, value);
    }
}

static bool key_array(key_writer *w, const char *name, uint32_t kind, int64_t n)
{
    if (!key_begin(w, name, KIND_ARRAY)) {
        return false;
    }
    put_u32(w->out, kind);
    put_u64(w->out, (uint64_t)n);
    return true;
}

/* ---- Vocabulary ---------------------------------------------------------------------------- */

static const char *const control[N_CONTROL] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};

/* "\xc4\xa0" is how a vocabulary spells the space; a half is a byte or an earlier result. */
#define SPACE "\xc4\xa0"
static const char *const common[][2] = {
    {SPACE, "t"}, {SPACE, "a"}, {"h", "e"}, {"i", "n"}, {"r", "e"}, {"o", "n"}, {SPACE "t", "he"},
    {"e", "r"}, {SPACE, "s"}, {"a", "t"}, {SPACE, "w"}, {SPACE, "o"}, {"e", "n"}, {SPACE, "c"},
    {"i", "t"}, {"i", "s"}, {"a", "n"}, {"o", "r"}, {"e", "s"}, {SPACE, "b"}, {"e", "d"},
    {SPACE, "f"}, {"in", "g"}, {SPACE, "p"}, {"o", "u"}, {SPACE "a", "n"}, {"a", "l"}, {"a", "r"},
    {SPACE "t", "o"}, {SPACE, "m"}, {SPACE "o", "f"}, {SPACE, "in"}, {SPACE, "d"}, {SPACE, "h"},
    {SPACE "an", "d"}, {"i", "c"}, {"a", "s"}, {"l", "e"}, {"t", "h"}, {"i", "on"}, {"o", "m"},
    {"l", "l"}, {"en", "t"}, {SPACE, "n"}, {SPACE, "l"}, {"s", "t"}, {SPACE, SPACE}, {"er", "s"},
};
#define N_COMMON (sizeof common / sizeof common[0])

/* GPT-2's spelling of a byte as a printable character: itself where it is printable Latin-1,
 * else the next free code point from U+0100 on, in UTF-8. Same order as GPT-2: printable first. */
static void byte_spelling(int index, char out[TOKEN_BYTES])
{
    uint32_t code = 0x100;
    int rank = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t byte = 0; byte < N_BYTE; byte++) {
            bool printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte != 0xad);
            if (printable == (pass == 1)) {
                continue;
            }
            uint32_t spelled = printable ? byte : code++;
            if (rank++ == index) {
                bool is_long = spelled >= 0x80;
                out[0] = (char)(is_long ? 0xc0 | spelled >> 6 : spelled);
                out[1] = (char)(is_long ? 0x80 | (spelled & 0x3f) : 0);
                out[2] = 0;
                return;
            }
        }
    }
}

/* String j of the systematic part, split where it is merged: strings 0..26 are the space and the
 * letters, which are bytes; string j >= 27 is string (j - 27) / 26 and one more letter. So every
 * string has one split, and its longer half stands before it. */
static void letters_split(int64_t j, char longer[TOKEN_BYTES], char last[2])
{
    char reversed[TOKEN_BYTES];
    size_t n = 0;
    for (; j > N_LETTER; j = (j - N_LETTER - 1) / N_LETTER) {
        reversed[n++] = LETTERS[(j - N_LETTER - 1) % N_LETTER];
    }
    snprintf(longer, TOKEN_BYTES, "%.*s", j == 0 ? 2 : 1, j == 0 ? SPACE : &LETTERS[j - 1]);
    size_t length = strlen(longer);
    while (n > 1) {
        longer[length++] = reversed[--n];
    }
    longer[length] = 0;
    last[0] = n ? reversed[0] : '\0';
    last[1] = 0;
}

static bool is_common(const char *token)
{
    for (size_t i = 0; i < N_COMMON; i++) {
        size_t n = strlen(common[i][0]);
        if (!strncmp(token, common[i][0], n) && !strcmp(token + n, common[i][1])) {
            return true;
        }
    }
    return false;
}

/* Writes the results of the merges (`separator` "") or the merges themselves (" "). */
static void put_merges(output *o, int64_t n, const char *separator)
{
    char text[2 * TOKEN_BYTES], longer[TOKEN_BYTES], last[2];
    int64_t done = 0;
    for (; done < n && done < (int64_t)N_COMMON; done++) {
        snprintf(text, sizeof text, "%s%s%s", common[done][0], separator, common[done][1]);
        put_string(o, text);
    }
    for (int64_t j = N_LETTER + 1; done < n; j++) {
        letters_split(j, longer, last);
        snprintf(text, sizeof text, "%s%s", longer, last);
        if (!is_common(text)) {
            snprintf(text, sizeof text, "%s%s%s", longer, separator, last);
            put_string(o, text);
            done++;
        }
    }
}

static void put_vocabulary(key_writer *w, const options *p)
{
    char spelling[TOKEN_BYTES];
    if (key_array(w, "tokenizer.ggml.tokens", KIND_STRING, p->vocab)) {
        for (int i = 0; i < N_CONTROL; i++) {
            put_string(w->out, control[i]);
        }
        for (int i = 0; i < N_BYTE; i++) {
            byte_spelling(i, spelling);
            put_string(w->out, spelling);
        }
        put_merges(w->out, p->vocab - VOCAB_MIN, "");
    }
    if (key_array(w, "tokenizer.ggml.token_type", KIND_I32, p->vocab)) {
        for (int64_t i = 0; i < p->vocab; i++) {
            put_u32(w->out, i < N_CONTROL ? 3 : 1); /* control, normal */
        }
    }
    if (key_array(w, "tokenizer.ggml.merges", KIND_STRING, p->vocab - VOCAB_MIN)) {
        put_merges(w->out, p->vocab - VOCAB_MIN, " ");
    }
}

/* Keys of the architecture; its name is the prefix. */
static const char *named(const options *p, const char *suffix, char key[96])
{
    snprintf(key, 96, "%s.%s", p->family->name, suffix);
    return key;
}

static void put_real(key_writer *w, const options *p, const char *suffix, double value)
{
    char key[96];
    if (value > 0) {
        key_f32(w, named(p, suffix, key), value);
    }
}

static void put_count(key_writer *w, const options *p, const char *suffix, int64_t value)
{
    char key[96];
    if (value > 0) {
        key_u32(w, named(p, suffix, key), value);
    }
}

static void put_rope(key_writer *w, const options *p)
{
    char key[96];
    bool is_linear = !strcmp(p->rope_scaling, "linear"), is_yarn = !strcmp(p->rope_scaling, "yarn");
    bool is_longrope = !strcmp(p->rope_scaling, "longrope");
    put_count(w, p, "rope.dimension_count", p->head_dim);
    put_real(w, p, "rope.freq_base", p->rope_base);
    put_real(w, p, "rope.freq_base_swa", p->rope_base_local);
    if (!is_linear && !is_yarn && !is_longrope) {
        return;
    }
    key_string(w, named(p, "rope.scaling.type", key), p->rope_scaling);
    put_real(w, p, "rope.scaling.factor", is_longrope ? 0 : p->rope_factor);
    put_count(w, p, "rope.scaling.original_context_length", is_linear ? 0 : p->ctx_original);
    put_real(w, p, "rope.scaling.attn_factor", is_longrope ? 1.19 : 0);
}

static void put_architecture(key_writer *w, const options *p)
{
    put_count(w, p, "block_count", p->layers);
    put_count(w, p, "context_length", p->ctx);
    put_count(w, p, "embedding_length", p->embd);
    put_count(w, p, "feed_forward_length", p->ff);
    put_count(w, p, "vocab_size", p->vocab);
    put_count(w, p, "attention.head_count", p->heads);
    put_count(w, p, "attention.head_count_kv", p->heads_kv);
    put_count(w, p, "attention.key_length", p->head_dim);
    put_count(w, p, "attention.value_length", p->head_dim);
    put_real(w, p, "attention.layer_norm_rms_epsilon", p->eps);
    put_rope(w, p);
    put_real(w, p, "attention.scale", p->attn_scale);
    put_count(w, p, "attention.sliding_window", p->window);
    put_count(w, p, "attention.sliding_window_pattern", p->window_period);
    put_real(w, p, "attn_logit_softcapping", p->score_cap);
    put_real(w, p, "final_logit_softcapping", p->logit_cap);
    put_count(w, p, "expert_count", p->experts);
    put_count(w, p, "expert_used_count", p->experts > 0 ? p->experts_used : 0);
    put_count(w, p, "expert_feed_forward_length", p->experts > 0 ? p->ff_expert : 0);
}

static void put_metadata(key_writer *w, const options *p)
{
    key_string(w, "general.architecture", p->family->name);
    key_string(w, "general.name", p->shape_name ? p->shape_name : "tiny");
    key_u32(w, "general.quantization_version", 2);
    key_u32(w, "general.alignment", ALIGNMENT);
    put_architecture(w, p);
    key_string(w, "tokenizer.ggml.model", "gpt2");
    key_string(w, "tokenizer.ggml.pre", p->pre);
    put_vocabulary(w, p);
    key_u32(w, "tokenizer.ggml.bos_token_id", 1);
    key_u32(w, "tokenizer.ggml.eos_token_id", 2);
    key_u32(w, "tokenizer.ggml.unknown_token_id", 0);
    key_u32(w, "tokenizer.ggml.padding_token_id", 2);
    key_bool(w, "tokenizer.ggml.add_space_prefix", false);
    key_bool(w, "tokenizer.ggml.add_bos_token", false);
    key_string(w, "tokenizer.chat_template",
               "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + "
               "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
               "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}");
}

/* ---- The file ------------------------------------------------------------------------------ */

static void put_directory(output *o, const options *p, const tensor_list *list)
{
    key_writer count = {NULL, 0}, write = {o, 0};
    uint64_t offset = 0;
    put_metadata(&count, p);
    put(o, "GGUF", 4);
    put_u32(o, (uint32_t)p->gguf_version);
    put_u64(o, list->n);
    put_u64(o, count.n);
    put_metadata(&write, p);
    for (size_t i = 0; i < list->n; i++) {
        const tensor *t = &list->item[i];
        put_string(o, t->name);
        put_u32(o, t->n_matrix ? 3 : t->n_row ? 2 : 1);
        put_u64(o, (uint64_t)t->n_col);
        if (t->n_row) {
            put_u64(o, (uint64_t)t->n_row);
        }
        if (t->n_matrix) {
            put_u64(o, (uint64_t)t->n_matrix);
        }
        put_u32(o, t->type->number);
        put_u64(o, offset);
        offset += (tensor_bytes(t) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    }
    put_padding(o);
}

int write_model(const options *p, const tensor_list *list)
{
    output o = {fopen(p->out, "wb"), 0, false};
    uint8_t *buffer = malloc(BUFFER_BYTES);
    uint64_t n_parameter = 0;
    struct stat status;
    if (!o.file || !buffer) {
        fprintf(stderr, "mkmodel: %s: cannot create: %s\n", p->out, strerror(errno));
        free(buffer);
        if (o.file) {
            fclose(o.file);
        }
        return EXIT_IO;
    }
    put_directory(&o, p, list);
    for (size_t i = 0; i < list->n && !o.failed; i++) {
        put_tensor(&o, &list->item[i], p, buffer);
        put_padding(&o);
        n_parameter += tensor_values(&list->item[i]);
    }
    int error = errno;
    if (fclose(o.file) && !o.failed) {
        error = errno;
        o.failed = true;
    }
    free(buffer);
    if (o.failed) {
        fprintf(stderr, "mkmodel: %s: cannot write: %s\n", p->out, strerror(error));
        if (!lstat(p->out, &status) && S_ISREG(status.st_mode)) {
            remove(p->out); /* half a model is worse than none; a device stays */
        }
        return EXIT_IO;
    }
    printf("%s: %zu tensors, %" PRIu64 " parameters, %" PRIu64 " bytes\n", p->out, list->n,
           n_parameter, o.bytes);
    return EXIT_OK;
}
