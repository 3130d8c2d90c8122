/* SPDX-License-Identifier: Apache-2.0 */
/* Sums of outer products for rank-r gradients: out[r, 48] = S[k, r]^T X[k, 48]. S is
 * packed once per call, the strip of X per block of rows; both then come from the
 * first-level cache. Included by cpu_impl.h. */

enum { OUTER_ROWS = 64, OUTER_LD = SYI_OUTER_COLS }; /* rows of X packed at a time */

/* OUTER_V vectors times R ranks of sums stay in registers. */
#if defined(__AVX512F__)
enum { OUTER_V = 3 };
#define OUTER_RANKS(X) X(8) X(4) X(2) X(1)
#elif defined(__AVX2__)
enum { OUTER_V = 3 };
#define OUTER_RANKS(X) X(4) X(2) X(1)
#else
enum { OUTER_V = 4 };
#define OUTER_RANKS(X) X(2) X(1)
#endif

/* out[R, OUTER_V vectors] (+)= over `steps` rows of s[., lds] and x[., 48]. STEP adds
 * one lane's worth of s (an f32, or two bf16) times a vector. */
#define OUTER_TILE(name, R, STEP)                                                                       \
    static void name##_##R(int64_t steps, const uint32_t *s, int64_t lds, const uint32_t *x, float *out, bool first) \
    {                                                                                                   \
        vf acc[R][OUTER_V];                                                                             \
        for (int i = 0; i < R; i++)                                                                     \
            for (int j = 0; j < OUTER_V; j++) acc[i][j] = first ? vset(0) : vload_f32(out + i * OUTER_LD + j * VW); \
        for (int64_t t = 0; t < steps; t++) {                                                           \
            vf v[OUTER_V];                                                                              \
            for (int j = 0; j < OUTER_V; j++) memcpy(&v[j], x + t * OUTER_LD + j * VW, sizeof v[j]);    \
            for (int i = 0; i < R; i++)                                                                 \
                for (int j = 0; j < OUTER_V; j++) acc[i][j] = STEP(acc[i][j], s[t * lds + i], v[j]);    \
        }                                                                                               \
        for (int i = 0; i < R; i++)                                                                     \
            for (int j = 0; j < OUTER_V; j++) vstore_f32(out + i * OUTER_LD + j * VW, acc[i][j]);       \
    }

static inline vf outer_step_f32(vf acc, uint32_t s, vf x)
{
    union { uint32_t u; float f; } v = {s};
    return acc + vset(v.f) * x;
}

/* Asks for the next block of a strip: its rows lie too far apart for the processor to guess. For f32 it was measured to pay,
 * for bf16 not. */
static inline void outer_ahead(const void *x, int64_t pitch, int64_t rows, int64_t bytes)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t b = 0; b < bytes; b += 64) __builtin_prefetch((const char *)x + i * pitch + b);
}

#define X(R) OUTER_TILE(outer_f32, R, outer_step_f32)
OUTER_RANKS(X)
#undef X

static void outer_block_f32(int64_t r, int64_t steps, const uint32_t *s, const uint32_t *x, float *out, bool first)
{
    for (int64_t j = 0; j < OUTER_LD; j += OUTER_V * VW) {
        int64_t i = 0;
#define X(R) for (; i + R <= r; i += R) outer_f32_##R(steps, s + i, r, x + j, out + i * OUTER_LD + j, first);
        OUTER_RANKS(X)
#undef X
    }
}

static void outer_pack_f32(int64_t k, int64_t r, const float *s, int64_t lds, uint32_t *out)
{
    for (int64_t t = 0; t < k; t++) memcpy(out + t * r, s + t * lds, (size_t)r * sizeof *out);
}

static void outer_f32(int64_t k, int64_t r, const uint32_t *s, const float *x, int64_t ldx, int64_t cols, float *out)
{
    uint32_t strip[OUTER_ROWS * OUTER_LD];
    if (cols < OUTER_LD) memset(strip, 0, sizeof strip);
    for (int64_t t = 0; t < k; t += OUTER_ROWS) {
        int64_t n = k - t < OUTER_ROWS ? k - t : OUTER_ROWS;
        for (int64_t i = 0; i < n; i++) memcpy(strip + i * OUTER_LD, x + (t + i) * ldx, (size_t)cols * sizeof *strip);
        if (t + n < k) outer_ahead(x + (t + n) * ldx, ldx * (int64_t)sizeof *x, k - t - n < OUTER_ROWS ? k - t - n : OUTER_ROWS, cols * (int64_t)sizeof *x);
        outer_block_f32(r, n, s + t * r, strip, out, t == 0);
    }
}

