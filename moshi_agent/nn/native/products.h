/* Products with packed weights. A row's sums are taken in one order, whatever other rows there are.
 *
 * A weight lies as panels of up to PANEL outputs, in each of them input after input:
 * [panel][in][outputs of the panel, filled up to one, two or four vectors].
 * Weights are float32, and whatever this file is compiled `WITH`; sums are always float32. */
#pragma once
#include "vectors.h"

#define PANEL_VECTORS 4
#define PANEL (PANEL_VECTORS * LANES)

enum { FLOAT32, BFLOAT16, INT8 };

typedef struct {
    const void *weight;
    const float *bias;  /* [out] or NULL */
    const float *scale; /* [out] of int8 */
    int in, out, kind, unused;
} Product;

/* What a product reads: rows of `segments` pieces that lie `segment_stride` apart, [in] in all. */
typedef struct {
    const float *start;
    long row_stride, segment_stride;
    int segments;
} Rows;

INLINE vec weights_at(const void *weight, long index, int kind) {
    if (kind == FLOAT32) return load((const float *)weight + index);
    if (kind == BFLOAT16) {
        halves h;
        memcpy(&h, (const uint16_t *)weight + index, sizeof h);
        return (vec)(__builtin_convertvector(h, words) << 16);
    }
    const int8_t *from = (const int8_t *)weight + index;
    /* By itself GCC would convert them one by one. */
#if defined(__AVX512F__)
    return (vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)from)));
#elif defined(__AVX2__)
    return (vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)from)));
#else
    bytes b;
    memcpy(&b, from, sizeof b);
    return __builtin_convertvector(b, vec);
#endif
}

/* ROWS rows by VECTORS vectors of outputs, all of whose sums stay in registers. */
INLINE void block(const int ROWS, const int VECTORS, const int kind, Rows x, const Product *p, const void *weight,
                  int first, float *y, long y_stride, int add) {
    vec sums[12][PANEL_VECTORS];
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) sums[r][v] = (vec){0};
    int length = p->in / x.segments;
    long at = 0;
    for (int s = 0; s < x.segments; s++) {
        const float *from = x.start + s * x.segment_stride;
        for (int i = 0; i < length; i++, at += VECTORS * LANES) {
            vec w[PANEL_VECTORS];
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++) w[v] = weights_at(weight, at + v * LANES, kind);
#pragma GCC unroll 12
            for (int r = 0; r < ROWS; r++) {
                vec given = all(from[r * x.row_stride + i]);
#pragma GCC unroll 4
                for (int v = 0; v < VECTORS; v++) sums[r][v] = add_product(sums[r][v], given, w[v]);
            }
        }
    }
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; v++) {
        int output = first + v * LANES, n = p->out - output < LANES ? p->out - output : LANES;
        if (n <= 0) break;
        vec scale = kind == INT8 ? load_some(p->scale + output, n) : all(1.f);
        vec bias = p->bias ? load_some(p->bias + output, n) : (vec){0};
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; r++) {
            float *to = y + r * y_stride + output;
            vec result = kind == INT8 ? sums[r][v] * scale + bias : sums[r][v] + bias;
            if (n == LANES)
                store(to, add ? load(to) + result : result);
            else
                store_some(to, add ? load_some(to, n) + result : result, n);
        }
    }
}

INLINE void panel(const int VECTORS, const int MOST, const int HALF, const int kind, Rows x, const Product *p,
                  const void *weight, int first, long rows, float *y, long y_stride, int add) {
    while (rows) {
        int taken;
        if (rows >= MOST)
            block(taken = MOST, VECTORS, kind, x, p, weight, first, y, y_stride, add);
        else if (rows >= HALF)
            block(taken = HALF, VECTORS, kind, x, p, weight, first, y, y_stride, add);
        else if (rows >= 2)
            block(taken = 2, VECTORS, kind, x, p, weight, first, y, y_stride, add);
        else
            block(taken = 1, VECTORS, kind, x, p, weight, first, y, y_stride, add);
        rows -= taken;
        x.start += taken * x.row_stride;
        y += taken * y_stride;
    }
}

INLINE void product_of_kind(const int kind, const int bytes_each, const Product *p, Rows x, long rows, float *y,
                            long y_stride, int add) {
    const char *weight = p->weight;
    for (int first = 0; first < p->out; first += PANEL) {
        int vectors = (p->out - first + LANES - 1) / LANES;
        if (vectors > 2)
            panel(4, 6, 4, kind, x, p, weight, first, rows, y, y_stride, add);
        else if (vectors == 2)
            panel(2, 8, 4, kind, x, p, weight, first, rows, y, y_stride, add);
        else
            panel(1, 12, 4, kind, x, p, weight, first, rows, y, y_stride, add);
        weight += (long)(vectors > 2 ? 4 : vectors) * LANES * p->in * bytes_each;
    }
}

/* y = x W^T + bias, or that added to y. y: [rows, out] in rows `y_stride` apart. */
static __attribute__((noinline)) void multiply(const Product *p, Rows x, long rows, float *y, long y_stride, int add) {
    if (p->kind == FLOAT32) product_of_kind(FLOAT32, 4, p, x, rows, y, y_stride, add);
#ifdef WITH_BFLOAT16
    if (p->kind == BFLOAT16) product_of_kind(BFLOAT16, 2, p, x, rows, y, y_stride, add);
#endif
#ifdef WITH_INT8
    if (p->kind == INT8) product_of_kind(INT8, 1, p, x, rows, y, y_stride, add);
#endif
}

/* The same of rows that lie one after the other. */
INLINE void apply(const Product *p, const float *x, long rows, float *y, int add) {
    multiply(p, (Rows){x, p->in, 0, 1}, rows, y, p->out, add);
}
