/* Codes of one token with a scale of its own: altq's uniform quantizer, to the bit. */
#pragma once
#include "layer.h"
#include "vector.h"

/* The lowest and the highest of y [rows, columns] and whether all of it is finite. Lanes beyond a row count as 0, which
   changes no scale. */
INLINE int range_of(const float *y, long rows, long columns, long stride, float *lowest, float *highest) {
    floats low = fill(INFINITY), high = fill(-INFINITY), check = fill(0);
    for (long r = 0; r < rows; r++, y += stride)
        for (long c = 0; c < columns; c += LANES) {
            floats x = columns - c >= LANES ? load(y + c) : load_some(y + c, columns - c);
            low = lesser(low, x);
            high = greater(high, x);
            check = plus_product(check, x, fill(0)); /* NaN and infinity times 0 are NaN */
        }
    *lowest = least(low);
    *highest = greatest(high);
    return sum_of(check) == 0;
}

/* x / scale to the bit, by its inverse and one correction (Markstein), where no intermediate over- or underflows. */
INLINE floats quotient(floats x, floats scale, floats inverse, int is_moderate) {
    if (!is_moderate) return over(x, scale);
    floats first = times(x, inverse);
    return plus_product(first, less_product(x, first, scale), inverse);
}

typedef struct {
    float scale, lower, upper; /* codes, less their zero point, lie in [lower, upper] */
    int is_moderate;           /* whether `quotient` may take the inverse */
} Range;

INLINE Range range_with(float scale, float lower, float upper) {
    return (Range){scale, lower, upper, fabsf(scale) > 1e-25f && fabsf(scale) < 1e25f};
}

/* kernels/reference/scale.py; clip is already over the largest code. */
INLINE Range symmetric_range(float lowest, float highest, long bits, int is_signed, float clip) {
    float peak = highest > -lowest ? highest : lowest;
    float scale = (is_signed ? -peak : fabsf(peak)) * clip, upper = (float)((1 << (bits - 1)) - 1);
    return range_with(scale == 0 ? 1 : scale, -upper - 1, upper);
}

INLINE Range asymmetric_range(float lowest, float highest, long bits, float low_clip, float high_clip) {
    float levels = (float)((1 << bits) - 1);
    float low = fminf(lowest, 0) * low_clip, span = fmaxf(highest, 0) * high_clip - low;
    float scale = (span > 0 ? span : 1) / levels, lower = -rintf(-low / scale);
    return range_with(scale, lower, levels + lower);
}

/* The code of x as a float that is not rounded yet. */
INLINE floats clamped_quotient(floats x, const Range *range) {
    x = quotient(x, fill(range->scale), fill(1 / range->scale), range->is_moderate);
    return greater(lesser(x, fill(range->upper)), fill(range->lower));
}

/* y [rows, columns] -> codes [rows * columns]; up to LANES bytes beyond the end are written, too.

   A token with a NaN or an infinity gets scale NaN and codes 0, hence outputs that are all NaN. */
static void quantize_token(const Layer *layer, const float *y, long rows, long columns, long stride, int8_t *codes,
                           float *scale_out, int32_t *sum_out) {
    float lowest, highest;
    int finite = range_of(y, rows, columns, stride, &lowest, &highest);
    Range range = layer->asymmetric ? asymmetric_range(lowest, highest, layer->activation_bits, layer->low_clip,
                                                       layer->high_clip)
                                    : symmetric_range(lowest, highest, layer->activation_bits, layer->is_signed,
                                                      layer->low_clip);
    if (!finite || !isfinite(range.scale)) {
        memset(codes, 0, rows * columns);
        *scale_out = NAN;
        *sum_out = 0;
        return;
    }
    ints sum = no_ints();
    for (long r = 0; r < rows; r++, y += stride, codes += columns)
        for (long c = 0; c < columns; c += LANES) {
            floats x = columns - c >= LANES ? load(y + c) : load_some(y + c, columns - c);
            ints code = rounded(clamped_quotient(x, &range));
            sum = add_ints(sum, code);
            store_as_bytes(codes + c, code); /* the next row overwrites what stands beyond this one */
        }
    *scale_out = range.scale;
    *sum_out = sum_of_ints(sum);
}

/* y [columns] -> the values that its codes with a zero point stand for, in place; NaN where y is not finite. */
static void requantize_row(float *y, long columns, long bits, float low_clip, float high_clip) {
    float lowest, highest;
    int finite = range_of(y, 1, columns, columns, &lowest, &highest);
    Range range = asymmetric_range(lowest, highest, bits, low_clip, high_clip);
    if (!finite || !isfinite(range.scale)) range.scale = NAN;
    for (long c = 0; c < columns; c += LANES) {
        long left = columns - c;
        floats x = left >= LANES ? load(y + c) : load_some(y + c, left);
        x = times(as_floats(rounded(clamped_quotient(x, &range))), fill(range.scale));
        if (left >= LANES) store(y + c, x);
        else store_some(y + c, x, left);
    }
}
