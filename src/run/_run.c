/* SPDX-License-Identifier: Apache-2.0 */
/* Opening a run, planning its memory, reserving it, and what is in it. */
#include "run/run.h"

#include "base/options.h"

void sy_run_options_init(sy_run_options *o)
{
    *o = (sy_run_options){.dtype = SY_BF16, .seed = 42, .keep_coded = true};
}

/* -- opening ------------------------------------------------------------------------------ */

/* Ids under a key of generation_config.json, or else of config.json: one, or a list. */
static int config_ids(const sy_run *run, const char *key, int32_t *out, int most)
{
    const json_t *from[] = {run->model->source->generation, run->model->source->config}, *one;
    for (int i = 0; i < 2; i++) {
        const json_t *v = json_object_get(from[i], key);
        size_t k;
        int n = 0;
        if (json_is_integer(v) && most > 0) out[n++] = (int32_t)json_integer_value(v);
        json_array_foreach((json_t *)v, k, one)
            if (json_is_integer(one) && n < most) out[n++] = (int32_t)json_integer_value(one);
        if (n > 0) return n;
    }
    return 0;
}

/* The token that a tokenizer_config.json names by its text; -1: it names none, -2: it says
 * that there is none. */
static int32_t named_token(const sy_run *run, const char *key)
{
    const json_t *v = json_object_get(run->model->source->tokenizer_config, key);
    if (json_is_null(v)) return -2;
    const char *text = json_string_value(json_is_object(v) ? json_object_get(v, "content") : v);
    return text != NULL && run->tokenizer != NULL ? sy_token_find(run->tokenizer, text) : -1;
}

/* What the tokenizer calls its tokens counts for documents and templates, as in
 * transformers; the configs know what ends an answer, which may be several tokens. */
static void special_tokens(sy_run *run)
{
    run->n_ends = config_ids(run, "eos_token_id", run->ends, SYI_COUNT(run->ends) - 1);
    run->eos = named_token(run, "eos_token");
    run->bos = named_token(run, "bos_token");
    if (run->eos < 0 && run->n_ends > 0) run->eos = run->ends[0];
    if (run->bos == -1) config_ids(run, "bos_token_id", &run->bos, 1);
    run->eos = syi_max(-1, run->eos);
    run->bos = syi_max(-1, run->bos);
    if (run->eos >= 0) run->ends[run->n_ends++] = run->eos;
}

bool syi_run_is_end(const sy_run *run, int32_t id)
{
    for (int i = 0; i < run->n_ends; i++)
        if (run->ends[i] == id) return true;
    return false;
}

const char *syi_run_bos_text(const sy_run *run)
{
    return run->bos >= 0 && run->tokenizer != NULL ? sy_token_text(run->tokenizer, run->bos, NULL, NULL) : NULL;
}

static sy_status load_tokenizer(sy_run *run)
{
    const char *text = NULL;
    int64_t len = 0;
    SYI_TRY(syi_source_tokenizer_text(run->model->source, &text, &len));
    if (text == NULL) {
        special_tokens(run);
        return SY_OK;
    }
    char *where = syi_format(run->ctx, run->model->source->gguf ? "%s" : "%s/tokenizer.json", run->model->source->path);
    sy_status s = where ? sy_tokenizer_parse(run->ctx, text, (size_t)len, where, &run->tokenizer) : SY_E_MEMORY;
    syi_free(run->ctx, where);
    syi_source_tokenizer_forget(run->model->source);
    if (s == SY_OK) special_tokens(run);
    return s;
}

static sy_status take_uses(sy_run *run, const sy_run_options *o, sy_use *loaded)
{
    int n = o->n_use + (loaded->method != NULL);
    run->active = syi_arena_alloc(run->arena, (size_t)syi_max(1, n) * sizeof *run->active);
    if (!run->active) return SY_E_MEMORY;
    if (loaded->method) run->active[run->n_active++] = (syi_active){.method = loaded->method, .self = loaded->self, .use = *loaded};
    for (int i = 0; i < o->n_use; i++)
        run->active[run->n_active++] = (syi_active){.method = o->use[i].method, .self = o->use[i].self, .use = o->use[i]};
    return SY_OK;
}

