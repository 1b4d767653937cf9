/* Entry points of the library, called through ctypes (library.py). They return 0, or -1 where there is no memory.

   Every output depends on one token and one row of the weights alone, so the number of threads changes no bit. */
#include "amx.h"
#include "layer.h"
#include "peak.h"
#include "product.h"
#include "quantize.h"
#include "transform.h"
#include <omp.h>

enum { BLOCK = 256, CACHE_LINE = 64 };

/* Memory that a thread keeps from call to call. */
typedef struct {
    void *memory;
    long bytes;
} Room;

static _Thread_local Room codes_room, work_room;

static void *reserve(Room *room, long bytes) {
    if (bytes > room->bytes) {
        free(room->memory);
        room->bytes = round_up(bytes, 4096);
        room->memory = aligned_alloc(CACHE_LINE, room->bytes);
        if (!room->memory) room->bytes = 0;
    }
    return room->memory;
}

INLINE long max_of(long a, long b) { return a > b ? a : b; }
INLINE long min_of(long a, long b) { return a < b ? a : b; }

/* Transform and quantize x [tokens, d_in] of one share of the work. */
static void read_tokens(const Layer *layer, const float *x, long tokens, int8_t *codes, long stride, float *scale,
                        int32_t *sum, void *work) {
    long columns = layer->left || layer->right ? padded_columns(layer) : layer->d_in;
    long rows = layer->left || layer->right ? layer->d1 : 1, size = rows * columns;
    long valid = rows == 1 ? layer->d_in : layer->d2;
    for (long first = 0; first < tokens;) {
        long together = 1;
        const float *y = x + first * layer->d_in;
        if (layer->left || layer->right) {
            together = min_of(tokens_together(layer), tokens - first);
            y = transform_tokens(layer, y, together, work);
        }
        for (long t = 0; t < together; t++, first++, y += size) {
            int8_t *row = codes + first * stride;
            quantize_token(layer, y, rows, valid, columns, row, scale + first, sum + first);
            memset(row + layer->d_in, 0, stride - layer->d_in);
        }
    }
}

/* sums [tokens, 32] of unsigned weight codes -> out [tokens, d_out], the columns of this panel. */
static void write_outputs(const Layer *layer, long panel, const int32_t *sums, long tokens, const float *scale,
                          const int32_t *sum, float *out) {
    long first = panel * PANEL, columns = min_of(PANEL, layer->d_out - first);
    int32_t half = 1 << (layer->weight_bits - 1);
    for (long t = 0; t < tokens; t++)
        for (long c = 0; c < columns; c += LANES) {
            ints product = add_ints(load_ints(sums + t * PANEL + c), fill_ints(-half * sum[t]));
            floats y = times(as_floats(product), fill(scale[t]));
            y = times(y, load(layer->weight_scale + first + c));
            if (layer->bias) y = add(y, load(layer->bias + first + c));
            float *place = out + t * layer->d_out + first + c;
            if (columns - c >= LANES) store(place, y);
            else store_some(place, y, columns - c);
        }
}

static long work_bytes(const Layer *layer) {
    long transform = transform_workspace(layer) * (long)sizeof(float);
    long product = BLOCK * PANEL * (long)sizeof(int32_t) + PANEL * DEPTH_OF_STRIP;
    return max_of(transform, product);
}

/* Row stride of codes: away from multiples of 4096 bytes, so that rows do not share cache sets. */
static long code_stride(const Layer *layer) { return layer->depth + CACHE_LINE; }

/* One block of at most 256 tokens; out may be null: codes, scale and sum alone are made. */
static int run_block(const Layer *layer, const float *x, long tokens, float *out, int8_t *codes, long stride,
                     float *scale, int32_t *sum, int threads) {
    int failed = 0;
    long panels = (layer->d_out + PANEL - 1) / PANEL, share = max_of(1, min_of(16, tokens / threads));
#pragma omp parallel num_threads(threads) if (threads > 1) reduction(| : failed)
    {
        char *work = reserve(&work_room, work_bytes(layer));
        failed = !work;
#if defined(__AMX_INT8__)
        configure_tiles();
#endif
#pragma omp for schedule(static)
        for (long first = 0; first < tokens; first += share)
            if (work)
                read_tokens(layer, x + first * layer->d_in, min_of(share, tokens - first), codes + first * stride,
                            stride, scale + first, sum + first, work);
        if (out) {
            int32_t *sums = (int32_t *)work;
            uint8_t *strip = (uint8_t *)(sums + BLOCK * PANEL);
#pragma omp for schedule(static)
            for (long panel = 0; panel < panels; panel++) {
                if (!work) continue;
#if defined(__AMX_INT8__)
                if (tokens >= TOKENS_WITH_AMX) multiply_panel_amx(layer, panel, codes, stride, tokens, sums, strip);
                else
#endif
                    multiply_panel(layer, panel, codes, stride, tokens, sums, strip);
                write_outputs(layer, panel, sums, tokens, scale, sum, out);
            }
        }
#if defined(__AMX_INT8__)
        _tile_release();
#endif
    }
    return failed ? -1 : 0;
}

