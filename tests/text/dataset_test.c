/* SPDX-License-Identifier: Apache-2.0 */
/* Data sets: what is trained, how rows are laid, and files that are wrong. */
#include "support/test.h"
#include "text/dataset.h"

#include <unistd.h>

typedef struct { sy_context *ctx; sy_tokenizer *t; char dir[64]; int files; } fixture;

static int setup(void **state)
{
    static fixture f;
    char path[4096];
    f.ctx = sy_context_new();
    snprintf(path, sizeof path, "%s/tests/text/data/golden.json", getenv("STEELYARD_ROOT"));
    json_t *j = json_load_file(path, 0, NULL);
    if (j == NULL) return -1;
    json_t *spec = json_object_get(json_array_get(json_object_get(j, "tokenizers"), 0), "tokenizer");
    sy_status st = syi_tokenizer_from_json(f.ctx, spec, "golden.json", &f.t);
    json_decref(j);
    strcpy(f.dir, "/tmp/steelyard-dataset-XXXXXX");
    *state = &f;
    return st != SY_OK || mkdtemp(f.dir) == NULL;
}

static int teardown(void **state)
{
    fixture *f = *state;
    syi_remove_tree(f->ctx, f->dir);
    sy_tokenizer_free(f->t);
    sy_context_free(f->ctx);
    return 0;
}

/* A file of the fixture's folder; borrowed until the next call. */
static const char *write_bytes(fixture *f, const char *suffix, const void *p, size_t n)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%d%s", f->dir, f->files++, suffix);
    if (syi_ends(suffix, ".gz")) {
        gzFile z = gzopen(path, "wb9");
        assert_int_equal(gzwrite(z, p, (unsigned)n), n);
        gzclose(z);
    } else {
        FILE *file = fopen(path, "wb");
        assert_int_equal(fwrite(p, 1, n, file), n);
        fclose(file);
    }
    return path;
}

static const char *write_text(fixture *f, const char *suffix, const char *text)
{
    return write_bytes(f, suffix, text, strlen(text));
}

static sy_dataset_options options(fixture *f, int64_t seq)
{
    return (sy_dataset_options){.tokenizer = f->t, .eos_id = 2, .bos_id = -1, .seq = seq};
}

static sy_dataset *open_set(fixture *f, const char *path, const sy_dataset_options *o)
{
    sy_dataset *d;
    if (sy_dataset_open(f->ctx, path, o, &d) != SY_OK) fail_msg("%s", sy_error_message(f->ctx));
    return d;
}

/* The text of the tokens that are targets in rows [row, row+rows). */
static char *trained_text(fixture *f, sy_dataset *d, int64_t row, int64_t rows)
{
    sy_batch b;
    assert_int_equal(sy_dataset_batch(d, row, rows, 0, &b), SY_OK);
    int32_t *ids = calloc((size_t)b.tokens, sizeof *ids);
    int64_t n = 0;
    for (int64_t i = 0; i < b.tokens; i++)
        if (b.target[i] >= 0) ids[n++] = b.target[i];
    assert_int_equal(n, b.trained);
    char *text;
    assert_int_equal(sy_detokenize(f->ctx, f->t, ids, n, false, &text, NULL, NULL), SY_OK);
    free(ids);
    return text;
}

static void expect_trained(fixture *f, const char *path, const sy_dataset_options *o, const char *expected)
{
    sy_dataset *d = open_set(f, path, o);
    sy_dataset_info info;
    sy_dataset_stat(d, &info);
    char *text = trained_text(f, d, 0, info.rows_per_epoch);
    assert_string_equal(text, expected);
    sy_string_free(f->ctx, text);
    sy_dataset_free(d);
}

#define ROUND "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi there\"},{\"role\":\"assistant\",\"content\":\"Hello world\"},{\"role\":\"user\",\"content\":\"So?\"},{\"role\":\"assistant\",\"content\":\"The dog.\"}]}\n"