static sy_status open_model(sy_run *run, const sy_run_options *o)
{
    bool all = false;
    for (int i = 0; i < run->n_active; i++) all |= (run->active[i].method->caps & SY_CAP_TRAINS_MODEL) != 0;
    syi_model_options mo = {.dtype = o->dtype, .train_all = all && o->training, .keep_coded = o->keep_coded, .plan_only = o->plan_only};
    SYI_TRY(syi_model_load(run->ctx, o->model, &mo, &run->model));
    return load_tokenizer(run);
}

sy_status sy_run_open(sy_context *ctx, const sy_run_options *o, sy_run **out)
{
    *out = NULL;
    sy_use loaded = {0};
    sy_run *run = syi_calloc(ctx, 1, sizeof *run);
    sy_status s = run ? SY_OK : SY_E_MEMORY;
    if (s == SY_OK) {
        run->ctx = ctx;
        run->options = *o;
        run->options.use = NULL;
        run->eos = run->bos = -1;
        run->total = o->total_steps;
        s = syi_arena_new(ctx, 64 << 10, &run->arena);
    }
    if (s == SY_OK && o->dtype != SY_F32 && o->dtype != SY_BF16 && o->dtype != SY_F64)
        s = syi_fail(ctx, SY_E_USAGE, "dtype: a run computes in f32 or bf16 (f64 for tests), not %s", sy_dtype_name(o->dtype));
    if (s == SY_OK && !o->model) s = syi_fail(ctx, SY_E_USAGE, "no model given");
    if (s == SY_OK) {
        run->options.model = syi_arena_strdup(run->arena, o->model);
        run->options.adapter = o->adapter ? syi_arena_strdup(run->arena, o->adapter) : NULL;
        if (!run->options.model || (o->adapter && !run->options.adapter)) s = SY_E_MEMORY;
    }
    if (s == SY_OK && o->adapter) s = syi_run_adapter_use(ctx, o->adapter, &loaded);
    if (s == SY_OK) s = take_uses(run, o, &loaded);
    if (s != SY_OK) { /* nobody else owns the methods yet */
        for (int i = 0; i < o->n_use; i++) sy_use_free(ctx, &o->use[i]);
        if (loaded.method) sy_use_free(ctx, &loaded);
        if (run) {
            run->n_active = 0;
            sy_run_close(run);
        }
        return s;
    }
    SYI_TRY_TO(fail, s, syi_engine_new(ctx, &run->engine));
    SYI_TRY_TO(fail, s, syi_heap_new(ctx, &run->heap));
    SYI_TRY_TO(fail, s, syi_graph_new(ctx, run->engine, run->heap, &run->graph));
    SYI_TRY_TO(fail, s, open_model(run, o));
    if (o->adapter) SYI_TRY_TO(fail, s, syi_adapter_open(ctx, o->adapter, &run->adapter_dir));
    SYI_TRY_TO(fail, s, syi_run_attach(run));
    if (o->adapter && !o->plan_only) SYI_TRY_TO(fail, s, syi_run_adapter_load(run, &run->active[0], o->adapter));
    syi_adapter_close(run->adapter_dir);
    run->adapter_dir = NULL;
    SYI_TRY_TO(fail, s, syi_model_pack(run->model, run->engine));
    if (o->training) SYI_TRY_TO(fail, s, syi_run_make_states(run));
    *out = run;
    return SY_OK;
fail:
    sy_run_close(run);
    return s;
}

