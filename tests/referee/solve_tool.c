/* SPDX-License-Identifier: Apache-2.0 */
/* Solvers of one layer, for comparisons with peers: standard input to standard output, raw f32, a line
 * of JSON on standard error.
 *   solve_tool gptq OUT IN BITS GROUP THREADS REPEAT    W[OUT, IN], H[IN, IN] -> what is stored [OUT, IN]
 *   solve_tool svd M N RANK ITERATIONS THREADS REPEAT   A[M, N] -> U[M, RANK], S[RANK], V^T[RANK, N] */
#include "compressor/solve.h"

#include <stdlib.h>

static float *numbers(int64_t n, bool from_input)
{
    float *p = malloc((size_t)n * sizeof *p);
    if (!p || (from_input && fread(p, sizeof *p, (size_t)n, stdin) != (size_t)n)) exit(3);
    return p;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print(syi_engine *e, double *t, int repeat)
{
    qsort(t, (size_t)repeat, sizeof *t, by_value);
    fprintf(stderr, "{\"seconds\": %.5f, \"cpu\": \"%s\"}\n", t[repeat / 2], syi_engine_cpu(e));
}

static sy_status run_gptq(syi_engine *e, const int64_t *a, int repeat, double *t)
{
    const int64_t out = a[0], in = a[1];
    float *w = numbers(out * in, true), *h = numbers(in * in, true);
    double *xx = malloc((size_t)(in * in) * sizeof *xx);
    const syi_gptq o = {.grid = {.bits = (int)a[2], .group = a[3]}, .columns = {.damp = 0.01, .block = 128}};
    sy_weight *take = NULL;
    if (!xx) return SY_E_MEMORY;
    for (int64_t i = 0; i < in * in; i++) xx[i] = (double)h[i];
    for (int i = 0; i < repeat; i++) {
        syi_weight_free(syi_engine_context(e), take);
        const double began = syi_now();
        SYI_TRY(syi_gptq_solve(e, &o, out, in, w, xx, NULL, &take, NULL));
        t[i] = syi_now() - began;
    }
    SYI_TRY(take->type->dense(syi_engine_context(e), take, 0, out, w));
    print(e, t, repeat);
    const bool ok = fwrite(w, sizeof *w, (size_t)(out * in), stdout) == (size_t)(out * in);
    syi_weight_free(syi_engine_context(e), take);
    free(w);
    free(h);
    free(xx);
    return ok ? SY_OK : SY_E_IO;
}

static sy_status run_svd(syi_engine *e, const int64_t *a, int repeat, double *t)
{
    const int64_t m = a[0], n = a[1], r = a[2];
    float *x = numbers(m * n, true), *u = numbers(m * r + r + r * n, false), *s = u + m * r, *vt = s + r;
    for (int i = 0; i < repeat; i++) {
        const double began = syi_now();
        SYI_TRY(syi_rsvd(e, m, n, x, r, (int)a[3], 1, u, s, vt));
        t[i] = syi_now() - began;
    }
    print(e, t, repeat);
    const size_t count = (size_t)(m * r + r + r * n);
    const bool ok = fwrite(u, sizeof *u, count, stdout) == count;
    free(x);
    free(u);
    return ok ? SY_OK : SY_E_IO;
}

int main(int argc, char **argv)
{
    if (argc != 8) return 2;
    int64_t a[6];
    double t[64];
    for (int i = 0; i < 6; i++) a[i] = strtoll(argv[i + 2], NULL, 10);
    const int repeat = (int)syi_max(1, syi_min(64, a[5]));
    sy_context *ctx = sy_context_new();
    syi_engine *e = NULL;
    sy_threads_set(ctx, (int)a[4]);
    sy_status st = syi_engine_new(ctx, &e);
    if (st == SY_OK) st = strcmp(argv[1], "gptq") == 0 ? run_gptq(e, a, repeat, t) : run_svd(e, a, repeat, t);
    if (st != SY_OK) fprintf(stderr, "%s\n", sy_error_message(ctx));
    syi_engine_free(e);
    sy_context_free(ctx);
    return st == SY_OK ? 0 : 1;
}