static void trains_what_the_model_says(void **state)
{
    fixture *f = *state;
    sy_dataset_options o = options(f, 128);
    const char *pairs = "{\"prompt\":\"The quick\",\"completion\":\" brown fox\"}\n\n{\"completion\":\"123\",\"prompt\":\"x = \"}\r\n";
    expect_trained(f, write_text(f, ".jsonl", pairs), &o, " brown fox<|im_end|>123<|im_end|>");
    expect_trained(f, write_text(f, ".jsonl", ROUND), &o, "Hello world<|im_end|>The dog.<|im_end|>");
    /* All of a text but its first token, which nothing predicts. */
    expect_trained(f, write_text(f, ".jsonl", "{\"text\":\"x the dog\"}\n"), &o, " the dog<|im_end|>");
    expect_trained(f, write_text(f, ".txt", "x the dog"), &o, " the dog<|im_end|>");
    o.loss_on = SY_LOSS_ALL;
    expect_trained(f, write_text(f, ".jsonl", "{\"prompt\":\"x the\",\"completion\":\" dog\"}\n"), &o, " the dog<|im_end|>");
    o.loss_on = SY_LOSS_DEFAULT;
    o.bos_id = 1;
    expect_trained(f, write_text(f, ".txt", "x the dog"), &o, "x the dog<|im_end|>");
    o.bos_id = o.eos_id = -1;
    expect_trained(f, write_text(f, ".txt", "x the dog"), &o, " the dog");
    /* A text that ends with eos gets no second one. */
    o.eos_id = 2;
    expect_trained(f, write_text(f, ".txt", "x the dog<|im_end|>"), &o, " the dog<|im_end|>");
}

/* Templates of several shapes; the turn ends with its special token in each. */
static void finds_turns_by_rendering(void **state)
{
    fixture *f = *state;
    sy_dataset_options o = options(f, 256);
    static const struct { const char *jinja, *trained; } c[] = {
        /* no generation prompt at all */
        {"{% for m in messages %}{{ m.role ~ ': ' ~ m.content ~ '<|im_end|>' }}{% endfor %}", "Hello world<|im_end|>The dog.<|im_end|>"},
        /* trims, and closes the whole without add_generation_prompt, as Phi-3 does */
        {"{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% else %}<|endoftext|>{% endif %}",
         "Hello world<|im_end|>The dog.<|im_end|>\n<|endoftext|>"},
        /* writes the last turn in another way, as Qwen3 does */
        {"{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
         "Hello world<|im_end|><think></think>The dog.<|im_end|>"},
        /* a system prompt before everything */
        {"{% for m in messages %}{% if loop.first %}<|im_start|>system\nBe good<|im_end|>\n{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
         "Hello world<|im_end|>The dog.<|im_end|>"},
        /* refuses what does not end with the user, so that no beginning can be rendered */
        {"{% if messages | length < 4 %}{{ raise_exception('no') }}{% endif %}{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}",
         "Hello world<|im_end|>The dog.<|im_end|>"},
        /* no special token ends a turn: white space belongs to it, and eos closes the whole */
        {"{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}",
         "Hello world\nThe dog.\n<|im_end|>"},
    };
    for (int i = 0; i < SYI_COUNT(c); i++) {
        o.chat_template = c[i].jinja;
        expect_trained(f, write_text(f, ".jsonl", ROUND), &o, c[i].trained);
    }
    /* Whoever speaks first: the model. */
    o.chat_template = NULL;
    expect_trained(f, write_text(f, ".jsonl", "{\"messages\":[{\"role\":\"assistant\",\"content\":\"Hello\"},{\"role\":\"user\",\"content\":\"no\"}]}"), &o,
                   "Hello<|im_end|>");
    /* An answer of nothing is its end. */
    expect_trained(f, write_text(f, ".jsonl", "{\"messages\":[{\"role\":\"user\",\"content\":\"no\"},{\"role\":\"assistant\",\"content\":\"\"}]}"), &o,
                   "<|im_end|>");
    /* The template sees bos and eos, and other keys of a message. */
    o.chat_template = "{{ bos_token }}|{{ eos_token }}|{% for m in messages %}{{ m.name }}{{ m.content }}{{ eos_token }}{% endfor %}";
    o.bos_id = 1;
    expect_trained(f, write_text(f, ".jsonl", "{\"messages\":[{\"role\":\"user\",\"content\":\"x\",\"name\":\"N\"},{\"role\":\"assistant\",\"content\":\"y\",\"name\":\"\"}]}"),
                   &o, "y<|im_end|>");
}

