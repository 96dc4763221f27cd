/* check.cuh - operands from a formula, and what the host expects of every kernel.
 *
 * Every operand is a function of its logical index, the same on both sides, so nothing is uploaded
 * and a layout is only an order of calls; a layout read wrongly gives other values. The expectation
 * is a plain loop over docs/numerics.md, for a sample of the rows of a matrix and for every head of
 * attention, and shares no arithmetic with the kernels. Values have random signs, exponents and
 * mantissas: another order gives other bits.
 */
#ifndef BENCH_GPU_CHECK_CUH
#define BENCH_GPU_CHECK_CUH

#include "kernel/half.h"
#include "prefill.cuh"

#include <atomic>
#include <math.h>
#include <stdio.h>
#include <thread>
#include <vector>

/* ---- Operands -------------------------------------------------------------------------------- */

enum seed {
    SEED_WEIGHT = 1,
    SEED_SCALE,
    SEED_ACT,
    SEED_ACT_SCALE,
    SEED_QUERY,
    SEED_KEY,
    SEED_VALUE
};

__host__ __device__ inline uint32_t mix(uint32_t seed, size_t index)
{
    uint32_t h = (uint32_t)index * 0x9e3779b1u ^ seed * 0x85ebca6bu;
    h = (h ^ h >> 16) * 0x7feb352du;
    h = (h ^ h >> 15) * 0x846ca68bu;
    return h ^ h >> 16;
}

/* Magnitudes from 2^-7 to 2. */
__host__ __device__ inline uint32_t make_float(uint32_t seed, size_t i)
{
    uint32_t h = mix(seed, i);
    return (h & 0x807fffffu) | (120 + (mix(h, i) & 7)) << 23;
}

__host__ __device__ inline uint16_t make_half(uint32_t seed, size_t i)
{
    uint32_t h = mix(seed, i);
    return (uint16_t)((h & 0x83ff) | (8 + (h >> 16 & 7)) << 10);
}

__host__ __device__ inline uint16_t make_bfloat(uint32_t seed, size_t i)
{
    return (uint16_t)(make_float(seed, i) >> 16);
}

__host__ __device__ inline int8_t make_weight_code(size_t i)
{
    return (int8_t)(mix(SEED_WEIGHT, i) & 255);
}

__host__ __device__ inline int8_t make_act_code(size_t i)
{
    return (int8_t)((int)(mix(SEED_ACT, i) % 255) - 127);
}

__host__ __device__ inline void make_weight(size_t i, f16_bits *v)
{
    v->bits = make_half(SEED_WEIGHT, i);
}

__host__ __device__ inline void make_weight(size_t i, bf16_bits *v)
{
    v->bits = make_bfloat(SEED_WEIGHT, i);
}

__host__ __device__ inline void make_weight(size_t i, f32_bits *v)
{
    v->bits = make_float(SEED_WEIGHT, i);
}

inline float host_widen(f16_bits v)
{
    return half_to_float(v.bits);
}

inline float host_widen(bf16_bits v)
{
    return bfloat_to_float(v.bits);
}

inline float host_widen(f32_bits v)
{
    return float_from_bits(v.bits);
}

/* Operands as functors: from the place in memory to the value. `n` and `k` are the matrix's. */
struct codes_of_weight {
    __device__ int8_t operator()(size_t i) const
    {
        return make_weight_code(i);
    }
};

struct codes_of_act {
    __device__ int8_t operator()(size_t i) const
    {
        return make_act_code(i);
    }
};

struct halves {
    uint32_t seed;
    __device__ uint16_t operator()(size_t i) const
    {
        return make_half(seed, i);
    }
};

struct halves_turned { /* (columns, rows) of what is (rows, columns) */
    uint32_t seed, rows, columns;
    __device__ uint16_t operator()(size_t i) const
    {
        return make_half(seed, i % rows * columns + i / rows);
    }
};

