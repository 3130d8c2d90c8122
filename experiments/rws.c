/* SPDX-License-Identifier: Apache-2.0 */
/* Robust weight signatures at small scale: a convolutional net is fine-tuned from a common start
 * on clean and on corrupted pictures of a data set A; what the corrupted training changed in the
 * first layers beyond the clean one is added to a clean net of A, and of another data set B. */
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

enum { SEEDS = 8, SIDE = 14, DIM = SIDE * SIDE, CONVS = 3, LAYERS = 4, BATCH = 50, TRAIN = 3000, TEST = 1000, START_CLASSES = 30, KINDS = 4, DEPTHS = 3 };

/* -- a small convolutional net: 3x3 kernels, ReLU, then a linear layer ------------------------- */

typedef struct { int in, out, side, stride; } shape; /* side: of the input */
static const shape convs[CONVS] = { { 1, 16, 14, 1 }, { 16, 32, 14, 2 }, { 32, 32, 7, 2 } };
enum { FEATURES = 32 * 4 * 4 };
typedef struct { int classes, rows[LAYERS], cols[LAYERS]; float *w[LAYERS], *b[LAYERS]; } net;

static int out_side(int l) { return (convs[l].side + convs[l].stride - 1) / convs[l].stride; }

static bool net_new(net *n, int classes)
{
    *n = (net){ .classes = classes };
    bool ok = true;
    for (int l = 0; l < LAYERS; l++) {
        n->rows[l] = l < CONVS ? convs[l].out : classes;
        n->cols[l] = l < CONVS ? 9 * convs[l].in : FEATURES;
        n->w[l] = calloc((size_t)n->rows[l] * (size_t)n->cols[l], sizeof(float));
        n->b[l] = calloc((size_t)n->rows[l], sizeof(float));
        ok = ok && n->w[l] && n->b[l];
    }
    return ok;
}

static void net_free(net *n)
{
    for (int l = 0; l < LAYERS; l++) {
        free(n->w[l]);
        free(n->b[l]);
    }
    *n = (net){ .classes = 0 };
}

static void draw_layer(net *n, int l, toy_rng *r)
{
    for (int i = 0; i < n->rows[l] * n->cols[l]; i++) n->w[l][i] = (float)(toy_normal(r) * sqrt(2.0 / n->cols[l]));
    memset(n->b[l], 0, (size_t)n->rows[l] * sizeof(float));
}

static void copy_convs(net *to, const net *from)
{
    for (int l = 0; l < CONVS; l++) {
        memcpy(to->w[l], from->w[l], (size_t)to->rows[l] * (size_t)to->cols[l] * sizeof(float));
        memcpy(to->b[l], from->b[l], (size_t)to->rows[l] * sizeof(float));
    }
}

/* Activations of a batch, pixel by pixel with channels last; patches of 3x3 as rows. */
typedef struct { float *act[LAYERS + 1], *cols[CONVS], *back, *next, *turned, *other; net g, m, v; } work;

static bool work_new(work *k, int classes)
{
    memset(k, 0, sizeof *k);
    bool ok = net_new(&k->g, classes) && net_new(&k->m, classes) && net_new(&k->v, classes);
    size_t most = 0;
    for (int l = 0; l < LAYERS; l++) {
        const size_t pixels = l < CONVS ? (size_t)(BATCH * out_side(l) * out_side(l)) : BATCH;
        const size_t patches = pixels * (size_t)k->g.cols[l];
        ok = ok && (k->act[l + 1] = malloc(pixels * (size_t)k->g.rows[l] * sizeof(float)));
        if (l < CONVS) ok = ok && (k->cols[l] = malloc(patches * sizeof(float)));
        most = patches > most ? patches : most;
    }
    float **scratch[] = { &k->back, &k->next, &k->turned, &k->other };
    for (int i = 0; i < 4; i++) ok = ok && (*scratch[i] = malloc(most * sizeof(float)));
    return ok;
}

