/* SPDX-License-Identifier: Apache-2.0 */
/* Post-processors: trim offsets, put the template's tokens around a text. They
 * work on the encoder's arrays. */
#include "text.h"

/* -- ByteLevel: offsets without the spaces that a token begins or ends with ----- */

static sy_status parse_byte_level(syi_load *l, const json_t *j, const char *path, syi_stage *s)
{
    SYI_TRY(syi_want_bool(l, j, path, "trim_offsets", -1, &s->trim));
    return syi_want_bool(l, j, path, "add_prefix_space", -1, &s->prefix_space);
}

/* Spaces at the ends of an added token as it stood in the text (with what its
 * lstrip and rstrip took along). */
static void spaces_of(const uint8_t *s, int64_t begin, int64_t end, int64_t *lead, int64_t *trail)
{
    uint32_t cp;
    int64_t b, f;
    *lead = *trail = 0;
    for (int64_t i = begin; i < end; ++*lead) {
        int k = syi_utf8_decode(s + i, end - i, &cp);
        if (k == 0 || !syi_is_space(cp)) break;
        i += k;
    }
    for (int64_t i = end; i > begin; ++*trail) {
        syi_utf8_cover(s, end, i - 1, &b, &f);
        if (syi_utf8_decode(s + b, f - b, &cp) == 0 || !syi_is_space(cp)) break;
        i = b;
    }
}

static sy_status trim_offsets(syi_encoder *e, const syi_stage *s, bool add)
{
    (void)add;
    if (!s->trim || !e->offsets) return SY_OK;
    for (int64_t i = 0; i < e->n; i++) {
        const syi_entry *t = &e->t->entry[e->id[i]];
        int64_t lead = t->lead, trail = t->trail, b, f;
        if (t->added) spaces_of(e->text, e->begin[i], e->end[i], &lead, &trail);
        bool first = i == 0 || e->begin[i] == 0;
        if (first && s->prefix_space && lead == 1) lead = 0; /* the one that was put there */
        for (; lead > 0 && e->begin[i] < e->end[i]; lead--) {
            syi_utf8_cover(e->text, e->len, e->begin[i], &b, &f);
            e->begin[i] = syi_min(f, e->end[i]);
        }
        for (; trail > 0 && e->end[i] > e->begin[i]; trail--) {
            syi_utf8_cover(e->text, e->len, e->end[i] - 1, &b, &f);
            e->end[i] = syi_max(b, e->begin[i]);
        }
    }
    return SY_OK;
}

/* -- TemplateProcessing, for one text --------------------------------------------- */

static sy_status bad(syi_load *l, const char *path, const char *what)
{
    return syi_fail(l->ctx, SY_E_INPUT, "%s: %s: %s", l->where, path, what);
}

sy_status syi_ids_add(syi_load *l, const char *path, int64_t id, int32_t **list, int64_t *n)
{
    if (id < 0 || id >= l->t->size) return bad(l, path, "an id of a special token is not in the vocabulary");
    int32_t *grown = syi_realloc(l->ctx, *list, (size_t)(*n + 1) * sizeof **list);
    if (grown == NULL) return SY_E_MEMORY;
    *list = grown;
    (*list)[(*n)++] = (int32_t)id;
    return SY_OK;
}

static sy_status append(syi_load *l, const char *path, const json_t *ids, int32_t **list, int64_t *n)
{
    if (!json_is_array(ids)) return bad(l, path, "a special token of the template has no \"ids\"");
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *id = json_array_get(ids, i);
        SYI_TRY(syi_ids_add(l, path, json_is_integer(id) ? json_integer_value(id) : -1, list, n));
    }
    return SY_OK;
}

static sy_status parse_template(syi_load *l, const json_t *j, const char *path, syi_stage *s)
{
    const json_t *single = json_object_get(j, "single"), *special = json_object_get(j, "special_tokens");
    if (!json_is_array(single)) return bad(l, path, "expected \"single\": a list of SpecialToken and Sequence");
    bool after = false;
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *item = json_array_get(single, i), *token = json_object_get(item, "SpecialToken");
        if (json_object_get(item, "Sequence") != NULL) {
            if (after) return bad(l, path, "\"single\" has more than one Sequence");
            after = true;
            continue;
        }
        const char *id = json_string_value(json_object_get(token, "id"));
        if (id == NULL) return bad(l, path, "an item of \"single\" is neither SpecialToken nor Sequence");
        const json_t *ids = json_object_get(json_object_get(special, id), "ids");
        SYI_TRY(after ? append(l, path, ids, &s->added.after, &s->added.n_after)
                      : append(l, path, ids, &s->added.before, &s->added.n_before));
    }
    return after ? SY_OK : bad(l, path, "\"single\" has no Sequence");
}

static void insert(syi_encoder *e, int64_t at, const int32_t *id, int64_t n)
{
    size_t rest = (size_t)(e->n - at) * sizeof *e->begin;
    if (n == 0) return;
    memmove(e->id + at + n, e->id + at, rest / sizeof *e->begin * sizeof *e->id);
    memcpy(e->id + at, id, (size_t)n * sizeof *id);
    if (e->offsets) {
        memmove(e->begin + at + n, e->begin + at, rest);
        memmove(e->end + at + n, e->end + at, rest);
        for (int64_t i = at; i < at + n; i++) e->begin[i] = e->end[i] = 0;
    }
    e->n += n;
}

static sy_status apply_template(syi_encoder *e, const syi_stage *s, bool add)
{
    if (!add) return SY_OK;
    SYI_TRY(syi_encoder_room(e, s->added.n_before + s->added.n_after));
    insert(e, 0, s->added.before, s->added.n_before);
    insert(e, e->n, s->added.after, s->added.n_after);
    return SY_OK;
}

/* -- BertProcessing, RobertaProcessing: a token before and one after ---------------- */

static sy_status parse_bert(syi_load *l, const json_t *j, const char *path, syi_stage *s)
{
    static const char *const key[] = {"cls", "sep"};
    for (int i = 0; i < 2; i++) { /* ["[CLS]", 101] */
        const json_t *id = json_array_get(json_object_get(j, key[i]), 1);
        if (!json_is_integer(id)) return bad(l, path, "expected \"cls\" and \"sep\": [token, id]");
        SYI_TRY(i == 0 ? syi_ids_add(l, path, json_integer_value(id), &s->added.before, &s->added.n_before)
                       : syi_ids_add(l, path, json_integer_value(id), &s->added.after, &s->added.n_after));
    }
    return SY_OK;
}

static const syi_component surround = {"cls and sep", NULL, {.process = apply_template}};

static sy_status parse_roberta(syi_load *l, const json_t *j, const char *path, syi_stage *s)
{
    SYI_TRY(parse_byte_level(l, j, path, s));
    syi_stage *after = syi_stage_add(l, path, &surround);
    return after != NULL ? parse_bert(l, j, path, after) : SY_E_UNSUPPORTED;
}

const syi_component syi_postprocessors[] = {
    {"ByteLevel", parse_byte_level, {.process = trim_offsets}},
    {"TemplateProcessing", parse_template, {.process = apply_template}},
    {"BertProcessing", parse_bert, {.process = apply_template}},
    {"RobertaProcessing", parse_roberta, {.process = trim_offsets}},
    {NULL, NULL, {.process = NULL}},
};
