/* SPDX-License-Identifier: Apache-2.0 */
/* Two networks trained from different starts: on the straight line between their weights the
 * loss rises; after one's hidden units are permuted onto the other's it hardly does. Three of
 * them: the mean of all. By weights, and by activations. */
#include "_nets.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TRY(call)                              \
    do {                                       \
        sy_status try_ = (call);               \
        if (try_ != SY_OK) return try_;        \
    } while (0)

enum { SEEDS = 16, SIDE = 16, CLASSES = 10, PROTOTYPES = 20, GRID = 25 };
enum { NAIVE, WM, AM, NAIVE_MAX, WM_MAX, RATIO, R0, R03, R_NAIVE, NAIVE_ACC, WM_ACC, THREE_NAIVE, THREE_ANCHOR, THREE_MANY, ROWS };
static const struct { const char *what; double sheet; } row[ROWS] = {
    { "barrier at the midpoint, as they are", 0.775 }, { "barrier at the midpoint, weight matching", 0.045 }, { "barrier at the midpoint, activation matching", 0.042 },
    { "largest barrier on 25 points, as they are", NAN }, { "largest barrier on 25 points, weight matching", NAN }, { "distance after / before matching", 0.875 },
    { "R, all singular vectors, after", 0.103 }, { "R, singular values above 0.3 of the first, after", 0.161 }, { "|R| before (both thresholds, the larger)", 0.005 },
    { "accuracy at the midpoint, as they are", 0.902 }, { "accuracy at the midpoint, weight matching", 0.992 },
    { "three models, mean, as they are: accuracy", 0.726 }, { "three models, all matched to the first", 0.987 }, { "three models, MergeMany", 0.991 },
};

static void between(const nets_net *a, const nets_net *b, double t, nets_net *out)
{
    for (int l = 0; l < a->layers; l++) {
        for (int i = 0; i < a->size[l] * a->size[l + 1]; i++) out->w[l][i] = (float)((1 - t) * (double)a->w[l][i] + t * (double)b->w[l][i]);
        for (int i = 0; i < a->size[l + 1]; i++) out->b[l][i] = (float)((1 - t) * (double)a->b[l][i] + t * (double)b->b[l][i]);
    }
}

static double barrier(const nets_net *a, const nets_net *b, nets_net *mid, const nets_data *test, double t, double *accuracy)
{
    between(a, b, t, mid);
    return nets_loss(mid, test, accuracy) - (1 - t) * nets_loss(a, test, NULL) - t * nets_loss(b, test, NULL);
}

static double curve(const nets_net *a, const nets_net *b, nets_net *mid, const nets_data *test)
{
    double most = 0;
    for (int i = 0; i < GRID; i++) most = fmax(most, barrier(a, b, mid, test, i / (double)(GRID - 1), NULL));
    return most;
}

/* Second moments of activations of all hidden layers, for matching by them. */
static sy_status write_scores(sy_context *ctx, const nets_net *a, const nets_net *b, const nets_data *d, const char *path)
{
    sy_writer *w;
    char name[16];
    TRY(sy_writer_new(ctx, path, 0, &w));
    sy_status st = SY_OK;
    for (int put = 0; put < 2 && st == SY_OK; put++) {
        for (int l = 1; l < a->layers && st == SY_OK; l++) {
            const int64_t dim[2] = { a->size[l], a->size[l] };
            snprintf(name, sizeof name, "P%d", l - 1);
            if (!put) {
                st = sy_writer_declare(w, name, SY_F32, 2, dim);
                continue;
            }
            float *x = nets_activations(a, d, l), *y = nets_activations(b, d, l), *c = calloc((size_t)(dim[0] * dim[1]), sizeof *c);
            float *xt = malloc((size_t)d->n * (size_t)dim[0] * sizeof *xt), *yt = malloc((size_t)d->n * (size_t)dim[0] * sizeof *yt);
            if (!x || !y || !c || !xt || !yt) st = SY_E_MEMORY;
            for (int i = 0; st == SY_OK && i < d->n; i++)
                for (int u = 0; u < dim[0]; u++) {
                    xt[(int64_t)u * d->n + i] = x[(int64_t)i * dim[0] + u];
                    yt[(int64_t)u * d->n + i] = y[(int64_t)i * dim[0] + u];
                }
            if (st == SY_OK) nets_matmul((int)dim[0], (int)dim[0], d->n, xt, yt, c);
            if (st == SY_OK) st = sy_writer_put(w, name, 0, dim[0], c);
            free(x);
            free(y);
            free(xt);
            free(yt);
            free(c);
        }
        if (!put && st == SY_OK) st = sy_writer_begin(w);
    }
    if (st == SY_OK) return sy_writer_end(w);
    sy_writer_abort(w);
    return st;
}

