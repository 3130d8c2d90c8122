/* SPDX-License-Identifier: Apache-2.0 */
/* See _small.h. */
#include "_small.h"

#include "steelyard/job.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define TRY(call)                              \
    do {                                       \
        sy_status try_ = (call);               \
        if (try_ != SY_OK) return try_;        \
    } while (0)

enum { WINDOWS = 86, HELD = 96, DOCUMENT = 480 };

/* -- one layer ---------------------------------------------------------------------------- */

bool small_source_new(small_source *s, int n, double channel_sd, toy_rng *r)
{
    *s = (small_source){ n, malloc((size_t)(n * n) * sizeof *s->mix) };
    if (!s->mix) return false;
    for (int i = 0; i < n * n; i++) s->mix[i] = (float)(toy_normal(r) / sqrt(n) / sqrt(i / n + 1));
    for (int j = 0; j < n; j++) {
        const float scale = (float)exp(channel_sd * toy_normal(r));
        for (int i = 0; i < n; i++) s->mix[i * n + j] *= scale;
    }
    return true;
}

void small_source_free(small_source *s) { free(s->mix); }

void small_draw(const small_source *s, toy_rng *r, int rows, float *x)
{
    const int n = s->n;
    memset(x, 0, (size_t)(rows * n) * sizeof *x);
    for (int t = 0; t < rows; t++)
        for (int i = 0; i < n; i++) {
            const float z = (float)toy_normal(r), *mix = s->mix + i * n;
            for (int j = 0; j < n; j++) x[t * n + j] += z * mix[j];
        }
}

bool small_stats(sy_stats *s, int t, int n, const float *x, const float *ref)
{
    memset(s, 0, sizeof *s);
    *s = (sy_stats){ .have = SY_STAT_XX | (ref ? SY_STAT_DX : 0), .n = n, .tokens = t };
    s->xx = calloc((size_t)(n * n), sizeof *s->xx);
    if (ref) s->dx = calloc((size_t)(n * n), sizeof *s->dx);
    if (!s->xx || (ref && !s->dx)) return false;
    for (int r = 0; r < t; r++)
        for (int i = 0; i < n; i++) {
            const double a = (double)x[r * n + i], d = ref ? (double)ref[r * n + i] - a : 0;
            for (int j = 0; j < n; j++) s->xx[i * n + j] += a * (double)x[r * n + j];
            for (int j = 0; ref && j < n; j++) s->dx[i * n + j] += d * (double)x[r * n + j];
        }
    return true;
}

void small_stats_free(sy_stats *s)
{
    free(s->xx);
    free(s->dx);
}

double small_output_error(int t, int out, int in, const float *w, const float *value, const float *x, const float *ref)
{
    double far = 0, size = 0;
    for (int r = 0; r < t; r++)
        for (int o = 0; o < out; o++) {
            float a = 0, b = 0;
            for (int j = 0; j < in; j++) {
                a += value[o * in + j] * x[r * in + j];
                b += w[o * in + j] * ref[r * in + j];
            }
            far += ((double)a - (double)b) * ((double)a - (double)b);
            size += (double)b * (double)b;
        }
    return far / size;
}

double small_weight_error(int count, const float *w, const float *value)
{
    double far = 0, size = 0;
    for (int i = 0; i < count; i++) {
        far += ((double)value[i] - (double)w[i]) * ((double)value[i] - (double)w[i]);
        size += (double)w[i] * (double)w[i];
    }
    return far / size;
}

sy_status small_engine(sy_context *ctx, sy_run **run)
{
    const toy_shape shape = { .hidden = 32, .layers = 1, .heads = 2, .ffn = 32, .vocab = 33, .seed = 1 };
    char dir[256];
    sy_run_options o;
    TRY(toy_folder(dir));
    sy_status st = toy_model_write(ctx, &shape, dir);
    sy_run_options_init(&o);
    o.model = dir;
    o.dtype = SY_F32;
    if (st == SY_OK) st = sy_run_open(ctx, &o, run);
    toy_folder_remove(dir); /* mapped files stay */
    return st;
}

/* -- text ------------------------------------------------------------------------------------- */

char small_letter(int symbol) { return (char)(symbol < 26 ? 'a' + symbol : 'A' + symbol - 26); }

sy_status small_tokenizer(const char *dir)
{
    char path[600];
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    FILE *f = fopen(path, "w");
    if (!f) return SY_E_IO;
    fputs("{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[],\"normalizer\":null,\"pre_tokenizer\":null,\"post_processor\":null,\"decoder\":null,"
          "\"model\":{\"type\":\"BPE\",\"vocab\":{", f);
    for (int i = 0; i < TOY_SYMBOLS; i++) fprintf(f, "%s\"%c\":%d", i ? "," : "", small_letter(i), i);
    fputs("},\"merges\":[]}}\n", f);
    return fclose(f) == 0 ? SY_OK : SY_E_IO;
}

