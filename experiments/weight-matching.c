/* SPDX-License-Identifier: Apache-2.0 */
/* Two networks trained from different starts: on the straight line between their weights the
 * loss rises; after one's hidden units are permuted onto the other's it hardly does. Three of
 * them: the mean of all. By weights, by activations, and straight through
 * the loss at the midpoint. */
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

enum { SEEDS = 16, SIDE = 16, CLASSES = 10, PROTOTYPES = 20, GRID = 25, NETS = 3 };
enum { NAIVE, WM, AM, STE, SINKHORN, NAIVE_MAX, WM_MAX, RATIO, R0, R03, R_NAIVE, R_STE, NAIVE_ACC, WM_ACC, THREE_NAIVE, THREE_ANCHOR, THREE_MANY, OTHERS_WM, OTHERS_STE, FREE_NAIVE, FREE_WM,
       FREE_AM, FREE_STE, ROWS };
static const struct { const char *what; double sheet; } row[ROWS] = {
    { "barrier at the midpoint, as they are", 0.775 }, { "barrier at the midpoint, weight matching", 0.045 }, { "barrier at the midpoint, activation matching", 0.042 },
    { "barrier at the midpoint, straight-through matching", 0.039 }, { "barrier at the midpoint, Sinkhorn's relaxation of weight matching", NAN },
    { "largest barrier on 25 points, as they are", NAN }, { "largest barrier on 25 points, weight matching", NAN }, { "distance after / before matching", 0.875 },
    { "R, all singular vectors, after", 0.103 }, { "R, singular values above 0.3 of the first, after", 0.161 }, { "|R| before (both thresholds, the larger)", 0.005 },
    { "R, all singular vectors, after straight-through matching", NAN },
    { "accuracy at the midpoint, as they are", 0.902 }, { "accuracy at the midpoint, weight matching", 0.992 },
    { "three models, mean, as they are: accuracy", 0.726 }, { "three models, all matched to the first", 0.987 }, { "three models, MergeMany", 0.991 },
    { "barrier between the second and third, each matched to the first, by weights", NAN }, { "the same, straight-through", NAN },
    { "without L2: barrier as they are", 0.67 }, { "without L2: weight matching", 0.18 }, { "without L2: activation matching", 0.03 }, { "without L2: straight-through matching", NAN },
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

#define TWO(second) "merge_method: weight_matching\nmodels: [{model: a}, {model: " second "}]\nparameters: {lambda: 1, method: %s, data: %s/train-images-idx3-ubyte%s}\n"
#define THREE "models: [{model: a}, {model: b}, {model: c}]\n"
#define STEPS ", ste_epochs: 12, ste_batch: 1000, ste_lr: 0.1"

/* The second (or third) network moved onto the first by a search; its report, or NULL. */
static sy_status search(sy_context *ctx, const char *dir, bool third, const char *method, const char *more, nets_net *moved, char **report)
{
    char recipe[1200], path[600];
    snprintf(recipe, sizeof recipe, third ? TWO("c") : TWO("b"), method, dir, more);
    TRY(nets_merge_report(ctx, dir, recipe, "moved", report));
    snprintf(path, sizeof path, "%s/moved", dir);
    return nets_load_mlp(ctx, moved, path);
}

static sy_status save(sy_context *ctx, const char *dir, const nets_net *net, int n)
{
    static const char *const names[NETS] = { "a", "b", "c" };
    char path[600];
    for (int k = 0; k < n; k++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[k]);
        TRY(nets_save_mlp(ctx, &net[k], path));
    }
    return SY_OK;
}

typedef struct { nets_net net[NETS], moved, third, mid; nets_data train, test; } bench;

static sy_status two(sy_context *ctx, const char *dir, bench *b, double *v)
{
    nets_net *const net = b->net;
    char *report = NULL;
    v[NAIVE] = barrier(&net[0], &net[1], &b->mid, &b->test, 0.5, &v[NAIVE_ACC]);
    v[NAIVE_MAX] = curve(&net[0], &net[1], &b->mid, &b->test);
    TRY(search(ctx, dir, false, "wm", ", measure: true", &b->moved, &report));
    v[RATIO] = nets_number(report, "distance_after") / nets_number(report, "distance_before");
    v[R0] = nets_number(report, "r_0_after");
    v[R03] = nets_number(report, "r_0.3_after");
    v[R_NAIVE] = fmax(fabs(nets_number(report, "r_0_before")), fabs(nets_number(report, "r_0.3_before")));
    free(report);
    v[WM] = barrier(&net[0], &b->moved, &b->mid, &b->test, 0.5, &v[WM_ACC]);
    v[WM_MAX] = curve(&net[0], &b->moved, &b->mid, &b->test);
    TRY(search(ctx, dir, true, "wm", "", &b->third, NULL));
    v[OTHERS_WM] = barrier(&b->moved, &b->third, &b->mid, &b->test, 0.5, NULL);
    TRY(search(ctx, dir, false, "am", "", &b->moved, NULL));
    v[AM] = barrier(&net[0], &b->moved, &b->mid, &b->test, 0.5, NULL);
    TRY(search(ctx, dir, false, "sinkhorn-wm", "", &b->moved, NULL));
    v[SINKHORN] = barrier(&net[0], &b->moved, &b->mid, &b->test, 0.5, NULL);
    TRY(search(ctx, dir, false, "ste", STEPS ", measure: true", &b->moved, &report));
    v[R_STE] = nets_number(report, "r_0_after");
    free(report);
    v[STE] = barrier(&net[0], &b->moved, &b->mid, &b->test, 0.5, NULL);
    TRY(search(ctx, dir, true, "ste", STEPS, &b->third, NULL));
    v[OTHERS_STE] = barrier(&b->moved, &b->third, &b->mid, &b->test, 0.5, NULL);
    return SY_OK;
}