/* y [tokens, d_out] of x [tokens, d_in], both contiguous. */
int altq_linear(const Layer *layer, const float *x, long tokens, float *out, int threads) {
    long stride = code_stride(layer);
    int8_t *codes = reserve(&codes_room, BLOCK * (stride + (long)(sizeof(float) + sizeof(int32_t))));
    if (!codes) return -1;
    float *scale = (float *)(codes + BLOCK * stride);
    int32_t *sum = (int32_t *)(scale + BLOCK);
    for (long first = 0; first < tokens; first += BLOCK)
        if (run_block(layer, x + first * layer->d_in, min_of(BLOCK, tokens - first), out + first * layer->d_out, codes,
                      stride, scale, sum, threads))
            return -1;
    return 0;
}

/* codes [tokens, stride], scale and sum [tokens] of x [tokens, d_in]; stride is at least depth + 64. */
int altq_quantize(const Layer *layer, const float *x, long tokens, int8_t *codes, long stride, float *scale,
                  int32_t *sum, int threads) {
    for (long first = 0; first < tokens; first += BLOCK)
        if (run_block(layer, x + first * layer->d_in, min_of(BLOCK, tokens - first), 0, codes + first * stride, stride,
                      scale + first, sum + first, threads))
            return -1;
    return 0;
}

/* The values that codes of `bits` bits with a zero point stand for, of x [batch, heads, tokens, d], each row by itself.

   factors: [heads, d, d padded to a multiple of 16], x becomes x A; or null. clips: [heads, 2], of minimum and maximum.
   bits 0: no quantizer. */
int altq_cache(const float *x, long batch, long heads, long tokens, long d, const float *factors, const float *clips,
               long bits, float *out, int threads) {
    int failed = 0;
    long columns = round_up(d, COLUMN_MULTIPLE), tiles = (tokens + ROWS_OF_TILE - 1) / ROWS_OF_TILE;
#pragma omp parallel for num_threads(threads) if (threads > 1 && batch * heads * tiles > 8) reduction(| : failed)
    for (long item = 0; item < batch * heads * tiles; item++) {
        long head = item / tiles % heads, first = item % tiles * ROWS_OF_TILE;
        long rows = min_of(ROWS_OF_TILE, tokens - first), place = (item / tiles * tokens + first) * d;
        float *inner = reserve(&work_room, ROWS_OF_TILE * columns * (long)sizeof(float));
        if (!inner) {
            failed = 1;
            continue;
        }
        if (factors) multiply(rows, columns, d, x + place, d, factors + head * d * columns, columns, inner, columns);
        for (long r = 0; r < rows; r++) {
            float *y = out + place + r * d;
            memcpy(y, factors ? inner + r * columns : x + place + r * d, d * sizeof(float));
            if (bits) requantize_row(y, d, bits, clips[2 * head], clips[2 * head + 1]);
        }
    }
    return failed ? -1 : 0;
}

/* out [tokens, d_out] = x [tokens, d_in] W^T for bfloat16 weights [d_out, d_in], in float32; d_in a multiple of 16. */
int altq_half_linear(const uint16_t *weights, const float *x, long tokens, long d_in, long d_out, float *out,
                     int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (long n = 0; n < d_out; n++)
        for (long t = 0; t < tokens; t++) {
            floats even = fill(0), odd = fill(0);
            const uint16_t *row = weights + n * d_in;
            _mm_prefetch((const char *)(row + 4 * d_in), _MM_HINT_T0);
            long k = 0;
            for (; k + 2 * LANES <= d_in; k += 2 * LANES) {
                _mm_prefetch((const char *)(row + k + 4 * d_in), _MM_HINT_T0);
                even = plus_product(even, load(x + t * d_in + k), load_halves(row + k));
                odd = plus_product(odd, load(x + t * d_in + k + LANES), load_halves(row + k + LANES));
            }
            for (; k < d_in; k += LANES) even = plus_product(even, load(x + t * d_in + k), load_halves(row + k));
            out[t * d_out + n] = sum_of(add(even, odd));
        }
    return 0;
}

/* Ask the system for what the variant needs beyond its instructions; 0 where it has it. */
int altq_prepare(void) {
#if defined(__AMX_INT8__)
    return request_tiles();
#else
    return 0;
#endif
}

double altq_peak(long kind, long rounds) { return multiply_at_peak(kind, rounds); }

void altq_read(const uint8_t *memory, long bytes, int threads) {
    long share = round_up(bytes / threads, CACHE_LINE);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int t = 0; t < threads; t++) read_all(memory + t * share, min_of(share, bytes - t * share));
}