sy_status small_text(const char *path, const toy_chain *chain, uint64_t seed, int rows, int symbols)
{
    toy_rng r = { seed };
    toy_batch *b = malloc(sizeof *b);
    FILE *f = b ? fopen(path, "w") : NULL;
    if (!f) {
        free(b);
        return SY_E_IO;
    }
    int at = TOY_ROWS; /* rows of TOY_SEQ symbols are pieces of documents */
    for (int row = 0; row < rows; row++) {
        fputs("{\"text\": \"", f);
        for (int k = 0; k < symbols / TOY_SEQ; k++) {
            if (at == TOY_ROWS) {
                toy_batch_make(b, chain, &r);
                at = 0;
            }
            for (int t = 0; t < TOY_SEQ; t++) fputc(small_letter(b->ids[at * TOY_SEQ + t]), f);
            at++;
        }
        fputs("\"}\n", f);
    }
    free(b);
    return fclose(f) == 0 ? SY_OK : SY_E_IO;
}

/* -- a language model ---------------------------------------------------------------------------- */

sy_status small_lm_make(sy_context *ctx, uint64_t seed, small_lm *lm)
{
    const toy_shape shape = { .hidden = 128, .layers = 2, .heads = 4, .ffn = 384, .vocab = TOY_SYMBOLS, .seed = seed };
    char random[256], path[600];
    memset(lm, 0, sizeof *lm);
    toy_chain_make(&lm->chain, seed * 7919);
    TRY(toy_folder(random));
    sy_status st = toy_folder(lm->dir);
    snprintf(lm->model, sizeof lm->model, "%s/model", lm->dir);
    if (st == SY_OK) st = toy_model_write(ctx, &shape, random);
    const toy_training t = { .model = random, .adapter = "full", .lr = 3e-3, .steps = 1200, .seed = seed, .save = lm->model };
    if (st == SY_OK && mkdir(lm->model, 0777) != 0) st = SY_E_IO;
    if (st == SY_OK) st = toy_train(ctx, &t, &lm->chain, &lm->loss, NULL);
    if (st == SY_OK) st = small_tokenizer(lm->model);
    snprintf(path, sizeof path, "%s/calib.jsonl", lm->dir);
    if (st == SY_OK) st = small_text(path, &lm->chain, seed * 31 + 5, WINDOWS * TOY_SEQ / DOCUMENT + 1, DOCUMENT);
    snprintf(path, sizeof path, "%s/heldout.jsonl", lm->dir);
    if (st == SY_OK) st = small_text(path, &lm->chain, seed * 31 + 7, HELD * TOY_SEQ / DOCUMENT + 1, DOCUMENT);
    toy_folder_remove(random);
    return st;
}

void small_lm_free(small_lm *lm) { toy_folder_remove(lm->dir); }

double small_number(const char *report, const char *key, int n)
{
    const char *at = report;
    char quoted[80];
    snprintf(quoted, sizeof quoted, "%s\":", key);
    for (int i = 0; at && i <= n; i++) {
        at = strstr(at, quoted);
        if (at) at += strlen(quoted);
    }
    char *end = NULL;
    const double v = at ? strtod(at, &end) : NAN;
    return end && end != at ? v : NAN;
}

sy_status small_compress(sy_context *ctx, const small_lm *lm, const char *model, const char *const *settings, double *before, double *after, char **report)
{
    char out[300], calib[300], held[300], key[64], samples[16];
    sy_job *job;
    snprintf(out, sizeof out, "%s/compressed", lm->dir);
    snprintf(calib, sizeof calib, "%s/calib.jsonl", lm->dir);
    snprintf(held, sizeof held, "%s/heldout.jsonl", lm->dir);
    snprintf(samples, sizeof samples, "%d", WINDOWS);
    TRY(sy_job_new(ctx, "compress", &job));
    const char *const fixed[][2] = { { "model", model }, { "out", out }, { "calib", calib }, { "eval-data", held }, { "samples", samples }, { "eval-samples", "96" }, { "seq", "48" }, { "dtype", "f32" } };
    sy_status st = SY_OK;
    for (size_t i = 0; i < sizeof fixed / sizeof *fixed && st == SY_OK; i++) st = sy_job_set(job, fixed[i][0], fixed[i][1]);
    for (int i = 0; settings[i] && st == SY_OK; i++) {
        const char *is = strchr(settings[i], '=');
        snprintf(key, sizeof key, "%.*s", (int)(is - settings[i]), settings[i]);
        st = sy_job_set(job, key, is + 1);
    }
    if (st == SY_OK) st = sy_job_run(job);
    if (st == SY_OK) {
        *before = small_number(sy_job_report(job), "\"loss_before", 0);
        *after = small_number(sy_job_report(job), "\"loss_after", 0);
        if (report) *report = strdup(sy_job_report(job));
    }
    sy_job_free(job);
    toy_folder_remove(out);
    return st;
}
