/* SPDX-License-Identifier: Apache-2.0 */
/* A tiny Llama on disk with random weights, batches for it, and runs around it: what
 * tests of methods stand on. Weights are f32 unless said otherwise. */
#ifndef TEST_TINY_MODEL_H
#define TEST_TINY_MODEL_H

#include "base/base.h"
#include "steelyard/checkpoint.h"
#include "steelyard/run.h"
#include "support/test.h"

#include <math.h>
#include <unistd.h>

typedef struct {
    int hidden, layers, heads, kv_heads, head_dim, ffn, vocab;
    bool tied, bias;
    sy_dtype dtype;
    uint64_t seed;
    bool empty;         /* all zeros, in a file with holes: only shapes matter */
} tiny_model;

static const tiny_model TINY_MODEL = {
    .hidden = 16, .layers = 2, .heads = 4, .kv_heads = 2, .head_dim = 4, .ffn = 24, .vocab = 40, .dtype = SY_F32, .seed = 1
};

#define TEST_OK(ctx, call)                                                                    \
    do {                                                                                      \
        if ((call) != SY_OK) fail_msg("%s: %s", #call, sy_error_message(ctx));                \
    } while (0)

typedef struct { char name[96]; int rank; int64_t dim[2]; bool norm; } tiny_tensor;

static inline int tiny_tensors(const tiny_model *m, tiny_tensor *t)
{
    int n = 0;
    const int64_t q = (int64_t)m->heads * m->head_dim, kv = (int64_t)m->kv_heads * m->head_dim, h = m->hidden;
#define TINY_ADD(rank_, d0, d1, norm_, ...)                                                   \
    do {                                                                                      \
        t[n] = (tiny_tensor){ .rank = rank_, .dim = { d0, d1 }, .norm = norm_ };              \
        snprintf(t[n++].name, sizeof t->name, __VA_ARGS__);                                   \
    } while (0)
    TINY_ADD(2, m->vocab, h, false, "model.embed_tokens.weight");
    for (int l = 0; l < m->layers; l++) {
        const struct { const char *name; int64_t out, in; } linear[] = {
            { "self_attn.q_proj", q, h }, { "self_attn.k_proj", kv, h }, { "self_attn.v_proj", kv, h }, { "self_attn.o_proj", h, q },
            { "mlp.gate_proj", m->ffn, h }, { "mlp.up_proj", m->ffn, h }, { "mlp.down_proj", h, m->ffn },
        };
        for (int i = 0; i < SYI_COUNT(linear); i++) {
            TINY_ADD(2, linear[i].out, linear[i].in, false, "model.layers.%d.%s.weight", l, linear[i].name);
            if (m->bias) TINY_ADD(1, linear[i].out, 0, false, "model.layers.%d.%s.bias", l, linear[i].name);
        }
        TINY_ADD(1, h, 0, true, "model.layers.%d.input_layernorm.weight", l);
        TINY_ADD(1, h, 0, true, "model.layers.%d.post_attention_layernorm.weight", l);
    }
    TINY_ADD(1, h, 0, true, "model.norm.weight");
    if (!m->tied) TINY_ADD(2, m->vocab, h, false, "lm_head.weight");
#undef TINY_ADD
    return n;
}

static inline void tiny_config_write(const tiny_model *m, const char *dir)
{
    char path[600];
    snprintf(path, sizeof path, "%s/config.json", dir);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fprintf(f, "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":%d,\"num_hidden_layers\":%d,"
            "\"num_attention_heads\":%d,\"num_key_value_heads\":%d,\"head_dim\":%d,\"intermediate_size\":%d,\"vocab_size\":%d,"
            "\"max_position_embeddings\":256,\"rms_norm_eps\":1e-5,\"rope_theta\":10000.0,\"hidden_act\":\"silu\","
            "\"tie_word_embeddings\":%s,\"attention_bias\":%s,\"mlp_bias\":%s,\"torch_dtype\":\"%s\",\"bos_token_id\":1,\"eos_token_id\":2}\n",
            m->hidden, m->layers, m->heads, m->kv_heads, m->head_dim, m->ffn, m->vocab, m->tied ? "true" : "false",
            m->bias ? "true" : "false", m->bias ? "true" : "false", m->dtype == SY_BF16 ? "bfloat16" : "float32");
    assert_int_equal(fclose(f), 0);
}

/* Headers only: a file as long as it must be, with nothing in it. */
static inline void tiny_empty_write(const tiny_tensor *t, int n, sy_dtype dtype, const char *path)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    int64_t at = 0, size = sy_dtype_block_bytes(dtype);
    char *header = malloc((size_t)n * 256 + 64), *p = header;
    p += sprintf(p, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int i = 0; i < n; i++) {
        int64_t bytes = t[i].dim[0] * (t[i].rank > 1 ? t[i].dim[1] : 1) * size;
        p += sprintf(p, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%lld", t[i].name, sy_dtype_name(dtype), (long long)t[i].dim[0]);
        if (t[i].rank > 1) p += sprintf(p, ",%lld", (long long)t[i].dim[1]);
        p += sprintf(p, "],\"data_offsets\":[%lld,%lld]}", (long long)at, (long long)(at + bytes));
        at += bytes;
    }
    p += sprintf(p, "}");
    while ((p - header) % 8) *p++ = ' ';
    uint64_t length = (uint64_t)(p - header);
    assert_int_equal(fwrite(&length, 8, 1, f), 1);
    assert_int_equal(fwrite(header, 1, length, f), length);
    assert_int_equal(fflush(f), 0);
    assert_int_equal(ftruncate(fileno(f), (off_t)(8 + (int64_t)length + at)), 0);
    assert_int_equal(fclose(f), 0);
    free(header);
}

/* A Hugging Face folder in `dir`, which is made. */
static inline void tiny_model_write(sy_context *ctx, const tiny_model *m, const char *dir)
{
    tiny_tensor *t = calloc((size_t)(m->layers * 20 + 8), sizeof *t);
    const int n = tiny_tensors(m, t);
    char path[600];
    TEST_OK(ctx, syi_mkdirs(ctx, dir));
    tiny_config_write(m, dir);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    if (m->empty) {
        tiny_empty_write(t, n, m->dtype, path);
        free(t);
        return;
    }
    sy_writer *w;
    TEST_OK(ctx, sy_writer_new(ctx, path, 0, &w));
    for (int i = 0; i < n; i++) TEST_OK(ctx, sy_writer_declare(w, t[i].name, m->dtype, t[i].rank, t[i].dim));
    TEST_OK(ctx, sy_writer_begin(w));
    for (int i = 0; i < n; i++) {
        const int64_t rows = t[i].rank > 1 ? t[i].dim[0] : 1, cols = t[i].rank > 1 ? t[i].dim[1] : t[i].dim[0];
        float *v = malloc((size_t)(rows * cols) * sizeof *v);
        void *stored = malloc((size_t)(rows * cols) * sizeof *v);
        syi_normal(syi_key(m->seed, "tiny", t[i].name, 0), 0, rows * cols, v);
        const float scale = t[i].norm ? 0.1f : t[i].rank == 1 ? 0.2f : 1.0f / sqrtf((float)cols);
        for (int64_t k = 0; k < rows * cols; k++) v[k] = v[k] * scale + (t[i].norm ? 1 : 0);
        TEST_OK(ctx, sy_from_f32(ctx, m->dtype, v, stored, rows * cols));
        TEST_OK(ctx, sy_writer_put(w, t[i].name, 0, rows, stored));
        free(v);
        free(stored);
    }
    TEST_OK(ctx, sy_writer_end(w));
    free(t);
}

/* -- batches ------------------------------------------------------------------------------- */

enum { TINY_ROWS = 2, TINY_SEQ = 9, TINY_TOKENS = TINY_ROWS * TINY_SEQ };
typedef struct {
    int32_t ids[TINY_TOKENS], positions[TINY_TOKENS], first[TINY_TOKENS], target[TINY_TOKENS], sample[TINY_TOKENS];
    float weight[TINY_TOKENS];
    sy_batch batch;
} tiny_batch;

/* Two rows of random tokens; the second holds two documents. */
static inline void tiny_batch_make(tiny_batch *b, int vocab, uint64_t seed)
{
    int32_t document = 0, begin = 0;
    b->batch = (sy_batch){ .rows = TINY_ROWS, .seq = TINY_SEQ, .tokens = TINY_TOKENS, .ids = b->ids, .positions = b->positions, .first = b->first,
                           .target = b->target, .sample = b->sample };
    for (int t = 0; t < TINY_TOKENS; t++) {
        const int at = t % TINY_SEQ;
        if (at == 0 || (t >= TINY_SEQ && at == 4)) {
            document += t > 0;
            begin = t;
        }
        b->ids[t] = (int32_t)(syi_random_u64(syi_key(seed, "batch", "ids", 0), t) % (uint64_t)vocab);
        b->positions[t] = t - begin;
        b->first[t] = begin;
        b->sample[t] = document;
        b->target[t] = -1;
    }
    for (int t = 0; t + 1 < TINY_TOKENS; t++)
        if (b->sample[t + 1] == b->sample[t]) {
            b->target[t] = b->ids[t + 1];
            b->batch.trained++;
        }
    b->batch.samples = document + 1;
}

/* -- runs --------------------------------------------------------------------------------------- */

/* Opens and reserves. adapter: settings "rank=4", NULL-ended, of the adapter `name` (NULL:
 * none); optimizer likewise. `folder`: a PEFT folder to load instead. */
typedef struct {
    const char *model, *adapter, *const *settings, *optimizer, *const *optimizer_settings, *folder;
    sy_dtype dtype;
    bool evaluate, plan_only;
    int threads; /* 0: 1, everything is tiny */
    int64_t total; /* steps, for schedules that methods own */
    uint64_t seed;
} tiny_run;

static inline int tiny_count(const char *const *s)
{
    int n = 0;
    while (s && s[n]) n++;
    return n;
}

static inline sy_status tiny_run_try(sy_context *ctx, const tiny_run *r, sy_run **out)
{
    sy_use use[2];
    sy_run_options o;
    *out = NULL;
    sy_threads_set(ctx, r->threads ? r->threads : 1);
    sy_run_options_init(&o);
    o.model = r->model;
    o.adapter = r->folder;
    o.use = use;
    o.dtype = r->dtype;
    o.training = !r->evaluate;
    o.plan_only = r->plan_only;
    o.seed = r->seed ? r->seed : 7;
    o.total_steps = r->total;
    if (r->adapter) {
        sy_status st = sy_use_new(ctx, r->adapter, SY_ADAPTER, r->settings, tiny_count(r->settings), &use[o.n_use]);
        if (st != SY_OK) return st;
        o.n_use++;
    }
    if (!r->evaluate && !r->plan_only) {
        sy_status st = sy_use_new(ctx, r->optimizer ? r->optimizer : "adamw", SY_OPTIMIZER, r->optimizer_settings, tiny_count(r->optimizer_settings), &use[o.n_use]);
        if (st != SY_OK) return st;
        o.n_use++;
    }
    SYI_TRY(sy_run_open(ctx, &o, out));
    if (r->plan_only) return SY_OK;
    sy_plan plan;
    sy_status st = sy_run_plan(*out, TINY_TOKENS, o.training, &plan);
    if (st == SY_OK) st = sy_run_reserve(*out, &plan);
    if (st != SY_OK) {
        sy_run_close(*out);
        *out = NULL;
    }
    return st;
}

static inline sy_run *tiny_run_open(sy_context *ctx, const tiny_run *r)
{
    sy_run *run;
    if (tiny_run_try(ctx, r, &run) != SY_OK) fail_msg("opening %s: %s", r->model, sy_error_message(ctx));
    return run;
}

typedef struct { float *at; int64_t vocab; } tiny_logits_sink;
static inline sy_status tiny_take_logits(void *self, int64_t row, int64_t n, const float *logits)
{
    tiny_logits_sink *s = self;
    memcpy(s->at + row * s->vocab, logits, (size_t)(n * s->vocab) * sizeof *logits);
    return SY_OK;
}

/* Logits of a batch (malloc). */
static inline float *tiny_logits(sy_context *ctx, sy_run *run, const sy_batch *batch)
{
    tiny_logits_sink s = { malloc((size_t)(batch->tokens * sy_run_vocabulary(run)) * sizeof(float)), sy_run_vocabulary(run) };
    TEST_OK(ctx, sy_run_logits(run, batch, tiny_take_logits, &s));
    return s.at;
}

/* ||x - y|| / ||y|| */
static inline double tiny_relative(const float *x, const float *y, int64_t n)
{
    double d = 0, s = 0;
    for (int64_t i = 0; i < n; i++) {
        d += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
        s += (double)y[i] * y[i];
    }
    return sqrt(d / (s > 0 ? s : 1));
}

static inline sy_param *tiny_param(sy_run *run, const char *suffix)
{
    int n;
    sy_param *const *p = sy_params(run, &n);
    for (int i = 0; i < n; i++)
        if (syi_ends(p[i]->name, suffix)) return p[i];
    return NULL;
}

/* Adds N(0, sigma^2) to every trained parameter, so that nothing stands at its start. */
static inline void tiny_shake(sy_run *run, double sigma, uint64_t seed)
{
    int n;
    sy_param *const *p = sy_params(run, &n);
    for (int i = 0; i < n; i++) {
        if (!p[i]->value.data || (p[i]->slot && !(p[i]->slot->flags & SY_SLOT_TRAIN))) continue;
        for (int64_t k = 0; k < sy_tensor_count(&p[i]->value); k++) {
            float v;
            syi_normal(syi_key(seed, "shake", p[i]->name, 0), k, 1, &v);
            if (p[i]->value.dtype == SY_F64) ((double *)p[i]->value.data)[k] += sigma * v;
            else ((float *)p[i]->value.data)[k] += (float)(sigma * v);
        }
        p[i]->stale = true;
    }
}

#endif