static void work_free(work *k)
{
    net_free(&k->g);
    net_free(&k->m);
    net_free(&k->v);
    for (int l = 0; l < LAYERS; l++) free(k->act[l + 1]);
    for (int l = 0; l < CONVS; l++) free(k->cols[l]);
    free(k->back);
    free(k->next);
    free(k->turned);
    free(k->other);
}

/* Patches of an image batch to rows (or, back: rows added to the image). */
static void patches(int l, int n, float *image, float *rows, bool back)
{
    const int c = convs[l].in, side = convs[l].side, o = out_side(l), stride = convs[l].stride;
    for (int i = 0; i < n; i++)
        for (int y = 0; y < o; y++)
            for (int x = 0; x < o; x++) {
                float *row = rows + (size_t)((i * o + y) * o + x) * (size_t)(9 * c);
                for (int k = 0; k < 9; k++) {
                    const int sy = y * stride + k / 3 - 1, sx = x * stride + k % 3 - 1;
                    const bool in = sy >= 0 && sy < side && sx >= 0 && sx < side;
                    float *at = in ? image + (size_t)((i * side + sy) * side + sx) * (size_t)c : NULL;
                    for (int j = 0; j < c; j++) {
                        if (!back) row[k * c + j] = at ? at[j] : 0;
                        else if (at) at[j] += row[k * c + j];
                    }
                }
            }
}

static void turn(int n, int m, const float *x, float *to)
{
    for (int i = 0; i < n; i++)
        for (int j = 0; j < m; j++) to[(size_t)j * (size_t)n + (size_t)i] = x[(size_t)i * (size_t)m + (size_t)j];
}

static void forward(const net *net_, work *k, int n, float *x)
{
    k->act[0] = x;
    for (int l = 0; l < LAYERS; l++) {
        const int rows = l < CONVS ? n * out_side(l) * out_side(l) : n, out = net_->rows[l];
        if (l < CONVS) patches(l, n, k->act[l], k->cols[l], false);
        for (int i = 0; i < rows; i++) memcpy(k->act[l + 1] + (size_t)i * (size_t)out, net_->b[l], (size_t)out * sizeof(float));
        nets_matmul(rows, out, net_->cols[l], l < CONVS ? k->cols[l] : k->act[l], net_->w[l], k->act[l + 1]);
        for (int i = 0; l < CONVS && i < rows * out; i++) k->act[l + 1][i] = k->act[l + 1][i] > 0 ? k->act[l + 1][i] : 0;
    }
}

/* Softmax minus the labels, / n, in place; returns hits. */
static int losses(float *z, int n, int classes, const int *y)
{
    int hits = 0;
    for (int i = 0; i < n; i++) {
        float *p = z + i * classes, top = p[0], sum = 0;
        int best = 0;
        for (int c = 1; c < classes; c++)
            if (p[c] > top) top = p[c], best = c;
        for (int c = 0; c < classes; c++) sum += p[c] = expf(p[c] - top);
        for (int c = 0; c < classes; c++) p[c] = (p[c] / sum - (float)(c == y[i])) / (float)n;
        hits += best == y[i];
    }
    return hits;
}