static sy_status three(sy_context *ctx, const char *dir, bench *b, double *v)
{
    static const char *const recipes[] = { "merge_method: linear\n" THREE "parameters: {weight: 1}\n", "merge_method: weight_matching\n" THREE "parameters: {many: anchor}\n",
                                           "merge_method: weight_matching\n" THREE };
    char path[600];
    snprintf(path, sizeof path, "%s/moved", dir);
    for (int k = 0; k < 3; k++) {
        TRY(nets_merge(ctx, dir, recipes[k], "moved"));
        TRY(nets_load_mlp(ctx, &b->mid, path));
        v[THREE_NAIVE + k] = nets_accuracy(&b->mid, &b->test);
    }
    return SY_OK;
}

/* Trained without a penalty, weights alone say less. */
static sy_status without_penalty(sy_context *ctx, const char *dir, bench *b, double *v)
{
    const char *const method[] = { "wm", "am", "ste" };
    v[FREE_NAIVE] = barrier(&b->net[0], &b->net[1], &b->mid, &b->test, 0.5, NULL);
    for (int k = 0; k < 3; k++) {
        TRY(search(ctx, dir, false, method[k], k == 2 ? STEPS : "", &b->moved, NULL));
        v[FREE_WM + k] = barrier(&b->net[0], &b->moved, &b->mid, &b->test, 0.5, NULL);
    }
    return SY_OK;
}

static bool train_nets(bench *b, int n, uint64_t seed, bool penalty)
{
    static const int size[] = { SIDE * SIDE, 256, 256, CLASSES };
    bool ok = true;
    for (int k = 0; ok && k < n; k++) {
        toy_rng own = { seed * 1000 + (uint64_t)k };
        const nets_training how = { .epochs = penalty ? 12 : 20, .batch = 100, .lr = penalty ? 3e-3 : 1e-3, .l2 = penalty ? 1e-3 : 0, .cosine = true, .seed = toy_next(&own) };
        nets_free(&b->net[k]);
        ok = nets_new(&b->net[k], 3, size, &own) && nets_train(&b->net[k], &b->train, &how);
    }
    return ok;
}

static sy_status measure(sy_context *ctx, const char *dir, uint64_t seed, bench *b, double *v)
{
    char path[600];
    snprintf(path, sizeof path, "%s/train", dir);
    TRY(nets_save_idx(&b->train, SIDE, path));
    snprintf(path, sizeof path, "%s/test", dir);
    TRY(nets_save_idx(&b->test, SIDE, path));
    if (!train_nets(b, NETS, seed, true) || !nets_copy(&b->moved, &b->net[0]) || !nets_copy(&b->third, &b->net[0]) || !nets_copy(&b->mid, &b->net[0])) return SY_E_MEMORY;
    TRY(save(ctx, dir, b->net, NETS));
    TRY(two(ctx, dir, b, v));
    TRY(three(ctx, dir, b, v));
    if (!train_nets(b, 2, seed, false)) return SY_E_MEMORY;
    TRY(save(ctx, dir, b->net, 2));
    return without_penalty(ctx, dir, b, v);
}

static sy_status one_seed(sy_context *ctx, uint64_t seed, double *v)
{
    toy_rng r = { seed };
    char dir[256];
    bench b;
    float *prototypes = malloc(PROTOTYPES * SIDE * SIDE * sizeof *prototypes);
    memset(&b, 0, sizeof b);
    TRY(toy_folder(dir));
    bool ok = prototypes != NULL;
    if (ok) nets_prototypes(&r, PROTOTYPES, SIDE, 2, prototypes);
    ok = ok && nets_samples(&r, prototypes, PROTOTYPES, CLASSES, SIDE, 2, 1, 8000, &b.train) && nets_samples(&r, prototypes, PROTOTYPES, CLASSES, SIDE, 2, 1, 2000, &b.test);
    const sy_status st = ok ? measure(ctx, dir, seed, &b, v) : SY_E_MEMORY;
    for (int k = 0; k < NETS; k++) nets_free(&b.net[k]);
    nets_free(&b.moved);
    nets_free(&b.third);
    nets_free(&b.mid);
    nets_data_free(&b.train);
    nets_data_free(&b.test);
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