/* -- rows ----------------------------------------------------------------------- */

/* A document is `n` tokens `1000 + d*100 + i`; checks a batch against them. */
static void check_batch(const sy_batch *b)
{
    int64_t trained = 0, sample = -1;
    assert_int_equal(b->tokens, b->rows * b->seq);
    for (int64_t i = 0; i < b->tokens; i++) {
        int32_t first = b->first[i];
        assert_true(first >= 0 && first <= i);
        assert_int_equal(b->positions[i], i - first);
        assert_int_equal(b->first[first], first);
        assert_int_equal(first / b->seq, i / b->seq); /* never across rows */
        bool next_same = i + 1 < b->tokens && b->first[i + 1] == first;
        if (b->target[i] >= 0) {
            assert_true(next_same);
            assert_int_equal(b->target[i], b->ids[i + 1]);
            trained++;
        }
        assert_true(b->sample[i] >= 0 && b->sample[i] < b->samples && b->sample[i] >= sample);
        sample = b->sample[i];
    }
    assert_int_equal(trained, b->trained);
}

static sy_dataset *many(fixture *f, sy_dataset_options *o, int documents)
{
    syi_text t;
    syi_text_init(&t, f->ctx, 1 << 24);
    for (int i = 0; i < documents; i++) {
        syi_text_printf(&t, "{\"text\":\"%d", i);
        for (int k = 0; k < (i * 7919) % 23; k++) syi_text_printf(&t, " %d", k);
        syi_text_puts(&t, "\"}\n");
    }
    sy_dataset *d = open_set(f, write_bytes(f, ".jsonl", t.s, t.len), o);
    syi_text_free(&t);
    return d;
}

static void packs_every_document_once(void **state)
{
    fixture *f = *state;
    int64_t rows[2], tokens[2];
    for (int pack = 0; pack < 2; pack++) {
        sy_dataset_options o = options(f, 64);
        o.pack = pack;
        sy_dataset *d = many(f, &o, 200);
        sy_dataset_info info;
        sy_dataset_stat(d, &info);
        assert_int_equal(info.documents, 200);
        assert_int_equal(info.skipped_documents, 0);
        assert_string_equal(info.format, "text");
        assert_int_equal(strlen(info.hash), 32);
        sy_batch b;
        assert_int_equal(sy_dataset_batch(d, 0, info.rows_per_epoch, 1, &b), SY_OK);
        check_batch(&b);
        assert_int_equal(b.trained, info.trained_tokens);
        int64_t real = 0;
        for (int64_t i = 0; i < b.tokens; i++) real += b.target[i] >= 0 || b.positions[i] > 0;
        assert_int_equal(real, info.tokens);
        if (pack) assert_int_equal(b.samples, info.documents);
        rows[pack] = info.rows_per_epoch;
        tokens[pack] = info.tokens;
        sy_dataset_free(d);
    }
    assert_int_equal(tokens[0], tokens[1]);
    assert_int_equal(rows[0], 200);
    assert_true(rows[1] * 64 < tokens[1] + 200 * 64 / 20); /* next to nothing is wasted */
}

static void first_fit_is_first_fit(void **state)
{
    fixture *f = *state;
    enum { N = 500, SEQ = 40 };
    int32_t size[N];
    int64_t row[N], order[N], room[N], rows;
    for (int trial = 0; trial < 20; trial++) {
        uint64_t key = syi_key((uint64_t)trial, "fit", "", 0);
        for (int i = 0; i < N; i++) {
            size[i] = 2 + (int32_t)(syi_random_u64(key, i) % (SEQ - 1));
            room[i] = SEQ;
        }
        syi_permutation(key, N, order);
        assert_int_equal(syi_first_fit(f->ctx, size, order, N, SEQ, row, &rows), SY_OK);
        int64_t most = 0;
        for (int k = 0; k < N; k++) { /* the plain way */
            int64_t r = 0;
            while (room[r] < size[order[k]]) r++;
            room[r] -= size[order[k]];
            most = r + 1 > most ? r + 1 : most;
            assert_int_equal(row[order[k]], r);
        }
        assert_int_equal(rows, most);
    }
}

