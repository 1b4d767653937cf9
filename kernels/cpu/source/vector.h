/* One vector of floats or of 32-bit integers, as wide as the variant's registers. */
#pragma once
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16") /* sums must be registers, not an array */

#if defined(__AVX512F__)

typedef __m512 floats;
typedef __m512i ints;
enum { LANES = 16, ROWS_OF_TILE = 6, VECTORS_OF_TILE = 4, TOKENS_OF_TILE = 12, TOKENS_DIRECT = 8 };

INLINE floats load(const float *p) { return _mm512_loadu_ps(p); }
INLINE floats load_some(const float *p, long n) { return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p); }
INLINE void store(float *p, floats x) { _mm512_storeu_ps(p, x); }
INLINE void store_some(float *p, floats x, long n) { _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), x); }
INLINE floats load_halves(const uint16_t *p) {
    return (floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16);
}
INLINE floats fill(float x) { return _mm512_set1_ps(x); }
INLINE floats add(floats a, floats b) { return _mm512_add_ps(a, b); }
INLINE floats times(floats a, floats b) { return _mm512_mul_ps(a, b); }
INLINE floats over(floats a, floats b) { return _mm512_div_ps(a, b); }
INLINE floats lesser(floats a, floats b) { return _mm512_min_ps(a, b); }
INLINE floats greater(floats a, floats b) { return _mm512_max_ps(a, b); }
INLINE floats plus_product(floats c, floats a, floats b) { return _mm512_fmadd_ps(a, b, c); }
INLINE floats less_product(floats c, floats a, floats b) { return _mm512_fnmadd_ps(a, b, c); }
INLINE float least(floats x) { return _mm512_reduce_min_ps(x); }
INLINE float greatest(floats x) { return _mm512_reduce_max_ps(x); }
INLINE float sum_of(floats x) { return _mm512_reduce_add_ps(x); }

INLINE ints no_ints(void) { return _mm512_setzero_si512(); }
INLINE ints fill_ints(int32_t x) { return _mm512_set1_epi32(x); }
INLINE ints load_ints(const void *p) { return _mm512_loadu_si512(p); }
INLINE void store_ints(void *p, ints x) { _mm512_storeu_si512(p, x); }
INLINE ints fill_bytes4(const int8_t *p) { int32_t four; memcpy(&four, p, 4); return _mm512_set1_epi32(four); }
INLINE ints add_ints(ints a, ints b) { return _mm512_add_epi32(a, b); }
INLINE int32_t sum_of_ints(ints x) { return _mm512_reduce_add_epi32(x); }
INLINE ints rounded(floats x) { return _mm512_cvtps_epi32(x); }
INLINE floats as_floats(ints x) { return _mm512_cvtepi32_ps(x); }
INLINE void store_as_bytes(int8_t *p, ints x) { _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(x)); }
INLINE ints low_nibbles(ints x) { return _mm512_and_si512(x, _mm512_set1_epi8(15)); }
INLINE ints high_nibbles(ints x) { return _mm512_and_si512(_mm512_srli_epi16(x, 4), _mm512_set1_epi8(15)); }

/* acc += sums of four products of unsigned and signed bytes. In assembly: gcc 12 spills the accumulators of the
   intrinsic, and a tied operand stays in its register. */
INLINE void dot_bytes(ints *acc, ints weights, ints codes, int weight_bits) {
    (void)weight_bits;
    __asm__("vpdpbusd %2, %1, %0" : "+v"(*acc) : "v"(weights), "v"(codes));
}

#else

typedef __m256 floats;
typedef __m256i ints;
enum { LANES = 8, ROWS_OF_TILE = 6, VECTORS_OF_TILE = 2, TOKENS_OF_TILE = 2, TOKENS_DIRECT = 2 };

