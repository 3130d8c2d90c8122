/* SPDX-License-Identifier: Apache-2.0 */
/* Trains a byte-level BPE tokenizer on text files and writes a tokenizer.json.
 *
 *     bpe_train OUT.json VOCABULARY FILE...
 *
 * Words are cut as GPT-2 does (the ByteLevel pre-tokenizer); the most frequent pair of
 * neighbours becomes a token until the vocabulary is full. Of equally frequent pairs the
 * one with the smaller ids wins, so the result depends on the text alone. The first three
 * ids are <|endoftext|>, <|im_start|> and <|im_end|>. */
#include "base/base.h"
#include "io/io.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>

static const char *const specials[] = { "<|endoftext|>", "<|im_start|>", "<|im_end|>" };
static const char gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
enum { FIRST_BYTE = SYI_COUNT(specials), FIRST_MERGE = FIRST_BYTE + 256 };

typedef struct { int32_t *id; int32_t n; int64_t count; } word;
typedef struct { char *text; int len; } token;

typedef struct {
    sy_context *ctx;
    syi_arena *arena;
    word *words; int64_t n_words, cap_words;
    syi_map *index;
    token *tokens; int size, wanted;
    int (*merges)[2]; int n_merges;
    int byte_id[256]; /* printable bytes first: GPT-2's order */
} trainer;

/* GPT-2 shows bytes as characters: printable ones as themselves, the rest from U+0100. */
static int shown(int byte)
{
    static int map[256], made;
    if (!made) {
        int next = 256;
        for (int b = 0; b < 256; b++)
            map[b] = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae ? b : next++;
        made = 1;
    }
    return map[byte];
}

static int utf8(char *out, int c)
{
    if (c < 0x80) { out[0] = (char)c; return 1; }
    out[0] = (char)(0xc0 | (c >> 6));
    out[1] = (char)(0x80 | (c & 63));
    return 2;
}

static sy_status start(trainer *t)
{
    t->tokens = syi_calloc(t->ctx, (size_t)t->wanted, sizeof *t->tokens);
    t->merges = syi_calloc(t->ctx, (size_t)t->wanted, sizeof *t->merges);
    if (!t->tokens || !t->merges) return SY_E_MEMORY;
    for (int i = 0; i < FIRST_BYTE; i++)
        t->tokens[t->size++] = (token){ syi_arena_strdup(t->arena, specials[i]), (int)strlen(specials[i]) };
    /* in the order of the characters that show them, as other trainers do */
    for (int c = 0; c < 512; c++)
        for (int b = 0; b < 256; b++)
            if (shown(b) == c) {
                char *s = syi_arena_alloc(t->arena, 4);
                if (!s) return SY_E_MEMORY;
                t->byte_id[b] = t->size;
                t->tokens[t->size++] = (token){ s, utf8(s, c) };
            }
    return SY_OK;
}

static sy_status count_word(trainer *t, const char *s, size_t len)
{
    int64_t at;
    if (!syi_map_get(t->index, s, len, &at)) {
        SYI_TRY(syi_grow(t->ctx, (void **)&t->words, &t->cap_words, t->n_words + 1, sizeof *t->words, (int64_t)1 << 31));
        at = t->n_words++;
        word *w = &t->words[at];
        *w = (word){ syi_arena_alloc(t->arena, len * sizeof *w->id), (int32_t)len, 0 };
        if (!w->id) return SY_E_MEMORY;
        for (size_t i = 0; i < len; i++) w->id[i] = t->byte_id[(unsigned char)s[i]];
        SYI_TRY(syi_map_set(t->index, s, len, at));
    }
    t->words[at].count++;
    return SY_OK;
}

static sy_status count_file(trainer *t, const char *path)
{
    char *text;
    int64_t size;
    int code;
    PCRE2_SIZE where;
    SYI_TRY(syi_read_file(t->ctx, path, (int64_t)1 << 30, &text, &size));
    pcre2_code *re = pcre2_compile((PCRE2_SPTR)gpt2, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &code, &where, NULL);
    pcre2_match_data *m = re ? pcre2_match_data_create_from_pattern(re, NULL) : NULL;
    sy_status st = m ? SY_OK : syi_nomem(t->ctx, 0);
    for (PCRE2_SIZE at = 0; st == SY_OK && at < (PCRE2_SIZE)size;) {
        int n = pcre2_match(re, (PCRE2_SPTR)text, (PCRE2_SIZE)size, at, at ? PCRE2_NO_UTF_CHECK : 0, m, NULL);
        if (n == PCRE2_ERROR_NOMATCH) break;
        if (n < 0) { st = syi_fail(t->ctx, SY_E_INPUT, "%s is not UTF-8 text", path); break; }
        PCRE2_SIZE *span = pcre2_get_ovector_pointer(m);
        st = count_word(t, text + span[0], span[1] - span[0]);
        at = span[1];
    }
    pcre2_match_data_free(m);
    pcre2_code_free(re);
    syi_free(t->ctx, text);
    return st;
}