static void rows_are_addressed_at_random(void **state)
{
    fixture *f = *state;
    sy_dataset_options o = options(f, 48);
    o.pack = o.shuffle = true;
    o.seed = 11;
    sy_dataset *d = many(f, &o, 150);
    sy_dataset_info info;
    sy_dataset_stat(d, &info);
    int64_t n = info.rows_per_epoch;
    assert_true(n > 10);
    uint64_t *hash = calloc((size_t)(3 * n), sizeof *hash);
    sy_batch b, one;
    for (int64_t i = 0; i < 3 * n; i++) {
        assert_int_equal(sy_dataset_batch(d, i, 1, 0, &b), SY_OK);
        check_batch(&b);
        hash[i] = syi_hash64(b.ids, (size_t)b.tokens * sizeof *b.ids, 0);
    }
    /* Each epoch has the same rows in another order. */
    uint64_t sum[3] = {0};
    int moved = 0;
    for (int64_t i = 0; i < 3 * n; i++) sum[i / n] += hash[i];
    for (int64_t i = 0; i < n; i++) moved += hash[i] != hash[n + i];
    assert_true(sum[0] == sum[1] && sum[1] == sum[2] && moved > n / 2);
    /* A batch across the end of an epoch is its rows; other slots are not touched. */
    assert_int_equal(sy_dataset_batch(d, n - 2, 5, 2, &b), SY_OK);
    check_batch(&b);
    for (int64_t k = 4; k >= 0; k--) {
        assert_int_equal(sy_dataset_batch(d, n - 2 + k, 1, 3, &one), SY_OK);
        assert_memory_equal(one.ids, b.ids + k * b.seq, (size_t)b.seq * sizeof *b.ids);
        assert_memory_equal(one.target, b.target + k * b.seq, (size_t)b.seq * sizeof *b.ids);
        assert_int_equal(hash[n - 2 + k], syi_hash64(one.ids, (size_t)one.tokens * sizeof *one.ids, 0));
    }
    assert_int_equal(sy_dataset_batch(d, INT64_C(1) << 40, 1, 0, &b), SY_OK);
    assert_int_equal(sy_dataset_batch(d, -1, 1, 0, &b), SY_E_USAGE);
    assert_int_equal(sy_dataset_batch(d, 0, 0, 0, &b), SY_E_USAGE);
    assert_int_equal(sy_dataset_batch(d, 0, 1, 4, &b), SY_E_USAGE);
    assert_int_equal(sy_dataset_batch(d, 0, INT64_MAX, 0, &b), SY_E_USAGE);
    /* Another seed, another order; the same seed, the same. */
    for (uint64_t seed = 11; seed <= 12; seed++) {
        o.seed = seed;
        sy_dataset *other = many(f, &o, 150);
        int same = 0;
        for (int64_t i = 0; i < n; i++) {
            assert_int_equal(sy_dataset_batch(other, i, 1, 0, &b), SY_OK);
            same += hash[i] == syi_hash64(b.ids, (size_t)b.tokens * sizeof *b.ids, 0);
        }
        assert_true(seed == 11 ? same == n : same < n / 2);
        sy_dataset_free(other);
    }
    free(hash);
    sy_dataset_free(d);
}

static void threads_change_nothing(void **state)
{
    fixture *f = *state;
    uint64_t hash[3];
    static const int threads[] = {1, 2, 4};
    for (int i = 0; i < 3; i++) {
        sy_dataset_options o = options(f, 32);
        o.pack = true;
        assert_int_equal(sy_threads_set(f->ctx, threads[i]), SY_OK);
        sy_dataset *d = many(f, &o, 3000);
        sy_dataset_info info;
        sy_batch b;
        sy_dataset_stat(d, &info);
        assert_int_equal(sy_dataset_batch(d, 0, info.rows_per_epoch, 0, &b), SY_OK);
        hash[i] = syi_hash64(b.ids, (size_t)b.tokens * 4, syi_hash64(b.target, (size_t)b.tokens * 4, 0));
        sy_dataset_free(d);
    }
    sy_threads_set(f->ctx, 0);
    assert_true(hash[0] == hash[1] && hash[1] == hash[2]);
}

