/* The same two products on AMX tiles of 16 rows of 64 bytes: codes exactly, transforms as three bfloat16 products. */
#pragma once
#include "layer.h"
#include "product.h"
#include "transform.h"

#if defined(__AMX_INT8__)
#include <sys/syscall.h>
#include <unistd.h>

enum { SIDE = 16, TOKENS_WITH_AMX = 16, TILE = 512 /* bfloat16 values */, BYTES = 64, PAIR = 2 * SIDE };

/* Linux lends the tile registers on request; 0 where it does. */
static int request_tiles(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return (int)syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA);
}

static const struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} ALL_TILES = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

INLINE void configure_tiles(void) { _tile_loadconfig(&ALL_TILES); }

/* gcc does not know that tile loads read memory: what was stored before must not move behind them. */
INLINE void finish_stores(void) { __asm__ volatile("" ::: "memory"); }

#define ZERO_FOUR _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);

/* As multiply_panel; codes has rows for a multiple of 32 tokens, sums too. */
static void multiply_panel_amx(const Layer *layer, long index, const int8_t *codes, long stride, long tokens,
                               int32_t *sums, uint8_t *room) {
    const uint8_t *panel = panel_of(layer, index);
    const long row = PANEL * sizeof(int32_t);
    for (long first = 0; first < layer->depth; first += DEPTH_OF_STRIP_AMX) {
        long depth = layer->depth - first < DEPTH_OF_STRIP_AMX ? layer->depth - first : DEPTH_OF_STRIP_AMX;
        const uint8_t *strip = strip_of(layer, panel, first, depth, room);
        finish_stores();
        for (long t = 0; t < tokens; t += 2 * SIDE) {
            int32_t *upper = sums + t * PANEL, *lower = upper + SIDE * PANEL;
            if (first == 0) {
                ZERO_FOUR
            } else {
                _tile_loadd(0, upper, row);
                _tile_loadd(1, upper + SIDE, row);
                _tile_loadd(2, lower, row);
                _tile_loadd(3, lower + SIDE, row);
            }
            const int8_t *x = codes + t * stride + first;
            for (long k = 0; k < depth; k += BYTES) {
                _tile_loadd(6, strip + k * PANEL, BYTES_OF_GROUP);
                _tile_loadd(4, x + k, stride);
                _tile_dpbsud(0, 4, 6);
                _tile_loadd(7, strip + k * PANEL + BYTES, BYTES_OF_GROUP);
                _tile_dpbsud(1, 4, 7);
                _tile_loadd(5, x + SIDE * stride + k, stride);
                _tile_dpbsud(2, 5, 6);
                _tile_dpbsud(3, 5, 7);
            }
            _tile_stored(0, upper, row);
            _tile_stored(1, upper + SIDE, row);
            _tile_stored(2, lower, row);
            _tile_stored(3, lower + SIDE, row);
        }
    }
}

/* A float is the sum of two bfloat16 values, its upper and its lower half, to a relative 2^-17. */
INLINE __m256i upper_half(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }
INLINE __m512 of_half(__m256i half) { return (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16); }
INLINE __m256i lower_half(__m512 x, __m256i upper) { return upper_half(_mm512_sub_ps(x, of_half(upper))); }

/* c [2 x 16 rows, 2 x 16 columns] = a b, each product of floats as three of halves; the second tiles where asked.

   Tiles of a at a + tile * a_tile, rows a_stride bytes apart; along the depth at steps of a_step; its lower halves at
   a_lower behind the upper ones. Tiles of b are contiguous, upper and lower by turns. */
INLINE void multiply_halves(int second_row, int second_column, const char *a, long a_stride, long a_tile, long a_step,
                            long a_lower, const uint16_t *b, long b_tile, long steps, float *c, long c_stride) {
    ZERO_FOUR
    for (long s = 0; s < steps; s++, a += a_step, b += 2 * TILE) {
        _tile_loadd(4, a, a_stride);
        if (second_row) _tile_loadd(5, a + a_tile, a_stride);
        for (int lower = 1; lower >= 0; lower--) {
            _tile_loadd(6, b + lower * TILE, BYTES);
            _tile_dpbf16ps(0, 4, 6);
            if (second_row) _tile_dpbf16ps(2, 5, 6);
            if (!second_column) continue;
            _tile_loadd(7, b + b_tile + lower * TILE, BYTES);
            _tile_dpbf16ps(1, 4, 7);
            if (second_row) _tile_dpbf16ps(3, 5, 7);
        }
        _tile_loadd(4, a + a_lower, a_stride);
        _tile_dpbf16ps(0, 4, 6);
        if (second_column) _tile_dpbf16ps(1, 4, 7);
        if (!second_row) continue;
        _tile_loadd(5, a + a_tile + a_lower, a_stride);
        _tile_dpbf16ps(2, 5, 6);
        if (second_column) _tile_dpbf16ps(3, 5, 7);
    }
    long bytes = c_stride * sizeof(float);
    _tile_stored(0, c, bytes);
    if (second_column) _tile_stored(1, c + SIDE, bytes);
    if (second_row) _tile_stored(2, c + SIDE * c_stride, bytes);
    if (second_row && second_column) _tile_stored(3, c + SIDE * c_stride + SIDE, bytes);
}

