/* SPDX-License-Identifier: Apache-2.0 */
/* See _nets.h. */
#include "_nets.h"

#include "steelyard/job.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* -- images -------------------------------------------------------------------------------- */

void nets_prototypes(toy_rng *r, int count, int side, double sigma, float *out)
{
    double noise[32 * 32], once[32 * 32];
    const int reach = (int)(4 * sigma);
    for (int p = 0; p < count; p++) {
        float *to = out + p * side * side;
        double mean = 0, square = 0;
        for (int i = 0; i < side * side; i++) noise[i] = toy_normal(r);
        for (int pass = 0; pass < 2; pass++) { /* rows, then columns; borders mirror */
            const double *from = pass ? once : noise;
            for (int y = 0; y < side; y++)
                for (int x = 0; x < side; x++) {
                    double sum = 0, weight = 0;
                    for (int d = -reach; d <= reach; d++) {
                        int at = (pass ? y : x) + d;
                        const double g = exp(-0.5 * d * d / (sigma * sigma));
                        while (at < 0 || at >= side) at = at < 0 ? -at - 1 : 2 * side - 1 - at;
                        sum += g * from[pass ? at * side + x : y * side + at];
                        weight += g;
                    }
                    (pass ? noise : once)[y * side + x] = sum / weight;
                }
            if (pass == 0) continue;
            for (int i = 0; i < side * side; i++) mean += noise[i] / (side * side);
            for (int i = 0; i < side * side; i++) square += (noise[i] - mean) * (noise[i] - mean) / (side * side);
            for (int i = 0; i < side * side; i++) to[i] = (float)((noise[i] - mean) / sqrt(square));
        }
    }
}

bool nets_samples(toy_rng *r, const float *prototypes, int count, int classes, int side, int shift, double noise, int n, nets_data *out)
{
    const int dim = side * side;
    *out = (nets_data){ n, dim, malloc((size_t)n * (size_t)dim * sizeof(float)), malloc((size_t)n * sizeof(int)) };
    if (!out->x || !out->y) return false;
    for (int i = 0; i < n; i++) {
        const int p = (int)(toy_next(r) % (uint64_t)count);
        int dx = 0, dy = 0;
        if (shift > 0) {
            dx = (int)(toy_next(r) % (uint64_t)(2 * shift + 1)) - shift;
            dy = (int)(toy_next(r) % (uint64_t)(2 * shift + 1)) - shift;
        }
        out->y[i] = p % classes;
        for (int y = 0; y < side; y++)
            for (int x = 0; x < side; x++) {
                const int sy = y + dy < 0 ? 0 : y + dy >= side ? side - 1 : y + dy, sx = x + dx < 0 ? 0 : x + dx >= side ? side - 1 : x + dx;
                out->x[i * dim + y * side + x] = (float)((double)prototypes[p * dim + sy * side + sx] + noise * toy_normal(r));
            }
    }
    return true;
}

static bool write_idx(const char *path, int rank, const int *dim, const unsigned char *bytes, size_t n)
{
    FILE *f = fopen(path, "wb");
    if (!f) return false;
    unsigned char head[16] = { 0, 0, 8, (unsigned char)rank };
    for (int i = 0; i < rank; i++)
        for (int k = 0; k < 4; k++) head[4 + 4 * i + k] = (unsigned char)(dim[i] >> (24 - 8 * k));
    const bool ok = fwrite(head, 1, 4 + 4 * (size_t)rank, f) == 4 + 4 * (size_t)rank && fwrite(bytes, 1, n, f) == n;
    return fclose(f) == 0 && ok;
}

sy_status nets_save_idx(nets_data *d, int side, const char *prefix)
{
    char path[600];
    const int dim[3] = { d->n, side, side };
    const size_t n = (size_t)d->n * (size_t)d->dim;
    unsigned char *bytes = malloc(n + (size_t)d->n), *labels = bytes + n;
    if (!bytes) return SY_E_MEMORY;
    for (size_t i = 0; i < n; i++) {
        const double v = round((double)d->x[i] * 20) + 128;
        bytes[i] = (unsigned char)(v < 0 ? 0 : v > 255 ? 255 : v);
        d->x[i] = (float)((bytes[i] - 128) / 20.0);
    }
    for (int i = 0; i < d->n; i++) labels[i] = (unsigned char)d->y[i];
    snprintf(path, sizeof path, "%s-images-idx3-ubyte", prefix);
    bool ok = write_idx(path, 3, dim, bytes, n);
    snprintf(path, sizeof path, "%s-labels-idx1-ubyte", prefix);
    ok = ok && write_idx(path, 1, dim, labels, (size_t)d->n);
    free(bytes);
    return ok ? SY_OK : SY_E_IO;
}