static void ids_are_cut_into_windows(void **state)
{
    fixture *f = *state;
    int32_t ids[21];
    for (int i = 0; i < 21; i++) ids[i] = 100 + i;
    sy_dataset_options o = {.seq = 8, .eos_id = -1, .bos_id = -1};
    sy_dataset *d;
    sy_batch b;
    sy_dataset_info info;
    assert_int_equal(sy_dataset_from_ids(f->ctx, ids, 21, &o, &d), SY_OK);
    sy_dataset_stat(d, &info);
    assert_int_equal(info.rows_per_epoch, 3);
    assert_int_equal(info.tokens, 21);
    assert_int_equal(info.trained_tokens, 7 + 7 + 4);
    assert_string_equal(info.format, "ids");
    assert_int_equal(sy_dataset_batch(d, 0, 3, 0, &b), SY_OK);
    check_batch(&b);
    for (int i = 0; i < 24; i++) {
        bool pad = i >= 21, last = i % 8 == 7 || i == 20;
        assert_int_equal(b.ids[i], pad ? 0 : 100 + i);
        assert_int_equal(b.positions[i], pad ? 0 : i % 8);
        assert_int_equal(b.first[i], pad ? i : i / 8 * 8);
        assert_int_equal(b.target[i], pad || last ? -1 : 101 + i);
        assert_int_equal(b.sample[i], i / 8);
    }
    assert_int_equal(b.samples, 3);
    assert_null(b.weight);
    sy_dataset_free(d);
    assert_int_equal(sy_dataset_from_ids(f->ctx, ids, 1, &o, &d), SY_E_INPUT);
    assert_int_equal(sy_dataset_from_ids(f->ctx, ids, 0, &o, &d), SY_E_INPUT);
    ids[3] = -5;
    assert_int_equal(sy_dataset_from_ids(f->ctx, ids, 21, &o, &d), SY_E_INPUT);
    o.seq = 1;
    assert_int_equal(sy_dataset_from_ids(f->ctx, ids, 3, &o, &d), SY_E_USAGE);
}

static void long_documents_and_limits(void **state)
{
    fixture *f = *state;
    sy_dataset_options o = options(f, 4);
    sy_dataset_info info;
    sy_dataset *d = open_set(f, write_text(f, ".jsonl", "{\"prompt\":\"1\",\"completion\":\"234567\"}\n{\"prompt\":\"12345\",\"completion\":\"6\"}\n{\"prompt\":\"1\",\"completion\":\"2\"}\n"), &o);
    sy_dataset_stat(d, &info);
    assert_int_equal(info.documents, 2);           /* the second lost its completion */
    assert_int_equal(info.skipped_documents, 1);
    assert_int_equal(info.truncated_documents, 1); /* the first kept 1234 */
    char *text = trained_text(f, d, 0, info.rows_per_epoch);
    assert_string_equal(text, "2342<|im_end|>");
    sy_string_free(f->ctx, text);
    sy_dataset_free(d);
    d = open_set(f, write_text(f, ".jsonl", "{\"text\":\"123456\"}\n{\"text\":\"\"}\n"), &o); /* 7 tokens: 4 + 3 */
    sy_dataset_stat(d, &info);
    assert_int_equal(info.rows_per_epoch, 2);
    assert_int_equal(info.trained_tokens, 5);
    assert_int_equal(info.truncated_documents, 0);
    assert_int_equal(info.skipped_documents, 1);
    sy_dataset_free(d);
    o.max_documents = 3;
    d = many(f, &o, 50);
    sy_dataset_stat(d, &info);
    assert_int_equal(info.documents, 3);
    sy_dataset_free(d);
}

/* -- formats ------------------------------------------------------------------------ */