#define TWO "merge_method: weight_matching\nmodels: [{model: a}, {model: b}]\nparameters: {lambda: 1%s}\n"
#define THREE "models: [{model: a}, {model: b}, {model: c}]\n"

static sy_status measure(sy_context *ctx, const char *dir, nets_net *net, nets_net *moved, nets_net *mid, const nets_data *train, const nets_data *test, double *v)
{
    char path[600], recipe[1000], *report = NULL;
    static const char *const names[] = { "a", "b", "c" };
    for (int k = 0; k < 3; k++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[k]);
        TRY(nets_save_mlp(ctx, &net[k], path));
    }
    v[NAIVE] = barrier(&net[0], &net[1], mid, test, 0.5, &v[NAIVE_ACC]);
    v[NAIVE_MAX] = curve(&net[0], &net[1], mid, test);
    snprintf(recipe, sizeof recipe, TWO, ", measure: true");
    TRY(nets_merge_report(ctx, dir, recipe, "moved", &report));
    v[RATIO] = nets_number(report, "distance_after") / nets_number(report, "distance_before");
    v[R0] = nets_number(report, "r_0_after");
    v[R03] = nets_number(report, "r_0.3_after");
    v[R_NAIVE] = fmax(fabs(nets_number(report, "r_0_before")), fabs(nets_number(report, "r_0.3_before")));
    free(report);
    snprintf(path, sizeof path, "%s/moved", dir);
    TRY(nets_load_mlp(ctx, moved, path));
    v[WM] = barrier(&net[0], moved, mid, test, 0.5, &v[WM_ACC]);
    v[WM_MAX] = curve(&net[0], moved, mid, test);
    snprintf(path, sizeof path, "%s/scores.safetensors", dir);
    TRY(write_scores(ctx, &net[0], &net[1], train, path));
    char scores[700];
    snprintf(scores, sizeof scores, ", scores: %s", path);
    snprintf(recipe, sizeof recipe, TWO, scores);
    TRY(nets_merge(ctx, dir, recipe, "moved"));
    snprintf(path, sizeof path, "%s/moved", dir);
    TRY(nets_load_mlp(ctx, moved, path));
    v[AM] = barrier(&net[0], moved, mid, test, 0.5, NULL);
    static const char *const three[] = { NULL, "merge_method: weight_matching\n" THREE "parameters: {many: anchor}\n", "merge_method: weight_matching\n" THREE };
    TRY(nets_merge(ctx, dir, "merge_method: linear\n" THREE "parameters: {weight: 1}\n", "moved"));
    TRY(nets_load_mlp(ctx, mid, path));
    v[THREE_NAIVE] = nets_accuracy(mid, test);
    for (int k = 1; k < 3; k++) {
        TRY(nets_merge(ctx, dir, three[k], "moved"));
        TRY(nets_load_mlp(ctx, mid, path));
        v[THREE_NAIVE + k] = nets_accuracy(mid, test);
    }
    return SY_OK;
}

