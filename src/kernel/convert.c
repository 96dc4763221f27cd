/* convert.c - rows of stored weights as floats, and binary16: the operands as the ops see them. */
#include "kernel/kernel.h"

#include "kernel/blocks.h"

float kernel_f32_from_f16(uint16_t half)
{
    return half_to_float(half);
}

uint16_t kernel_f16_from_f32(float value)
{
    return half_from_float(value);
}

void kernel_kv_load(const kv_load_args *a)
{
    int64_t n = a->shape.head_dim, step = kv_step(a->side);
    for (int32_t h = 0; h < a->shape.n_head_kv; h++) {
        int64_t at = kv_at(&a->shape, a->side, a->position, h);
        for (int64_t d = 0; d < n; d++, at += step) {
            if (a->shape.type == DTYPE_F16) {
                ((uint16_t *)a->row)[h * n + d] = ((const uint16_t *)a->cache)[at];
            } else {
                ((uint32_t *)a->row)[h * n + d] = ((const uint32_t *)a->cache)[at];
            }
        }
    }
}

void kernel_dequantize(dtype type, const uint8_t *row, float *y, int64_t n)
{
    if (type == DTYPE_F32) {
        memcpy(y, row, (size_t)n * sizeof *y);
    } else if (type == DTYPE_F16 || type == DTYPE_BF16) {
        for (int64_t i = 0; i < n; i++) {
            uint16_t bits = load_u16(row + 2 * i);
            y[i] = type == DTYPE_F16 ? half_to_float(bits) : bfloat_to_float(bits);
        }
    } else {
        for (int64_t b = 0; b < n / BLOCK; b++) {
            block_values v;
            block_read(type, row, b, &v);
            block_to_floats(type, &v, y + b * BLOCK);
        }
    }
}