struct floats {
    uint32_t seed;
    __device__ uint32_t operator()(size_t i) const
    {
        return make_float(seed, i);
    }
};

struct floats_turned {
    uint32_t seed, rows, columns;
    __device__ uint32_t operator()(size_t i) const
    {
        return make_float(seed, i % rows * columns + i / rows);
    }
};

template <class T> struct packed_floats { /* the layout of float_matvec */
    uint32_t k, rows;
    __device__ T operator()(size_t i) const
    {
        const uint32_t V = 16 / sizeof(T);
        size_t tile = i / ((size_t)rows * k), vector = i % ((size_t)rows * k) / V;
        size_t row = tile * rows + vector % rows, column = vector / rows * V + i % V;
        T v;
        make_weight(row * k + column, &v);
        return v;
    }
};

struct packed_records { /* the layout of q8_batch, bytes */
    uint32_t k;
    __device__ uint8_t operator()(size_t i) const
    {
        size_t n_record = k / (BLOCK * BATCH_BLOCKS), record = i / BATCH_RECORD;
        size_t row = record / n_record * BATCH_ROWS, block = record % n_record * BATCH_BLOCKS;
        int byte = (int)(i % BATCH_RECORD), codes = BATCH_BLOCKS * BATCH_ROWS * BLOCK;
        if (byte < codes) {
            row += fragment_row(byte % (BATCH_ROWS * BLOCK));
            block += byte / (BATCH_ROWS * BLOCK);
            size_t column = block * BLOCK + fragment_k(byte % (BATCH_ROWS * BLOCK));
            return (uint8_t)make_weight_code(row * k + column);
        }
        row += (byte - codes) / 2 % BATCH_ROWS;
        block += (byte - codes) / (2 * BATCH_ROWS);
        uint16_t scale = make_half(SEED_SCALE, row * (k / BLOCK) + block);
        return (uint8_t)(byte % 2 ? scale >> 8 : scale);
    }
};

struct packed_acts { /* the same for activations: (k / 32, 32 lanes, 8) */
    uint32_t k;
    __device__ int8_t operator()(size_t i) const
    {
        size_t token = i % 256 / 32, column = i / 256 * BLOCK + i % 32;
        return make_act_code(token * k + column);
    }
};

/* `once` values, again and again. */
template <class T, class F> __global__ void fill(T *out, size_t n, size_t once, F f)
{
    size_t step = (size_t)gridDim.x * blockDim.x;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
        out[i] = f(i % once);
    }
}

/* ---- Expectations ---------------------------------------------------------------------------- */

template <class F> void parallel_for(int n, F run)
{
    std::atomic<int> next(0);
    std::vector<std::thread> threads;
    unsigned n_thread = std::thread::hardware_concurrency();
    for (unsigned t = 0; t < (n_thread ? n_thread : 1); t++) {
        threads.emplace_back([&] {
            for (int i = next++; i < n; i = next++) {
                run(i);
            }
        });
    }
    for (std::thread &t : threads) {
        t.join();
    }
}

/* Chains of one segment each, joined in index order. step(k, acc) does one value or block. */
template <class F> float host_segments(extent e, int unit, F step)
{
    float total = 0.0f;
    for (int k0 = 0; k0 < e.k; k0 += e.length) {
        float acc = 0.0f;
        for (int k = k0; k < k0 + e.length && k < e.k; k += unit) {
            acc = step(k, acc);
        }
        total = k0 == 0 ? acc : total + acc;
    }
    return total;
}

struct host_q8 {
    std::vector<int8_t> code; /* activations (token, k) */
    std::vector<float> scale; /* (token, k / 32) */

    host_q8(extent e, int n_token) : code((size_t)n_token * e.k), scale(code.size() / BLOCK)
    {
        for (size_t i = 0; i < code.size(); i++) {
            code[i] = make_act_code(i);
        }
        for (size_t i = 0; i < scale.size(); i++) {
            scale[i] = float_from_bits(make_float(SEED_ACT_SCALE, i));
        }
    }

