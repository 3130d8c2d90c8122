/* SPDX-License-Identifier: Apache-2.0 */
/* The tokenizer against what Hugging Face tokenizers gave (data/golden.json, made
 * by data/make.py), against a brute-force BPE, and under hostile input. */
#include "support/test.h"
#include "text/text.h"

#include <omp.h>

typedef struct { sy_context *ctx; json_t *golden; } fixture;

static int setup(void **state)
{
    static fixture f;
    char path[4096];
    f.ctx = sy_context_new();
    snprintf(path, sizeof path, "%s/tests/text/data/golden.json", getenv("STEELYARD_ROOT"));
    f.golden = json_load_file(path, 0, NULL);
    *state = &f;
    return f.ctx == NULL || f.golden == NULL;
}

static int teardown(void **state)
{
    fixture *f = *state;
    json_decref(f->golden);
    sy_context_free(f->ctx);
    return 0;
}

static json_t *spec_of(fixture *f, int i)
{
    return json_object_get(json_array_get(json_object_get(f->golden, "tokenizers"), (size_t)i), "tokenizer");
}

static sy_tokenizer *load(fixture *f, int i)
{
    sy_tokenizer *t;
    assert_int_equal(syi_tokenizer_from_json(f->ctx, spec_of(f, i), "golden.json", &t), SY_OK);
    return t;
}

/* From the text of a file, written in one of two ways. */
static sy_status parse(sy_context *ctx, const json_t *spec, bool wide, sy_tokenizer **t)
{
    char *text = json_dumps(spec, wide ? JSON_INDENT(3) : JSON_COMPACT | JSON_ENSURE_ASCII | JSON_ESCAPE_SLASH);
    const sy_status st = sy_tokenizer_parse(ctx, text, strlen(text), "text", t);
    free(text);
    return st;
}

/* Vocabulary and merges are read without a tree where they can be. */
static void takes_the_large_parts_out(void **state)
{
    fixture *f = *state;
    json_t *list = json_object_get(f->golden, "tokenizers");
    int taken = 0;
    for (int i = 0; i < (int)json_array_size(list); i++) {
        const json_t *model = json_object_get(spec_of(f, i), "model");
        char *text = json_dumps(spec_of(f, i), JSON_COMPACT), *rest;
        syi_parts p;
        size_t len;
        assert_int_equal(syi_scan_split(f->ctx, text, strlen(text), &p, &rest, &len), SY_OK);
        assert_int_equal(p.taken, json_is_object(json_object_get(model, "vocab")));
        taken += p.taken;
        if (p.taken) {
            json_t *left = json_loadb(rest, len, 0, NULL), *without = json_object_get(left, "model");
            assert_int_equal(json_object_size(json_object_get(without, "vocab")), 0);
            assert_int_equal(json_array_size(json_object_get(without, "merges")), 0);
            assert_int_equal(json_object_size(without), json_object_size(model));
            assert_int_equal(p.n_vocab, json_object_size(json_object_get(model, "vocab")));
            if (p.has_merges) assert_int_equal(p.n_merges, json_array_size(json_object_get(model, "merges")));
            json_decref(left);
        }
        syi_free(f->ctx, rest);
        free(text);
    }
    assert_true(taken >= 8);
    /* What is not plain is left to the tree: escapes that are no characters, ids that are none,
     * keys twice, remarks among the merges. */
    static const struct { const char *vocab, *merges; bool good; } odd[] = {
        {"{\"a\": 0, \"b\": 1, \"ab\": 2}", "[[\"a\",\"b\"]]", true},   {"{ }", "[ ]", false},
        {"{\"a\": 0, \"\\u0062\": 1, \"ab\": 2}", "[ \"a b\" ]", true}, {"{\"a\": 0, \"a\": 1}", "[]", false},
        {"{\"a\": 0, \"b\": 1, \"ab\": 2}", "[\"#version: 0.2\", \"a b\"]", true}, {"{\"a\": 1.5}", "[]", false},
        {"{\"\\ud800\": 0}", "[]", false}, {"{\"a\": 0", "[]", false}, {"{\"a\": 0,}", "[]", false}, {"{\"a\": 0}", "[[\"a\",\"a\",\"a\"]]", false},
        {"{\"\\ud83d\\ude00\": 0}", "[]", true}, {"{\"a\\/\": 0}", "[]", true}, {"{\"a\": 012}", "[]", false}, {"{\"\xff\": 0}", "[]", false},
        {"{\"a\": 0}", "[\"a b\"]", false}, {"{\"a\\x\": 0}", "[]", false},
    };
    for (int i = 0; i < SYI_COUNT(odd); i++) {
        char text[400];
        snprintf(text, sizeof text, "{\"model\":{\"type\":\"BPE\",\"merges\":%s , \"vocab\" : %s}}", odd[i].merges, odd[i].vocab);
        sy_tokenizer *t = NULL;
        assert_int_equal(sy_tokenizer_parse(f->ctx, text, strlen(text), "odd", &t), odd[i].good ? SY_OK : SY_E_INPUT);
        if (strstr(odd[i].vocab, "ab")) {
            sy_token *k;
            int64_t n;
            assert_int_equal(sy_tokenize(f->ctx, t, "ab", 2, false, false, &k, &n), SY_OK);
            assert_int_equal(n, 1);
            assert_int_equal(k[0].id, 2);
            sy_tokens_free(f->ctx, k);
        }
        sy_tokenizer_free(t);
    }
}

