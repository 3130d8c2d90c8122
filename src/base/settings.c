/* SPDX-License-Identifier: Apache-2.0 */
/* What the user said, key by key, with the place where it was said. */
#include "options.h"

void syi_settings_init(syi_settings *s, sy_context *ctx)
{
    *s = (syi_settings){.ctx = ctx};
}

void syi_settings_free(syi_settings *s)
{
    for (int64_t i = 0; i < s->n; i++) {
        syi_free(s->ctx, s->at[i].key);
        syi_free(s->ctx, s->at[i].value);
        syi_free(s->ctx, s->at[i].where);
    }
    syi_free(s->ctx, s->at);
    *s = (syi_settings){.ctx = s->ctx};
}

sy_status syi_settings_add(syi_settings *s, const char *key, const char *value, const char *where, bool flag)
{
    void *at = s->at;
    sy_status status = syi_grow(s->ctx, &at, &s->cap, s->n + 1, sizeof *s->at, 1 << 16);
    s->at = at;
    SYI_TRY(status);
    syi_setting one = {.key = syi_strdup(s->ctx, key), .flag = flag};
    if (one.key != NULL) one.value = syi_strdup(s->ctx, value);
    if (one.value != NULL) one.where = syi_strdup(s->ctx, where);
    if (one.where == NULL) {
        syi_free(s->ctx, one.key);
        syi_free(s->ctx, one.value);
        return SY_E_MEMORY;
    }
    for (char *c = one.key; *c != '\0'; c++)
        if (*c == '_') *c = '-';
    s->at[s->n++] = one;
    return SY_OK;
}

const char *syi_settings_get(const syi_settings *s, const char *name)
{
    const syi_setting *best = NULL;
    for (int64_t i = 0; i < s->n; i++) {
        const char *a = s->at[i].key, *b = name;
        while (*a != '\0' && *a == (*b == '_' ? '-' : *b)) a++, b++;
        if (*a == *b && (best == NULL || s->at[i].flag >= best->flag)) best = &s->at[i];
    }
    return best != NULL ? best->value : NULL;
}
