/* SPDX-License-Identifier: Apache-2.0 */
/* KNOW's predictor, trained here from trajectories of small networks fine-tuned on smaller
 * and smaller parts of their data: how much of the last step it gets right on networks that
 * it has not seen, against repeating the last difference and the best linear rule. */
#include "_nets.h"

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

enum { SEEDS = 16, TRAIN = 16, HELD = 4, SESSIONS = 7, SIDE = 10, CLASSES = 10, SAMPLES = 4000 };
static const struct { const char *what, *parameters; double sheet[2]; } arms[] = {
    { "KNOWN, trained here", "file: %s", { 0.46, 0.41 } },
    { "last difference again", "predictor: linear", { 0.54, 0.52 } },
    { "best linear rule on five values", "predictor: fitted5, file: %s", { 0.47, 0.41 } },
    { "uniform shrink", "predictor: shrink, shrink: 0.02", { NAN, NAN } },
};
enum { ARMS = sizeof arms / sizeof *arms };

/* One network through seven sessions: dir/s0.safetensors (all data) ... s6. */
static sy_status trajectory(sy_context *ctx, const char *dir, uint64_t seed, nets_net *out)
{
    toy_rng r = { seed };
    const double rate = 0.3 + 0.6 * toy_uniform(&r), lr = exp(log(1e-4) + toy_uniform(&r) * log(4e-3 / 1e-4));
    const int hidden = 1 + (int)(toy_next(&r) % 2), width = 24 + 8 * (int)(toy_next(&r) % 4), batch = 32 << (toy_next(&r) % 3), first = 8 + (int)(toy_next(&r) % 8);
    int size[4] = { SIDE * SIDE, width, hidden == 2 ? width : CLASSES, CLASSES };
    float prototypes[2 * CLASSES * SIDE * SIDE];
    nets_data all = { 0, 0, NULL, NULL };
    nets_prototypes(&r, 2 * CLASSES, SIDE, 1.5, prototypes);
    bool ok = nets_samples(&r, prototypes, 2 * CLASSES, CLASSES, SIDE, 1, 1.5, SAMPLES, &all) && nets_new(out, hidden + 1, size, &r);
    double part = SAMPLES;
    sy_status st = ok ? SY_OK : SY_E_MEMORY;
    mkdir(dir, 0777);
    for (int s = 0; s < SESSIONS && st == SY_OK; s++) {
        nets_data some = all;
        some.n = (int)part > batch ? (int)part : batch; /* nested: the first of them */
        const nets_training how = { .epochs = s ? 4 : first, .batch = batch, .lr = lr, .seed = toy_next(&r) };
        char place[700], to[720];
        if (!nets_train(out, &some, &how)) st = SY_E_MEMORY;
        snprintf(place, sizeof place, "%s/session", dir);
        if (st == SY_OK) st = nets_save(ctx, out, out->layers, place);
        snprintf(to, sizeof to, "%s/s%d.safetensors", dir, s);
        snprintf(place, sizeof place, "%s/session/model.safetensors", dir);
        if (st == SY_OK && rename(place, to) != 0) st = SY_E_IO;
        part *= rate;
    }
    nets_data_free(&all);
    return st;
}

static sy_status read_net(sy_context *ctx, const char *path, const nets_net *like, nets_net *out)
{
    if (!nets_copy(out, like)) return SY_E_MEMORY;
    return nets_load(ctx, out, out->layers, path);
}

/* Sums of |predicted - s0| and |s1 - s0| over weights (0) and biases (1). */
static void compare(const nets_net *p, const nets_net *truth, const nets_net *last, double *off, double *still)
{
    for (int l = 0; l < p->layers; l++) {
        const int n = p->size[l] * p->size[l + 1];
        for (int i = 0; i < n; i++) {
            off[0] += fabs((double)p->w[l][i] - (double)truth->w[l][i]);
            still[0] += fabs((double)last->w[l][i] - (double)truth->w[l][i]);
        }
        for (int i = 0; i < p->size[l + 1]; i++) {
            off[1] += fabs((double)p->b[l][i] - (double)truth->b[l][i]);
            still[1] += fabs((double)last->b[l][i] - (double)truth->b[l][i]);
        }
    }
}