static void matches_hugging_face(void **state)
{
    fixture *f = *state;
    json_t *list = json_object_get(f->golden, "tokenizers");
    assert_true(json_array_size(list) >= 8);
    for (int form = 0; form < 3 * (int)json_array_size(list); form++) {
        const int i = form / 3;
        sy_tokenizer *t;
        if (form % 3 == 0) t = load(f, i);
        else assert_int_equal(parse(f->ctx, spec_of(f, i), form % 3 == 1, &t), SY_OK);
        json_t *cases = json_object_get(json_array_get(list, (size_t)i), "cases");
        assert_true(json_array_size(cases) >= 18);
        for (size_t c = 0; c < json_array_size(cases); c++) {
            json_t *x = json_array_get(cases, c), *ids = json_object_get(x, "ids"), *offsets = json_object_get(x, "offsets");
            const char *text = json_string_value(json_object_get(x, "text"));
            sy_token *k;
            int64_t n;
            assert_int_equal(sy_tokenize(f->ctx, t, text, (int64_t)strlen(text), true, true, &k, &n), SY_OK);
            assert_int_equal(n, json_array_size(ids));
            int32_t *id = calloc((size_t)n + 1, sizeof *id);
            for (int64_t m = 0; m < n; m++) {
                json_t *o = json_array_get(offsets, (size_t)m);
                id[m] = k[m].id;
                assert_int_equal(k[m].id, json_integer_value(json_array_get(ids, (size_t)m)));
                if (offsets == NULL) continue;
                assert_int_equal(k[m].begin, json_integer_value(json_array_get(o, 0)));
                assert_int_equal(k[m].end, json_integer_value(json_array_get(o, 1)));
            }
            char *back;
            int64_t len;
            assert_int_equal(sy_detokenize(f->ctx, t, id, n, false, &back, &len, NULL), SY_OK);
            assert_string_equal(back, json_string_value(json_object_get(x, "decoded")));
            sy_string_free(f->ctx, back);
            sy_tokens_free(f->ctx, k);
            free(id);
        }
        sy_tokenizer_free(t);
    }
}

/* -- brute force: merge the best pair, again and again ---------------------------- */

static int rank_of(json_t *merges, const char *a, const char *b)
{
    char pair[256];
    snprintf(pair, sizeof pair, "%s %s", a, b);
    for (size_t i = 0; i < json_array_size(merges); i++)
        if (strcmp(json_string_value(json_array_get(merges, i)), pair) == 0) return (int)i;
    return INT32_MAX;
}

/* A word (no spaces, no digits) of letters only: one piece for every pre-tokenizer
 * that is tested here. */