INLINE __m256i first_lanes(long n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
INLINE floats load(const float *p) { return _mm256_loadu_ps(p); }
INLINE floats load_some(const float *p, long n) { return _mm256_maskload_ps(p, first_lanes(n)); }
INLINE void store(float *p, floats x) { _mm256_storeu_ps(p, x); }
INLINE void store_some(float *p, floats x, long n) { _mm256_maskstore_ps(p, first_lanes(n), x); }
INLINE floats load_halves(const uint16_t *p) {
    return (floats)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16);
}
INLINE floats fill(float x) { return _mm256_set1_ps(x); }
INLINE floats add(floats a, floats b) { return _mm256_add_ps(a, b); }
INLINE floats times(floats a, floats b) { return _mm256_mul_ps(a, b); }
INLINE floats over(floats a, floats b) { return _mm256_div_ps(a, b); }
INLINE floats lesser(floats a, floats b) { return _mm256_min_ps(a, b); }
INLINE floats greater(floats a, floats b) { return _mm256_max_ps(a, b); }
INLINE floats plus_product(floats c, floats a, floats b) { return _mm256_fmadd_ps(a, b, c); }
INLINE floats less_product(floats c, floats a, floats b) { return _mm256_fnmadd_ps(a, b, c); }
INLINE float least(floats x) {
    float lane[8], found;
    _mm256_storeu_ps(lane, x);
    found = lane[0];
    for (int i = 1; i < 8; i++) found = lane[i] < found ? lane[i] : found;
    return found;
}
INLINE float greatest(floats x) { return -least(_mm256_sub_ps(_mm256_setzero_ps(), x)); }
INLINE float sum_of(floats x) {
    float lane[8];
    _mm256_storeu_ps(lane, x);
    return ((lane[0] + lane[4]) + (lane[1] + lane[5])) + ((lane[2] + lane[6]) + (lane[3] + lane[7]));
}

INLINE ints no_ints(void) { return _mm256_setzero_si256(); }
INLINE ints fill_ints(int32_t x) { return _mm256_set1_epi32(x); }
INLINE ints load_ints(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
INLINE void store_ints(void *p, ints x) { _mm256_storeu_si256((__m256i *)p, x); }
INLINE ints fill_bytes4(const int8_t *p) { int32_t four; memcpy(&four, p, 4); return _mm256_set1_epi32(four); }
INLINE ints add_ints(ints a, ints b) { return _mm256_add_epi32(a, b); }
INLINE int32_t sum_of_ints(ints x) {
    int32_t lane[8], sum = 0;
    _mm256_storeu_si256((__m256i *)lane, x);
    for (int i = 0; i < 8; i++) sum += lane[i];
    return sum;
}
INLINE ints rounded(floats x) { return _mm256_cvtps_epi32(x); }
INLINE floats as_floats(ints x) { return _mm256_cvtepi32_ps(x); }
INLINE void store_as_bytes(int8_t *p, ints x) {
    __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    _mm_storel_epi64((__m128i *)p, _mm_packs_epi16(words, words));
}
INLINE ints low_nibbles(ints x) { return _mm256_and_si256(x, _mm256_set1_epi8(15)); }
INLINE ints high_nibbles(ints x) { return _mm256_and_si256(_mm256_srli_epi16(x, 4), _mm256_set1_epi8(15)); }

#if defined(__AVXVNNI__)
INLINE void dot_bytes(ints *acc, ints weights, ints codes, int weight_bits) {
    (void)weight_bits;
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(*acc) : "x"(weights), "x"(codes));
}
#else
/* vpmaddubsw saturates at 16 bits: nibbles cannot reach that, so bytes of 8 bits go by their nibbles. */
INLINE void dot_bytes(ints *acc, ints weights, ints codes, int weight_bits) {
    ints ones = _mm256_set1_epi16(1);
    if (weight_bits == 8) {
        ints high = _mm256_maddubs_epi16(high_nibbles(weights), codes);
        *acc = add_ints(*acc, _mm256_madd_epi16(high, _mm256_set1_epi16(16)));
        weights = low_nibbles(weights);
    }
    *acc = add_ints(*acc, _mm256_madd_epi16(_mm256_maddubs_epi16(weights, codes), ones));
}
#endif
#endif

INLINE long round_up(long n, long multiple) { return (n + multiple - 1) / multiple * multiple; }
