/* All codebooks of a step: depth transformer and draws, one codebook after the other. */
#pragma once
#include "transformers.h"

typedef struct {
    const float *inverse_temp; /* [batch] */
    const float *top_p;        /* [batch], 0 keeps all */
    const float *noise;        /* [batch, streams, candidates], minus infinity for what is not drawn; NULL: the best */
    long candidates, noise_stride;
} Draw;

/* The largest `count` of `card` logits, descending; of equal ones the first comes first. */
static void take_best(const float *logits, long card, long count, float *best, int64_t *tokens) {
    for (long i = 0; i < count; i++) best[i] = -INFINITY, tokens[i] = 0;
    for (long token = 0; token < card; token++) {
        float x = logits[token];
        if (!(x > best[count - 1])) continue;
        long place = count - 1;
        for (; place > 0 && x > best[place - 1]; place--)
            best[place] = best[place - 1], tokens[place] = tokens[place - 1];
        best[place] = x, tokens[place] = token;
    }
}

/* Samples one token, by the Gumbel-max trick. */
static int64_t draw(const Draw *d, long row, long stream, const float *logits, long card, float *best, int64_t *tokens) {
    long count = d->noise ? d->candidates : 1;
    take_best(logits, card, count, best, tokens);
    if (!d->noise) return tokens[0];
    const float *noise = d->noise + row * d->noise_stride + stream * count;
    float inverse_temp = d->inverse_temp[row], top_p = d->top_p[row];
    float total = 0, before = 0, most = -INFINITY;
    for (long i = 0; i < count; i++) best[i] *= inverse_temp;
    if (top_p > 0)
        for (long i = 0; i < count; i++) total += noise[i] == -INFINITY ? 0 : expf(best[i] - best[0]);
    int64_t drawn = tokens[0];
    for (long i = 0; i < count; i++) {
        if (noise[i] == -INFINITY || (top_p > 0 && before > top_p * total)) continue;
        if (top_p > 0) before += expf(best[i] - best[0]);
        if (best[i] + noise[i] > most) most = best[i] + noise[i], drawn = tokens[i];
    }
    return drawn;
}

typedef struct {
    int codebooks, card, given, unused;   /* given: floats of all weight sets' inputs */
    Product input;                        /* hidden -> the inputs of all weight sets */
    const Product *heads;                 /* [codebooks] */
    const float *const *embeddings;       /* [codebooks], of the token before; the last row is zeros */
    const int64_t *embedding_rows;        /* [codebooks] */
    const int64_t *input_sets;            /* [codebooks], which input serves */
    const int64_t *weight_sets;           /* [codebooks], which layers serve */
    const Layer *layers;                  /* [weight sets, layers] */
    const Stack *stack;                   /* capacity: codebooks */
} Depth;

static long depth_needs(const Depth *d, long batch) {
    const Stack *s = d->stack;
    long most = 0;
    for (int i = 0; i < d->codebooks; i++) {
        long need = layers_need(s, d->layers + d->weight_sets[i] * s->layers, batch, s->capacity);
        if (need > most) most = need;
    }
    long cache = s->layers * 2L * s->kv_heads * s->capacity * s->head_dim;
    return most + batch * (d->given + s->dim + d->card + cache) + 3L * d->card;
}

/* hidden: [batch, in], text: [batch], forced: [batch, codebooks] or NULL -> sampled, taken: [batch, codebooks]. */
static void run_depth(const Depth *d, const float *hidden, const int64_t *text, long batch, const Draw *draws,
                      const int64_t *forced, long forced_stride, int64_t *sampled, int64_t *taken, float *work) {
    const Stack *s = d->stack;
    long dim = s->dim, K = d->codebooks;
    float *given = work, *x = given + batch * d->given, *logits = x + batch * dim;
    float *cache = logits + batch * d->card, *best = cache + batch * s->layers * 2L * s->kv_heads * s->capacity * s->head_dim;
    int64_t *tokens = (int64_t *)(((uintptr_t)(best + d->card) + 7) & ~(uintptr_t)7);
    float *rest = (float *)(tokens + d->card);
    int64_t offset[batch];
    apply(&d->input, hidden, batch, given, 0);
    for (long k = 0; k < K; k++) {
        for (long row = 0; row < batch; row++) {
            int64_t token = k ? taken[row * K + k - 1] : text[row], rows = d->embedding_rows[k];
            if (token < 0) token += rows; /* the zero token is the last row */
            if (token < 0 || token >= rows) token = rows - 1;
            const float *embedded = d->embeddings[k] + token * dim;
            const float *told = given + row * d->given + d->input_sets[k] * dim;
            for (long i = 0; i < dim; i++) x[row * dim + i] = told[i] + embedded[i];
            offset[row] = k;
        }
        run_layers(s, d->layers + d->weight_sets[k] * s->layers, x, batch, 1, offset, cache, rest);
        apply(d->heads + k, x, batch, logits, 0);
        for (long row = 0; row < batch; row++) {
            int64_t token = draw(draws, row, k, logits + row * d->card, d->card, best, tokens);
            sampled[row * K + k] = token;
            if (forced && forced[row * forced_stride + k] != -2) token = forced[row * forced_stride + k];
            taken[row * K + k] = token;
        }
    }
}
