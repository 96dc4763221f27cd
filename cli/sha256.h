/* sha256.h - SHA-256 (FIPS 180-4), for the pinned digests of `greta pull`. */
#ifndef GRETA_CLI_SHA256_H
#define GRETA_CLI_SHA256_H

#include <stddef.h>
#include <stdint.h>

typedef struct sha256 {
    uint32_t state[8];
    uint64_t bytes;      /* taken so far */
    uint8_t block[64];   /* the last, incomplete one */
} sha256;

#define SHA256_HEX 65

void sha256_start(sha256 *s);
void sha256_add(sha256 *s, const void *bytes, size_t n);
/* Ends the message; lower-case hexadecimal. Returns `hex`. */
const char *sha256_end(sha256 *s, char hex[SHA256_HEX]);

#endif