static void formats_give_the_same(void **state)
{
    fixture *f = *state;
    sy_dataset_options o = options(f, 64);
    static const char lines[] = "{\"text\":\"Hello world\"}\n{\"text\":\"The dog\",\"id\":3}";
    static const char array[] = " [ {\"text\" : \"Hello world\"} ,\n\n {\"text\":\"The dog\",\"x\":[{},\"]}\\\"\"]}\n]\n";
    static const char *const suffix[] = {".jsonl", ".json", ".jsonl.gz", ".json.gz", ".ndjson"};
    for (int i = 0; i < SYI_COUNT(suffix); i++)
        for (int k = 0; k < 2; k++) expect_trained(f, write_text(f, suffix[i], k ? array : lines), &o, " world<|im_end|>he dog<|im_end|>");
    expect_trained(f, write_text(f, ".txt.gz", "x the dog"), &o, " the dog<|im_end|>");
    expect_trained(f, write_text(f, ".txt", "\xEF\xBB\xBFx the dog"), &o, " the dog<|im_end|>");
    expect_trained(f, write_text(f, ".jsonl", "\xEF\xBB\xBF{\"text\":\"x the dog\"}"), &o, " the dog<|im_end|>");
    expect_trained(f, write_bytes(f, ".txt", "x\0the\xFF", 6), &o, "");  /* up to the NUL, as C prints it */
    expect_trained(f, write_text(f, ".jsonl", "{\"text\":\"x the dog\",\"id\":123456789012345678901234}"), &o, " the dog<|im_end|>");
    expect_trained(f, write_text(f, ".jsonl", "{\"text\":\"x \\u0041\\u00e9\"}"), &o, " A\xC3\xA9<|im_end|>");
}

static void refuse(fixture *f, const char *path, const sy_dataset_options *o, sy_status expected, const char *says)
{
    sy_dataset *d;
    int64_t before = sy_memory_now(f->ctx);
    sy_status st = sy_dataset_open(f->ctx, path, o, &d);
    if (st != expected || strstr(sy_error_message(f->ctx), says) == NULL)
        fail_msg("%s '%s' for %s '%s'", sy_status_name(st), sy_error_message(f->ctx), sy_status_name(expected), says);
    assert_null(d);
    assert_int_equal(sy_memory_now(f->ctx), before);
}

