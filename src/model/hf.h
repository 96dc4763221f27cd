/* hf.h - a Hugging Face folder: config.json, *.safetensors, tokenizer.json and their kin.
 *
 * The folder's words become those of GGUF at this border: class and keys of config.json the
 * configuration (hf_config.c), tensor names the names that architectures bind (hf_names.c). Behind
 * it nothing knows where a model came from.
 */
#ifndef GRETA_MODEL_HF_H
#define GRETA_MODEL_HF_H

#include "format/safetensors.h"
#include "model/config.h"
#include "model/op.h"

#include <jansson.h>

typedef struct hf_class hf_class;

typedef struct hf_folder {
    safetensors *weights;
    mapped_file config_file;                                /* of config.json */
    mapped_file tokenizer, tokenizer_config, chat_template; /* zeroed: absent */
    json_t *config;                                         /* of config.json */
    json_t *text;          /* what says the language model: config, or its text_config; with the
                              defaults of the class */
    json_t *generation;    /* generation_config.json; NULL: absent */
    const hf_class *class; /* NULL: not a supported one, which hf_config says */
    char name[128];        /* of the folder */
    char *names;           /* of the weights made by hf_weights */
    uint8_t *owned;        /* values that do not lie in the files as they are read: norms, biases */
    uint64_t owned_bytes;
} hf_folder;

/* Opens and checks the files; what a class of models makes of them is not looked at yet. */
greta_status hf_open(const char *path, hf_folder **out, greta_error *err);
void hf_close(hf_folder *folder); /* NULL is fine */

/* GRETA_BAD_INPUT: the class, a quantisation or a value is not supported. */
greta_status hf_config(const hf_folder *folder, config *cfg, greta_error *err);
/* All weights under GGUF's names, malloc'd (n); values and names stay the folder's. A tensor that
 * the architecture does not read is refused. Once per folder. */
greta_status hf_weights(hf_folder *folder, const config *cfg, weight **out, size_t *n,
                        greta_error *err);
/* Calls `each` with every id that ends a text, as generation_config.json or config.json list them.
 */
greta_status hf_ends(const hf_folder *folder,
                     greta_status (*each)(void *user, int64_t id, greta_error *err), void *user,
                     greta_error *err);
/* The directory as text or JSON; malloc'd. */
greta_status hf_describe(const hf_folder *folder, int json, char **text, greta_error *err);

/* ---- Between hf_*.c ---------------------------------------------------------------------------
 */

/* Which layers see a window. */
typedef enum hf_window {
    HF_WINDOW_NONE,   /* the class has none, whatever config.json says */
    HF_WINDOW_ALL,    /* every layer, when sliding_window is a number */
    HF_WINDOW_UPPER,  /* with use_sliding_window: layer_types, or from max_window_layers on */
    HF_WINDOW_SWITCH, /* with use_sliding_window: every layer */
    HF_WINDOW_TYPES,  /* layer_types, or a period */
} hf_window;

/* A tensor of a checkpoint and what GGUF calls it; '#' is the layer, '*' the expert. */
enum { HF_F32 = 1, HF_NORM = 2, HF_GATE_UP = 4, HF_EXPERTS = 8, HF_IGNORED = 16, HF_HEAD = 32 };
typedef struct hf_name {
    const char *hf, *gguf; /* hf NULL ends a list */
    unsigned flags;
} hf_name;

#define HF_NAMES_MAX 6

struct hf_class {
    const char *name;       /* of config.json's architectures */
    const char *model_type; /* of config.json, or of its text_config */
    const char *arch;       /* GGUF's */
    hf_window window;
    int ties; /* the head is the embedding when config.json does not say */
    const char *activation_key;
    const char *defaults; /* JSON: what the class's configuration implies for absent keys */
    const hf_name *names[HF_NAMES_MAX];
    const char *prefix[3]; /* what may stand before the names; the longest first */
};

/* The class of a config.json. GRETA_BAD_INPUT lists the supported ones. */
greta_status hf_class_find(const json_t *root, const hf_class **out, greta_error *err);
/* Where a tensor goes: its entry, layer and expert (-1: none). NULL: nowhere. */
const hf_name *hf_name_find(const hf_class *class, const char *name, int32_t *layer,
                            int32_t *expert);

#endif
