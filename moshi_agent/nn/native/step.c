/* What Python calls; see `native/library.py`. All tensors are contiguous. */
#include "convolutions.h"
#include "depth.h"
#include "quantizers.h"
#include "transformers.h"

#define EXPORT __attribute__((visibility("default")))

EXPORT int panel_floats(void) { return PANEL; }
EXPORT int lane_floats(void) { return LANES; }

EXPORT void product_rows(const Product *p, const float *x, long rows, float *y) { apply(p, x, rows, y, 0); }

EXPORT long transformer_work(const Stack *stack, const Layer *layers, long tokens) {
    return layers_need(stack, layers, tokens, stack->capacity);
}

EXPORT void transformer_steps(const Stack *stack, const Layer *layers, float *x, long batch, long steps,
                              int64_t *offset, float *kv, const uint8_t *mask, float *work) {
    run_layers(stack, layers, x, batch, steps, offset, kv, work);
    for (long row = 0; row < batch; row++)
        if (!mask || mask[row]) offset[row] += steps;
}

EXPORT long depth_work(const Depth *depth, long batch) { return depth_needs(depth, batch); }

EXPORT void depth_codebooks(const Depth *depth, const float *hidden, const int64_t *text, long batch, const Draw *draws,
                            const int64_t *forced, long forced_stride, int64_t *sampled, int64_t *taken, float *work) {
    run_depth(depth, hidden, text, batch, draws, forced, forced_stride, sampled, taken, work);
}

EXPORT long convolutions_work(const Convolution *convs, int count, long batch, long steps) {
    return convolutions_need(convs, count, batch, steps);
}

EXPORT void convolution_steps(const Convolution *convs, int count, const float *x, long batch, long steps,
                              const ConvolutionState *states, const uint8_t *mask, float *y, float *work) {
    run_convolutions(convs, count, x, batch, steps, states, mask, y, work);
}

EXPORT void upsample_steps(const float *taps, const float *bias, int pad, int stride, int channels, const float *x,
                           long batch, long steps, float *previous, const uint8_t *mask, float *y, float *work) {
    upsample(taps, bias, pad, stride, channels, x, batch, steps, previous, mask, y, work);
}

EXPORT long quantizer_work(const Quantizer *q, long tokens) { return quantizer_needs(q, tokens); }

EXPORT void quantize_steps(const Quantizer *q, const float *x, long batch, long steps, long first, long count,
                           int64_t *codes, float *work) {
    quantize(q, x, batch, steps, first, count, codes, work);
}

EXPORT void restore_steps(const Quantizer *q, const int64_t *codes, long batch, long steps, long first, long used,
                          long count, float *y, int add, float *work) {
    restore(q, codes, batch, steps, first, used, count, y, add, work);
}