static void names_file_and_line(void **state)
{
    fixture *f = *state;
    sy_dataset_options o = options(f, 32);
    static const struct { const char *text; sy_status status; const char *says; } c[] = {
        {"", SY_E_INPUT, "empty"},
        {"\n \n\r\n", SY_E_INPUT, "empty"},
        {"[]", SY_E_INPUT, "empty"},
        {"{\"text\":\"a b\"}\n{\"text\":\"a", SY_E_INPUT, ".jsonl:2:"},
        {"{\"text\":\"a b\"}\n\n\n{\"text\":\"\xFF\"}", SY_E_INPUT, ".jsonl:4:"},
        {"{\"text\":\"\\ud800\"}", SY_E_INPUT, ".jsonl:1:"},
        {"{\"text\":1}", SY_E_INPUT, "\"text\" is not a text"},
        {"{\"text\":\"a\",\"text\":\"b\"}", SY_E_INPUT, "duplicate"},
        {"[1]", SY_E_INPUT, "object"},
        {"{}", SY_E_INPUT, "none of"},
        {"{\"txt\":\"a\"}", SY_E_INPUT, "it has \"txt\""},
        {"{\"text\":\"a b\"}\n{\"prompt\":\"a\",\"completion\":\"b\"}", SY_E_INPUT, ":2: a prompt-completion record after text records"},
        {"{\"text\":\"a\",\"messages\":[]}", SY_E_INPUT, "several kinds"},
        {"{\"text\":\"a\",\"prompt\":\"b\"}", SY_E_INPUT, "several kinds"},
        {"{\"prompt\":\"a\"}", SY_E_INPUT, "without \"completion\""},
        {"{\"prompt\":[],\"completion\":\"b\"}", SY_E_INPUT, "are texts"},
        {"{\"prompt\":\"a\",\"completion\":\"b\",\"label\":false}", SY_E_UNSUPPORTED, "label"},
        {"{\"prompt\":\"a\",\"chosen\":\"b\",\"rejected\":\"c\"}", SY_E_UNSUPPORTED, "preference"},
        {"{\"instruction\":\"a\"}", SY_E_INPUT, "\"output\" is not a text"},
        {"{\"instruction\":\"a\",\"output\":\"b\",\"history\":[[\"a\"]]}", SY_E_INPUT, "pairs"},
        {"{\"conversations\":[]}", SY_E_INPUT, "at least one"},
        {"{\"conversations\":[{\"from\":\"human\",\"text\":\"a\"}]}", SY_E_INPUT, "messages[0]"},
        {"{\"messages\":[{\"who\":\"user\",\"content\":\"a\"}]}", SY_E_INPUT, "under \"role\""},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"tools\":{}}", SY_E_INPUT, "tools"},
        {"{\"prompt\":\"a\",\"completions\":[\"b\"],\"labels\":[true]}", SY_E_UNSUPPORTED, "stepwise"},
        {"{\"instruction\":\"a\",\"output\":\"b\",\"text\":\"c\"}", SY_E_INPUT, "several kinds"},
        {"{\"messages\":[]}", SY_E_INPUT, "at least one"},
        {"{\"messages\":[{\"role\":\"user\"}]}", SY_E_INPUT, "messages[0]"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}", SY_E_INPUT, "no assistant"},
        {"{\"prompt\":\"a b\",\"completion\":\"\"}", SY_E_INPUT, "no completion"},
        {"{\"prompt\":\"\",\"completion\":\"a b c\"}", SY_E_INPUT, "every token"},
        {"[{\"text\":\"a b\"}", SY_E_INPUT, "cut off"},
        {"[{\"text\":\"a b\"},", SY_E_INPUT, "cut off"},
        {"[{\"text\":\"a b\"},]", SY_E_INPUT, "JSON"},
        {"[{\"text\":\"a b\"}] x", SY_E_INPUT, "follows"},
        {"[\n{\"text\":\"a b\"},\n{\n\"text\":\n!}]", SY_E_INPUT, ".jsonl:5:"},
    };
    for (int i = 0; i < SYI_COUNT(c); i++) {
        bool no_eos = strstr(c[i].says, "no completion") != NULL;
        o.eos_id = no_eos ? -1 : 2;
        refuse(f, write_text(f, ".jsonl", c[i].text), &o, c[i].status, c[i].says);
    }
    o.eos_id = 2;
    refuse(f, write_text(f, ".csv", "a"), &o, SY_E_UNSUPPORTED, ".jsonl");
    refuse(f, write_text(f, ".txt", ""), &o, SY_E_INPUT, "empty");
    refuse(f, "/nowhere/at/all.jsonl", &o, SY_E_INPUT, "/nowhere");
    o.chat_template = "{{ raise_exception('not you') }}";
    refuse(f, write_text(f, ".jsonl", ROUND), &o, SY_E_INPUT, ".jsonl:1");
    o.chat_template = "{% nonsense";
    refuse(f, write_text(f, ".jsonl", ROUND), &o, SY_E_INPUT, "chat template");
    o.chat_template = NULL;
    o.eos_id = 1 << 20;
    refuse(f, write_text(f, ".jsonl", ROUND), &o, SY_E_USAGE, "eos");
    o.eos_id = 2;
    o.seq = 1;
    refuse(f, write_text(f, ".jsonl", ROUND), &o, SY_E_USAGE, "seq");
    o.seq = 32;
    o.tokenizer = NULL;
    refuse(f, write_text(f, ".jsonl", ROUND), &o, SY_E_USAGE, "tokenizer");
}

