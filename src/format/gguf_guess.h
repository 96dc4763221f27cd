/* gguf_guess.h - names for what is not ours, so that a refusal helps: other file kinds, and tensor
 * types that GGUF knows and GRETA does not read. */
#ifndef GRETA_FORMAT_GGUF_GUESS_H
#define GRETA_FORMAT_GGUF_GUESS_H

#include <stdint.h>

/* "safetensors file", "ZIP archive (...)"; NULL: no idea. For "looks like a ...". */
const char *gguf_guess(const uint8_t *data, uint64_t size);
/* "Q2_K", "IQ4_XS"; NULL: GGUF has no such type (any more). */
const char *gguf_guess_type(uint32_t type);

#endif
