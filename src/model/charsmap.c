/* charsmap.c - SentencePiece's precompiled normalisation rules.
 *
 * A rule replaces a string of characters by another one (NFKC and some more). The rules lie in a
 * double-array trie: node n has a child for byte b at n ^ offset(n) ^ b, if the unit there carries
 * the label b; a node that ends a rule has a leaf at n ^ offset(n), whose value is where the
 * replacement begins. The layout of a unit of 32 bits is darts-clone's
 * (https://github.com/s-yata/darts-clone, include/darts.h; the container around it is
 * https://github.com/google/sentencepiece, src/normalizer.cc):
 *     bit 31: it is a leaf; 0-30 are then the value
 *     else bits 0-7: label, 8: has a leaf, 9: the offset counts in 256s, 10-30: offset
 *
 * Every step is checked against the number of units, and a value against the replacements: a
 * damaged map gives other text, never another's memory. A walk ends with the text, or after the
 * longest key of any use.
 */
#include "model/charsmap.h"

#include "base/text.h"

#include <stdlib.h>
#include <string.h>

#define RULE_BYTES_MAX 256u /* the longest published one has 33 */

struct charsmap {
    uint32_t *unit;
    size_t n_unit;
    char *replacement; /* ends on a NUL */
    size_t bytes;
};

static uint32_t u32_at(const uint8_t *data)
{
    return (uint32_t)data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 |
           (uint32_t)data[3] << 24;
}

greta_status charsmap_new(const uint8_t *data, size_t bytes, charsmap **out, greta_error *err)
{
    *out = NULL;
    uint32_t trie = bytes < 4 ? 0 : u32_at(data);
    if (trie < 4 || trie % 4 != 0 || trie > bytes - 4 || bytes - 4 - trie > INT32_MAX) {
        return error_set(err, GRETA_BAD_INPUT,
                         "the precompiled charsmap has %zu bytes and a trie of %u", bytes, trie);
    }
    if (bytes - 4 == trie || data[bytes - 1] != '\0') {
        return error_set(err, GRETA_BAD_INPUT, "the precompiled charsmap does not end on a NUL");
    }
    charsmap *m = calloc(1, sizeof *m);
    if (m != NULL) {
        m->n_unit = trie / 4;
        m->bytes = bytes - 4 - trie;
        m->unit = malloc(trie);
        m->replacement = malloc(m->bytes);
    }
    if (m == NULL || m->unit == NULL || m->replacement == NULL) {
        charsmap_free(m);
        return error_memory(err, "the precompiled charsmap", bytes);
    }
    for (size_t i = 0; i < m->n_unit; i++) {
        m->unit[i] = u32_at(data + 4 + 4 * i);
    }
    memcpy(m->replacement, data + 4 + trie, m->bytes);
    if (!utf8_is_valid(m->replacement, m->bytes)) {
        charsmap_free(m);
        return error_set(err, GRETA_BAD_INPUT, "the precompiled charsmap is not UTF-8");
    }
    *out = m;
    return GRETA_OK;
}

void charsmap_free(charsmap *m)
{
    if (m != NULL) {
        free(m->unit);
        free(m->replacement);
        free(m);
    }
}

static size_t unit_offset(uint32_t unit)
{
    return (size_t)(unit >> 10) << ((unit & 0x200) >> 6);
}

size_t charsmap_match(const charsmap *m, const char *input, size_t bytes, bool is_shortest,
                      const char **replacement, size_t *replacement_bytes)
{
    size_t node = unit_offset(m->unit[0]), longest = 0;
    for (size_t i = 0; i < bytes && i < RULE_BYTES_MAX && !(is_shortest && longest > 0); i++) {
        uint32_t byte = (unsigned char)input[i];
        node ^= byte;
        if (node >= m->n_unit || (m->unit[node] & 0x800000ff) != byte) {
            break;
        }
        uint32_t unit = m->unit[node];
        node ^= unit_offset(unit);
        if ((unit & 0x100) == 0) {
            continue;
        }
        uint32_t value = node < m->n_unit ? m->unit[node] & 0x7fffffff : UINT32_MAX;
        bool is_start = value == 0 || (value < m->bytes && m->replacement[value - 1] == '\0');
        if (is_start) {
            longest = i + 1;
            *replacement = m->replacement + value;
        }
    }
    *replacement_bytes = longest == 0 ? 0 : strlen(*replacement);
    return longest;
}
