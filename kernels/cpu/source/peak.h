/* Limits of the machine: multiplication with nothing to load, and reading with nothing to compute. */
#pragma once
#include "amx.h"
#include "vector.h"

enum { PEAK_FLOATS, PEAK_BYTES, PEAK_TILES };

/* The number of multiplications done in `rounds` rounds of one kind; 0 where the variant does not have it. */
static double multiply_at_peak(long kind, long rounds) {
    enum { SUMS = 12 };
    if (kind == PEAK_FLOATS) {
        floats sums[SUMS], x = fill(1);
        UNROLL for (int s = 0; s < SUMS; s++) sums[s] = fill((float)s);
        for (long r = 0; r < rounds; r++) {
            UNROLL for (int s = 0; s < SUMS; s++) {
                sums[s] = plus_product(sums[s], x, x);
                __asm__("" : "+x"(sums[s])); /* not to be summed up beforehand */
            }
        }
        UNROLL for (int s = 1; s < SUMS; s++) sums[0] = add(sums[0], sums[s]);
        __asm__ volatile("" : : "x"(sums[0]));
        return (double)rounds * SUMS * LANES;
    }
    if (kind == PEAK_BYTES) {
        ints sums[SUMS], x = fill_ints(0x01010101);
        UNROLL for (int s = 0; s < SUMS; s++) sums[s] = fill_ints(s);
        for (long r = 0; r < rounds; r++) {
            UNROLL for (int s = 0; s < SUMS; s++) {
                dot_bytes(&sums[s], x, x, 4);
                __asm__("" : "+x"(sums[s]));
            }
        }
        UNROLL for (int s = 1; s < SUMS; s++) sums[0] = add_ints(sums[0], sums[s]);
        __asm__ volatile("" : : "x"(sums[0]));
        return (double)rounds * SUMS * LANES * 4;
    }
#if defined(__AMX_INT8__)
    configure_tiles();
    for (long r = 0; r < rounds; r++) {
        _tile_dpbsud(0, 4, 6);
        _tile_dpbsud(1, 4, 7);
        _tile_dpbsud(2, 5, 6);
        _tile_dpbsud(3, 5, 7);
    }
    _tile_release();
    return (double)rounds * 4 * SIDE * SIDE * BYTES;
#else
    return 0;
#endif
}

/* Reads a whole number of cache lines. */
static void read_all(const uint8_t *memory, long bytes) {
    ints found[2] = {no_ints(), no_ints()};
    for (long b = 0; b < bytes; b += 64) {
        _mm_prefetch((const char *)memory + b + 2048, _MM_HINT_T0);
        found[0] = add_ints(found[0], load_ints(memory + b));
        if (LANES == 8) found[1] = add_ints(found[1], load_ints(memory + b + 32));
    }
    __asm__ volatile("" : : "x"(found[0]), "x"(found[1]));
}
