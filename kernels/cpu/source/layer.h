/* The description of a linear layer, filled in by kernels/cpu/linear.py. */
#pragma once
#include <stdint.h>

enum { PANEL = 32, GROUP = 4, COLUMN_MULTIPLE = 16 };

/* y = s_x s_w (codes of x T) . (codes of W) + bias.

   weights: panels of 32 rows; in a panel, 128 bytes for each group of 4 columns (8 bits), or for each pair of such groups
   (4 bits, the first group in the low nibbles): 4 bytes for each row. Codes are unsigned: code + 2^(bits - 1).
   d_in counts columns, depth their padding to a multiple of 64. */
typedef struct {
    int64_t d_in, d_out, depth;
    int64_t weight_bits;        /* 4 or 8 */
    const uint8_t *weights;
    const float *weight_scale;  /* [d_out, padded to whole panels] */
    const float *bias;          /* [d_out, padded to whole panels], or null */
    /* T = L (x) R: L^T [d1, d1] row by row, or null; R [d2, d2 padded with zeros to a multiple of 16], or null;
       right_stride floats from the matrix of one of the d1 runs to the next, 0 where they share it. */
    int64_t d1, d2;
    const float *left, *right;
    int64_t right_stride;
    /* Symmetric: scale = peak * low_clip, already over the largest code. Asymmetric: clip of minimum and maximum. */
    int64_t activation_bits, is_signed, asymmetric;
    float low_clip, high_clip;
} Layer;