static sy_status one_seed(sy_context *ctx, uint64_t seed, double *v)
{
    static const int size[] = { SIDE * SIDE, 256, 256, CLASSES };
    toy_rng r = { seed };
    char dir[256];
    float *prototypes = malloc(PROTOTYPES * SIDE * SIDE * sizeof *prototypes);
    nets_data train = { 0, 0, NULL, NULL }, test = train;
    nets_net net[3], moved, mid;
    memset(net, 0, sizeof net);
    memset(&moved, 0, sizeof moved);
    memset(&mid, 0, sizeof mid);
    TRY(toy_folder(dir));
    bool ok = prototypes != NULL;
    if (ok) nets_prototypes(&r, PROTOTYPES, SIDE, 2, prototypes);
    ok = ok && nets_samples(&r, prototypes, PROTOTYPES, CLASSES, SIDE, 2, 1, 8000, &train) && nets_samples(&r, prototypes, PROTOTYPES, CLASSES, SIDE, 2, 1, 2000, &test);
    for (int k = 0; ok && k < 3; k++) {
        toy_rng own = { seed * 1000 + (uint64_t)k };
        const nets_training how = { .epochs = 12, .batch = 100, .lr = 3e-3, .l2 = 1e-3, .cosine = true, .seed = toy_next(&own) };
        ok = nets_new(&net[k], 3, size, &own) && nets_train(&net[k], &train, &how);
    }
    ok = ok && nets_copy(&moved, &net[0]) && nets_copy(&mid, &net[0]);
    const sy_status st = ok ? measure(ctx, dir, net, &moved, &mid, &train, &test, v) : SY_E_MEMORY;
    for (int k = 0; k < 3; k++) nets_free(&net[k]);
    nets_free(&moved);
    nets_free(&mid);
    nets_data_free(&train);
    nets_data_free(&test);
    free(prototypes);
    toy_folder_remove(dir);
    return st;
}

static double mean(const double *v, int n)
{
    double s = 0;
    for (int i = 0; i < n; i++) s += v[i] / n;
    return s;
}

static sy_status run(sy_context *ctx, int seeds, sy_report *report)
{
    static double value[ROWS][SEEDS];
    if (seeds > SEEDS) seeds = SEEDS;
    for (int s = 0; s < seeds; s++) {
        double v[ROWS];
        sy_report_progress(report, s, seeds, "three networks");
        TRY(one_seed(ctx, 17 + (uint64_t)s, v));
        for (int k = 0; k < ROWS; k++) value[k][s] = v[k];
    }
    for (int k = 0; k < ROWS; k++) TRY(sy_report_row(report, row[k].what, value[k], seeds, row[k].sheet));
    const double naive = mean(value[NAIVE], seeds), wm = mean(value[WM], seeds), r0 = mean(value[R0], seeds), r03 = mean(value[R03], seeds), r = mean(value[R_NAIVE], seeds);
    TRY(sy_report_check(report, wm <= naive / 3, "weight matching takes the barrier to a third or less: %.3f to %.3f", naive, wm));
    TRY(sy_report_check(report, r03 > r0 && r0 > 0.05 && r < 0.05, "large singular vectors align better than all, and neither does before matching: R_0.3 %.3f > R_0 %.3f > 0.05 > %.4f", r03, r0, r));
    return sy_report_check(report, mean(value[THREE_MANY], seeds) >= mean(value[THREE_NAIVE], seeds) + 0.1, "three models: MergeMany %.3f, as they are %.3f", mean(value[THREE_MANY], seeds),
                           mean(value[THREE_NAIVE], seeds));
}

const sy_experiment sy_experiment_weight_matching = {
    .name = "weight-matching",
    .claim = "Independently trained networks can be averaged once the hidden units of one are permuted onto the other's: the loss barrier between them nearly goes away, "
             "and the singular vectors that align are the ones with large singular values.",
    .paper = "Git Re-Basin (arXiv:2209.04836); Ito et al. (arXiv:2402.04051): distances shrink by 6 to 20 % only, R_0.3 above R_0",
    .seeds = 3,
    .run = run,
};