static void backward(const net *n, work *k, int count)
{
    memcpy(k->back, k->act[LAYERS], (size_t)count * (size_t)n->classes * sizeof(float));
    for (int l = LAYERS - 1; l >= 0; l--) {
        const int rows = l < CONVS ? count * out_side(l) * out_side(l) : count, out = n->rows[l], in = n->cols[l];
        const float *z = l < CONVS ? k->cols[l] : k->act[l];
        memset(k->g.w[l], 0, (size_t)out * (size_t)in * sizeof(float));
        memset(k->g.b[l], 0, (size_t)out * sizeof(float));
        for (int i = 0; i < rows; i++)
            for (int o = 0; o < out; o++) k->g.b[l][o] += k->back[(size_t)i * (size_t)out + (size_t)o];
        turn(rows, out, k->back, k->other);
        turn(rows, in, z, k->turned);
        nets_matmul(out, in, rows, k->other, k->turned, k->g.w[l]);
        if (l == 0) return;
        turn(out, in, n->w[l], k->turned);
        memset(k->next, 0, (size_t)rows * (size_t)in * sizeof(float));
        nets_matmul(rows, in, out, k->back, k->turned, k->next);
        if (l < CONVS) {
            const size_t size = (size_t)(count * convs[l].side * convs[l].side * convs[l].in);
            memset(k->back, 0, size * sizeof(float));
            patches(l, count, k->back, k->next, true);
        } else {
            memcpy(k->back, k->next, (size_t)rows * (size_t)in * sizeof(float));
        }
        const size_t size = (size_t)count * (l < CONVS ? (size_t)(convs[l].side * convs[l].side * convs[l].in) : (size_t)in);
        for (size_t i = 0; i < size; i++) k->back[i] = k->act[l][i] > 0 ? k->back[i] : 0;
    }
}

static void adam(float *x, const float *g, float *m, float *v, int n, int step)
{
    const float lr = (float)(1e-3 * sqrt(1 - pow(0.999, step)) / (1 - pow(0.9, step)));
    for (int i = 0; i < n; i++) {
        m[i] += 0.1f * (g[i] - m[i]);
        v[i] += 0.001f * (g[i] * g[i] - v[i]);
        x[i] -= lr * m[i] / (sqrtf(v[i]) + 1e-8f);
    }
}

static sy_status train(net *n, const nets_data *d, int epochs, uint64_t seed)
{
    work k;
    toy_rng r = { seed };
    float *x = malloc(BATCH * DIM * sizeof *x);
    int *order = malloc((size_t)d->n * sizeof *order), y[BATCH], step = 0;
    bool ok = work_new(&k, n->classes) && x && order;
    for (int i = 0; ok && i < d->n; i++) order[i] = i;
    for (int e = 0; ok && e < epochs; e++) {
        for (int i = d->n - 1; i > 0; i--) {
            const int j = (int)(toy_next(&r) % (uint64_t)(i + 1)), t = order[i];
            order[i] = order[j];
            order[j] = t;
        }
        for (int s = 0; s + BATCH <= d->n; s += BATCH) {
            for (int i = 0; i < BATCH; i++) {
                memcpy(x + i * DIM, d->x + (size_t)order[s + i] * DIM, DIM * sizeof *x);
                y[i] = d->y[order[s + i]];
            }
            forward(n, &k, BATCH, x);
            losses(k.act[LAYERS], BATCH, n->classes, y);
            backward(n, &k, BATCH);
            step++;
            for (int l = 0; l < LAYERS; l++) {
                adam(n->w[l], k.g.w[l], k.m.w[l], k.v.w[l], n->rows[l] * n->cols[l], step);
                adam(n->b[l], k.g.b[l], k.m.b[l], k.v.b[l], n->rows[l], step);
            }
        }
    }
    work_free(&k);
    free(x);
    free(order);
    return ok ? SY_OK : SY_E_MEMORY;
}

static double accuracy(const net *n, const nets_data *d)
{
    work k;
    int hits = 0;
    if (work_new(&k, n->classes))
        for (int s = 0; s + BATCH <= d->n; s += BATCH) {
            forward(n, &k, BATCH, d->x + (size_t)s * DIM);
            hits += losses(k.act[LAYERS], BATCH, n->classes, d->y + s);
        }
    work_free(&k);
    return (double)hits / d->n;
}

/* -- pictures and files ------------------------------------------------------------------------- */

