/* SPDX-License-Identifier: Apache-2.0 */
/* The tokenizer's public calls; the work is in encode.c and decode.c. */
#include "text.h"

int64_t sy_tokenizer_size(const sy_tokenizer *t)
{
    return t->size;
}

int32_t sy_token_find(const sy_tokenizer *t, const char *content)
{
    int64_t id;
    return syi_map_get(t->ids, content, strlen(content), &id) ? (int32_t)id : -1;
}

const char *sy_token_text(const sy_tokenizer *t, int32_t id, int64_t *len, bool *special)
{
    if (id < 0 || id >= t->size || t->entry[id].at < 0) return NULL;
    if (len != NULL) *len = t->entry[id].len;
    if (special != NULL) *special = t->entry[id].special;
    return t->pool + t->entry[id].at;
}

sy_status sy_tokenize(sy_context *ctx, const sy_tokenizer *t, const char *text, int64_t len, bool special, bool add,
                      sy_token **out, int64_t *n)
{
    *out = NULL;
    *n = 0;
    if (len < 0) return syi_fail(ctx, SY_E_USAGE, "a text of %lld bytes", (long long)len);
    syi_encoder *e;
    SYI_TRY(syi_encoder_new(ctx, t, &e));
    sy_status st = syi_encode(e, text, len, special, add, true, true);
    if (st == SY_OK) {
        sy_token *k = syi_alloc(ctx, (size_t)e->n * sizeof *k);
        if (k == NULL) st = SY_E_MEMORY;
        for (int64_t i = 0; k != NULL && i < e->n; i++) k[i] = (sy_token){e->id[i], e->begin[i], e->end[i]};
        *out = k;
        *n = k != NULL ? e->n : 0;
    }
    syi_encoder_free(e);
    return st;
}

void sy_tokens_free(sy_context *ctx, sy_token *tokens)
{
    syi_free(ctx, tokens);
}

void sy_string_free(sy_context *ctx, char *s)
{
    syi_free(ctx, s);
}
