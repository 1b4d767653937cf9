/* The product of codes on AMX tiles, 16 rows of 64 bytes. */
#pragma once
#include "layer.h"
#include "product.h"

#if defined(__AMX_INT8__)
#include <sys/syscall.h>
#include <unistd.h>

enum { SIDE = 16, BYTES = 64, TOKENS_WITH_AMX = 16 };

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
    for (long first = 0; first < layer->depth; first += DEPTH_OF_STRIP) {
        long depth = layer->depth - first < DEPTH_OF_STRIP ? layer->depth - first : DEPTH_OF_STRIP;
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

#endif