static int brute(json_t *model, const char *word, int32_t *ids)
{
    json_t *merges = json_object_get(model, "merges"), *vocab = json_object_get(model, "vocab");
    char sym[400][64];
    int n = 0;
    for (const char *p = word; *p; p++) snprintf(sym[n++], 64, "%c", *p);
    for (;;) {
        int best = -1, best_rank = INT32_MAX;
        for (int i = 0; i + 1 < n; i++) {
            int r = rank_of(merges, sym[i], sym[i + 1]);
            if (r < best_rank) best_rank = r, best = i;
        }
        if (best < 0) break;
        memmove(sym[best] + strlen(sym[best]), sym[best + 1], strlen(sym[best + 1]) + 1);
        for (int i = best + 1; i + 1 < n; i++) memcpy(sym[i], sym[i + 1], 64);
        n--;
    }
    for (int i = 0; i < n; i++) ids[i] = (int32_t)json_integer_value(json_object_get(vocab, sym[i]));
    return n;
}

static void merges_as_brute_force_does(void **state)
{
    fixture *f = *state;
    sy_tokenizer *t = load(f, 0);
    json_t *model = json_object_get(spec_of(f, 0), "model");
    static const char *const part[] = {"the", "quick", "er", "th", "o", "ver", "s", "now", "Hel", "lo", "tur", "re", "e", "t"};
    for (uint64_t trial = 0; trial < 300; trial++) {
        char word[300] = "";
        uint64_t key = syi_key(trial, "test", "", 0);
        int count = 1 + (int)(syi_random_u64(key, 0) % (trial % 10 == 0 ? 60 : 9)); /* beyond what is merged by scanning, too */
        for (int i = 0; i < count && strlen(word) < 250; i++) strcat(word, part[syi_random_u64(key, i + 1) % SYI_COUNT(part)]);
        int32_t expected[300];
        int n = brute(model, word, expected);
        sy_token *k;
        int64_t got;
        assert_int_equal(sy_tokenize(f->ctx, t, word, (int64_t)strlen(word), true, true, &k, &got), SY_OK);
        assert_int_equal(got, n);
        for (int i = 0; i < n; i++) assert_int_equal(k[i].id, expected[i]);
        sy_tokens_free(f->ctx, k);
    }
    sy_tokenizer_free(t);
}

static void any_bytes_come_back(void **state)
{
    fixture *f = *state;
    for (int which = 0; which < 2; which++) {
        sy_tokenizer *t = load(f, which);
        for (int trial = 0; trial < 500; trial++) {
            uint8_t text[80];
            uint64_t key = syi_key((uint64_t)trial, "bytes", "", 0);
            int n = (int)(syi_random_u64(key, 0) % sizeof text);
            static const uint8_t some[] = "ab 1\n\xC3\xA9\xF0\x9F\x98\x80\xED\xA0\x80\xFF\0";
            for (int i = 0; i < n; i++) {
                uint64_t r = syi_random_u64(key, i + 1);
                text[i] = r & 1 ? (uint8_t)(r >> 8) : some[(r >> 8) % (sizeof some - 1)];
            }
            sy_token *k;
            int64_t got, len;
            assert_int_equal(sy_tokenize(f->ctx, t, (char *)text, n, false, false, &k, &got), SY_OK);
            int32_t ids[256];
            int64_t end = 0;
            for (int64_t i = 0; i < got; i++) {
                ids[i] = k[i].id;
                assert_true(k[i].begin <= end && k[i].end >= end); /* no gaps */
                end = k[i].end;
            }
            assert_int_equal(end, n);
            char *back;
            assert_int_equal(sy_detokenize(f->ctx, t, ids, got, false, &back, &len, NULL), SY_OK);
            assert_int_equal(len, n);
            assert_memory_equal(back, text, (size_t)n);
            sy_string_free(f->ctx, back);
            sy_tokens_free(f->ctx, k);
        }
        sy_tokenizer_free(t);
    }
}