/* The most frequent pair; false when no pair is left. */
static bool best_pair(const trainer *t, int64_t *counts, int pair[2])
{
    size_t v = (size_t)t->wanted;
    memset(counts, 0, v * v * sizeof *counts);
    for (int64_t i = 0; i < t->n_words; i++)
        for (int32_t k = 0; k + 1 < t->words[i].n; k++)
            counts[(size_t)t->words[i].id[k] * v + (size_t)t->words[i].id[k + 1]] += t->words[i].count;
    size_t best = 0;
    for (size_t p = 1; p < v * v; p++)
        if (counts[p] > counts[best]) best = p;
    pair[0] = (int)(best / v);
    pair[1] = (int)(best % v);
    return counts[best] > 0;
}

static sy_status train(trainer *t)
{
    size_t v = (size_t)t->wanted;
    int64_t *counts = syi_calloc(t->ctx, v * v, sizeof *counts);
    if (!counts) return SY_E_MEMORY;
    int pair[2];
    while (t->size < t->wanted && best_pair(t, counts, pair)) {
        const token a = t->tokens[pair[0]], b = t->tokens[pair[1]];
        char *s = syi_arena_alloc(t->arena, (size_t)(a.len + b.len) + 1);
        if (!s) { syi_free(t->ctx, counts); return SY_E_MEMORY; }
        memcpy(s, a.text, (size_t)a.len);
        memcpy(s + a.len, b.text, (size_t)b.len);
        t->tokens[t->size] = (token){ s, a.len + b.len };
        memcpy(t->merges[t->n_merges++], pair, sizeof pair);
        for (int64_t i = 0; i < t->n_words; i++) {
            word *w = &t->words[i];
            int32_t n = 0;
            for (int32_t k = 0; k < w->n; k++) {
                bool hit = k + 1 < w->n && w->id[k] == pair[0] && w->id[k + 1] == pair[1];
                w->id[n++] = hit ? t->size : w->id[k];
                k += hit;
            }
            w->n = n;
        }
        t->size++;
    }
    syi_free(t->ctx, counts);
    return SY_OK;
}

static json_t *tokenizer_json(const trainer *t)
{
    json_t *vocab = json_object(), *merges = json_array(), *added = json_array();
    for (int i = 0; i < t->size; i++) json_object_setn_new(vocab, t->tokens[i].text, (size_t)t->tokens[i].len, json_integer(i));
    for (int i = 0; i < t->n_merges; i++) {
        const token *a = &t->tokens[t->merges[i][0]], *b = &t->tokens[t->merges[i][1]];
        json_array_append_new(merges, json_pack("[s%,s%]", a->text, (size_t)a->len, b->text, (size_t)b->len));
    }
    for (int i = 0; i < FIRST_BYTE; i++)
        json_array_append_new(added, json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", i, "content", specials[i], "single_word", 0,
                                               "lstrip", 0, "rstrip", 0, "normalized", 0, "special", 1));
    json_t *bytes = json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1, "use_regex", 1);
    json_t *model = json_pack("{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b, s:o, s:o}", "type", "BPE", "dropout", "unk_token",
                              "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0, "byte_fallback", 0, "ignore_merges", 0,
                              "vocab", vocab, "merges", merges);
    return json_pack("{s:s, s:n, s:n, s:o, s:n, s:O, s:n, s:o, s:o}", "version", "1.0", "truncation", "padding", "added_tokens", added,
                     "normalizer", "pre_tokenizer", bytes, "post_processor", "decoder", bytes, "model", model);
}

int main(int argc, char **argv)
{
    if (argc < 4 || atoi(argv[2]) <= FIRST_MERGE || atoi(argv[2]) > 16384) {
        fprintf(stderr, "usage: bpe_train OUT.json VOCABULARY(%d..16384) FILE...\n", FIRST_MERGE + 1);
        return 2;
    }
    sy_context *ctx = sy_context_new();
    if (!ctx) return 4;
    trainer t = { .ctx = ctx, .wanted = atoi(argv[2]) };
    sy_status st = syi_arena_new(ctx, 1 << 20, &t.arena);
    if (st == SY_OK) st = syi_map_new(ctx, &t.index);
    if (st == SY_OK) st = start(&t);
    for (int i = 3; i < argc && st == SY_OK; i++) st = count_file(&t, argv[i]);
    if (st == SY_OK) st = train(&t);
    json_t *j = st == SY_OK ? tokenizer_json(&t) : NULL;
    if (st == SY_OK) st = j ? syi_json_write(ctx, argv[1], j, false) : syi_nomem(ctx, 0);
    json_decref(j);
    if (st == SY_OK) printf("%s: %d tokens, %d merges, from %lld different words\n", argv[1], t.size, t.n_merges, (long long)t.n_words);
    else fprintf(stderr, "bpe_train: %s\n", sy_error_message(ctx));
    syi_map_free(t.index);
    syi_free(ctx, t.words);
    syi_free(ctx, t.tokens);
    syi_free(ctx, t.merges);
    syi_arena_free(t.arena);
    sy_context_free(ctx);
    return sy_status_exit(st);
}