static bool corrupt(const nets_data *from, int kind, uint64_t seed, nets_data *to)
{
    toy_rng r = { seed };
    *to = (nets_data){ from->n, from->dim, malloc((size_t)from->n * DIM * sizeof(float)), malloc((size_t)from->n * sizeof(int)) };
    if (!to->x || !to->y) return false;
    memcpy(to->y, from->y, (size_t)from->n * sizeof(int));
    for (int i = 0; i < from->n * DIM; i++) {
        const double x = (double)from->x[i];
        const int at = i % DIM;
        double v = x;
        if (kind == 0) v = x + 1.5 * toy_normal(&r);
        else if (kind == 1) v = 0.2 * x + 1.5;
        else if (kind == 2) v = x + ((at / SIDE + at % SIDE) % 2 ? 3 : -3);
        else if (toy_uniform(&r) < 0.2) v = toy_uniform(&r) < 0.5 ? -3 : 3;
        to->x[i] = (float)v;
    }
    return true;
}

static sy_status save(sy_context *ctx, const net *n, const char *dir, const char *name)
{
    char path[700], tensor[40];
    sy_writer *w;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    mkdir(path, 0777);
    snprintf(path, sizeof path, "%s/%s/model.safetensors", dir, name);
    TRY(sy_writer_new(ctx, path, 0, &w));
    sy_status st = SY_OK;
    for (int put = 0; put < 2 && st == SY_OK; put++) {
        for (int l = 0; l < CONVS && st == SY_OK; l++)
            for (int k = 0; k < 2 && st == SY_OK; k++) {
                const int64_t dim[2] = { n->rows[l], n->cols[l] };
                snprintf(tensor, sizeof tensor, "features.%d.%s", l, k ? "bias" : "weight");
                st = put ? sy_writer_put(w, tensor, 0, k ? 1 : dim[0], k ? n->b[l] : n->w[l]) : sy_writer_declare(w, tensor, SY_F32, k ? 1 : 2, dim);
            }
        if (!put && st == SY_OK) st = sy_writer_begin(w);
    }
    if (st == SY_OK) return sy_writer_end(w);
    sy_writer_abort(w);
    return st;
}

static sy_status load(sy_context *ctx, net *n, const char *dir, const char *name)
{
    char path[700], tensor[40];
    sy_checkpoint *ck;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    TRY(sy_checkpoint_open(ctx, path, &ck));
    sy_status st = SY_OK;
    for (int l = 0; l < CONVS && st == SY_OK; l++)
        for (int k = 0; k < 2 && st == SY_OK; k++) {
            snprintf(tensor, sizeof tensor, "features.%d.%s", l, k ? "bias" : "weight");
            const sy_entry *e = sy_checkpoint_find(ck, tensor);
            st = e ? sy_entry_read_f32(ctx, e, 0, k ? 1 : e->dim[0], k ? n->b[l] : n->w[l]) : SY_E_INPUT;
        }
    sy_checkpoint_close(ck);
    return st;
}

/* -- one seed ------------------------------------------------------------------------------------- */

typedef struct { nets_data train, test, bad[KINDS]; net standard; } dataset; /* bad: corrupted tests */
enum { CLEAN_A, CLEAN_B, PLAIN_A, PLAIN_B, AA_CLEAN, AA_BAD, AB_CLEAN, AB_BAD, RAW_CLEAN, RAW_BAD, WRONG = RAW_BAD + 1, COS_SAME, COS_OTHER, K1_CLEAN, K1_BAD, K3_CLEAN, K3_BAD, VALUES };
static const struct { const char *what; double sheet; } rows[VALUES] = {
    [CLEAN_A] = { "clean net of A, clean pictures", 0.994 }, [CLEAN_B] = { "clean net of B, clean pictures", 0.978 },
    [PLAIN_A] = { "clean net of A, corrupted pictures", 0.511 }, [PLAIN_B] = { "clean net of B, corrupted pictures", 0.495 },
    [AA_CLEAN] = { "A patched with A's signature (2 layers), clean", 0.986 }, [AA_BAD] = { "the same, corrupted", 0.580 },
    [AB_CLEAN] = { "B patched with A's signature (2 layers), clean", 0.967 }, [AB_BAD] = { "the same, corrupted", 0.548 },
    [RAW_CLEAN] = { "B patched without projection (2 layers), clean", NAN }, [RAW_BAD] = { "the same, corrupted", 0.530 },
    [WRONG] = { "B patched with the signature of another corruption", 0.510 },
    [COS_SAME] = { "cosine of A's and B's signatures, first layer: same corruption", 0.545 }, [COS_OTHER] = { "the same: different corruptions", 0.19 },
    [K1_CLEAN] = { "B patched in 1 layer, clean", NAN }, [K1_BAD] = { "the same, corrupted", NAN },
    [K3_CLEAN] = { "B patched in 3 layers, clean", 0.94 }, [K3_BAD] = { "the same, corrupted", NAN },
};