#if defined(__AVX512BF16__)

/* Two rows at a time: a 32-bit lane holds the numbers of rows t (low) and t+1. */
static inline vf outer_step_bf16(vf acc, uint32_t s, vf x)
{
    return (vf)_mm512_dpbf16_ps((__m512)acc, (__m512bh)_mm512_set1_epi32((int)s), (__m512bh)x);
}

#define X(R) OUTER_TILE(outer_bf16, R, outer_step_bf16)
OUTER_RANKS(X)
#undef X

static void outer_block_bf16(int64_t r, int64_t steps, const uint32_t *s, const uint32_t *x, float *out, bool first)
{
    for (int64_t j = 0; j < OUTER_LD; j += OUTER_V * VW) {
        int64_t i = 0;
#define X(R) for (; i + R <= r; i += R) outer_bf16_##R(steps, s + i, r, x + j, out + i * OUTER_LD + j, first);
        OUTER_RANKS(X)
#undef X
    }
}

static void outer_pair(const bf16 *a, const bf16 *b, int64_t n, uint32_t *out)
{
    int64_t j = 0;
    for (; j + 16 <= n; j += 16) {
        __m512i lo = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)(a + j)));
        __m512i hi = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)(b + j)));
        _mm512_storeu_si512(out + j, _mm512_or_si512(lo, _mm512_slli_epi32(hi, 16)));
    }
    for (; j < n; j++) out[j] = a[j] | (uint32_t)b[j] << 16;
}

static void outer_single(const bf16 *a, int64_t n, uint32_t *out)
{
    for (int64_t j = 0; j < n; j++) out[j] = a[j];
}

static void outer_pack_bf16(int64_t k, int64_t r, const bf16 *s, int64_t lds, uint32_t *out)
{
    int64_t t = 0;
    for (; t + 2 <= k; t += 2) outer_pair(s + t * lds, s + (t + 1) * lds, r, out + t / 2 * r);
    if (t < k) outer_single(s + t * lds, r, out + t / 2 * r);
}

static void outer_bf16(int64_t k, int64_t r, const uint32_t *s, const bf16 *x, int64_t ldx, int64_t cols, float *out)
{
    uint32_t strip[OUTER_ROWS / 2 * OUTER_LD];
    if (cols < OUTER_LD) memset(strip, 0, sizeof strip);
    for (int64_t t = 0; t < k; t += OUTER_ROWS) {
        int64_t n = k - t < OUTER_ROWS ? k - t : OUTER_ROWS, i = 0;
        const bf16 *a = x + t * ldx;
        for (; i + 2 <= n; i += 2) outer_pair(a + i * ldx, a + (i + 1) * ldx, cols, strip + i / 2 * OUTER_LD);
        if (i < n) outer_single(a + i * ldx, cols, strip + i / 2 * OUTER_LD);
        outer_block_bf16(r, (n + 1) / 2, s + t / 2 * r, strip, out, t == 0);
    }
}

#else

static void outer_pack_bf16(int64_t k, int64_t r, const bf16 *s, int64_t lds, uint32_t *out)
{
    float row[SYI_OUTER_RANK];
    for (int64_t t = 0; t < k; t++) {
        from_bf16(s + t * lds, row, r);
        memcpy(out + t * r, row, (size_t)r * sizeof *out);
    }
}

static void outer_bf16(int64_t k, int64_t r, const uint32_t *s, const bf16 *x, int64_t ldx, int64_t cols, float *out)
{
    uint32_t strip[OUTER_ROWS * OUTER_LD];
    float row[OUTER_LD];
    if (cols < OUTER_LD) memset(strip, 0, sizeof strip);
    for (int64_t t = 0; t < k; t += OUTER_ROWS) {
        int64_t n = k - t < OUTER_ROWS ? k - t : OUTER_ROWS;
        for (int64_t i = 0; i < n; i++) {
            from_bf16(x + (t + i) * ldx, row, cols);
            memcpy(strip + i * OUTER_LD, row, (size_t)cols * sizeof *strip);
        }
        outer_block_f32(r, n, s + t * r, strip, out, t == 0);
    }
}

#endif
