/* SPDX-License-Identifier: Apache-2.0 */
/* Frozen BF16 weights in a layout of their own: 64 rows side by side, 16 columns at a
 * time, pairs of columns in one 32-bit word (oneDNN's AB8b64a2b). It is what the bf16
 * dot product instructions load, so that the product neither transposes nor copies
 * the weight; the gradient's product takes the same bytes, and decoding reads them in
 * order. */
#include "tensor/gemm.h"
#include "tensor/pieces.h"

enum { ROWS = 64, COLS = 16, BLOCK = ROWS * COLS, FEW = 4, HALF = 32, TILE_BYTES = 4 << 20 };

static bool shape_fits(int64_t n, int64_t k)
{
    return n > 0 && k > 0 && n % ROWS == 0 && k % COLS == 0;
}

/* The gradient's product into y of type yt, added to it if `add` can be trusted. */
static sy_status backward(syi_engine *e, int64_t m, int64_t n, int64_t k, const uint16_t *packed, const void *x, bool add, sy_dtype yt, void *y, bool *done)
{
    return syi_product_panels(e, m, n, k, true, packed, yt, y, add, SY_BF16, syi_unconst(x), done);
}

/* oneDNN 2.6 accepts "add to the result" for this product but forgets it for f32
 * results. Whether it works for bf16 is found out by one small product. */
static bool backward_adds(syi_engine *e)
{
    if (e->panels_add == 0) {
        uint16_t w[BLOCK] = {0}, x[ROWS] = {0}, y[COLS];
        bool done = false;
        for (int i = 0; i < COLS; i++) y[i] = 0x4000; /* 2 */
        for (int i = 0; i < BLOCK; i++) w[i] = 0x3f80; /* 1 */
        x[0] = 0x3f80;
        sy_status s = backward(e, 1, ROWS, COLS, w, x, true, SY_BF16, y, &done);
        e->panels_add = s == SY_OK && done && y[0] == 0x4040 && y[COLS - 1] == 0x4040 ? 1 : -1; /* 3 */
    }
    return e->panels_add > 0;
}

int64_t syi_panels_bytes(syi_engine *e, int64_t n, int64_t k)
{
    bool forth = false, back = false;
    if (!shape_fits(n, k)) return 0;
    /* An error here shows again where the product is made. */
    if (syi_product_panels(e, ROWS, n, k, false, NULL, SY_BF16, NULL, 0, SY_BF16, NULL, &forth) != SY_OK) return 0;
    if (syi_product_panels(e, ROWS, n, k, true, NULL, SY_BF16, NULL, 0, SY_BF16, NULL, &back) != SY_OK) return 0;
    return forth && back ? n * k * (int64_t)sizeof(uint16_t) : 0;
}

typedef uint32_t four __attribute__((vector_size(16)));

