/* Vectors of float32 as wide as the processor's registers, in the terms that GCC and Clang share. */
#pragma once
#include <stdint.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif

typedef float vec __attribute__((vector_size(LANES * 4)));
typedef int32_t ints __attribute__((vector_size(LANES * 4)));
typedef uint16_t halves __attribute__((vector_size(LANES * 2)));
typedef uint32_t words __attribute__((vector_size(LANES * 4)));
typedef int8_t bytes __attribute__((vector_size(LANES)));

#define INLINE static inline __attribute__((always_inline))

INLINE vec load(const float *from) {
    vec v;
    memcpy(&v, from, sizeof v);
    return v;
}

INLINE void store(float *to, vec v) { memcpy(to, &v, sizeof v); }

/* The first n numbers; the others are zeros. */
INLINE vec load_some(const float *from, int n) {
    vec v = {0};
    memcpy(&v, from, n * sizeof(float));
    return v;
}

INLINE void store_some(float *to, vec v, int n) {
    for (int i = 0; i < n; i++) to[i] = v[i];
}

INLINE vec choose(ints which, vec a, vec b) { return (vec)(((ints)a & which) | ((ints)b & ~which)); }

INLINE vec all(float x) { return x - (vec){0}; }

/* sum + a * b, rounded once where the processor can. It says so itself: a compiler that may choose chooses
 * one way for one row and another for two (GCC for AMD's Zen), and the rows' bits would differ. */
INLINE vec add_product(vec sum, vec a, vec b) {
#if defined(__AVX512F__)
    return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)sum);
#elif defined(__AVX2__) && defined(__FMA__)
    return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)sum);
#elif defined(__ARM_NEON) && defined(__ARM_FEATURE_FMA)
    return (vec)vfmaq_f32((float32x4_t)sum, (float32x4_t)a, (float32x4_t)b);
#elif defined(__FP_FAST_FMAF)
    for (int i = 0; i < LANES; i++) sum[i] = __builtin_fmaf(a[i], b[i], sum[i]);
    return sum;
#else
    return sum + a * b;
#endif
}

INLINE float sum(vec v) {
    float total = 0;
    for (int i = 0; i < LANES; i++) total += v[i];
    return total;
}

/* e^x to the last bit or two (Cephes' polynomial); what is no number stays none. */
INLINE vec exponential(vec x) {
    x = choose(x < -87.3f, all(-87.3f), x);
    x = choose(x > 88.f, all(88.f), x);
    vec shifted = x * 1.44269504088896341f + 12582912.f; /* rounds: the last bits are the power of two */
    vec power = shifted - 12582912.f;
    vec r = x - power * 0.693359375f + power * 2.12194440e-4f;
    vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.f;
    return p * (vec)(((ints)shifted << 23) + (127 << 23));
}

INLINE vec elu(vec x) { return choose(x > 0, x, exponential(x) - 1.f); }

INLINE vec silu(vec x) { return x / (1.f + exponential(-x)); }

/* x * P(normal < x), by Abramowitz and Stegun 7.1.26: an error below 1e-7 of x. */
INLINE vec gelu(vec x) {
    vec z = x * 0.70710678118654752f;
    vec size = choose(z < 0, -z, z);
    vec t = 1.f / (1.f + 0.3275911f * size);
    vec p = t * 1.061405429f - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    vec above = 0.5f * p * t * exponential(-size * size); /* P(normal > |x|) */
    return x * choose(z < 0, above, 1.f - above);
}

/* Applies a function of one vector to n numbers. */
#define FOR_EACH(n, from, to, f)                                                                              \
    do {                                                                                                      \
        long i_ = 0;                                                                                          \
        for (; i_ + LANES <= (n); i_ += LANES) store((to) + i_, f(load((from) + i_)));                        \
        if (i_ < (n)) store_some((to) + i_, f(load_some((from) + i_, (int)((n) - i_))), (int)((n) - i_));     \
    } while (0)

INLINE float dot(const float *a, const float *b, int n) {
    vec total = {0};
    int i = 0;
    for (; i + LANES <= n; i += LANES) total += load(a + i) * load(b + i);
    if (i < n) total += load_some(a + i, n - i) * load_some(b + i, n - i);
    return sum(total);
}
