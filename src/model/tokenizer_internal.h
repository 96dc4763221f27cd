/* tokenizer_internal.h - the tables that the readers (tokenizer_gguf.c, tokenizer_hf*.c) fill and
 * that encoding and decoding read.
 *
 * A token has a key and bytes. The key is what text is compared with: for a byte-level vocabulary
 * the bytes, for the others the piece as the file spells it, with U+2581 for a space. The bytes are
 * what the token stands for. `word` finds keys; merges speak of ids.
 */
#ifndef GRETA_MODEL_TOKENIZER_INTERNAL_H
#define GRETA_MODEL_TOKENIZER_INTERNAL_H

#include "model/charsmap.h"
#include "model/normalize.h"
#include "model/pretokenize.h"
#include "model/tokenizer.h"

/* tokenizer.ggml.token_type. */
enum {
    TOKEN_NORMAL = 1,
    TOKEN_UNKNOWN,
    TOKEN_CONTROL,
    TOKEN_USER_DEFINED,
    TOKEN_UNUSED,
    TOKEN_BYTE
};

#define SPACE_MARK "\xe2\x96\x81" /* U+2581 */
#define SPACE_MARK_BYTES 3u

typedef struct token {
    const char *bytes; /* what the token stands for */
    const char *key;
    uint32_t length, key_length;
    uint8_t type;
    bool is_word; /* `word` finds it, and text may become it */
} token;

typedef struct merge {
    uint64_t pair;     /* left id << 32 | right id; MERGE_NONE: a free slot */
    uint32_t rank;     /* lower merges first */
    int32_t joined;
} merge;

#define MERGE_NONE UINT64_MAX

/* ---- Sorted keys: which of them starts a text, without nodes --------------------------------- */

enum { KEY_SPECIAL = 1, KEY_LSTRIP = 2, KEY_RSTRIP = 4, KEY_SINGLE_WORD = 8 };

typedef struct lookup_key {
    const char *text;
    uint32_t length;
    int32_t id;
    uint32_t flags;
} lookup_key;

typedef struct lookup {
    lookup_key *item; /* sorted by text, each text once */
    int32_t n;
    int32_t first[257]; /* items that start with byte b: first[b] to first[b + 1] */
} lookup;

/* Items that agree with the text up to `depth`. */
typedef struct lookup_walk {
    int32_t low, high;
    size_t depth;
} lookup_walk;

/* Sorts what was put into item and drops repeats: the lowest id stays. */
void lookup_sort(lookup *l);
void lookup_begin(const lookup *l, lookup_walk *walk);
/* Goes on by one byte. *ends: the key that ends here, or NULL. False: no key goes on like this. */
bool lookup_step(const lookup *l, lookup_walk *walk, unsigned char byte, const lookup_key **ends);
/* The longest key that starts the text; NULL: none. */
const lookup_key *lookup_longest(const lookup *l, const char *text, size_t bytes);

/* ---- The tokenizer --------------------------------------------------------------------------- */

typedef enum tokenizer_kind {
    TOKENIZER_BPE,              /* words of the pre-tokenizer, merges by rank */
    TOKENIZER_UNIGRAM,          /* words of the pre-tokenizer, the best sum of scores */
    TOKENIZER_SENTENCEPIECE_BPE,     /* whole text, merges by score */
    TOKENIZER_SENTENCEPIECE_UNIGRAM,
} tokenizer_kind;

/* What happens to the space that encoding puts in front. */
typedef enum decode_start {
    DECODE_AS_IT_IS,
    DECODE_STRIP,       /* up to n_strip spaces at the start of the text go */
    DECODE_FIRST_TOKEN, /* all space marks of the first token go (Metaspace) */
    DECODE_FIRST_SPACE, /* one space mark at the start of the first piece (SentencePiece) */
    DECODE_ALL_SPACES,  /* likewise, as long as there is no text (remove_extra_whitespaces) */
} decode_start;

#define ENDS_MAX 8

struct tokenizer {
    tokenizer_kind kind;
    bool is_byte_level;  /* of BPE: symbols are bytes; else characters */
    bool byte_fallback, fuse_unknown;
    bool ignore_merges;  /* a word that is a normal token is that token ... */
    bool ignores_always; /* ... or any token of the model */
    bool add_space_prefix, remove_extra_spaces; /* of SentencePiece */
    bool has_unused;     /* text may become an unused piece, to be taken apart again */
    token *token;        /* (n_vocab) */
    int32_t n_vocab;
    char *bytes;         /* of all tokens */
    float *score;        /* (n_vocab); NULL: none */
    double *score_exact; /* (n_vocab), as tokenizer.json has them; NULL: none */
    uint32_t *rank;      /* (n_vocab), 0: the highest score; NULL: none */
    double score_min;    /* of normal pieces */
    uint32_t key_bytes_max;
    int32_t bos, eos, eot, pad, unknown; /* -1: none */
    int32_t model_unknown; /* what text without a token becomes; -1: refused or dropped */
    int32_t begin[ENDS_MAX], end[ENDS_MAX]; /* added around a text */
    int n_begin, n_end;
    uint8_t *is_end;     /* (n_vocab) */
    size_t n_shadowed;   /* see tokenizer_n_shadowed */
    uint64_t hash;