static sy_status make_set(sy_context *ctx, toy_rng *r, const net *start, dataset *s, char letter, const char *dir)
{
    float prototypes[16 * DIM];
    char name[40];
    nets_prototypes(r, 16, SIDE, 1.5, prototypes);
    bool ok = nets_samples(r, prototypes, 16, 8, SIDE, 2, 0.5, TRAIN, &s->train) && nets_samples(r, prototypes, 16, 8, SIDE, 2, 0.5, TEST, &s->test) && net_new(&s->standard, 8);
    for (int c = 0; ok && c < KINDS; c++) ok = corrupt(&s->test, c, toy_next(r), &s->bad[c]);
    if (!ok) return SY_E_MEMORY;
    copy_convs(&s->standard, start);
    draw_layer(&s->standard, CONVS, r);
    const uint64_t seed = toy_next(r);
    snprintf(name, sizeof name, "%c-standard", letter);
    for (int c = 0; c < KINDS; c++) { /* from the same start, the same first head, the same order */
        nets_data bad;
        net robust;
        if (!net_new(&robust, 8)) return SY_E_MEMORY;
        copy_convs(&robust, start);
        memcpy(robust.w[CONVS], s->standard.w[CONVS], 8 * FEATURES * sizeof(float));
        sy_status st = corrupt(&s->train, c, toy_next(r), &bad) ? train(&robust, &bad, 6, seed) : SY_E_MEMORY;
        char file[40];
        snprintf(file, sizeof file, "%c-robust%d", letter, c);
        if (st == SY_OK) st = save(ctx, &robust, dir, file);
        nets_data_free(&bad);
        net_free(&robust);
        TRY(st);
    }
    TRY(train(&s->standard, &s->train, 6, seed));
    return save(ctx, &s->standard, dir, name);
}

static sy_status extract(sy_context *ctx, const char *dir, char letter, int kind, int depth, bool project, const char *file)
{
    char recipe[1200];
    snprintf(recipe, sizeof recipe, "merge_method: rws\nbase_model: start\nmodels: [{model: %c-standard, parameters: {role: standard}}, {model: %c-robust%d}]\n"
             "parameters: {keep_layers: %d, project: %s, save: %s/%s}\n", letter, letter, kind, depth, project ? "true" : "false", dir, file);
    return nets_merge(ctx, dir, recipe, "unused");
}

/* Accuracy of `s` patched: on clean pictures and on those of `kind`. */
static sy_status patched(sy_context *ctx, const char *dir, char letter, const dataset *s, const char *file, int kind, double *clean, double *bad)
{
    char recipe[900];
    net n;
    snprintf(recipe, sizeof recipe, "merge_method: rws\nmodels: [{model: %c-standard}]\nparameters: {signatures: [%s/%s]}\n", letter, dir, file);
    TRY(nets_merge(ctx, dir, recipe, "patched"));
    if (!net_new(&n, 8)) return SY_E_MEMORY;
    memcpy(n.w[CONVS], s->standard.w[CONVS], 8 * FEATURES * sizeof(float));
    memcpy(n.b[CONVS], s->standard.b[CONVS], 8 * sizeof(float));
    const sy_status st = load(ctx, &n, dir, "patched");
    if (st == SY_OK && clean) *clean += accuracy(&n, &s->test) / KINDS;
    if (st == SY_OK) *bad += accuracy(&n, &s->bad[kind]) / KINDS;
    net_free(&n);
    return st;
}

