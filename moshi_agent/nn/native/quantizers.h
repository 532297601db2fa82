/* Residual quantizers, as `nn/quantizer.py` has them. */
#pragma once
#include "products.h"

typedef struct {
    Product input, output;
    const Product *similarities;     /* [codebooks], of the centroids */
    const float *const *half_norms;  /* [codebooks], [bins] */
    const float *const *centroids;   /* [codebooks], [bins, dim] */
    int codebooks, dim, bins, unused;
} Quantizer;

static long quantizer_needs(const Quantizer *q, long tokens) { return tokens * (q->dim + q->bins + LANES); }

/* x: [batch * steps, in] -> codes [batch, count, steps], from codebook `first` on. */
static void quantize(const Quantizer *q, const float *x, long batch, long steps, long first, long count, int64_t *codes,
                     float *work) {
    long tokens = batch * steps;
    float *residual = work, *similar = work + tokens * q->dim;
    apply(&q->input, x, tokens, residual, 0);
    for (int k = 0; k < q->codebooks; k++) {
        apply(q->similarities + k, residual, tokens, similar, 0);
        for (long token = 0; token < tokens; token++) {
            const float *row = similar + token * q->bins, *half = q->half_norms[k];
            float least = INFINITY;
            int64_t code = 0;
            for (int bin = 0; bin < q->bins; bin++) {
                float distance = half[bin] - row[bin];
                if (distance < least) least = distance, code = bin;
            }
            codes[((token / steps) * count + first + k) * steps + token % steps] = code;
            for (int i = 0; i < q->dim; i++) residual[token * q->dim + i] -= q->centroids[k][code * q->dim + i];
        }
    }
}

/* codes: [batch, count, steps], from codebook `first` on, `used` of them -> y [batch * steps, out], added to. */
static void restore(const Quantizer *q, const int64_t *codes, long batch, long steps, long first, long used, long count,
                    float *y, int add, float *work) {
    long tokens = batch * steps;
    for (long token = 0; token < tokens; token++) {
        float *total = work + token * q->dim;
        memset(total, 0, q->dim * sizeof(float));
        for (int k = 0; k < used; k++) {
            int64_t code = codes[((token / steps) * count + first + k) * steps + token % steps];
            if (code < 0 || code >= q->bins) code = 0; /* no token of sound: whoever asked does not hear this */
            const float *centroid = q->centroids[k] + code * q->dim;
            for (int i = 0; i < q->dim; i++) total[i] += centroid[i];
        }
    }
    apply(&q->output, work, tokens, y, add);
}