void nets_data_free(nets_data *d)
{
    free(d->x);
    free(d->y);
    *d = (nets_data){ 0, 0, NULL, NULL };
}

/* -- networks --------------------------------------------------------------------------------- */

bool nets_new(nets_net *n, int layers, const int *size, toy_rng *r)
{
    *n = (nets_net){ .layers = layers };
    memcpy(n->size, size, (size_t)(layers + 1) * sizeof *size);
    for (int l = 0; l < layers; l++) {
        const int count = size[l] * size[l + 1];
        n->w[l] = malloc((size_t)count * sizeof(float));
        n->b[l] = calloc((size_t)size[l + 1], sizeof(float));
        if (!n->w[l] || !n->b[l]) return false;
        for (int i = 0; i < count; i++) n->w[l][i] = r ? (float)(toy_normal(r) * sqrt(2.0 / size[l])) : 0;
    }
    return true;
}

void nets_set(nets_net *to, const nets_net *from)
{
    for (int l = 0; l < to->layers; l++) {
        memcpy(to->w[l], from->w[l], (size_t)to->size[l] * (size_t)to->size[l + 1] * sizeof(float));
        memcpy(to->b[l], from->b[l], (size_t)to->size[l + 1] * sizeof(float));
    }
}

bool nets_copy(nets_net *to, const nets_net *from)
{
    if (!nets_new(to, from->layers, from->size, NULL)) return false;
    nets_set(to, from);
    return true;
}

void nets_free(nets_net *n)
{
    for (int l = 0; l < n->layers; l++) {
        free(n->w[l]);
        free(n->b[l]);
    }
    *n = (nets_net){ .layers = 0 };
}

int nets_count(const nets_net *n)
{
    int count = 0;
    for (int l = 0; l < n->layers; l++) count += (n->size[l] + 1) * n->size[l + 1];
    return count;
}

/* c[n,m] += a[n,k] x[k,m], four rows of x at a time. */
static void product(int n, int m, int k, const float *a, int lda, int stride, const float *x, float *c)
{
    for (int i = 0; i < n; i++) {
        float *restrict out = c + (size_t)i * (size_t)m;
        int j = 0;
        for (; j + 4 <= k; j += 4) {
            const float s0 = a[i * lda + j * stride], s1 = a[i * lda + (j + 1) * stride], s2 = a[i * lda + (j + 2) * stride], s3 = a[i * lda + (j + 3) * stride];
            const float *restrict x0 = x + (size_t)j * (size_t)m, *restrict x1 = x0 + m, *restrict x2 = x1 + m, *restrict x3 = x2 + m;
            if (s0 == 0 && s1 == 0 && s2 == 0 && s3 == 0) continue;
            for (int q = 0; q < m; q++) out[q] += s0 * x0[q] + s1 * x1[q] + s2 * x2[q] + s3 * x3[q];
        }
        for (; j < k; j++) {
            const float s = a[i * lda + j * stride];
            const float *restrict x0 = x + (size_t)j * (size_t)m;
            for (int q = 0; q < m; q++) out[q] += s * x0[q];
        }
    }
}

void nets_matmul(int n, int m, int k, const float *a, const float *b, float *c)
{
    float *turned = malloc((size_t)m * (size_t)k * sizeof *turned);
    if (!turned) return;
    for (int i = 0; i < m; i++)
        for (int j = 0; j < k; j++) turned[(size_t)j * (size_t)m + (size_t)i] = b[(size_t)i * (size_t)k + (size_t)j];
    product(n, m, k, a, k, 1, turned, c);
    free(turned);
}