static sy_status first_layer(sy_context *ctx, const char *dir, const char *file, float *to)
{
    char path[700];
    sy_checkpoint *ck;
    snprintf(path, sizeof path, "%s/%s", dir, file);
    TRY(sy_checkpoint_open(ctx, path, &ck));
    const sy_entry *e = sy_checkpoint_find(ck, "features.0.weight");
    const sy_status st = e ? sy_entry_read_f32(ctx, e, 0, 16, to) : SY_E_INPUT;
    sy_checkpoint_close(ck);
    return st;
}

static double cosine(const float *a, const float *b, int n)
{
    double ab = 0, aa = 0, bb = 0;
    for (int i = 0; i < n; i++) ab += (double)a[i] * (double)b[i], aa += (double)a[i] * (double)a[i], bb += (double)b[i] * (double)b[i];
    return ab / sqrt(aa * bb);
}

static sy_status measure(sy_context *ctx, const char *dir, const dataset *a, const dataset *b, double *v)
{
    char file[40];
    float w[2][KINDS][144];
    v[CLEAN_A] = accuracy(&a->standard, &a->test);
    v[CLEAN_B] = accuracy(&b->standard, &b->test);
    for (int c = 0; c < KINDS; c++) {
        v[PLAIN_A] += accuracy(&a->standard, &a->bad[c]) / KINDS;
        v[PLAIN_B] += accuracy(&b->standard, &b->bad[c]) / KINDS;
        for (int k = 1; k <= DEPTHS; k++) {
            snprintf(file, sizeof file, "sig%d-%d", c, k);
            TRY(extract(ctx, dir, 'a', c, k, true, file));
            TRY(patched(ctx, dir, 'b', b, file, c, &v[k == 1 ? K1_CLEAN : k == 2 ? AB_CLEAN : K3_CLEAN], &v[k == 1 ? K1_BAD : k == 2 ? AB_BAD : K3_BAD]));
        }
        snprintf(file, sizeof file, "sig%d-2", c);
        TRY(patched(ctx, dir, 'a', a, file, c, &v[AA_CLEAN], &v[AA_BAD]));
        TRY(first_layer(ctx, dir, file, w[0][c]));
        snprintf(file, sizeof file, "raw%d", c);
        TRY(extract(ctx, dir, 'a', c, 2, false, file));
        TRY(patched(ctx, dir, 'b', b, file, c, &v[RAW_CLEAN], &v[RAW_BAD]));
        snprintf(file, sizeof file, "other%d", c);
        TRY(extract(ctx, dir, 'b', c, 2, true, file));
        TRY(first_layer(ctx, dir, file, w[1][c]));
    }
    for (int c = 0; c < KINDS; c++)
        for (int d = 0; d < KINDS; d++) {
            const double x = cosine(w[0][c], w[1][d], 144);
            if (c == d) v[COS_SAME] += x / KINDS;
            else v[COS_OTHER] += x / (KINDS * (KINDS - 1));
            double bad = 0;
            snprintf(file, sizeof file, "sig%d-2", d);
            if (c != d) TRY(patched(ctx, dir, 'b', b, file, c, NULL, &bad));
            v[WRONG] += bad / (KINDS - 1);
        }
    return SY_OK;
}

