/* SPDX-License-Identifier: Apache-2.0 */
/* The verb "methods": what the registry holds. */
#include "run/job.h"

typedef struct { char *kind; } methods_self;

static const sy_option rows[] = {
    { .name = "kind", .type = SY_OPT_STRING, .offset = offsetof(methods_self, kind), .flags = SY_OPT_POSITION,
      .help = "only methods of this kind (adapter, optimizer and so on)", .example = "adapter" },
    { .name = NULL }
};

static sy_status check_kind(sy_context *ctx, const char *kind)
{
    const char *names[SY_KINDS];
    for (int k = 0; k < SY_KINDS; k++) {
        names[k] = sy_kind_name((sy_kind)k);
        if (!strcmp(names[k], kind)) return SY_OK;
    }
    const char *near = syi_nearest(kind, names, SY_KINDS);
    if (near) return syi_fail(ctx, SY_E_USAGE, "there is no kind of method called \"%s\"; did you mean \"%s\"?", kind, near);
    return syi_fail(ctx, SY_E_USAGE, "there is no kind of method called \"%s\"; there are adapter, optimizer, objective, trainer, "
                    "compressor, merger and aggregator", kind);
}

static sy_status run(void *self_, sy_job *job)
{
    const methods_self *self = self_;
    if (self->kind) SYI_TRY(check_kind(syi_job_context(job), self->kind));
    json_t *list = json_array();
    for (int k = 0; k < SY_KINDS; k++)
        for (const sy_method *const *m = sy_methods(); *m; m++) {
            if ((int)(*m)->kind != k || (self->kind && strcmp(self->kind, sy_kind_name((sy_kind)k)))) continue;
            const sy_paper *p = (*m)->papers;
            char paper[512] = "";
            if (p && p->title) snprintf(paper, sizeof paper, "%s%s%s%s", p->title, p->id ? " (" : "", p->id ? p->id : "", p->id ? ")" : "");
            json_t *presets = json_array();
            for (const sy_preset *q = (*m)->presets; q && q->name; q++)
                json_array_append_new(presets, json_pack("{s:s, s:s, s:s}", "name", q->name, "title", q->title, "settings", q->settings));
            json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:s, s:o}", "name", (*m)->name, "kind", sy_kind_name((sy_kind)k),
                                                  "title", (*m)->title, "paper", paper, "presets", presets));
        }
    json_object_set_new(syi_job_report(job), "methods", list);
    return SY_OK;
}

const sy_verb sy_verb_methods = {
    .name = "methods", .title = "the methods that this build has",
    .about = "Adapters, optimizers, objectives and so on, each with its paper. \"steelyard help NAME\" shows one of them.",
    .example = "methods adapter", .options = rows, .size = sizeof(methods_self), .flags = SY_VERB_NO_MODEL, .run = run
};