static void special_tokens_on_demand(void **state)
{
    fixture *f = *state;
    sy_tokenizer *t = load(f, 0);
    const char *text = "hi<|im_end|>";
    sy_token *k;
    int64_t n, len, complete;
    char *s;
    bool special;
    int32_t end = sy_token_find(t, "<|im_end|>");
    assert_int_equal(end, 2);
    assert_string_equal(sy_token_text(t, end, &len, &special), "<|im_end|>");
    assert_true(special && len == 10);
    assert_int_equal(sy_token_find(t, "no such token"), -1);
    assert_null(sy_token_text(t, -1, NULL, NULL));
    assert_null(sy_token_text(t, (int32_t)sy_tokenizer_size(t), NULL, NULL));
    assert_int_equal(sy_tokenize(f->ctx, t, text, (int64_t)strlen(text), true, false, &k, &n), SY_OK);
    assert_int_equal(k[n - 1].id, end);
    assert_int_equal(k[n - 1].begin, 2);
    int32_t ids[16];
    for (int64_t i = 0; i < n; i++) ids[i] = k[i].id;
    sy_tokens_free(f->ctx, k);
    assert_int_equal(sy_detokenize(f->ctx, t, ids, n, true, &s, &len, &complete), SY_OK);
    assert_string_equal(s, "hi");
    assert_int_equal(complete, 2);
    sy_string_free(f->ctx, s);
    assert_int_equal(sy_tokenize(f->ctx, t, text, (int64_t)strlen(text), false, false, &k, &n), SY_OK);
    for (int64_t i = 0; i < n; i++) assert_int_not_equal(k[i].id, end);
    sy_tokens_free(f->ctx, k);
    /* A character cut in the middle: three of the four bytes of U+1F600. */
    assert_int_equal(sy_tokenize(f->ctx, t, "ab\xF0\x9F\x98", 5, true, false, &k, &n), SY_OK);
    for (int64_t i = 0; i < n; i++) ids[i] = k[i].id;
    assert_int_equal(sy_detokenize(f->ctx, t, ids, n, true, &s, &len, &complete), SY_OK);
    assert_int_equal(len, 5);
    assert_int_equal(complete, 2);
    sy_string_free(f->ctx, s);
    sy_tokens_free(f->ctx, k);
    sy_tokenizer_free(t);
}

static void shared_between_threads(void **state)
{
    fixture *f = *state;
    sy_tokenizer *t = load(f, 2);
    enum { N = 64 };
    uint64_t hash[N];
    for (int round = 0; round < 2; round++) {
        bool ok = true;
#pragma omp parallel for num_threads(round == 0 ? 1 : 4) reduction(&& : ok)
        for (int i = 0; i < N; i++) {
            sy_context *mine = sy_context_new();
            char text[200];
            int len = snprintf(text, sizeof text, "the %d quick naïve cafe\xCC\x81 world %d <m> don't %d", i, i * i, i * 7919);
            sy_token *k;
            int64_t n;
            bool done = sy_tokenize(mine, t, text, len, true, true, &k, &n) == SY_OK;
            uint64_t h = 0;
            for (int64_t j = 0; j < n; j++) h = h * 31 + (uint64_t)k[j].id * 7 + (uint64_t)k[j].begin * 3 + (uint64_t)k[j].end;
            ok = ok && done;
            if (round == 0) hash[i] = h;
            else ok = ok && hash[i] == h;
            sy_tokens_free(mine, k);
            sy_context_free(mine);
        }
        assert_true(ok);
    }
    sy_tokenizer_free(t);
}

/* A word of a megabyte takes a moment, not a day. */
static void long_runs_take_linear_time(void **state)
{
    fixture *f = *state;
    sy_tokenizer *t = load(f, 0);
    enum { N = 1 << 20 };
    char *text = malloc(N);
    static const char *const run[] = {"e", "th", " ", "\n", "<", "'", "\xCC\x81"};
    double worst = 0;
    for (int i = 0; i < SYI_COUNT(run); i++) {
        size_t k = strlen(run[i]);
        for (size_t at = 0; at < N; at++) text[at] = run[i][at % k];
        sy_token *token;
        int64_t n;
        double start = syi_now();
        assert_int_equal(sy_tokenize(f->ctx, t, text, N, true, true, &token, &n), SY_OK);
        worst = worst > syi_now() - start ? worst : syi_now() - start;
        assert_int_equal(token[n - 1].end, N);
        sy_tokens_free(f->ctx, token);
    }
    assert_true(worst < 20); /* quadratic would be hours, also under sanitizers */
    free(text);
    sy_tokenizer_free(t);
}