static sy_status one_seed(sy_context *ctx, uint64_t seed, double *v)
{
    char dir[256];
    toy_rng r = { seed };
    dataset a, b;
    net start;
    nets_data first = { 0, 0, NULL, NULL };
    float *prototypes = malloc(START_CLASSES * DIM * sizeof *prototypes);
    memset(&a, 0, sizeof a);
    memset(&b, 0, sizeof b);
    TRY(toy_folder(dir));
    bool ok = prototypes && net_new(&start, START_CLASSES);
    if (ok) nets_prototypes(&r, START_CLASSES, SIDE, 1.5, prototypes);
    ok = ok && nets_samples(&r, prototypes, START_CLASSES, START_CLASSES, SIDE, 2, 0.5, TRAIN, &first);
    for (int l = 0; ok && l < LAYERS; l++) draw_layer(&start, l, &r);
    sy_status st = ok ? train(&start, &first, 6, toy_next(&r)) : SY_E_MEMORY;
    nets_data_free(&first);
    free(prototypes);
    if (st == SY_OK) st = save(ctx, &start, dir, "start");
    if (st == SY_OK) st = make_set(ctx, &r, &start, &a, 'a', dir);
    if (st == SY_OK) st = make_set(ctx, &r, &start, &b, 'b', dir);
    if (st == SY_OK) st = measure(ctx, dir, &a, &b, v);
    net_free(&start);
    for (dataset *s = &a; s; s = s == &a ? &b : NULL) {
        net_free(&s->standard);
        nets_data_free(&s->train);
        nets_data_free(&s->test);
        for (int c = 0; c < KINDS; c++) nets_data_free(&s->bad[c]);
    }
    toy_folder_remove(dir);
    return st;
}

static sy_status run(sy_context *ctx, int seeds, sy_report *report)
{
    static double value[VALUES][SEEDS];
    double mean[VALUES] = { 0 };
    if (seeds > SEEDS) seeds = SEEDS;
    for (int s = 0; s < seeds; s++) {
        double v[VALUES] = { 0 };
        sy_report_progress(report, s, seeds, "eleven small convolutional nets");
        TRY(one_seed(ctx, 300 + (uint64_t)s, v));
        for (int i = 0; i < VALUES; i++) {
            value[i][s] = v[i];
            mean[i] += v[i] / seeds;
        }
    }
    for (int i = 0; i < VALUES; i++) TRY(sy_report_row(report, rows[i].what, value[i], seeds, rows[i].sheet));
    TRY(sy_report_check(report, mean[COS_SAME] > 2 * mean[COS_OTHER], "signatures of the same corruption have a cosine of %.2f, more than twice that of different ones (%.2f)", mean[COS_SAME],
                        mean[COS_OTHER]));
    TRY(sy_report_check(report, mean[AB_BAD] >= mean[PLAIN_B] + 0.03, "another data set's net gains on corrupted pictures: %.3f to %.3f", mean[PLAIN_B], mean[AB_BAD]));
    TRY(sy_report_check(report, mean[AB_CLEAN] >= mean[CLEAN_B] - 0.03, "and loses little on clean ones: %.3f to %.3f", mean[CLEAN_B], mean[AB_CLEAN]));
    TRY(sy_report_check(report, mean[AB_CLEAN] >= mean[RAW_CLEAN], "with projection it keeps more of its clean accuracy (%.3f) than without (%.3f)", mean[AB_CLEAN], mean[RAW_CLEAN]));
    return sy_report_check(report, mean[WRONG] < mean[PLAIN_B] + 0.01, "the signature of another corruption gains nothing: %.3f to %.3f", mean[PLAIN_B], mean[WRONG]);
}

const sy_experiment sy_experiment_rws = {
    .name = "rws",
    .claim = "What training on corrupted pictures changes in the first layers, less the direction of clean training, makes another clean net with the same start more robust, also one of another data set.",
    .paper = "RWS (arXiv:2302.12480): VGG-16 and ResNet-50 on CIFAR-10, CIFAR-100 and Tiny-ImageNet (its tables could not be reached)",
    .seeds = 3,
    .run = run,
};