typedef struct {
    long rows, columns, inner_steps, outer_steps; /* padded d1 and d2; tiles of depth of x R and of L^T Z */
} Tiles;

INLINE Tiles tiles_of(const Layer *layer) {
    return (Tiles){round_up(layer->d1, SIDE), round_up(layer->d2, SIDE), round_up(layer->d2, PAIR) / PAIR,
                   round_up(layer->d1, PAIR) / PAIR};
}

/* Bytes of workspace for `transform_token_amx`. */
INLINE long amx_workspace(const Layer *layer) {
    Tiles n = tiles_of(layer);
    long result = n.rows * n.columns * sizeof(float);
    return 2 * result + n.rows * n.inner_steps * PAIR * 4 + n.outer_steps * n.columns / SIDE * 2 * TILE * 2;
}

/* x [d1, d2] -> its place [d1, padded d2] within the workspace. Needs left_tiles; without right_tiles, R = I. */
static const float *transform_token_amx(const Layer *layer, const float *x, char *workspace) {
    Tiles n = tiles_of(layer);
    long d1 = layer->d1, d2 = layer->d2, stride = d2;
    float *inner = (float *)workspace, *outer = inner + n.rows * n.columns;
    uint16_t *halves = (uint16_t *)(outer + n.rows * n.columns), *pairs = halves + n.rows * n.inner_steps * PAIR * 2;
    if (layer->right_tiles) {
        long width = n.inner_steps * PAIR;
        for (long r = 0; r < d1; r++) /* rows beyond d1 hold what they held: they reach no row of the result */
            for (long c = 0; c < width; c += SIDE) {
                long left = d2 - c < 0 ? 0 : d2 - c;
                __m512 value = left >= SIDE ? load(x + r * d2 + c) : load_some(x + r * d2 + c, left);
                __m256i upper = upper_half(value);
                _mm256_storeu_si256((__m256i *)(halves + r * width + c), upper);
                _mm256_storeu_si256((__m256i *)(halves + (n.rows + r) * width + c), lower_half(value, upper));
            }
        finish_stores();
        for (long c = 0; c < n.columns; c += 2 * SIDE)
            for (long r = 0; r < n.rows; r += 2 * SIDE)
                multiply_halves(r + SIDE < n.rows, c + SIDE < n.columns, (char *)(halves + r * width), 2 * width,
                                2 * width * SIDE, BYTES, 2 * width * n.rows,
                                layer->right_tiles + c / SIDE * n.inner_steps * 2 * TILE, n.inner_steps * 2 * TILE,
                                n.inner_steps, inner + r * n.columns + c, n.columns);
        x = inner;
        stride = n.columns;
    }
    for (long c = 0; c < n.columns; c += SIDE) {
        long left = stride - c;
        for (long r = 0; r < n.outer_steps * PAIR; r += 2) {
            __m512 even = r >= d1 ? fill(0) : left >= SIDE ? load(x + r * stride + c) : load_some(x + r * stride + c, left);
            const float *next = x + (r + 1) * stride + c;
            __m512 odd = r + 1 >= d1 ? fill(0) : left >= SIDE ? load(next) : load_some(next, left);
            __m256i even_upper = upper_half(even), odd_upper = upper_half(odd);
            __m256i even_lower = lower_half(even, even_upper), odd_lower = lower_half(odd, odd_upper);
            uint16_t *tile = pairs + (c / SIDE * n.outer_steps + r / PAIR) * 2 * TILE + r % PAIR * SIDE;
            _mm512_storeu_si512(tile, _mm512_or_si512(_mm512_cvtepu16_epi32(even_upper),
                                                      _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd_upper), 16)));
            _mm512_storeu_si512(tile + TILE, _mm512_or_si512(_mm512_cvtepu16_epi32(even_lower),
                                                             _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd_lower), 16)));
        }
    }
    finish_stores();
    long tile = n.outer_steps * 2 * TILE;
    for (long r = 0; r < n.rows; r += 2 * SIDE)
        for (long c = 0; c < n.columns; c += 2 * SIDE)
            multiply_halves(r + SIDE < n.rows, c + SIDE < n.columns, (char *)(layer->left_tiles + r / SIDE * tile),
                            BYTES, 2 * tile, 2 * 2 * TILE, 2 * TILE, pairs + c / SIDE * tile, tile, n.outer_steps,
                            outer + r * n.columns + c, n.columns);
    return outer;
}
#endif
