/* Transformer layers on the next steps of each row, as `nn/transformer.py` has them. */
#pragma once
#include <math.h>
#include "products.h"

enum { RMS, LAYER };             /* norms, whose factors are in the products after them */
enum { PLAIN_GELU, GATED_SILU }; /* feed-forwards */
enum { NO_ROTATION, INTERLEAVED, HALVES };

typedef struct {
    Product in, out, up, down;
} Layer;

typedef struct {
    int dim, heads, kv_heads, head_dim, layers, norm, feed_forward, rotation;
    int context, capacity; /* context: 0 is unlimited */
    float eps, unused;
    const float *frequencies; /* [head_dim / 2] */
} Stack;

/* [rows, dim] -> [rows, dim] */
static void normalise(const Stack *stack, const float *x, long rows, float *y) {
    int n = stack->dim;
    for (long row = 0; row < rows; row++, x += n, y += n) {
        float mean = 0;
        if (stack->norm == LAYER) {
            vec total = {0};
            int i = 0;
            for (; i + LANES <= n; i += LANES) total += load(x + i);
            if (i < n) total += load_some(x + i, n - i);
            mean = sum(total) / n;
#define CENTRED(v) ((v) - mean)
            FOR_EACH(n, x, y, CENTRED);
        }
        const float *centred = stack->norm == LAYER ? y : x;
        float scale = 1 / sqrtf(dot(centred, centred, n) / n + stack->eps);
#define SCALED(v) ((v) * scale)
        FOR_EACH(n, centred, y, SCALED);
    }
}

static void rotate(const Stack *stack, float *vector, const float *turns) {
    int half = stack->head_dim / 2;
    for (int i = 0; i < half; i++) {
        float *a = vector + (stack->rotation == INTERLEAVED ? 2 * i : i);
        float *b = stack->rotation == INTERLEAVED ? a + 1 : a + half;
        float real = *a * turns[2 * i] - *b * turns[2 * i + 1];
        *b = *a * turns[2 * i + 1] + *b * turns[2 * i];
        *a = real;
    }
}

INLINE long slot_of(long position, long capacity) { return (position % capacity + capacity) % capacity; }

/* What one query sees of a head's keys and values, [length, head_dim]. */
static void attend(const float *query, const float *keys, const float *values, long length, int dim, long last,
                   long position, long context, long capacity, float *scores, float *y) {
    float most = -INFINITY, factor = 1 / sqrtf(dim);
    int sees_all = position == last && (!context || context >= capacity);
    for (long slot = 0; slot < length; slot++) {
        if (sees_all) {
            scores[slot] = dot(query, keys + slot * dim, dim) * factor;
            if (!(scores[slot] <= most)) most = scores[slot];
            continue;
        }
        long held = last - slot_of(last - slot, capacity); /* the position in this slot */
        int visible = held >= 0 && held <= position && (!context || position - held < context);
        scores[slot] = visible ? dot(query, keys + slot * dim, dim) * factor : -INFINITY;
        if (!(scores[slot] <= most)) most = scores[slot];
    }
#define WEIGHT(v) exponential((v) - most)
    FOR_EACH(length, scores, scores, WEIGHT);
    float total = 0;
    memset(y, 0, dim * sizeof(float));
    for (long slot = 0; slot < length; slot++) {
        float weight = scores[slot] < 1e-37f ? 0 : scores[slot];
        total += weight;
        if (weight == 0) continue;
        int i = 0;
        for (; i + LANES <= dim; i += LANES) store(y + i, load(y + i) + weight * load(values + slot * dim + i));
        for (; i < dim; i++) y[i] += weight * values[slot * dim + i];
    }
    for (int i = 0; i < dim; i++) y[i] /= total;
}

/* Floats that `run_layers` needs to work with. */
static long layers_need(const Stack *stack, const Layer *layer, long tokens, long capacity) {
    long widest = layer->in.out > layer->up.out ? layer->in.out : layer->up.out;
    return tokens * (2 * stack->dim + 2 * widest) + tokens * stack->head_dim + capacity + LANES;
}

/* x: [batch, steps, dim], changed. offset: [batch], the position of each row's first step.
 * kv: [batch, layers, 2, kv_heads, capacity, head_dim]. */
static void run_layers(const Stack *stack, const Layer *layers, float *x, long batch, long steps,
                       const int64_t *offset, float *kv, float *work) {
    long tokens = batch * steps, dim = stack->dim, head_dim = stack->head_dim, capacity = stack->capacity;
    long width = layers[0].in.out, up = layers[0].up.out, widest = width > up ? width : up;
    float *normed = work, *wide = normed + tokens * dim, *heard = wide + tokens * widest;
    float *narrow = heard + tokens * dim, *turns = narrow + tokens * widest, *scores = turns + tokens * head_dim;
    if (stack->rotation)
        for (long token = 0; token < tokens; token++)
            for (int i = 0; i < head_dim / 2; i++) {
                float phase = (float)(offset[token / steps] + token % steps) * stack->frequencies[i];
                turns[token * head_dim + 2 * i] = cosf(phase);
                turns[token * head_dim + 2 * i + 1] = sinf(phase);
            }
    for (int l = 0; l < stack->layers; l++) {
        const Layer *layer = layers + l;
        normalise(stack, x, tokens, normed);
        apply(&layer->in, normed, tokens, wide, 0);
        for (long row = 0; row < batch; row++) {
            float *cache = kv + (row * stack->layers + l) * 2 * stack->kv_heads * capacity * head_dim;
            long last = offset[row] + steps - 1;
            for (long step = 0; step < steps; step++) {
                float *heads = wide + (row * steps + step) * width;
                if (stack->rotation)
                    for (int h = 0; h < stack->heads + stack->kv_heads; h++)
                        rotate(stack, heads + h * head_dim, turns + (row * steps + step) * head_dim);
                for (int h = 0; h < 2 * stack->kv_heads; h++)
                    memcpy(cache + (h * capacity + slot_of(offset[row] + step, capacity)) * head_dim,
                           heads + (stack->heads + h) * head_dim, head_dim * sizeof(float));
            }
            long length = last + 1 < capacity ? last + 1 : capacity;
            for (long step = 0; step < steps; step++)
                for (int h = 0; h < stack->heads; h++) {
                    int kv_head = h / (stack->heads / stack->kv_heads);
                    const float *keys = cache + kv_head * capacity * head_dim;
                    attend(wide + (row * steps + step) * width + h * head_dim, keys,
                           keys + stack->kv_heads * capacity * head_dim, length, (int)head_dim, last,
                           offset[row] + step, stack->context, capacity, scores,
                           heard + (row * steps + step) * dim + h * head_dim);
                }
        }
        apply(&layer->out, heard, tokens, x, 1);
        normalise(stack, x, tokens, normed);
        apply(&layer->up, normed, tokens, wide, 0);
        if (stack->feed_forward == GATED_SILU) {
            long hidden = layer->down.in;
            for (long token = 0; token < tokens; token++) {
                const float *gate = wide + token * layer->up.out, *value = gate + hidden;
                float *to = narrow + token * hidden;
                long i = 0;
                for (; i + LANES <= hidden; i += LANES) store(to + i, silu(load(gate + i)) * load(value + i));
                if (i < hidden) {
                    int n = (int)(hidden - i);
                    store_some(to + i, silu(load_some(gate + i, n)) * load_some(value + i, n), n);
                }
            }
        } else
            FOR_EACH(tokens * layer->up.out, wide, narrow, gelu);
        apply(&layer->down, narrow, tokens, x, 1);
    }
}