    /* Open addressing; sizes are powers of two, at least twice the entries. */
    int32_t *word;       /* ids by key; -1: a free slot */
    merge *merge;
    uint32_t word_mask, merge_mask;

    int32_t byte_id[256]; /* -1: the vocabulary lacks the byte */
    /* Control and user-defined tokens. [0] are looked for in the text as given, [1] after
     * normalisation. SentencePiece: [0] control, [1] user-defined. */
    lookup added[2];
    char *added_text;     /* keys of added[1]; NULL: they lie in `bytes` */
    lookup piece;         /* unigram: every piece that text may become */
    normalizer *norm;     /* NULL: none */
    charsmap *map;        /* of SentencePiece; NULL: none */
    pretokenizer *pre;    /* NULL: the text is one word */
    decode_start start;
    uint32_t n_strip;
    char *chat_template;  /* NULL: none */
    size_t chat_template_bytes;
};

/* Memory of n tokens with these bytes (of all bytes and keys) and n_merge merges. */
greta_status tokenizer_reserve(tokenizer *t, uint64_t n, size_t bytes, uint64_t n_merge,
                               greta_error *err);
/* Makes token `id`, whose key is set, one that text may become; the first of a key wins. */
greta_status tokenizer_enter(tokenizer *t, int32_t id, greta_error *err);
/* `number` of the merge is its rank. Both ids and the joined one are tokens. */
greta_status tokenizer_enter_merge(tokenizer *t, uint32_t rank, int32_t left, int32_t right,
                                   int32_t joined, greta_error *err);
/* The first token of this key; -1: none. */
int32_t tokenizer_find(const tokenizer *t, const char *key, size_t length);
/* NULL: these two never merge. */
const merge *tokenizer_merge(const tokenizer *t, int32_t left, int32_t right);
/* Ranks by score; refuses scores that are not finite. */
greta_status tokenizer_rank(tokenizer *t, greta_error *err);
/* All pieces into `piece`. */
greta_status tokenizer_pieces(tokenizer *t, greta_error *err);
/* Marks the control tokens of the families that end a turn, and eos and eot. */
void tokenizer_mark_ends(tokenizer *t);
greta_status tokenizer_keep_template(tokenizer *t, const char *text, size_t bytes,
                                     greta_error *err);

/* GPT-2's alphabet: the bytes that `text` spells (never more than it is long); false: not spelt in
 * it. */
bool alphabet_decode(const char *text, size_t bytes, char *out, size_t *length);
/* "<0x41>": 0x41; -1: not a byte token. */
int byte_token_value(const char *text, size_t bytes);
/* `text` with each U+2581 as a space; never longer. Returns the length. */
size_t space_mark_decode(const char *text, size_t bytes, char *out);

/* ---- Encoding -------------------------------------------------------------------------------- */

/* The symbols of one word, as a list through arrays, and the heap of candidate pairs. */
typedef struct word_scratch {
    int32_t *id;          /* SYMBOL_JOINED, SYMBOL_UNKNOWN or a token */
    int32_t *prev, *next; /* -1: none */
    int32_t *at;          /* first byte in the word */
    uint8_t *is_fixed;    /* merges with nothing */
    uint64_t *heap;       /* rank << 32 | place; the least first */
    size_t n_heap;
    size_t capacity;      /* symbols */
} word_scratch;

enum { SYMBOL_JOINED = -1, SYMBOL_UNKNOWN = -2 };

/* The best way to some byte of a text (tokenizer_unigram.c). */
typedef struct unigram_node {
    double score;
    int32_t start; /* byte where the last piece begins; -1: not reached */
    int32_t stop;  /* of the piece that begins here, once the best way is known */
    int32_t id;    /* of the last piece; UNIGRAM_UNKNOWN */
} unigram_node;

typedef struct encoder {
    const tokenizer *t;
    const greta_tokenize_options *options;
    const char *text; /* as given */
    size_t bytes;
    pretokenize_scan *scan;
    normalize_scratch norm;
    text pieces;      /* normalised text of SentencePiece */
    word_scratch word;
    unigram_node *node;
    size_t n_node;
    uint32_t *split; /* (n_vocab) where an unused piece was joined; NULL: there is none */
    bool was_unknown; /* the last token is unknown: SentencePiece makes one of several */
    greta_tokens *tokens;
    size_t capacity; /* of tokens->id */
    greta_error *err;
} encoder;

greta_status encoder_emit(encoder *e, int32_t id);
/* Text that has no token: the unknown token, or dropped, or refused. */
greta_status encoder_lacks(encoder *e, const char *text, size_t bytes);
/* The bytes of the first character; 0: it is not valid UTF-8. */
size_t utf8_length(const char *text, size_t bytes);

/* One word of the pre-tokenizer. */
greta_status encode_bpe(encoder *e, const char *word, size_t bytes);
greta_status encode_unigram(encoder *e, const char *word, size_t bytes);
/* A text between control tokens; `is_start`: a space goes in front where the model adds one. */
greta_status encode_sentencepiece(encoder *e, const char *text, size_t bytes, bool is_start);
/* A normalised text by merges of the highest score. */
greta_status encode_by_score(encoder *e, const char *text, size_t bytes);
/* SentencePiece's answer to text without a piece: its bytes, or one unknown token for a row. */
greta_status encode_unknown(encoder *e, const char *text, size_t bytes);
void encoder_free(encoder *e); /* scratch only */

#endif