static sy_status one_seed(sy_context *ctx, uint64_t seed, double value[ARMS][2])
{
    char dir[256], recipe[9000], list[8000] = "", file[300], place[600];
    nets_net net[HELD];
    TRY(toy_folder(dir));
    sy_status st = SY_OK;
    for (int k = 0; k < TRAIN + HELD && st == SY_OK; k++) {
        nets_net scratch;
        snprintf(place, sizeof place, "%s/run%d", dir, k);
        st = trajectory(ctx, place, seed * 100 + (uint64_t)k, k < HELD ? &net[k] : &scratch);
        if (k >= HELD) {
            nets_free(&scratch);
            snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s/run%d", k > HELD ? ", " : "", dir, k);
        }
    }
    snprintf(file, sizeof file, "%s/known.safetensors", dir);
    static const char models[] = "merge_method: know\nmodels: [{model: run%d/s5.safetensors}, {model: run%d/s4.safetensors}, {model: run%d/s3.safetensors}, {model: run%d/s2.safetensors}, "
                                 "{model: run%d/s1.safetensors}]\nparameters: {%s}\n";
    char parameters[8600];
    snprintf(parameters, sizeof parameters, "trajectories: [%s], steps: 2500, batch: 1024, save: %s", list, file);
    snprintf(recipe, sizeof recipe, models, 0, 0, 0, 0, 0, parameters);
    if (st == SY_OK) st = nets_merge(ctx, dir, recipe, "first");
    for (int a = 0; a < ARMS && st == SY_OK; a++) {
        double off[2] = { 0 }, still[2] = { 0 };
        for (int k = 0; k < HELD && st == SY_OK; k++) {
            nets_net p = { .layers = 0 }, truth = p, last = p;
            snprintf(parameters, sizeof parameters, arms[a].parameters, file);
            snprintf(recipe, sizeof recipe, models, k, k, k, k, k, parameters);
            st = nets_merge(ctx, dir, recipe, "predicted");
            snprintf(place, sizeof place, "%s/predicted", dir);
            if (st == SY_OK) st = read_net(ctx, place, &net[k], &p);
            snprintf(place, sizeof place, "%s/run%d/s0.safetensors", dir, k);
            if (st == SY_OK) st = read_net(ctx, place, &net[k], &truth);
            snprintf(place, sizeof place, "%s/run%d/s1.safetensors", dir, k);
            if (st == SY_OK) st = read_net(ctx, place, &net[k], &last);
            if (st == SY_OK) compare(&p, &truth, &last, off, still);
            nets_free(&p);
            nets_free(&truth);
            nets_free(&last);
        }
        for (int t = 0; t < 2; t++) value[a][t] = off[t] / still[t];
    }
    for (int k = 0; k < HELD; k++) nets_free(&net[k]);
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
    static double value[ARMS][2][SEEDS];
    if (seeds > SEEDS) seeds = SEEDS;
    for (int s = 0; s < seeds; s++) {
        double v[ARMS][2];
        sy_report_progress(report, s, seeds, "trajectories, training, prediction");
        TRY(one_seed(ctx, 5 + (uint64_t)s, v));
        for (int a = 0; a < ARMS; a++)
            for (int t = 0; t < 2; t++) value[a][t][s] = v[a][t];
    }
    for (int t = 0; t < 2; t++)
        for (int a = 0; a < ARMS; a++) {
            char what[120];
            snprintf(what, sizeof what, "%s: error left, %s (no change: 1)", arms[a].what, t ? "biases" : "weights");
            TRY(sy_report_row(report, what, value[a][t], seeds, arms[a].sheet[t]));
        }
    for (int t = 0; t < 2; t++) {
        const double known = mean(value[0][t], seeds), linear = mean(value[1][t], seeds), fitted = mean(value[2][t], seeds);
        TRY(sy_report_check(report, known < 0.95 * linear, "%s: KNOWN (%.3f) is better than the last difference (%.3f) by at least 5 %%", t ? "biases" : "weights", known, linear));
        TRY(sy_report_check(report, known <= 1.05 * fitted, "%s: KNOWN (%.3f) is not worse than the best linear rule (%.3f) by more than 5 %%", t ? "biases" : "weights", known, fitted));
    }
    return SY_OK;
}

const sy_experiment sy_experiment_know = {
    .name = "know",
    .claim = "A small network trained on series of checkpoints from shrinking data predicts the weights before the series better than repeating its last difference.",
    .paper = "KNOW (arXiv:2508.05059): ResNet-18, CIFAR-100 to CIFAR-10: 92.40 %, with predicted weights 93.55 % (not measured here: only the prediction is)",
    .seeds = 3,
    .run = run,
};