/* -- trouble --------------------------------------------------------------------- */

static void refuse(fixture *f, const char *json, sy_status expected, const char *says)
{
    sy_tokenizer *t;
    int64_t before = sy_memory_now(f->ctx);
    assert_int_equal(sy_tokenizer_parse(f->ctx, json, strlen(json), "t.json", &t), expected);
    assert_null(t);
    if (strstr(sy_error_message(f->ctx), says) == NULL) fail_msg("'%s' is not in '%s'", says, sy_error_message(f->ctx));
    assert_int_equal(sy_memory_now(f->ctx), before);
}

#define MODEL "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[[\"a\",\"b\"]]}"

static void names_what_is_wrong(void **state)
{
    fixture *f = *state;
    refuse(f, "", SY_E_INPUT, "t.json:1");
    refuse(f, "{\"model\":", SY_E_INPUT, "JSON");
    refuse(f, "[]", SY_E_INPUT, "object");
    refuse(f, "{}", SY_E_INPUT, "model");
    refuse(f, "{\"model\":{\"type\":\"Morphemes\"}}", SY_E_UNSUPPORTED, "Morphemes");
    refuse(f, "{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]}}", SY_E_INPUT, "empty");
    refuse(f, "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a x\"]}}", SY_E_INPUT, "merges[0]");
    refuse(f, "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a a\"]}}", SY_E_INPUT, "makes 'aa'");
    refuse(f, "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a\"]}}", SY_E_INPUT, "merges[0]");
    refuse(f, "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]}}", SY_E_INPUT, "merges[0]");
    refuse(f, "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", SY_E_INPUT, "same id 0");
    refuse(f, "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":2000000000},\"merges\":[]}}", SY_E_INPUT, "2000000000");
    refuse(f, "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}", SY_E_INPUT, "-1");
    refuse(f, "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":\"x\"},\"merges\":[]}}", SY_E_INPUT, "'a'");
    refuse(f, "{\"normalizer\":{\"type\":\"Undecided\"}," MODEL "}", SY_E_UNSUPPORTED, "Undecided");
    refuse(f, "{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"PreTokenizer9\"}]}," MODEL "}", SY_E_UNSUPPORTED,
           "pre_tokenizer.pretokenizers[0]");
    refuse(f, "{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"},\"behavior\":\"Isolated\"}," MODEL "}", SY_E_UNSUPPORTED, "compiled");
    refuse(f, "{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[a[b]]\"},\"behavior\":\"Isolated\"}," MODEL "}", SY_E_UNSUPPORTED, "class");
    refuse(f, "{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\"a\"},\"behavior\":\"Sideways\"}," MODEL "}", SY_E_INPUT, "behavior");
    refuse(f, "{\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":1}," MODEL "}", SY_E_INPUT, "add_prefix_space");
    refuse(f, "{\"decoder\":{\"type\":\"CDC\"}," MODEL "}", SY_E_UNSUPPORTED, "CDC");
    refuse(f, "{\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"x\"}}]}," MODEL "}", SY_E_INPUT, "ids");
    refuse(f, "{\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"AAAA\"}," MODEL "}", SY_E_INPUT, "charsmap");
    refuse(f, "{\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"////////\"}," MODEL "}", SY_E_INPUT, "charsmap");
    refuse(f, "{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\"]]}}", SY_E_INPUT, "model.vocab[0]");
    refuse(f, "{\"model\":{\"type\":\"Unigram\",\"unk_id\":1,\"vocab\":[[\"a\",0.5]]}}", SY_E_INPUT, "unk_id");
    refuse(f, "{\"model\":{\"type\":\"WordPiece\",\"vocab\":{\"a\":0}}}", SY_E_INPUT, "unk_token");
    refuse(f, "{\"model\":{\"type\":\"WordLevel\",\"unk_token\":\"u\",\"vocab\":[]}}", SY_E_INPUT, "vocab");
    refuse(f, "{\"post_processor\":{\"type\":\"BertProcessing\",\"cls\":[\"a\",0],\"sep\":[\"b\",99]}," MODEL "}", SY_E_INPUT, "vocabulary");
    refuse(f, "{\"added_tokens\":[{\"id\":7}]," MODEL "}", SY_E_INPUT, "added_tokens[0]");
    char deep[1200] = "{\"normalizer\":";
    for (int i = 0; i < 20; i++) strcat(deep, "{\"type\":\"Sequence\",\"normalizers\":[");
    strcat(deep, "null");
    for (int i = 0; i < 20; i++) strcat(deep, "]}");
    strcat(deep, "," MODEL "}");
    refuse(f, deep, SY_E_INPUT, "nested");
    char *brackets = malloc(100001);
    memset(brackets, '[', 100000);
    brackets[100000] = '\0';
    refuse(f, brackets, SY_E_INPUT, "depth");
    free(brackets);
}