static inline four load4(const uint16_t *p)
{
    four v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* 4 x 4 words turned over: rows of w become columns of the block. */
static inline void turn(const uint16_t *w, int64_t k, uint32_t *to)
{
    const four a = load4(w), b = load4(w + k), c = load4(w + 2 * k), d = load4(w + 3 * k);
    const four ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab2 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    const four cd = __builtin_shufflevector(c, d, 0, 4, 1, 5), cd2 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    const four out[4] = {__builtin_shufflevector(ab, cd, 0, 1, 4, 5), __builtin_shufflevector(ab, cd, 2, 3, 6, 7),
                         __builtin_shufflevector(ab2, cd2, 0, 1, 4, 5), __builtin_shufflevector(ab2, cd2, 2, 3, 6, 7)};
    for (int i = 0; i < 4; i++) memcpy(to + i * ROWS, &out[i], sizeof out[i]);
}

sy_status syi_panels_pack(syi_engine *e, int64_t n, int64_t k, const uint16_t *w, uint16_t *packed)
{
    if (!shape_fits(n, k)) return syi_fail(e->ctx, SY_E_BUG, "a weight %lld x %lld cannot be packed", (long long)n, (long long)k);
    /* Words of two numbers, little-endian: low half first. */
    SYI_CUT(e, n / ROWS, 1, first, count,
        for (int64_t c = 0; c < k; c += COLS) {
            const uint16_t *from = w + first * ROWS * k + c;
            uint32_t *to = (uint32_t *)(void *)(packed + (first * (k / COLS) + c / COLS) * BLOCK);
            for (int64_t i = 0; i < COLS / 2; i += 4)
                for (int64_t r = 0; r < ROWS; r += 4) turn(from + r * k + 2 * i, k, to + i * ROWS + r);
        }
        (void)count;);
    return SY_OK;
}

static void row_of(int64_t k, const uint16_t *packed, int64_t row, uint16_t *w)
{
    const uint16_t *from = packed + row / ROWS * (k / COLS) * BLOCK + row % ROWS * 2;
    for (int64_t c = 0; c < k; c += 2) {
        const uint16_t *pair = from + c / COLS * BLOCK + c % COLS * ROWS;
        w[c] = pair[0];
        w[c + 1] = pair[1];
    }
}

void syi_panels_row(int64_t k, const uint16_t *packed, int64_t row, float *dst)
{
    const uint16_t *from = packed + row / ROWS * (k / COLS) * BLOCK + row % ROWS * 2;
    for (int64_t c = 0; c < k; c++) dst[c] = syi_from_bf16(from[c / COLS * BLOCK + c % COLS / 2 * 2 * ROWS + c % 2]);
}

sy_status syi_panels_unpack(syi_engine *e, int64_t n, int64_t k, const uint16_t *packed, int64_t first, int64_t count, sy_dtype to, void *w)
{
    const int t = syi_type(to);
    if (t < 0) return syi_no_type(e, "unpacking", to);
    if (!shape_fits(n, k) || first < 0 || count < 0 || first + count > n)
        return syi_fail(e->ctx, SY_E_BUG, "rows %lld..%lld of a packed weight %lld x %lld", (long long)first, (long long)(first + count - 1), (long long)n, (long long)k);
    int threads = syi_omp(e->ctx);
    uint16_t *rows = syi_engine_work(e, SYI_WORK_PIECES, threads * k * (int64_t)sizeof *rows);
    if (rows == NULL) return SY_E_MEMORY;
#pragma omp parallel for schedule(static) num_threads(threads) if (count * k > 65536)
    for (int64_t i = 0; i < count; i++) {
        uint16_t *row = t == SYI_T_BF16 ? (uint16_t *)w + i * k : rows + syi_thread() * k;
        row_of(k, packed, first + i, row);
        if (t == SYI_T_F32) e->cpu->from_bf16(row, (float *)w + i * k, k);
        for (int64_t j = 0; t == SYI_T_F64 && j < k; j++) ((double *)w)[i * k + j] = (double)syi_from_bf16(row[j]);
    }
    return SY_OK;
}

sy_status syi_embed_panels(syi_engine *e, const uint16_t *packed, int64_t vocab, const int32_t *ids, sy_dtype dt, void *y, int64_t tokens, int64_t cols)
{
    if (dt != SY_BF16 && dt != SY_F32) return syi_no_type(e, "embedding from panels", dt);
    for (int64_t i = 0; i < tokens; i++)
        if (ids[i] < 0 || ids[i] >= vocab)
            return syi_fail(e->ctx, SY_E_BUG, "token %lld has id %d, outside of the table's %lld rows", (long long)i, (int)ids[i], (long long)vocab);
    SYI_CUT(e, tokens, 8, first, count,
        for (int64_t i = first; i < first + count; i++) {
            if (dt == SY_BF16) row_of(cols, packed, ids[i], (uint16_t *)y + i * cols);
            else syi_panels_row(cols, packed, ids[i], (float *)y + i * cols);
        });
    return SY_OK;
}

/* Decoding: a part is a piece of the columns of 64 rows, whose weights lie in order; how the
 * columns are cut depends on the shape only, and what the pieces give is added in order. */
typedef struct { const syi_engine *e; int64_t m, n, k, piece, pieces; const float *x; const uint16_t *packed; float *out; } few_job;

static void few_part(void *self, int64_t part, int thread)
{
    const few_job *f = self;
    const int64_t row = part / f->pieces * ROWS, piece = part % f->pieces, c = piece * f->piece;
    (void)thread;
    f->e->cpu->gemv_panels((int)f->m, syi_min(f->piece, f->k - c), f->x + c, f->k, f->packed + (row / ROWS * (f->k / COLS) + c / COLS) * BLOCK,
                           f->out + piece * f->m * f->n + row, f->n);
}

static sy_status few(syi_engine *e, int64_t m, int64_t n, int64_t k, sy_dtype dt, const void *x, const uint16_t *packed, double beta, sy_dtype yt, void *y)
{
    const float *xf = x;
    if (dt != SY_F32) {
        float *t = syi_engine_work(e, SYI_WORK_A, m * k * (int64_t)sizeof *t);
        if (t == NULL) return SY_E_MEMORY;
        SYI_TRY(syi_cast(e, dt, x, SY_F32, t, m * k));
        xf = t;
    }
    /* Enough parts that threads end at about the same time. */
    const int64_t most = n / ROWS >= 64 ? 1 : syi_max(1, k / 192), piece = syi_ceil_div(syi_ceil_div(k, most), COLS) * COLS, pieces = syi_ceil_div(k, piece);
    float *out = syi_engine_work(e, SYI_WORK_C, pieces * m * n * (int64_t)sizeof *out);
    if (out == NULL) return SY_E_MEMORY;
    few_job job = {e, m, n, k, piece, pieces, xf, packed, out};
    syi_share(e, n / ROWS * pieces, few_part, &job);
    for (int64_t p = 1; p < pieces; p++)
        for (int64_t i = 0; i < m * n; i++) out[i] += out[p * m * n + i];
    if (beta == 0) return syi_cast(e, SY_F32, out, yt, y, m * n);
    if (yt == SY_F32) {
        for (int64_t i = 0; i < m * n; i++) ((float *)y)[i] = (float)beta * ((float *)y)[i] + out[i];
        return SY_OK;
    }
    for (int64_t i = 0; i < m * n; i += HALF) {
        float old[HALF];
        e->cpu->from_bf16((uint16_t *)y + i, old, HALF);
        for (int q = 0; q < HALF; q++) old[q] = (float)beta * old[q] + out[i + q];
        e->cpu->to_bf16(old, (uint16_t *)y + i, HALF);
    }
    return SY_OK;
}

/* Other types than the product's, other processors: row-major again, a tile at a time. */
static sy_status by_tiles(syi_engine *e, int64_t m, int64_t n, int64_t k, sy_dtype dt, const void *x, const uint16_t *packed, bool transposed,
                          double beta, sy_dtype yt, void *y)
{
    int64_t z = sy_dtype_block_bytes(dt), zy = sy_dtype_block_bytes(yt), rows = syi_min(n, syi_max(ROWS, TILE_BYTES / (k * z) / ROWS * ROWS));
    char *tile = syi_engine_work(e, SYI_WORK_DECODE, rows * k * z);
    if (tile == NULL) return SY_E_MEMORY;
    for (int64_t first = 0; first < n; first += rows) {
        int64_t count = syi_min(rows, n - first);
        SYI_TRY(syi_panels_unpack(e, n, k, packed, first, count, dt, tile));
        syi_mat b = {dt, tile, k, !transposed};
        if (transposed)
            SYI_TRY(syi_gemm(e, m, k, count, 1, (syi_mat){dt, syi_at(x, first, z), n, false}, b, first == 0 ? beta : 1, yt, y, k));
        else
            SYI_TRY(syi_gemm(e, m, count, k, 1, (syi_mat){dt, x, k, false}, b, beta, yt, syi_to(y, first, zy), n));
    }
    return SY_OK;
}

/* y (+)= x W where a whole product will not do: oneDNN forgets to add to f32, and cuts a
 * long sum (from n = 4096 it was seen) by the number of threads. Here sums end after
 * LONG_SUM terms, by way of working memory that stays in the cache. */
enum { LONG_SUM = 2048, LONG_ROWS = 256 };

static sy_status backward_in_pieces(syi_engine *e, int64_t m, int64_t n, int64_t k, const uint16_t *packed, const void *x, bool add, sy_dtype yt, void *y, bool *done)
{
    int64_t rows = syi_min(m, LONG_ROWS), cols = syi_min(n, LONG_SUM), zy = sy_dtype_block_bytes(yt), sums = rows * k, copied = n > cols ? rows * cols : 0;
    bool direct = yt == SY_F32; /* y itself takes the sums */
    float *part = syi_engine_work(e, SYI_WORK_C, (direct ? 1 : 2) * sums * (int64_t)sizeof *part + copied * 2 + 64), *sum = part + sums;
    if (part == NULL) return SY_E_MEMORY;
    uint16_t *piece = (uint16_t *)(void *)(part + (direct ? 1 : 2) * sums);
    for (int64_t i = 0; i < m; i += rows) {
        int64_t count = syi_min(rows, m - i);
        for (int64_t j = 0; j < n; j += cols) {
            int64_t width = syi_min(cols, n - j);
            const uint16_t *from = (const uint16_t *)x + i * n + j;
            if (copied > 0) {
                SYI_CUT(e, count, 16, r, some, for (int64_t q = r; q < r + some; q++) memcpy(piece + q * width, from + q * n, (size_t)width * 2););
                from = piece;
            }
            bool first = j == 0 && !add;
            float *to = direct ? (float *)y + i * k : sum;
            SYI_TRY(backward(e, count, width, k, packed + j * k, from, false, SY_F32, first ? to : part, done));
            if (!*done) return SY_OK; /* known at the first piece */
            if (!direct && j == 0 && add) SYI_TRY(syi_cast(e, yt, syi_to(y, i * k, zy), SY_F32, sum, count * k));
            if (!first) SYI_TRY(syi_accumulate(e, SY_F32, part, SY_F32, to, count * k));
        }
        if (!direct) SYI_TRY(syi_cast(e, SY_F32, sum, yt, syi_to(y, i * k, zy), count * k));
    }
    return SY_OK;
}

sy_status syi_gemm_panels(syi_engine *e, int64_t m, int64_t n, int64_t k, sy_dtype dt, const void *x, const uint16_t *packed,
                          bool transposed, double beta, sy_dtype yt, void *y)
{
    if (m <= 0) return SY_OK;
    if (!shape_fits(n, k)) return syi_fail(e->ctx, SY_E_BUG, "a weight %lld x %lld cannot be packed", (long long)n, (long long)k);
    if (syi_type(dt) < 0) return syi_no_type(e, "product with a packed weight", dt);
    if (m <= FEW && !transposed && dt != SY_F64) return few(e, m, n, k, dt, x, packed, beta, yt, y);
    bool done = false;
    if (dt == SY_BF16 && !transposed) {
        SYI_TRY(syi_product_panels(e, m, n, k, false, packed, dt, x, beta, yt, y, &done));
    } else if (dt == SY_BF16 && (beta == 0 || beta == 1)) {
        bool whole = n <= LONG_SUM && (beta == 0 || (yt == SY_BF16 && backward_adds(e)));
        if (whole) SYI_TRY(backward(e, m, n, k, packed, x, beta == 1, yt, y, &done));
        else SYI_TRY(backward_in_pieces(e, m, n, k, packed, x, beta == 1, yt, y, &done));
    }
    return done ? SY_OK : by_tiles(e, m, n, k, dt, x, packed, transposed, beta, yt, y);
}
