/* Stacks of causal convolutions on the next steps of each row, as `nn/seanet.py` has them. */
#pragma once
#include "products.h"

typedef struct {
    Product product;
    int channels, out_channels; /* of a step */
    int pad;                    /* past inputs that stand before each chunk */
    int size, stride, dilation; /* of the windows that the product reads */
    int elu;                    /* applied to the input; the state holds what comes of it */
    int residual;               /* 1: the input is kept, 2: and the output is added to what was kept */
    int replicate, unused;      /* before the first input stands not zeros but the first input */
} Convolution;

typedef struct {
    float *previous;  /* [batch, pad, channels] or NULL */
    uint8_t *started; /* [batch] */
} ConvolutionState;

#define CACHED 65536       /* floats of a layer's input that stay in a cache */
#define ROWS_APART 12      /* with fewer windows in each row, those of all rows are laid together */

INLINE long windows_of(const Convolution *c, long steps) {
    return (c->pad + steps - (c->size - 1) * c->dilation - 1) / c->stride + 1;
}

INLINE long steps_after(const Convolution *c, long steps) {
    return windows_of(c, steps) * (c->product.out / c->out_channels);
}

INLINE int are_laid_together(const Convolution *c, long batch, long steps) {
    return batch > 1 && windows_of(c, steps) < ROWS_APART;
}

/* Floats for one row in each buffer of `run_range`. */
static long widest_row(const Convolution *convs, int count, long steps) {
    long widest = 0;
    for (int i = 0; i < count; i++) {
        long in = (convs[i].pad + steps) * convs[i].channels, windows = windows_of(convs + i, steps) * convs[i].product.in;
        if (windows_of(convs + i, steps) >= ROWS_APART) windows = 0;
        long out = windows_of(convs + i, steps) * convs[i].product.out;
        steps = steps_after(convs + i, steps);
        if (in > widest) widest = in;
        if (windows > widest) widest = windows;
        if (out > widest) widest = out;
    }
    return widest + LANES;
}

/* One convolution of [batch, steps, channels]. y: [batch, windows, product.out], added to where it is a residual. */
static void convolve(const Convolution *c, const float *x, long batch, long steps, const ConvolutionState *state,
                     long first_row, const uint8_t *mask, float *y, float *padded, float *together) {
    long chunk = steps * c->channels, past = (long)c->pad * c->channels, row_floats = past + chunk;
    long windows = windows_of(c, steps);
    if (c->pad || c->elu) {
        for (long row = 0; row < batch; row++) {
            float *to = padded + row * row_floats, *previous = past ? state->previous + (first_row + row) * past : 0;
            const float *from = x + row * chunk;
            if (c->elu)
                FOR_EACH(chunk, from, to + past, elu);
            else
                memcpy(to + past, from, chunk * sizeof(float));
            if (!past) continue;
            int begins = c->replicate && !state->started[first_row + row];
            for (int i = 0; begins && i < c->pad; i++)
                memcpy(to + i * c->channels, to + past, c->channels * sizeof(float));
            if (!begins) memcpy(to, previous, past * sizeof(float));
            if (mask && !mask[first_row + row]) continue;
            memcpy(previous, to + chunk, past * sizeof(float));
            if (c->replicate) state->started[first_row + row] = 1;
        }
        x = padded;
    }
    long hop = (long)c->stride * c->channels, piece = (long)c->size * c->channels;
    int segments = c->dilation == 1 ? 1 : c->size;
    if (are_laid_together(c, batch, steps)) {
        for (long row = 0; row < batch; row++)
            for (long w = 0; w < windows; w++)
                for (int s = 0; s < segments; s++)
                    memcpy(together + (row * windows + w) * piece + s * (piece / segments),
                           x + row * row_floats + w * hop + (long)s * c->dilation * c->channels,
                           piece / segments * sizeof(float));
        apply(&c->product, together, batch * windows, y, c->residual == 2);
        return;
    }
    for (long row = 0; row < batch; row++)
        multiply(&c->product, (Rows){x + row * row_floats, hop, (long)c->dilation * c->channels, segments}, windows,
                 y + row * windows * c->product.out, c->product.out, c->residual == 2);
}