    void row(extent e, int row, int n_token, float *y) const
    {
        std::vector<int8_t> w(e.k);
        std::vector<float> ws(e.k / BLOCK);
        for (int k = 0; k < e.k; k++) {
            w[k] = make_weight_code((size_t)row * e.k + k);
            ws[k / BLOCK] =
                half_to_float(make_half(SEED_SCALE, (size_t)row * (e.k / BLOCK) + k / BLOCK));
        }
        for (int t = 0; t < n_token; t++) {
            const int8_t *x = code.data() + (size_t)t * e.k;
            const float *d = scale.data() + (size_t)t * (e.k / BLOCK);
            y[t] = host_segments(e, BLOCK, [&](int k, float acc) {
                int dot = 0;
                for (int i = 0; i < BLOCK; i++) {
                    dot += w[k + i] * x[k + i];
                }
                float scales = ws[k / BLOCK] * d[k / BLOCK];
                return fmaf(scales, (float)dot, acc);
            });
        }
    }
};

template <class T> struct host_float {
    std::vector<float> x; /* (token, k) */

    host_float(extent e, int n_token) : x((size_t)n_token * e.k)
    {
        for (size_t i = 0; i < x.size(); i++) {
            x[i] = float_from_bits(make_float(SEED_ACT, i));
        }
    }

    void row(extent e, int row, int n_token, float *y) const
    {
        std::vector<float> w(e.k);
        for (int k = 0; k < e.k; k++) {
            T bits;
            make_weight((size_t)row * e.k + k, &bits);
            w[k] = host_widen(bits);
        }
        for (int t = 0; t < n_token; t++) {
            const float *at = x.data() + (size_t)t * e.k;
            y[t] = host_segments(e, 1, [&](int k, float acc) { return fmaf(w[k], at[k], acc); });
        }
    }
};

inline bool same_bits(const char *what, int row, int token, float got, float expected)
{
    if (bits_from_float(got) == bits_from_float(expected)) {
        return true;
    }
    fprintf(stderr, "sizes: %s: bits differ first at row %d, token %d: %08x, expected %08x\n", what,
            row, token, bits_from_float(got), bits_from_float(expected));
    return false;
}

#define CHECKED_ROWS 48

/* y is (token, n). */
template <class Host>
bool check_matmul(const char *what, const Host &host, extent e, int n_token,
                  const std::vector<float> &y)
{
    std::vector<float> expected((size_t)CHECKED_ROWS * n_token);
    auto row = [&](int i) { return (int)((int64_t)i * (e.n - 1) / (CHECKED_ROWS - 1)); };
    parallel_for(CHECKED_ROWS,
                 [&](int i) { host.row(e, row(i), n_token, expected.data() + i * n_token); });
    for (int i = 0; i < CHECKED_ROWS; i++) {
        for (int t = 0; t < n_token; t++) {
            float got = y[(size_t)t * e.n + row(i)];
            if (!same_bits(what, row(i), t, got, expected[(size_t)i * n_token + t])) {
                return false;
            }
        }
    }
    return true;
}

/* exp of arithmetic 1, for finite x that does not overflow. */
inline float host_exp(float x)
{
    if (x < -0x1.9fe368p+6f) {
        return 0.0f;
    }
    float above = fmaf(x, 0x1.715476p+0f, 0x1.8p23f), n = above - 0x1.8p23f;
    float r = fmaf(n, 0x1.05c610p-29f, fmaf(n, -0x1.62e430p-1f, x)), square = r * r;
    float q = fmaf(0x1.6a524ep-10f, r, 0x1.12396ep-7f);
    q = fmaf(q, r, 0x1.5558aap-5f);
    q = fmaf(q, r, 0x1.555492p-3f);
    q = fmaf(q, r, 0x1.fffffcp-2f);
    float p = fmaf(square, q, r) + 1.0f;
    int h = (int)floorf(n / 2);
    float part = ldexpf(p, h);
    return ldexpf(part, (int)n - h);
}

