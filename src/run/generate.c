/* SPDX-License-Identifier: Apache-2.0 */
/* The verb `generate`: continues a text, or answers in a chat, printing as it goes. */
#include "train.h"

static const char *const dtypes[] = {"f32", "bf16", NULL};

typedef struct {
    char *model, *adapter, *prompt, *system, *chat_template;
    int64_t max_new, top_k;
    double temperature, top_p;
    bool chat, ignore_eos;
    int dtype;
    /* at work */
    sy_context *ctx;
    sy_job *job;
    sy_run *run;
    char *template_text, *text, *out;
    sy_token *tokens;
    int32_t *prompt_ids, *ids;
} generate;

#define OFFSET(field) offsetof(generate, field)
static const sy_option rows[] = {
    {.name = "model", .type = SY_OPT_PATH, .offset = OFFSET(model), .flags = SY_OPT_REQUIRED, .alias = "base_model model_name_or_path",
     .help = "Hugging Face folder or GGUF file", .example = "models/tiny"},
    {.name = "adapter", .type = SY_OPT_PATH, .offset = OFFSET(adapter), .alias = "lora_model_dir adapter_name_or_path",
     .help = "adapter folder to put around the model", .example = "run"},
    {.name = "prompt", .type = SY_OPT_STRING, .offset = OFFSET(prompt), .flags = SY_OPT_REQUIRED, .help = "text to continue, or the user's message with --chat",
     .example = "In the beginning"},
    {.name = "chat", .type = SY_OPT_BOOL, .offset = OFFSET(chat), .def = "off", .help = "put the prompt into the model's chat template", .example = "on"},
    {.name = "system", .type = SY_OPT_STRING, .offset = OFFSET(system), .alias = "system_prompt", .help = "system message before the prompt, with --chat",
     .example = "Answer in one word."},
    {.name = "chat-template", .type = SY_OPT_PATH, .offset = OFFSET(chat_template), .flags = SY_OPT_ADVANCED,
     .help = "built-in template (chatml, llama-3, mistral-v3, ...) or Jinja file to use instead of the model's own", .example = "chatml"},
    {.name = "max-new", .type = SY_OPT_INT, .offset = OFFSET(max_new), .def = "128", .min = 1, .max = 1048576, .alias = "max_new_tokens n_predict",
     .help = "most tokens to generate", .example = "32"},
    {.name = "temperature", .type = SY_OPT_FLOAT, .offset = OFFSET(temperature), .def = "0", .min = 0, .max = 100,
     .help = "0: always the likeliest token; 1: the model's own probabilities", .example = "0.7"},
    {.name = "top-k", .type = SY_OPT_INT, .offset = OFFSET(top_k), .def = "0", .min = 0, .max = 1e9, .help = "choose among the k likeliest tokens (0: off)",
     .example = "40"},
    {.name = "top-p", .type = SY_OPT_FLOAT, .offset = OFFSET(top_p), .def = "1", .min = 0, .max = 1, .flags = SY_OPT_MIN_OPEN,
     .help = "choose among the likeliest tokens that together reach this probability (1: off)", .example = "0.9"},
    {.name = "ignore-eos", .type = SY_OPT_BOOL, .offset = OFFSET(ignore_eos), .def = "off", .flags = SY_OPT_ADVANCED,
     .help = "go on after the end-of-text token", .example = "on"},
    {.name = "dtype", .type = SY_OPT_ENUM, .offset = OFFSET(dtype), .def = "bf16", .choices = dtypes, .help = "of activations and products", .example = "f32"},
    {.name = NULL}
};

/* The prompt as the model wants it: templated or plain, as token ids. */
static sy_status make_prompt(generate *g, int64_t *n)
{
    const sy_tokenizer *tokenizer = sy_run_tokenizer(g->run);
    if (tokenizer == NULL) return syi_fail(g->ctx, SY_E_INPUT, "%s has no tokenizer (tokenizer.json)", g->model);
    if (!g->chat && (g->system != NULL || g->chat_template != NULL))
        return syi_fail(g->ctx, SY_E_USAGE, "--%s needs --chat", g->system != NULL ? "system" : "chat-template");
    const char *text = g->prompt;
    if (g->chat) {
        int32_t bos = sy_run_bos(g->run), eos = sy_run_eos(g->run);
        SYI_TRY(syi_template_text(g->ctx, g->run, g->chat_template, &g->template_text));
        sy_chat_template chat = {.jinja = g->template_text,
                                 .bos_token = bos >= 0 ? sy_token_text(tokenizer, bos, NULL, NULL) : NULL,
                                 .eos_token = eos >= 0 ? sy_token_text(tokenizer, eos, NULL, NULL) : NULL};
        sy_message messages[2];
        int64_t count = 0;
        if (g->system != NULL) messages[count++] = (sy_message){"system", g->system};
        messages[count++] = (sy_message){"user", g->prompt};
        SYI_TRY(sy_chat_render(g->ctx, &chat, messages, count, true, &g->text));
        text = g->text;
    }
    SYI_TRY(sy_tokenize(g->ctx, tokenizer, text, (int64_t)strlen(text), true, !g->chat, &g->tokens, n));
    if (*n == 0) return syi_fail(g->ctx, SY_E_USAGE, "--prompt: expected a text of at least one token, found an empty one");
    g->prompt_ids = syi_calloc(g->ctx, (size_t)*n, sizeof *g->prompt_ids);
    if (g->prompt_ids == NULL) return SY_E_MEMORY;
    for (int64_t i = 0; i < *n; i++) g->prompt_ids[i] = g->tokens[i].id;
    int64_t context = sy_run_context_length(g->run);
    if (context > 0 && !syi_job_given(g->job, "max-new")) g->max_new = syi_max(1, syi_min(g->max_new, context - *n));
    return SY_OK;
}