static void survives_cut_and_changed_files(void **state)
{
    fixture *f = *state;
    char *json = json_dumps(spec_of(f, 2), JSON_COMPACT);
    size_t len = strlen(json);
    for (size_t cut = 0; cut < len; cut += 97) {
        sy_tokenizer *t;
        assert_int_equal(sy_tokenizer_parse(f->ctx, json, cut, "cut.json", &t), SY_E_INPUT);
        assert_null(t);
    }
    int parsed = 0;
    for (int i = 0; i < 300; i++) {
        uint64_t r = syi_random_u64(syi_key(1, "flip", "", 0), i);
        char *changed = malloc(len);
        memcpy(changed, json, len);
        changed[r % len] ^= (char)(1 << (r >> 60 & 7));
        sy_tokenizer *t;
        if (sy_tokenizer_parse(f->ctx, changed, len, "changed.json", &t) == SY_OK) {
            sy_token *k;
            int64_t n;
            parsed++;
            if (sy_tokenize(f->ctx, t, "Hello <m> w\xC3\xB6rld\xFF", 15, true, true, &k, &n) == SY_OK) sy_tokens_free(f->ctx, k);
            sy_tokenizer_free(t);
        }
        free(changed);
    }
    assert_true(parsed > 0 && parsed < 300);
    free(json);
}

static void survives_lack_of_memory(void **state)
{
    fixture *f = *state;
    int failures = 0;
    for (int64_t n = 1; n < 3000; n += n < 300 ? 1 : 37) {
        sy_context *ctx = sy_context_new();
        sy_tokenizer *t = NULL;
        sy_token *k = NULL;
        char *s = NULL;
        int64_t count = 0;
        sy_memory_fail_after(ctx, n);
        sy_status st = n % 2 ? parse(ctx, spec_of(f, (int)(n % 15)), false, &t) : syi_tokenizer_from_json(ctx, spec_of(f, (int)(n % 15)), "golden.json", &t);
        if (st == SY_OK) st = sy_tokenize(ctx, t, "Hello <m> cafe\xCC\x81 worlds eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee", 84, true, true, &k, &count);
        if (st == SY_OK) st = sy_detokenize(ctx, t, (int32_t[]){5, 6, 7}, 3, false, &s, NULL, NULL);
        failures += st != SY_OK;
        assert_true(st == SY_OK || st == SY_E_MEMORY);
        sy_memory_fail_after(ctx, 0);
        sy_string_free(ctx, s);
        sy_tokens_free(ctx, k);
        sy_tokenizer_free(t);
        assert_int_equal(sy_memory_now(ctx), 0);
        sy_context_free(ctx);
    }
    assert_true(failures > 50);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(matches_hugging_face),       cmocka_unit_test(merges_as_brute_force_does), cmocka_unit_test(any_bytes_come_back),
        cmocka_unit_test(special_tokens_on_demand),   cmocka_unit_test(shared_between_threads),     cmocka_unit_test(long_runs_take_linear_time),
        cmocka_unit_test(names_what_is_wrong),        cmocka_unit_test(survives_cut_and_changed_files),
        cmocka_unit_test(survives_lack_of_memory),    cmocka_unit_test(takes_the_large_parts_out),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
