/* x (L (x) R) of a few tokens at a time, in float32: two small matrix products that stay in the cache. */
#pragma once
#include "layer.h"
#include "vector.h"

/* c [rows, vectors] = a [rows, depth] b [depth, vectors], the products in registers. */
INLINE void multiply_tile(int rows, int vectors, const float *a, long a_stride, const float *b, long b_stride, float *c,
                          long c_stride, long depth) {
    floats sums[ROWS_OF_TILE][VECTORS_OF_TILE];
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int v = 0; v < vectors; v++) sums[r][v] = fill(0);
    for (long k = 0; k < depth; k++) {
        floats row[VECTORS_OF_TILE];
        UNROLL for (int v = 0; v < vectors; v++) row[v] = load(b + k * b_stride + v * LANES);
        UNROLL for (int r = 0; r < rows; r++) {
            floats x = fill(a[r * a_stride + k]);
            UNROLL for (int v = 0; v < vectors; v++) sums[r][v] = plus_product(sums[r][v], x, row[v]);
        }
    }
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int v = 0; v < vectors; v++) store(c + r * c_stride + v * LANES, sums[r][v]);
}

#define BY_ROWS(v)                                                                                     \
    switch (rows) {                                                                                    \
        case 1: multiply_tile(1, v, a, a_stride, b, b_stride, c, c_stride, depth); return;             \
        case 2: multiply_tile(2, v, a, a_stride, b, b_stride, c, c_stride, depth); return;             \
        case 3: multiply_tile(3, v, a, a_stride, b, b_stride, c, c_stride, depth); return;             \
        case 4: multiply_tile(4, v, a, a_stride, b, b_stride, c, c_stride, depth); return;             \
        case 5: multiply_tile(5, v, a, a_stride, b, b_stride, c, c_stride, depth); return;             \
        default: multiply_tile(6, v, a, a_stride, b, b_stride, c, c_stride, depth); return;            \
    }

static void multiply_some(long rows, long vectors, const float *a, long a_stride, const float *b, long b_stride,
                          float *c, long c_stride, long depth) {
    switch (vectors) {
        case 1: BY_ROWS(1)
        case 2: BY_ROWS(2)
#if defined(__AVX512F__)
        case 3: BY_ROWS(3)
        default: BY_ROWS(4)
#endif
    }
}

/* c [rows, columns] = a [rows, depth] b [depth, columns]; columns is a multiple of LANES. */
static void multiply(long rows, long columns, long depth, const float *a, long a_stride, const float *b, long b_stride,
                     float *c, long c_stride) {
    for (long first = 0; first < columns; first += VECTORS_OF_TILE * LANES) {
        long vectors = (columns - first) / LANES;
        if (vectors > VECTORS_OF_TILE) vectors = VECTORS_OF_TILE;
        for (long r = 0; r < rows; r += ROWS_OF_TILE)
            multiply_some(rows - r < ROWS_OF_TILE ? rows - r : ROWS_OF_TILE, vectors, a + r * a_stride, a_stride,
                          b + first, b_stride, c + r * c_stride + first, c_stride, depth);
    }
}

/* Tokens that are transformed together: enough rows for the tiles of `multiply`. */
INLINE long tokens_together(const Layer *layer) { return layer->right_stride || layer->d1 < 32 ? 16 : 1; }

INLINE long padded_columns(const Layer *layer) { return round_up(layer->d2, COLUMN_MULTIPLE); }

/* Floats of workspace for `transform_tokens`. */
INLINE long transform_workspace(const Layer *layer) {
    return 2 * tokens_together(layer) * layer->d1 * padded_columns(layer);
}

/* x [tokens, d1 d2] -> the place of the result, [tokens, d1, padded_columns], within the workspace. */
static const float *transform_tokens(const Layer *layer, const float *x, long tokens, float *workspace) {
    long d1 = layer->d1, d2 = layer->d2, columns = padded_columns(layer), size = d1 * columns;
    float *inner = workspace, *outer = workspace + tokens_together(layer) * size;
    if (!layer->right) {
        for (long r = 0; r < tokens * d1; r++) {
            memcpy(inner + r * columns, x + r * d2, d2 * sizeof(float));
            memset(inner + r * columns + d2, 0, (columns - d2) * sizeof(float));
        }
    } else if (layer->right_stride) {
        for (long run = 0; run < d1; run++)
            multiply(tokens, columns, d2, x + run * d2, d1 * d2, layer->right + run * layer->right_stride, columns,
                     inner + run * columns, size);
    } else {
        multiply(tokens * d1, columns, d2, x, d2, layer->right, columns, inner, columns);
    }
    if (!layer->left) return inner;
    for (long t = 0; t < tokens; t++)
        multiply(d1, columns, d1, layer->left, d1, inner + t * size, columns, outer + t * size, columns);
    return outer;
}