/* Activations after every layer (act[0] is the input's own memory). */
static void forward(const nets_net *n, int rows, const float *x, float **act)
{
    for (int l = 0; l < n->layers; l++) {
        const int in = n->size[l], out = n->size[l + 1];
        for (int i = 0; i < rows; i++) memcpy(act[l + 1] + i * out, n->b[l], (size_t)out * sizeof(float));
        nets_matmul(rows, out, in, l ? act[l] : x, n->w[l], act[l + 1]);
        if (l + 1 == n->layers) break;
        for (int i = 0; i < rows * out; i++) act[l + 1][i] = act[l + 1][i] > 0 ? act[l + 1][i] : 0;
    }
}

/* Softmax in place minus the one-hot target, / rows; the mean loss and hits. */
static double softmax(float *z, int rows, int classes, const int *y, int *hits)
{
    double loss = 0;
    for (int i = 0; i < rows; i++) {
        float *p = z + i * classes, top = p[0];
        int best = 0;
        double sum = 0;
        for (int c = 1; c < classes; c++)
            if (p[c] > top) top = p[c], best = c;
        for (int c = 0; c < classes; c++) sum += exp((double)(p[c] - top));
        loss += log(sum) - (double)(p[y[i]] - top);
        *hits += best == y[i];
        for (int c = 0; c < classes; c++) p[c] = (float)((exp((double)(p[c] - top)) / sum - (c == y[i])) / rows);
    }
    return loss / rows;
}

static bool new_acts(const nets_net *n, int rows, float **act)
{
    for (int l = 1; l <= n->layers; l++)
        if (!(act[l] = malloc((size_t)rows * (size_t)n->size[l] * sizeof(float)))) return false;
    return true;
}

static void adam(float *x, float *g, float *m, float *v, int n, double lr, double l2, int t)
{
    const float step = (float)(lr * sqrt(1 - pow(0.999, t)) / (1 - pow(0.9, t))), eps = (float)(1e-8 * sqrt(1 - pow(0.999, t))), decay = (float)l2;
    for (int i = 0; i < n; i++) {
        const float d = g[i] + decay * x[i];
        m[i] += 0.1f * (d - m[i]);
        v[i] += 0.001f * (d * d - v[i]);
        x[i] -= step * m[i] / (sqrtf(v[i]) + eps);
    }
}

bool nets_train(nets_net *n, const nets_data *d, const nets_training *how)
{
    float *act[NETS_LAYERS + 2] = { NULL }, *x = malloc((size_t)how->batch * (size_t)d->dim * sizeof *x), *back = NULL, *next = NULL;
    int *y = malloc((size_t)how->batch * sizeof *y), *order = malloc((size_t)d->n * sizeof *order), widest = 0, step = 0, hits = 0;
    nets_net g = { .layers = 0 }, m = { .layers = 0 }, v = { .layers = 0 };
    toy_rng r = { how->seed };
    bool ok = x && y && order && new_acts(n, how->batch, act) && nets_new(&g, n->layers, n->size, NULL) && nets_new(&m, n->layers, n->size, NULL) && nets_new(&v, n->layers, n->size, NULL);
    for (int l = 0; l <= n->layers; l++)
        if (n->size[l] > widest) widest = n->size[l];
    back = malloc((size_t)how->batch * (size_t)widest * sizeof *back);
    next = malloc((size_t)how->batch * (size_t)widest * sizeof *next);
    ok = ok && back && next;
    const int steps = d->n / how->batch, total = how->epochs * steps, last = how->last ? how->last : n->layers;
    for (int i = 0; ok && i < d->n; i++) order[i] = i;
    for (int e = 0; ok && e < how->epochs; e++) {
        for (int i = d->n - 1; i > 0; i--) {
            const int j = (int)(toy_next(&r) % (uint64_t)(i + 1)), t = order[i];
            order[i] = order[j];
            order[j] = t;
        }
        for (int s = 0; s < steps; s++) {
            const double lr = how->cosine ? how->lr * 0.5 * (1 + cos(3.14159265358979 * step / total)) : how->lr;
            step++;
            for (int i = 0; i < how->batch; i++) {
                const int from = order[s * how->batch + i];
                memcpy(x + i * d->dim, d->x + (size_t)from * (size_t)d->dim, (size_t)d->dim * sizeof *x);
                y[i] = d->y[from];
            }
            forward(n, how->batch, x, act);
            softmax(act[n->layers], how->batch, n->size[n->layers], y, &hits);
            memcpy(back, act[n->layers], (size_t)how->batch * (size_t)n->size[n->layers] * sizeof *back);
            for (int l = n->layers - 1; l >= how->first; l--) {
                const int in = n->size[l], out = n->size[l + 1];
                const float *z = l ? act[l] : x;
                if (l < last) {
                    memset(g.w[l], 0, (size_t)in * (size_t)out * sizeof(float));
                    memset(g.b[l], 0, (size_t)out * sizeof(float));
                    product(out, in, how->batch, back, 1, out, z, g.w[l]);
                    for (int i = 0; i < how->batch; i++)
                        for (int o = 0; o < out; o++) g.b[l][o] += back[i * out + o];
                }
                if (l > how->first) {
                    memset(next, 0, (size_t)how->batch * (size_t)in * sizeof *next);
                    product(how->batch, in, out, back, out, 1, n->w[l], next);
                    for (int i = 0; i < how->batch * in; i++) back[i] = act[l][i] > 0 ? next[i] : 0;
                }
            }
            for (int l = how->first; l < last; l++) {
                adam(n->w[l], g.w[l], m.w[l], v.w[l], n->size[l] * n->size[l + 1], lr, how->l2, step);
                adam(n->b[l], g.b[l], m.b[l], v.b[l], n->size[l + 1], lr, 0, step);
            }
        }
    }
    for (int l = 1; l <= n->layers; l++) free(act[l]);
    nets_free(&g);
    nets_free(&m);
    nets_free(&v);
    free(x);
    free(y);
    free(order);
    free(back);
    free(next);
    return ok;
}

