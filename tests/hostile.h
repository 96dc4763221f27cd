/* hostile.h - operands for kernel tests: data that hurts, on memory between unreadable pages.
 *
 * Data is random, exact (small powers of two: any error of logic shows and no error of rounding
 * does), rarely or mostly pathological (NaN, Inf, subnormals, -0, cut-offs of exp). An operand lies
 * right behind an unreadable page or right before one (at_end); the neighbourhood on its other side
 * holds a pattern that must stay.
 */
#ifndef GRETA_TESTS_HOSTILE_H
#define GRETA_TESTS_HOSTILE_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "weights.h"

/* ---- Numbers -----------------------------------------------------------------------------------
 */

static uint64_t seed = 20240607;

static inline uint32_t random_bits(void)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return ((uint32_t)(seed >> 33) ^ (uint32_t)(seed >> 17)) * 0x9e3779b1u;
}

static inline int64_t random_below(int64_t n)
{
    return (int64_t)(random_bits() >> 4) % n;
}

typedef enum data_kind { DATA_RANDOM, DATA_EXACT, DATA_RARE, DATA_HARD, DATA_KINDS } data_kind;
static const char *const kind_names[] = {"random", "exact", "rare", "hard"};

static const float hard_numbers[] = {NAN,
                                     -NAN,
                                     INFINITY,
                                     -INFINITY,
                                     0.0f,
                                     -0.0f,
                                     0x1p-149f,
                                     -0x1p-149f,
                                     0x1p-127f,
                                     0x1.fffffep127f,
                                     -0x1.fffffep127f,
                                     0x1p-100f,
                                     88.722839f,
                                     88.72285f,
                                     -88.722839f,
                                     103.97208f,
                                     103.9721f,
                                     -103.97208f,
                                     -103.9721f,
                                     -87.4f,
                                     90.0f,
                                     1e30f,
                                     -1e-30f,
                                     1.0f};

static inline float number_new(data_kind kind)
{
    uint32_t bits = random_bits();
    float uniform = (float)(bits >> 8) * 0x1p-23f - 1.0f;
    if (kind == DATA_EXACT) {
        return ldexpf(bits & 1 ? -1.0f : 1.0f, (int)(bits >> 8 & 3) - 1);
    }
    if (kind == DATA_HARD || (kind == DATA_RARE && bits % 101 == 0)) {
        int many = (int)(sizeof hard_numbers / sizeof *hard_numbers);
        return random_bits() % 3 ? hard_numbers[random_below(many)] : 100 * uniform;
    }
    return bits % 7 ? uniform : 20 * uniform;
}

static inline void numbers_fill(float *x, int64_t n, data_kind kind)
{
    for (int64_t i = 0; i < n; i++) {
        x[i] = number_new(kind);
    }
}

static inline void block_fill(dtype type, uint8_t *block, data_kind kind)
{
    const dtype_traits *traits = dtype_find((uint32_t)type);
    static const uint8_t extreme[] = {0x00, 0x80, 0x7f, 0xff, 0xf0, 0x0f};
    uint32_t pattern = random_bits();
    for (uint32_t i = 0; i < traits->bytes && traits->is_quantised; i++) {
        block[i] = pattern % 3 == 0 ? extreme[pattern / 3 % 6] : (uint8_t)random_bits();
    }
    for (int i = 0; i < weight_n_scale(type); i++) {
        float number = number_new(kind);
        int is_scale = traits->is_quantised && kind != DATA_EXACT;
        weight_scale_put(type, block, i, is_scale ? 0.01f * number : number);
    }
}

/* A hard number spoils its row, so that often only a few scales are hard. True: all scales are
 * subnormal, and show only where nothing larger is added. */
static inline int weights_fill(dtype type, uint8_t *w, int64_t n_block, data_kind kind)
{
    size_t step = dtype_find((uint32_t)type)->bytes;
    int is_tiny = type == DTYPE_MXFP4 && random_bits() % 4 == 0;
    kind = kind == DATA_HARD && random_bits() % 2 ? DATA_RARE : kind;
    for (int64_t b = 0; b < n_block; b++, w += step) {
        block_fill(type, w, kind);
        w[0] &= is_tiny ? 1 : 255;
    }
    return is_tiny;
}

/* ---- Memory between unreadable pages -----------------------------------------------------------
 */

enum { SLOTS = 12, SLOT_BYTES = 8 << 20, CANARY_BYTES = 512, PAGE = 4096 };

typedef struct slot {
    uint8_t *base, *data;
    size_t bytes;
    int is_at_end;
} slot;

static slot slots[SLOTS];
static int n_slot, at_end;

static inline void slots_open(void)
{
    for (int i = 0; i < SLOTS; i++) {
        uint8_t *map = mmap(NULL, SLOT_BYTES + 2 * PAGE, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        assert_true(map != MAP_FAILED);
        assert_int_equal(mprotect(map, PAGE, PROT_NONE), 0);
        assert_int_equal(mprotect(map + PAGE + SLOT_BYTES, PAGE, PROT_NONE), 0);
        slots[i].base = map + PAGE;
    }
}

static inline void canary_range(const slot *s, size_t *first, size_t *last)
{
    size_t at = (size_t)(s->data - s->base);
    size_t end = at + s->bytes;
    *first = s->is_at_end ? (at < CANARY_BYTES ? 0 : at - CANARY_BYTES) : end;
    *last = s->is_at_end ? at : end + CANARY_BYTES;
}

/* The next operand of a trial; align is what the contract promises. */
static inline void *operand(size_t bytes, size_t align)
{
    slot *s = &slots[n_slot++];
    size_t at = at_end ? (SLOT_BYTES - bytes) / align * align : 0, first, last;
    assert_true(n_slot <= SLOTS && bytes + CANARY_BYTES <= SLOT_BYTES);
    s->data = s->base + at;
    s->bytes = bytes;
    s->is_at_end = at_end;
    canary_range(s, &first, &last);
    memset(s->base + first, 0xa5, last - first);
    memset(s->data, 0xcc, bytes);
    return s->data;
}

static inline int canaries_are_intact(void)
{
    for (int i = 0; i < n_slot; i++) {
        size_t first, last;
        canary_range(&slots[i], &first, &last);
        for (size_t b = first; b < last; b++) {
            if (slots[i].base[b] != 0xa5) {
                return 0;
            }
        }
    }
    return 1;
}

#endif