void sy_run_close(sy_run *run)
{
    if (!run) return;
    sy_context *ctx = run->ctx;
    for (int i = 0; i < run->n_active; i++) sy_use_free(ctx, &run->active[i].use);
    syi_adapter_close(run->adapter_dir);
    syi_graph_free(run->graph);
    syi_heap_free(run->heap);
    sy_tokenizer_free(run->tokenizer);
    syi_model_free(run->model);
    syi_pages_free(ctx, run->grads);
    syi_free(ctx, run->params);
    syi_free(ctx, run->dims);
    syi_free(ctx, run->micro_first);
    syi_free(ctx, run->micro_sample);
    syi_profile_free(run->profile);
    syi_engine_free(run->engine);
    syi_arena_free(run->arena);
    syi_free(ctx, run);
}

/* -- planning ------------------------------------------------------------------------------------ */

/* High-water mark of the step heap for a batch of that many tokens. */
static sy_status plan_step(sy_run *run, int64_t tokens, bool training, int recompute, int64_t *bytes)
{
    syi_heap *heap = NULL;
    sy_graph *g = NULL;
    sy_status s = syi_heap_new(run->ctx, &heap);
    if (s == SY_OK) s = syi_graph_new(run->ctx, run->engine, heap, &g);
    if (s == SY_OK) {
        syi_graph_options o;
        s = syi_run_graph_options(run, training, true, &o);
        o.recompute_blocks = recompute;
        syi_graph_reset(g, &o);
    }
    if (s == SY_OK) {
        const int64_t row = run->model->arch->head == SY_HEAD_CLASS ? syi_max(1, run->options.row_tokens) : tokens;
        sy_batch batch = {.rows = tokens / row, .seq = row, .tokens = tokens, .trained = tokens / row, .samples = tokens / row};
        sy_node *loss = syi_run_build_loss(run, g, &batch, 1, NULL);
        s = sy_graph_status(g);
        if (s == SY_OK && training && sy_needs_grad(loss)) s = syi_graph_backward(g, loss, 1);
        *bytes = syi_heap_peak(heap);
    }
    syi_graph_free(g);
    syi_heap_free(heap);
    return s;
}

/* Code, libraries and their tables as they are resident before any work: measured on
 * x86-64 with oneDNN, OpenBLAS and LAPACK loaded, about the same for every model. */
static const int64_t PROGRAM_BYTES = 48 << 20;

static void plan_fixed(const sy_run *run, bool training, sy_plan *p)
{
    p->model = run->model->bytes;
    p->parameters = p->optimizer = 0;
    for (int i = 0; i < run->n_params; i++) {
        const sy_param *q = run->params[i];
        int64_t value = sy_tensor_bytes(&q->value);
        if (q->owner) p->parameters += value + (q->compute.dtype != q->value.dtype ? sy_tensor_bytes(&q->compute) : 0);
        if (q->trained && training) p->parameters += value; /* gradient */
        for (int k = 0; training && k < q->n_state; k++) p->optimizer += sy_tensor_bytes(&q->state[k]);
    }
    int64_t held = run->options.plan_only ? 0 : run->model->bytes + p->parameters + p->optimizer;
    p->other = PROGRAM_BYTES + syi_max(0, sy_memory_now(run->ctx) - held) + syi_engine_bytes(run->engine);
}

/* How much of a batch a forward takes at first. Half the activations for the same products,
 * as long as a product still has a thousand rows and gradients are small: whole weights'
 * gradients would be read and written once more with every cut. */
static int64_t first_cut(const sy_run *run, int64_t tokens, int64_t row, const sy_plan *p)
{
    int64_t want = run->options.micro_tokens;
    for (int i = 0; i < run->n_active; i++)
        if (want == 0 && (run->active[i].method->caps & SY_CAP_PER_FORWARD)) return tokens;
    for (int i = 0; i < run->model->n_sites && want == 0; i++)
        for (int k = 0; k < run->model->sites[i].n_wraps; k++)
            if (syi_wrap_reweights(&run->model->sites[i].wraps[k])) return tokens; /* weights are made once a forward */
    if (want == 0 && p->parameters * 4 < p->model) want = 1024;
    return want > 0 && want < tokens ? syi_max(row, want / row * row) : tokens;
}