static void compressed_files_are_bounded(void **state)
{
    fixture *f = *state;
    sy_dataset_options o = options(f, 32);
    char path[160];
    /* Cut off, damaged, not gzip at all, followed by rubbish. */
    uint8_t gz[400];
    const char *good = write_text(f, ".jsonl.gz", "{\"text\":\"Hello world Hello world\"}\n");
    FILE *file = fopen(good, "rb");
    size_t n = fread(gz, 1, sizeof gz, file);
    fclose(file);
    for (size_t cut = 0; cut < n; cut++) {
        file = fopen(good, "wb");
        fwrite(gz, 1, cut, file);
        fclose(file);
        refuse(f, good, &o, SY_E_INPUT, ".jsonl.gz");
    }
    gz[n / 2] ^= 0x55;
    file = fopen(good, "wb");
    fwrite(gz, 1, n, file);
    fclose(file);
    refuse(f, good, &o, SY_E_INPUT, "gz");
    snprintf(path, sizeof path, "%s/plain.jsonl.gz", f->dir);
    file = fopen(path, "wb");
    fputs("{\"text\":\"a b\"}", file);
    fclose(file);
    refuse(f, path, &o, SY_E_INPUT, "gzip");
    /* A bomb: one endless line; then many empty lines. */
    static const char fill[] = {' ', '\n'};
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/bomb%d.jsonl.gz", f->dir, i);
        gzFile z = gzopen(path, "wb9");
        char *block = malloc(1 << 20);
        memset(block, fill[i], 1 << 20);
        if (i == 0) memcpy(block, "{\"text\":\"", 9);
        for (int k = 0; k < 300; k++) {
            gzwrite(z, block, 1 << 20);
            if (i == 0) memset(block, 'x', 9);
        }
        gzclose(z);
        free(block);
        sy_context *ctx = sy_context_new(); /* its peak shows what was held */
        sy_dataset *d;
        assert_int_equal(sy_dataset_open(ctx, path, &o, &d), SY_E_INPUT);
        assert_non_null(strstr(sy_error_message(ctx), i == 0 ? "64 MiB" : "250 times"));
        assert_true(sy_memory_peak(ctx) < (INT64_C(300) << 20));
        sy_context_free(ctx);
    }
    /* Members one after the other are one file. */
    snprintf(path, sizeof path, "%s/two.jsonl.gz", f->dir);
    for (int i = 0; i < 2; i++) {
        gzFile z = gzopen(path, i ? "ab" : "wb");
        gzputs(z, i ? "world\"}\n" : "{\"text\":\"Hello ");
        gzclose(z);
    }
    expect_trained(f, path, &o, " world<|im_end|>");
    /* More than a buffer of records. */
    syi_text t;
    syi_text_init(&t, f->ctx, 1 << 26);
    for (int i = 0; i < 60000; i++) syi_text_printf(&t, "{\"text\":\"Hello world, the quick brown fox %d\"}\n", i);
    sy_dataset *d = open_set(f, write_bytes(f, ".jsonl.gz", t.s, t.len), &o), *plain = open_set(f, write_bytes(f, ".jsonl", t.s, t.len), &o);
    sy_dataset_info a, b;
    sy_dataset_stat(d, &a);
    sy_dataset_stat(plain, &b);
    assert_int_equal(a.documents, 60000);
    assert_int_equal(a.trained_tokens, b.trained_tokens);
    sy_dataset_free(d);
    sy_dataset_free(plain);
    syi_text_free(&t);
}

static void survives_lack_of_memory(void **state)
{
    fixture *f = *state;
    const char *path = write_text(f, ".jsonl.gz", ROUND ROUND);
    int failures = 0;
    for (int64_t n = 1; n < 80; n++) {
        sy_context *ctx = sy_context_new();
        sy_dataset_options o = options(f, 32);
        sy_dataset *d = NULL;
        sy_batch b;
        o.pack = o.shuffle = true;
        sy_memory_fail_after(ctx, n);
        sy_status st = sy_dataset_open(ctx, path, &o, &d);
        if (st == SY_OK) st = sy_dataset_batch(d, 0, 3, 0, &b);
        assert_true(st == SY_OK || st == SY_E_MEMORY);
        failures += st != SY_OK;
        sy_memory_fail_after(ctx, 0);
        sy_dataset_free(d);
        assert_int_equal(sy_memory_now(ctx), 0);
        sy_context_free(ctx);
    }
    assert_true(failures > 10 && failures < 79);
}

static void stops_when_asked(void **state)
{
    fixture *f = *state;
    sy_dataset_options o = options(f, 32);
    sy_cancel(f->ctx);
    refuse(f, write_text(f, ".jsonl", ROUND), &o, SY_E_CANCELLED, "interrupted");
    sy_cancel_clear(f->ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(trains_what_the_model_says), cmocka_unit_test(finds_turns_by_rendering),   cmocka_unit_test(packs_every_document_once),
        cmocka_unit_test(first_fit_is_first_fit),     cmocka_unit_test(rows_are_addressed_at_random), cmocka_unit_test(threads_change_nothing),
        cmocka_unit_test(ids_are_cut_into_windows),   cmocka_unit_test(long_documents_and_limits),  cmocka_unit_test(formats_give_the_same),
        cmocka_unit_test(names_file_and_line),        cmocka_unit_test(compressed_files_are_bounded), cmocka_unit_test(survives_lack_of_memory),
        cmocka_unit_test(stops_when_asked),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