/* Convolutions one after the other. work: five buffers of `widest` floats for each row. */
static void run_range(const Convolution *convs, int count, const float *x, long batch, long steps,
                      const ConvolutionState *states, long first_row, const uint8_t *mask, float *y, float *work,
                      long widest) {
    float *buffers[5];
    for (int i = 0; i < 5; i++) buffers[i] = work + i * widest * batch;
    float *padded = buffers[3], *together = buffers[4];
    const float *kept = 0;
    int next = 0;
    for (int i = 0; i < count; i++) {
        const Convolution *c = convs + i;
        long floats = batch * windows_of(c, steps) * c->product.out;
        float *to = i == count - 1 ? y : buffers[next];
        if (c->residual == 2) memcpy(to, kept, floats * sizeof(float));
        convolve(c, x, batch, steps, states + i, first_row, mask, to, padded, together);
        if (c->residual == 1) kept = x;
        x = to;
        next = (next + 1) % 3;
        steps = steps_after(c, steps);
    }
}

INLINE int is_wide(const Convolution *c, long batch, long steps) {
    return batch > 1 && batch * steps * c->channels + batch * windows_of(c, steps) * c->product.out > 2 * CACHED;
}

static long convolutions_need(const Convolution *convs, int count, long batch, long steps) {
    return 7 * batch * widest_row(convs, count, steps);
}

/* A whole stack. Layers whose input outgrows the cache are run for a few rows at a time. */
static void run_convolutions(const Convolution *convs, int count, const float *x, long batch, long steps,
                             const ConvolutionState *states, const uint8_t *mask, float *y, float *work) {
    long widest = widest_row(convs, count, steps);
    float *edges[2] = {work, work + batch * widest}, *rest = work + 2 * batch * widest;
    int edge = 0;
    for (int first = 0, last; first < count; first = last) {
        int wide = is_wide(convs + first, batch, steps);
        long after = steps, most = 0;
        for (last = first; last < count; last++) {
            if (convs[last].residual != 2 && is_wide(convs + last, batch, after) != wide) break;
            long floats = after * convs[last].channels;
            if (floats > most) most = floats;
            after = steps_after(convs + last, after);
        }
        long group = wide ? CACHED / most : batch;
        if (group < 1) group = 1;
        float *to = last == count ? y : edges[edge];
        long in = steps * convs[first].channels, out = after * convs[last - 1].out_channels;
        for (long row = 0; row < batch; row += group) {
            long rows = batch - row < group ? batch - row : group;
            run_range(convs + first, last - first, x + row * in, rows, steps, states + first, row, mask, to + row * out,
                      rest, widest);
        }
        x = to;
        edge = 1 - edge;
        steps = after;
    }
}

/* A filter for each channel that upsamples. taps: [pad + 1, stride, channels], x: [batch, steps, channels]. */
static void upsample(const float *taps, const float *bias, int pad, int stride, int channels, const float *x, long batch,
                     long steps, float *previous, const uint8_t *mask, float *y, float *padded) {
    long past = (long)pad * channels, chunk = steps * channels;
    for (long row = 0; row < batch; row++, x += chunk) {
        memcpy(padded, previous + row * past, past * sizeof(float));
        memcpy(padded + past, x, chunk * sizeof(float));
        if (!mask || mask[row]) memcpy(previous + row * past, padded + chunk, past * sizeof(float));
        for (long step = 0; step < steps; step++)
            for (int phase = 0; phase < stride; phase++, y += channels)
                for (int c = 0; c < channels; c++) {
                    float total = bias ? bias[c] : 0;
                    for (int age = 0; age <= pad; age++)
                        total += padded[(step + age) * channels + c] * taps[(age * stride + phase) * channels + c];
                    y[c] = total;
                }
    }
}