sy_status sy_run_plan(sy_run *run, int64_t tokens, bool training, sy_plan *out)
{
    SYI_TRY(syi_model_positions(run->model, tokens)); /* a position is below the number of tokens */
    sy_plan p = {.recompute_blocks = run->options.recompute_blocks};
    plan_fixed(run, training, &p);
    int64_t limit = run->options.memory_limit, row = syi_max(1, run->options.row_tokens), now = training ? first_cut(run, tokens, row, &p) : tokens;
    for (;;) {
        p.micro_tokens = now < tokens ? now : 0;
        SYI_TRY(plan_step(run, now, training, p.recompute_blocks, &p.step));
        p.total = p.model + p.parameters + p.optimizer + p.step + p.other;
        if (limit <= 0 || p.total <= limit) break;
        /* Cutting costs next to nothing, computing again a third of the time: in this order. */
        int64_t half = syi_max(row, now / 2 / row * row);
        if (training && half < now && now > 64) {
            now = half;
        } else if (training && p.recompute_blocks >= 0 && p.recompute_blocks < run->model->blocks) {
            p.recompute_blocks = (int)syi_min(run->model->blocks, p.recompute_blocks + syi_max(1, run->model->blocks / 4));
            if (p.recompute_blocks == run->model->blocks) p.recompute_blocks = -1;
        } else {
            char need[32], have[32];
            *out = p;
            return syi_fail(run->ctx, SY_E_MEMORY, "the plan needs %s (weights and parameters %s of it) and the limit is lower; use a smaller --batch or --seq, or raise --memory-limit",
                            syi_human_bytes(need, p.total), syi_human_bytes(have, p.total - p.step));
        }
    }
    *out = p;
    return SY_OK;
}

sy_status sy_run_reserve(sy_run *run, const sy_plan *plan)
{
    if (run->options.plan_only) return syi_fail(run->ctx, SY_E_BUG, "a run opened with plan_only cannot work");
    run->plan = *plan;
    run->options.recompute_blocks = plan->recompute_blocks;
    SYI_TRY(syi_heap_reserve(run->heap, plan->step));
    if (!run->grads && run->options.training) {
        int64_t bytes = 0;
        for (int i = 0; i < run->n_params; i++)
            if (run->params[i]->trained) bytes += syi_ceil_div(sy_tensor_bytes(&run->params[i]->value), 64) * 64;
        run->grads = syi_pages(run->ctx, (size_t)syi_max(64, bytes));
        if (!run->grads) return SY_E_MEMORY;
        run->grad_bytes = bytes;
        char *at = run->grads;
        for (int i = 0; i < run->n_params; i++) {
            sy_param *p = run->params[i];
            if (!p->trained) continue;
            p->grad = p->value;
            p->grad.data = at;
            at += syi_ceil_div(sy_tensor_bytes(&p->value), 64) * 64;
        }
    }
    run->reserved = true;
    return syi_run_refresh(run);
}

/* -- what is in it ----------------------------------------------------------------------------------- */

const sy_tokenizer *sy_run_tokenizer(const sy_run *run) { return run->tokenizer; }
const char *sy_run_chat_template(const sy_run *run) { return run->model->source->chat_template; }
int32_t sy_run_eos(const sy_run *run) { return run->eos; }
int32_t sy_run_bos(const sy_run *run) { return run->bos; }
int64_t sy_run_parameters(const sy_run *run) { return run->model->n_scalars; }
int64_t sy_run_context_length(const sy_run *run) { return run->model->context_length; }
int64_t sy_run_vocabulary(const sy_run *run) { return run->model->outputs; }

int64_t sy_run_trained(const sy_run *run)
{
    int64_t n = 0;
    for (int i = 0; i < run->n_params; i++)
        if (run->params[i]->trained) n += sy_tensor_count(&run->params[i]->value);
    return n;
}