double nets_loss(const nets_net *n, const nets_data *d, double *accuracy)
{
    float *act[NETS_LAYERS + 2] = { NULL };
    int hits = 0;
    double loss = NAN;
    if (new_acts(n, d->n, act)) {
        forward(n, d->n, d->x, act);
        loss = softmax(act[n->layers], d->n, n->size[n->layers], d->y, &hits);
    }
    for (int l = 1; l <= n->layers; l++) free(act[l]);
    if (accuracy) *accuracy = (double)hits / d->n;
    return loss;
}

double nets_accuracy(const nets_net *n, const nets_data *d)
{
    double a;
    nets_loss(n, d, &a);
    return a;
}

/* -- files ------------------------------------------------------------------------------------------ */

static sy_status save_as(sy_context *ctx, const nets_net *n, int layers, const char *dir, const char *prefix)
{
    char path[600], name[32];
    sy_writer *w;
    mkdir(dir, 0777);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    sy_status st = sy_writer_new(ctx, path, 0, &w);
    if (st != SY_OK) return st;
    for (int put = 0; put < 2 && st == SY_OK; put++) {
        for (int l = 0; l < layers && st == SY_OK; l++)
            for (int k = 0; k < 2 && st == SY_OK; k++) {
                const int64_t dim[2] = { n->size[l + 1], n->size[l] };
                snprintf(name, sizeof name, "%s%d.%s", prefix, l, k ? "bias" : "weight");
                st = put ? sy_writer_put(w, name, 0, k ? 1 : dim[0], k ? n->b[l] : n->w[l]) : sy_writer_declare(w, name, SY_F32, k ? 1 : 2, dim);
            }
        if (!put && st == SY_OK) st = sy_writer_begin(w);
    }
    if (st == SY_OK) return sy_writer_end(w);
    sy_writer_abort(w);
    return st;
}

sy_status nets_save(sy_context *ctx, const nets_net *n, int layers, const char *dir) { return save_as(ctx, n, layers, dir, "fc"); }

