/* limits.h - every limit on input, in one place. Each has a test on both sides. */
#ifndef GRETA_BASE_LIMITS_H
#define GRETA_BASE_LIMITS_H

/* GGUF */
#define LIMIT_GGUF_TENSORS 65536u
#define LIMIT_GGUF_KEYS 65536u
#define LIMIT_GGUF_KEY_BYTES 65535u
#define LIMIT_GGUF_STRING_BYTES (64u << 20)
#define LIMIT_GGUF_ITEMS (64u << 20) /* of one array */
#define LIMIT_GGUF_NAME_BYTES 64u  /* ggml: GGML_MAX_NAME, with the terminator */
#define LIMIT_GGUF_DIMS 4u
#define LIMIT_GGUF_ALIGNMENT 65536u
#define LIMIT_GGUF_PARTS 512u

/* safetensors, and the JSON files of a Hugging Face folder */
#define LIMIT_SAFETENSORS_HEADER_BYTES 100000000u /* as the reference implementation */
#define LIMIT_SAFETENSORS_TENSORS 131072u         /* of all files of a model */
#define LIMIT_SAFETENSORS_VALUES 2097152u         /* in one header: 16 for each tensor */
#define LIMIT_SAFETENSORS_DIMS 8u
#define LIMIT_SAFETENSORS_NAME_BYTES 1024u
#define LIMIT_SAFETENSORS_SHARDS 512u
#define LIMIT_JSON_FILE_DEPTH 64u
#define LIMIT_JSON_FILE_BYTES (64u << 20) /* config.json and its kin; not tokenizer.json */
#define LIMIT_JSON_FILE_VALUES 1048576u

/* Model */
#define LIMIT_LAYERS 1024
#define LIMIT_EMBD 65536
#define LIMIT_HEADS 1024
#define LIMIT_HEAD_DIM 1024
#define LIMIT_FF 1048576
#define LIMIT_VOCAB 1048576
#define LIMIT_CONTEXT 16777216
#define LIMIT_EXPERTS 1024
#define LIMIT_EXPERTS_USED 64
#define LIMIT_ROPE_ANGLE 0x1p25 /* radians: the last position of the longest context, doubled */

/* Tokenizer */
#define LIMIT_TOKEN_BYTES 65536u
#define LIMIT_MERGES 4194304u
#define LIMIT_ADDED_TOKEN_BYTES 256u /* of a control or user-defined token: bounds the search */
#define LIMIT_PIECE_BYTES 1024u      /* of a unigram piece: likewise */
#define LIMIT_TOKENIZER_BYTES (256u << 20) /* of tokenizer.json and tokenizer_config.json */
#define LIMIT_TOKENIZER_STEPS 16u    /* normalizers, or pre-tokenizers, one after another */
#define LIMIT_TOKENIZER_DEPTH 8u     /* Sequence within Sequence */
#define LIMIT_PATTERN_BYTES 16384u   /* of a regular expression */
#define LIMIT_PROMPT_BYTES (256u << 20)
#define LIMIT_CHAT_TEMPLATE_BYTES (1u << 20)
#define LIMIT_CHAT_BYTES (1u << 30)    /* of all strings made while a template is rendered */
#define LIMIT_CHAT_STEPS 10000000u     /* tags executed, and what they make and look through */
#define LIMIT_CHAT_DEPTH 32u           /* nested blocks, brackets in one expression, or values */
#define LIMIT_CHAT_TREE 128u           /* operators that wait for each other in one expression */
#define LIMIT_CHAT_CALLS 16u           /* macros that call each other */
#define LIMIT_CHAT_VARIABLES 1024u

/* Session */
#define LIMIT_THREADS 512
#define LIMIT_CHUNK 65536
#define LIMIT_SEQUENCES 1024

/* Trace */
#define LIMIT_TRACE_LINE_BYTES (1u << 20)
#define LIMIT_TRACE_RECORDS 100000000u
#define LIMIT_TRACE_NAMES 1024u /* different ops and kernels */
#define LIMIT_JSON_DEPTH 32u
#define LIMIT_ISOLATE_TRACES 4096u   /* in one folder */

#endif
