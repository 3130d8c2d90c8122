/* SPDX-License-Identifier: Apache-2.0 */
/* The library's text calls behind pipes, for the comparison with Python.
 *   text_helper tokenize TOKENIZER.json   requests: u32 flags (1 special, 2 add),
 *                                         u32 bytes, text; answers: u32 n, n times
 *                                         (i32 id, i64 begin, i64 end), u32 bytes, text
 *   text_helper chat                      a line of JSON each way
 *   text_helper dataset TOKENIZER.json FILE SEQ TEMPLATE_FILE EOS
 *                                         a line of JSON a row: ids and targets
 *   text_helper bench TOKENIZER.json FILE [TIMES]   seconds and tokens             */
#include "base/base.h"
#include "steelyard/text.h"

#include <jansson.h>
#include <stdlib.h>

static int fail(sy_context *ctx)
{
    fprintf(stderr, "text_helper: %s\n", sy_error_message(ctx));
    return 1;
}

static bool get(void *p, size_t n)
{
    return fread(p, 1, n, stdin) == n;
}

static void put(const void *p, size_t n)
{
    fwrite(p, 1, n, stdout);
}

static int tokenize(sy_context *ctx, const sy_tokenizer *t)
{
    uint32_t head[2];
    while (get(head, sizeof head)) {
        char *text = malloc(head[1] + 1);
        sy_token *k;
        int64_t n;
        if (!get(text, head[1])) return 1;
        if (sy_tokenize(ctx, t, text, head[1], head[0] & 1, head[0] & 2, &k, &n) != SY_OK) return fail(ctx);
        uint32_t count = (uint32_t)n;
        int32_t *ids = malloc((size_t)(n + 1) * sizeof *ids);
        put(&count, sizeof count);
        for (int64_t i = 0; i < n; i++) {
            ids[i] = k[i].id;
            put(&k[i].id, 4);
            put(&k[i].begin, 8);
            put(&k[i].end, 8);
        }
        char *back;
        int64_t len;
        if (sy_detokenize(ctx, t, ids, n, false, &back, &len, NULL) != SY_OK) return fail(ctx);
        count = (uint32_t)len;
        put(&count, sizeof count);
        put(back, count);
        fflush(stdout);
        sy_string_free(ctx, back);
        sy_tokens_free(ctx, k);
        free(ids);
        free(text);
    }
    return 0;
}

static int chat(sy_context *ctx)
{
    char *line = NULL;
    size_t cap = 0;
    ssize_t got;
    while ((got = getline(&line, &cap, stdin)) > 0) {
        json_t *j = json_loadb(line, (size_t)got, 0, NULL), *list = json_object_get(j, "messages");
        const char *jinja = json_string_value(json_object_get(j, "template")), *name = json_string_value(json_object_get(j, "name"));
        sy_chat_template c = {name != NULL ? sy_chat_named(name) : jinja, json_string_value(json_object_get(j, "bos_token")),
                              json_string_value(json_object_get(j, "eos_token"))};
        size_t n = json_array_size(list);
        sy_message *m = calloc(n + 1, sizeof *m);
        for (size_t i = 0; i < n; i++) {
            m[i].role = json_string_value(json_object_get(json_array_get(list, i), "role"));
            m[i].content = json_string_value(json_object_get(json_array_get(list, i), "content"));
        }
        char *text = NULL;
        char *request = json_dumps(json_object_get(j, "request"), JSON_COMPACT);
        sy_status st = request ? sy_chat_render_json(ctx, &c, request, strlen(request), &text)
                               : sy_chat_render(ctx, &c, m, (int64_t)n, json_is_true(json_object_get(j, "add_generation_prompt")), &text);
        json_t *answer = st == SY_OK ? json_pack("{ss}", "text", text)
                                     : json_pack("{ssss}", "status", sy_status_name(st), "error", sy_error_message(ctx));
        char *s = json_dumps(answer, JSON_COMPACT);
        puts(s);
        fflush(stdout);
        free(s);
        free(request);
        json_decref(answer);
        json_decref(j);
        sy_string_free(ctx, text);
        free(m);
    }
    free(line);
    return 0;
}

static int dataset(sy_context *ctx, const sy_tokenizer *t, char **argv)
{
    char *jinja;
    int64_t n;
    sy_dataset *d;
    sy_dataset_info info;
    if (syi_read_file(ctx, argv[2], 1 << 20, &jinja, &n) != SY_OK) return fail(ctx);
    sy_dataset_options o = {.tokenizer = t, .chat_template = jinja, .eos_id = sy_token_find(t, argv[3]), .bos_id = -1, .seq = atoll(argv[1])};
    if (sy_dataset_open(ctx, argv[0], &o, &d) != SY_OK) return fail(ctx);
    sy_dataset_stat(d, &info);
    for (int64_t row = 0; row < info.rows_per_epoch; row++) {
        sy_batch b;
        if (sy_dataset_batch(d, row, 1, 0, &b) != SY_OK) return fail(ctx);
        int64_t last = b.tokens;
        while (last > 1 && b.first[last - 1] == last - 1) last--; /* padding */
        for (int64_t i = 0; i < last; i++) printf("%s%d", i ? "," : "{\"ids\":[", b.ids[i]);
        for (int64_t i = 0; i < last; i++) printf("%s%d", i ? "," : "],\"target\":[", b.target[i]);
        puts("]}");
    }
    sy_dataset_free(d);
    syi_free(ctx, jinja);
    return 0;
}

static int bench(sy_context *ctx, const sy_tokenizer *t, const char *path, int times)
{
    char *text;
    int64_t n, tokens = 0;
    if (syi_read_file(ctx, path, INT64_C(1) << 32, &text, &n) != SY_OK) return fail(ctx);
    double best = 1e9;
    for (int i = 0; i < times; i++) {
        sy_token *k;
        double start = syi_now();
        if (sy_tokenize(ctx, t, text, n, true, false, &k, &tokens) != SY_OK) return fail(ctx);
        double took = syi_now() - start;
        if (took < best) best = took;
        sy_tokens_free(ctx, k);
    }
    printf("{\"seconds\": %.6f, \"tokens\": %lld}\n", best, (long long)tokens);
    syi_free(ctx, text);
    return 0;
}

int main(int argc, char **argv)
{
    sy_context *ctx = sy_context_new();
    int rc = 2;
    if (argc >= 3 && (!strcmp(argv[1], "tokenize") || !strcmp(argv[1], "bench") || !strcmp(argv[1], "dataset"))) {
        char *json;
        int64_t n;
        sy_tokenizer *t;
        if (syi_read_file(ctx, argv[2], INT64_C(1) << 30, &json, &n) != SY_OK) return fail(ctx);
        if (sy_tokenizer_parse(ctx, json, (size_t)n, argv[2], &t) != SY_OK) return fail(ctx);
        rc = argv[1][0] == 't' ? tokenize(ctx, t) : argc > 6 ? dataset(ctx, t, argv + 3) : argc > 3 ? bench(ctx, t, argv[3], argc > 4 ? atoi(argv[4]) : 5) : 2;
        sy_tokenizer_free(t);
        syi_free(ctx, json);
    } else if (argc >= 2 && strcmp(argv[1], "chat") == 0) {
        rc = chat(ctx);
    }
    sy_context_free(ctx);
    return rc;
}