sy_status nets_save_mlp(sy_context *ctx, const nets_net *n, const char *dir)
{
    char path[600];
    mkdir(dir, 0777);
    snprintf(path, sizeof path, "%s/config.json", dir);
    FILE *f = fopen(path, "w");
    if (!f) return SY_E_IO;
    fprintf(f, "{\"model_type\": \"mlp\", \"architectures\": [\"MLP\"], \"image_size\": %d, \"num_channels\": 1, \"num_labels\": %d, \"hidden_sizes\": [", (int)lround(sqrt(n->size[0])),
            n->size[n->layers]);
    for (int l = 1; l < n->layers; l++) fprintf(f, "%s%d", l > 1 ? ", " : "", n->size[l]);
    fputs("]}\n", f);
    if (fclose(f) != 0) return SY_E_IO;
    snprintf(path, sizeof path, "%s/preprocessor_config.json", dir);
    f = fopen(path, "w"); /* see nets_save_idx */
    if (!f) return SY_E_IO;
    fputs("{\"do_resize\": false, \"do_rescale\": true, \"rescale_factor\": 0.05, \"do_normalize\": true, \"image_mean\": [6.4], \"image_std\": [1]}\n", f);
    if (fclose(f) != 0) return SY_E_IO;
    return save_as(ctx, n, n->layers, dir, "layers.");
}

static sy_status load_as(sy_context *ctx, nets_net *n, int layers, const char *dir, const char *prefix)
{
    char name[32];
    sy_checkpoint *ck;
    sy_status st = sy_checkpoint_open(ctx, dir, &ck);
    if (st != SY_OK) return st;
    for (int l = 0; l < layers && st == SY_OK; l++)
        for (int k = 0; k < 2 && st == SY_OK; k++) {
            snprintf(name, sizeof name, "%s%d.%s", prefix, l, k ? "bias" : "weight");
            const sy_entry *e = sy_checkpoint_find(ck, name);
            st = e && e->dim[0] == n->size[l + 1] ? sy_entry_read_f32(ctx, e, 0, k ? 1 : e->dim[0], k ? n->b[l] : n->w[l]) : SY_E_INPUT;
        }
    sy_checkpoint_close(ck);
    return st;
}

sy_status nets_load(sy_context *ctx, nets_net *n, int layers, const char *dir) { return load_as(ctx, n, layers, dir, "fc"); }
sy_status nets_load_mlp(sy_context *ctx, nets_net *n, const char *dir) { return load_as(ctx, n, n->layers, dir, "layers."); }

float *nets_activations(const nets_net *n, const nets_data *d, int l)
{
    float *act[NETS_LAYERS + 2] = { NULL };
    if (new_acts(n, d->n, act)) forward(n, d->n, d->x, act);
    for (int k = 1; k <= n->layers; k++)
        if (k != l) free(act[k]);
    return act[l];
}

double nets_number(const char *report, const char *key)
{
    char quoted[80];
    snprintf(quoted, sizeof quoted, "\"%s\":", key);
    const char *at = report ? strstr(report, quoted) : NULL;
    return at ? strtod(at + strlen(quoted), NULL) : NAN;
}

sy_status nets_merge(sy_context *ctx, const char *dir, const char *recipe, const char *out) { return nets_merge_report(ctx, dir, recipe, out, NULL); }

sy_status nets_merge_report(sy_context *ctx, const char *dir, const char *recipe, const char *out, char **report)
{
    char path[600], place[600], line[256];
    snprintf(path, sizeof path, "%s/recipe.yaml", dir);
    snprintf(place, sizeof place, "%s/%s", dir, out);
    FILE *f = fopen(path, "w");
    if (!f) return SY_E_IO;
    fputs(recipe, f);
    if (fclose(f) != 0) return SY_E_IO;
    toy_folder_remove(place);
    sy_job *job;
    sy_status st = sy_job_new(ctx, "merge", &job);
    if (st != SY_OK) return st;
    snprintf(line, sizeof line, "on");
    st = sy_job_set(job, "recipe", path);
    if (st == SY_OK) st = sy_job_set(job, "out", place);
    if (st == SY_OK) st = sy_job_set(job, "unrelated", line);
    if (st == SY_OK) st = sy_job_run(job);
    if (report) *report = strdup(sy_job_report(job));
    sy_job_free(job);
    return st;
}

/* -- eight tasks ---------------------------------------------------------------------------------------- */

enum { SIDE = 12, BODY = 3, BASE_CLASSES = 30 };

