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
INLINE floats quotient(floats x, floats scale, floats inverse, int exact) {
    if (!exact) return over(x, scale);
    floats first = times(x, inverse);
    return plus_product(first, less_product(x, first, scale), inverse);
}

/* y [rows, columns] -> codes [rows * columns]; up to LANES bytes beyond the end are written, too.

   A token with a NaN or an infinity gets scale NaN and codes 0, hence outputs that are all NaN. */
static void quantize_token(const Layer *layer, const float *y, long rows, long columns, long stride, int8_t *codes,
                           float *scale_out, int32_t *sum_out) {
    float lowest, highest, scale, lower, upper;
    int finite = range_of(y, rows, columns, stride, &lowest, &highest);
    if (layer->asymmetric) {
        float levels = (float)((1 << layer->activation_bits) - 1);
        float low = fminf(lowest, 0) * layer->low_clip, high = fmaxf(highest, 0) * layer->high_clip;
        float span = high - low;
        scale = (span > 0 ? span : 1) / levels;
        lower = -rintf(-low / scale);
        upper = levels + lower;
    } else {
        float peak = highest > -lowest ? highest : lowest;
        scale = (layer->is_signed ? -peak : fabsf(peak)) * layer->low_clip;
        scale = scale == 0 ? 1 : scale;
        upper = (float)((1 << (layer->activation_bits - 1)) - 1);
        lower = -upper - 1;
    }
    if (!finite || !isfinite(scale)) {
        memset(codes, 0, rows * columns);
        *scale_out = NAN;
        *sum_out = 0;
        return;
    }
    int is_moderate = fabsf(scale) > 1e-25f && fabsf(scale) < 1e25f;
    floats scales = fill(scale), inverse = fill(1 / scale), lowers = fill(lower), uppers = fill(upper);
    ints sum = no_ints();
    for (long r = 0; r < rows; r++, y += stride, codes += columns)
        for (long c = 0; c < columns; c += LANES) {
            floats x = columns - c >= LANES ? load(y + c) : load_some(y + c, columns - c);
            x = quotient(x, scales, inverse, is_moderate);
            ints code = rounded(greater(lesser(x, uppers), lowers));
            sum = add_ints(sum, code);
            store_as_bytes(codes + c, code); /* the next row overwrites what stands beyond this one */
        }
    *scale_out = scale;
    *sum_out = sum_of_ints(sum);
}