static bool show(void *self, int32_t id, const char *text, int64_t len)
{
    generate *g = self;
    (void)id;
    if (len > 0) syi_job_print(g->job, "%.*s", (int)len, text);
    return true;
}

static sy_status report(generate *g, const sy_generated *r)
{
    json_t *j = syi_job_report(g->job), *ids = json_array();
    int64_t len = 0;
    if (ids == NULL) return syi_nomem(g->ctx, 256);
    for (int64_t i = 0; i < r->new_tokens; i++) json_array_append_new(ids, json_integer(g->ids[i]));
    json_object_set_new(j, "token_ids", ids);
    SYI_TRY(sy_detokenize(g->ctx, sy_run_tokenizer(g->run), g->ids, r->new_tokens, true, &g->out, &len, NULL));
    json_t *text = json_stringn(g->out, (size_t)len);
    if (text == NULL) { /* cut inside a character, or bytes that are no text */
        for (int64_t i = 0; i < len; i++)
            if (g->out[i] & 0x80) g->out[i] = '?';
        text = json_stringn(g->out, (size_t)len);
    }
    json_object_set_new(j, "text", text);
    json_object_set_new(j, "prompt_tokens", json_integer(r->prompt_tokens));
    json_object_set_new(j, "new_tokens", json_integer(r->new_tokens));
    json_object_set_new(j, "ended", json_boolean(r->eos));
    syi_report_real(j, "prompt_tokens_per_second", (double)r->prompt_tokens / syi_positive(r->prompt_seconds));
    syi_report_real(j, "tokens_per_second", (double)r->new_tokens / syi_positive(r->seconds));
    json_object_set_new(j, "peak_bytes", json_integer(syi_rss_peak()));
    return SY_OK;
}

static sy_status generate_run(void *self, sy_job *job)
{
    generate *g = self;
    const syi_common *common = syi_job_common(job);
    sy_run_options o;
    int64_t n = 0;
    g->job = job;
    g->ctx = syi_job_context(job);
    sy_run_options_init(&o);
    o.model = g->model;
    o.adapter = g->adapter;
    o.dtype = g->dtype == 0 ? SY_F32 : SY_BF16;
    o.seed = (uint64_t)common->seed;
    o.memory_limit = common->memory_limit;
    o.plan_only = common->dry_run;
    SYI_TRY(sy_run_open(g->ctx, &o, &g->run));
    SYI_TRY(make_prompt(g, &n));
    sy_plan plan;
    sy_generated r = {0};
    SYI_TRY(sy_run_plan(g->run, syi_min(n, 512), false, &plan));
    SYI_TRY(syi_receipt_model(job, g->run, g->model, NULL));
    SYI_TRY(syi_receipt_plan(job, &plan));
    g->ids = syi_calloc(g->ctx, (size_t)g->max_new, sizeof *g->ids);
    if (g->ids == NULL) return SY_E_MEMORY;
    if (common->dry_run) return report(g, &r);
    SYI_TRY(sy_run_reserve(g->run, &plan));
    sy_sampling how = {.max_new = g->max_new, .temperature = g->temperature, .top_k = g->top_k, .top_p = g->top_p,
                       .seed = (uint64_t)common->seed, .ignore_eos = g->ignore_eos};
    sy_status status = sy_run_generate(g->run, g->prompt_ids, n, &how, g->ids, show, g, &r);
    if (status != SY_OK && status != SY_E_CANCELLED) return status;
    if (status == SY_OK) syi_job_print(job, "\n");
    SYI_TRY(report(g, &r));
    syi_job_receipt(job, "done      %lld tokens of prompt at %.0f tokens/s, %lld new ones at %.1f tokens/s%s", (long long)n,
                    (double)n / syi_positive(r.prompt_seconds), (long long)r.new_tokens,
                    (double)r.new_tokens / syi_positive(r.seconds), r.eos ? ", ended by the model" : "");
    return status;
}

static void generate_free(void *self)
{
    generate *g = self;
    if (g->ctx == NULL) return;
    sy_string_free(g->ctx, g->text);
    sy_string_free(g->ctx, g->out);
    sy_tokens_free(g->ctx, g->tokens);
    syi_free(g->ctx, g->prompt_ids);
    syi_free(g->ctx, g->ids);
    syi_free(g->ctx, g->template_text);
    sy_run_close(g->run);
}

const sy_verb sy_verb_generate = {
    .name = "generate",
    .title = "continues a text, or answers a message",
    .about =
        "Prints the continuation as it is made; with --json the whole text and its token ids at the end. Temperature 0 always takes "
        "the likeliest token (of equals the first), so the text is a function of the model and the prompt; above 0 it depends on "
        "--seed too. Ends at the model's end-of-text token or after --max-new tokens.",
    .example = "generate --model models/tiny --prompt \"In the beginning\" --max-new 16",
    .options = rows,
    .size = sizeof(generate),
    .flags = SY_VERB_RAW_OUTPUT,
    .run = generate_run,
    .free = generate_free,
};
