/* Products of codes: a panel of 32 rows of the weights with some tokens, summed exactly in 32 bits. */
#pragma once
#include "layer.h"
#include "vector.h"

enum { VECTORS_OF_PANEL = PANEL / LANES, BYTES_OF_GROUP = PANEL * GROUP, BYTES_OF_VECTOR = 4 * LANES };

/* sums [tokens, 32] (+)= strip [groups, 32, 4] of unsigned weights times codes [tokens, groups, 4]. */
INLINE void multiply_strip(int tokens, int weight_bits, const uint8_t *strip, long groups, const int8_t *codes,
                           long stride, int32_t *sums, int is_first) {
    ints acc[TOKENS_OF_TILE][VECTORS_OF_PANEL];
    UNROLL for (int t = 0; t < tokens; t++)
        UNROLL for (int v = 0; v < VECTORS_OF_PANEL; v++)
            acc[t][v] = is_first ? no_ints() : load_ints(sums + t * PANEL + v * LANES);
    for (long g = 0; g < groups; g++) {
        ints weights[VECTORS_OF_PANEL];
        UNROLL for (int v = 0; v < VECTORS_OF_PANEL; v++)
            weights[v] = load_ints(strip + g * BYTES_OF_GROUP + v * BYTES_OF_VECTOR);
        UNROLL for (int t = 0; t < tokens; t++) {
            ints x = fill_bytes4(codes + t * stride + g * GROUP);
            UNROLL for (int v = 0; v < VECTORS_OF_PANEL; v++) dot_bytes(&acc[t][v], weights[v], x, weight_bits);
        }
    }
    UNROLL for (int t = 0; t < tokens; t++)
        UNROLL for (int v = 0; v < VECTORS_OF_PANEL; v++) store_ints(sums + t * PANEL + v * LANES, acc[t][v]);
}

/* The same with a panel of 4-bit weights, [pairs, 32, 4] bytes, unpacked in registers. */
INLINE void multiply_packed(int tokens, const uint8_t *panel, long pairs, const int8_t *codes, long stride,
                            int32_t *sums) {
    /* A single token has few sums to keep: two for each, so that additions do not wait for one another. */
    const int ways = tokens == 1 ? 2 : 1;
    ints acc[2 * TOKENS_DIRECT][VECTORS_OF_PANEL];
    UNROLL for (int t = 0; t < ways * tokens; t++)
        UNROLL for (int v = 0; v < VECTORS_OF_PANEL; v++) acc[t][v] = no_ints();
    for (long p = 0; p < pairs; p++) {
        _mm_prefetch((const char *)panel + p * BYTES_OF_GROUP + 2048, _MM_HINT_T0);
        _mm_prefetch((const char *)panel + p * BYTES_OF_GROUP + 2048 + 64, _MM_HINT_T0);
        UNROLL for (int v = 0; v < VECTORS_OF_PANEL; v++) {
            ints both = load_ints(panel + p * BYTES_OF_GROUP + v * BYTES_OF_VECTOR);
            ints low = low_nibbles(both), high = high_nibbles(both);
            UNROLL for (int t = 0; t < tokens; t++) {
                const int8_t *x = codes + t * stride + p * 2 * GROUP;
                dot_bytes(&acc[ways * t][v], low, fill_bytes4(x), 4);
                dot_bytes(&acc[ways * t + ways - 1][v], high, fill_bytes4(x + GROUP), 4);
            }
        }
    }
    UNROLL for (int t = 0; t < tokens; t++)
        UNROLL for (int v = 0; v < VECTORS_OF_PANEL; v++) {
            ints sum = ways == 1 ? acc[t][v] : add_ints(acc[2 * t][v], acc[2 * t + 1][v]);
            store_ints(sums + t * PANEL + v * LANES, sum);
        }
}

/* Nibbles of a panel to bytes: [pairs, 32, 4] -> [2 pairs, 32, 4]. */
INLINE void unpack_strip(const uint8_t *packed, long pairs, uint8_t *strip) {
    for (long p = 0; p < pairs; p++, packed += BYTES_OF_GROUP, strip += 2 * BYTES_OF_GROUP)
        for (int v = 0; v < BYTES_OF_GROUP; v += BYTES_OF_VECTOR) {
            ints both = load_ints(packed + v);
            store_ints(strip + v, low_nibbles(both));
            store_ints(strip + BYTES_OF_GROUP + v, high_nibbles(both));
        }
}

enum { DEPTH_OF_STRIP = 512 };

/* Columns [first, first + depth) of a panel as bytes, in place or unpacked into `room`. */
INLINE const uint8_t *strip_of(const Layer *layer, const uint8_t *panel, long first, long depth, uint8_t *room) {
    if (layer->weight_bits == 8) return panel + first * PANEL;
    unpack_strip(panel + first * PANEL / 2, depth / (2 * GROUP), room);
    return room;
}

INLINE const uint8_t *panel_of(const Layer *layer, long panel) {
    return layer->weights + panel * PANEL * layer->depth * layer->weight_bits / 8;
}

#define STRIP(n, bits) \
    case n: multiply_strip(n, bits, strip, groups, codes, stride, sums, is_first); return;
#define DIRECT(n) \
    case n: multiply_packed(n, panel, layer->depth / (2 * GROUP), codes, stride, sums); return;
#if defined(__AVX512F__)
#define ALL_STRIPS(b) STRIP(1, b) STRIP(2, b) STRIP(3, b) STRIP(4, b) STRIP(5, b) STRIP(6, b) STRIP(7, b) STRIP(8, b) \
    STRIP(9, b) STRIP(10, b) STRIP(11, b) STRIP(12, b)
#define ALL_DIRECT DIRECT(1) DIRECT(2) DIRECT(3) DIRECT(4) DIRECT(5) DIRECT(6) DIRECT(7) DIRECT(8)
#else
#define ALL_STRIPS(b) STRIP(1, b) STRIP(2, b)
#define ALL_DIRECT DIRECT(1) DIRECT(2)
#endif

static void multiply_strip_of(long tokens, long weight_bits, const uint8_t *strip, long groups, const int8_t *codes,
                              long stride, int32_t *sums, int is_first) {
    if (weight_bits == 8) switch (tokens) { ALL_STRIPS(8) }
    else switch (tokens) { ALL_STRIPS(4) }
}

static void multiply_direct(const Layer *layer, long tokens, const uint8_t *panel, const int8_t *codes, long stride,
                            int32_t *sums) {
    switch (tokens) { ALL_DIRECT }
}

/* sums [tokens, 32] = a panel of the weights, as unsigned codes, times codes [tokens, depth]. */
static void multiply_panel(const Layer *layer, long index, const int8_t *codes, long stride, long tokens,
                           int32_t *sums, uint8_t *room) {
    const uint8_t *panel = panel_of(layer, index);
    if (layer->weight_bits == 4 && tokens <= TOKENS_DIRECT) {
        multiply_direct(layer, tokens, panel, codes, stride, sums);
        return;
    }
    for (long first = 0; first < layer->depth; first += DEPTH_OF_STRIP) {
        long depth = layer->depth - first < DEPTH_OF_STRIP ? layer->depth - first : DEPTH_OF_STRIP;
        const uint8_t *strip = strip_of(layer, panel, first, depth, room);
        for (long t = 0; t < tokens; t += TOKENS_OF_TILE)
            multiply_strip_of(tokens - t < TOKENS_OF_TILE ? tokens - t : TOKENS_OF_TILE, layer->weight_bits, strip,
                              depth / GROUP, codes + t * stride + first, stride, sums + t * PANEL, first == 0);
    }
}