static sy_status one_task(sy_context *ctx, nets_tasks *t, int k, const char *dir, toy_rng *r)
{
    static const int head_size[] = { 144, 128, 128, 128, TASK_CLASSES };
    float prototypes[TASK_CLASSES * SIDE * SIDE];
    nets_data train = { 0, 0, NULL, NULL };
    char place[600];
    nets_prototypes(r, TASK_CLASSES, SIDE, 1, prototypes);
    bool ok = nets_samples(r, prototypes, TASK_CLASSES, TASK_CLASSES, SIDE, 0, 2.2, 2000, &train) &&
              nets_samples(r, prototypes, TASK_CLASSES, TASK_CLASSES, SIDE, 0, 2.2, 1000, &t->test[k]) && nets_new(&t->head[k], BODY + 1, head_size, r);
    for (int l = 0; ok && l < BODY; l++) {
        memcpy(t->head[k].w[l], t->base.w[l], (size_t)t->base.size[l] * (size_t)t->base.size[l + 1] * sizeof(float));
        memcpy(t->head[k].b[l], t->base.b[l], (size_t)t->base.size[l + 1] * sizeof(float));
    }
    nets_training probe = { .epochs = 10, .batch = 50, .first = BODY, .lr = 1e-2, .seed = toy_next(r) };
    nets_training body = { .epochs = 8, .batch = 20, .first = 0, .last = BODY, .lr = 1e-3, .seed = toy_next(r) };
    ok = ok && nets_train(&t->head[k], &train, &probe) && nets_train(&t->head[k], &train, &body);
    nets_data_free(&train);
    if (!ok) return SY_E_MEMORY;
    t->alone[k] = nets_accuracy(&t->head[k], &t->test[k]);
    snprintf(place, sizeof place, "%s/task%d", dir, k);
    return nets_save(ctx, &t->head[k], BODY, place);
}

sy_status nets_tasks_make(sy_context *ctx, nets_tasks *t, int n, const char *dir, uint64_t seed)
{
    static const int size[] = { 144, 128, 128, 128, BASE_CLASSES };
    toy_rng r = { seed };
    float *prototypes = malloc(BASE_CLASSES * SIDE * SIDE * sizeof *prototypes);
    nets_data train = { 0, 0, NULL, NULL };
    char place[600];
    memset(t, 0, sizeof *t);
    t->n = n;
    bool ok = prototypes != NULL;
    if (ok) nets_prototypes(&r, BASE_CLASSES, SIDE, 1, prototypes);
    ok = ok && nets_samples(&r, prototypes, BASE_CLASSES, BASE_CLASSES, SIDE, 0, 2.2, 2000, &train) && nets_new(&t->base, BODY + 1, size, &r);
    const nets_training how = { .epochs = 10, .batch = 50, .lr = 1e-3, .seed = toy_next(&r) };
    ok = ok && nets_train(&t->base, &train, &how);
    nets_data_free(&train);
    free(prototypes);
    if (!ok) return SY_E_MEMORY;
    snprintf(place, sizeof place, "%s/base", dir);
    sy_status st = nets_save(ctx, &t->base, BODY, place);
    for (int k = 0; k < n && st == SY_OK; k++) st = one_task(ctx, t, k, dir, &r);
    return st;
}

void nets_tasks_free(nets_tasks *t)
{
    nets_free(&t->base);
    for (int k = 0; k < t->n; k++) {
        nets_free(&t->head[k]);
        nets_data_free(&t->test[k]);
    }
}

sy_status nets_tasks_score(sy_context *ctx, const nets_tasks *t, const char *dir, const char *out, double *mean)
{
    char place[600];
    nets_net one;
    snprintf(place, sizeof place, "%s/%s", dir, out);
    *mean = 0;
    for (int k = 0; k < t->n; k++) {
        if (!nets_copy(&one, &t->head[k])) return SY_E_MEMORY;
        const sy_status st = nets_load(ctx, &one, BODY, place);
        if (st == SY_OK) *mean += nets_accuracy(&one, &t->test[k]) / t->n;
        nets_free(&one);
        if (st != SY_OK) return st;
    }
    return SY_OK;
}