/* Keys, values and queries of decode attention, and what one head gives. */
struct host_attention {
    int depth, dim;
    std::vector<float> k, v; /* (position, N_HEAD_KV, dim) */
    std::vector<float> q;    /* (N_HEAD, dim) */

    host_attention(int depth, int dim) : depth(depth), dim(dim)
    {
        for (int i = 0; i < N_HEAD * dim; i++) {
            q.push_back(float_from_bits(make_float(SEED_QUERY, i)));
        }
        k.resize((size_t)depth * N_HEAD_KV * dim);
        v.resize(k.size());
        parallel_for(depth, [&](int p) {
            size_t width = (size_t)N_HEAD_KV * this->dim;
            for (size_t i = p * width; i < (p + 1) * width; i++) {
                k[i] = half_to_float(make_half(SEED_KEY, i));
                v[i] = half_to_float(make_half(SEED_VALUE, i));
            }
        });
    }

    const float *row(const std::vector<float> &cache, int position, int head) const
    {
        return cache.data() + ((size_t)position * N_HEAD_KV + head / N_GROUP) * dim;
    }

    static float row_sum(const std::vector<float> &term)
    {
        float total = 0.0f;
        for (size_t start = 0; start < term.size(); start += 64) {
            float s[64] = {};
            for (size_t i = 0; i < 64 && start + i < term.size(); i++) {
                s[i] = term[start + i];
            }
            for (int stride = 32; stride > 0; stride /= 2) {
                for (int i = 0; i < stride; i++) {
                    s[i] = s[i] + s[i + stride];
                }
            }
            total = start == 0 ? s[0] : total + s[0];
        }
        return total;
    }

    /* (m, l, o) of a tile. */
    void tile(int head, int start, std::vector<float> &e, float *o, float *m) const
    {
        float scale = 1.0f / sqrtf((float)dim);
        for (size_t p = 0; p < e.size(); p++) {
            const float *key = row(k, start + (int)p, head);
            float acc = 0.0f;
            for (int d = 0; d < dim; d++) {
                acc = fmaf(q[(size_t)head * dim + d], key[d], acc);
            }
            e[p] = acc * scale;
            *m = p == 0 || e[p] > *m ? e[p] : *m;
        }
        for (int d = 0; d < dim; d++) {
            o[d] = 0.0f;
        }
        for (size_t p = 0; p < e.size(); p++) {
            e[p] = host_exp(e[p] - *m);
            const float *value = row(v, start + (int)p, head);
            for (int d = 0; d < dim; d++) {
                o[d] = fmaf(e[p], value[d], o[d]);
            }
        }
    }

    void head(int head, int tile_size, float *y) const
    {
        std::vector<float> e(tile_size), o(dim);
        float M = 0.0f, L = 0.0f, m = 0.0f;
        for (int start = 0; start < depth; start += tile_size) {
            tile(head, start, e, start == 0 ? y : o.data(), &m);
            float l = row_sum(e);
            if (start == 0) {
                M = m;
                L = l;
                continue;
            }
            float N = M > m ? M : m, a = host_exp(M - N), b = host_exp(m - N);
            float taken = l * b;
            L = fmaf(L, a, taken);
            for (int d = 0; d < dim; d++) {
                float part = o[d] * b;
                y[d] = fmaf(y[d], a, part);
            }
            M = N;
        }
        for (int d = 0; d < dim; d++) {
            y[d] = y[d] / L;
        }
    }

    bool check(const char *what, int tile_size, const std::vector<float> &y) const
    {
        std::vector<float> expected(y.size());
        parallel_for(N_HEAD, [&](int h) { head(h, tile_size, expected.data() + h * dim); });
        for (int i = 0; i < N_HEAD * dim; i++) {
            if (!same_bits(what, i / dim, 0, y[i], expected[i])) {
                return false;
            }
        }
        return true;
    }
};

#endif
