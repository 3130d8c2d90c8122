/* SPDX-License-Identifier: Apache-2.0 */
/* The verb "help": the page of the command, of a verb or of a method, as text, man
 * page, Markdown or JSON; and the shell completion. */
#include "run/_manual.h"

enum { NO_SHELL, BASH };
static const char *const shells[] = { "none", "bash", NULL };

typedef struct { char *name; bool advanced, man, markdown; int completion; } help_self;

static const sy_option rows[] = {
    { .name = "name", .type = SY_OPT_STRING, .offset = offsetof(help_self, name), .flags = SY_OPT_POSITION,
      .help = "a verb or a method; without it: the overview", .example = "lora" },
    { .name = "advanced", .type = SY_OPT_BOOL, .offset = offsetof(help_self, advanced),
      .help = "show rarely needed options too", .example = "on" },
    { .name = "man", .type = SY_OPT_BOOL, .offset = offsetof(help_self, man), .flags = SY_OPT_ADVANCED,
      .help = "the page as roff for man", .example = "on" },
    { .name = "markdown", .type = SY_OPT_BOOL, .offset = offsetof(help_self, markdown), .flags = SY_OPT_ADVANCED,
      .help = "the page as Markdown", .example = "on" },
    { .name = "completion", .type = SY_OPT_ENUM, .offset = offsetof(help_self, completion), .def = "none", .choices = shells,
      .flags = SY_OPT_ADVANCED, .help = "the completion script for a shell instead of a page", .example = "bash" },
    { .name = NULL }
};

static sy_status not_found(sy_context *ctx, const char *name)
{
    const char *names[512];
    int n = 0;
    for (const sy_verb *const *v = sy_verbs(); *v && n < SYI_COUNT(names); v++) names[n++] = (*v)->name;
    for (const sy_method *const *m = sy_methods(); *m && n < SYI_COUNT(names); m++) {
        names[n++] = (*m)->name;
        for (const sy_preset *p = (*m)->presets; p && p->name && n < SYI_COUNT(names); p++) names[n++] = p->name;
    }
    const char *near = syi_nearest(name, names, n);
    if (near) return syi_fail(ctx, SY_E_USAGE, "there is no verb or method \"%s\"; did you mean \"%s\"?", name, near);
    return syi_fail(ctx, SY_E_USAGE, "there is no verb or method \"%s\"; \"steelyard help\" lists the verbs, "
                    "\"steelyard methods\" the methods", name);
}

static sy_status run(void *self_, sy_job *job)
{
    help_self *self = self_;
    sy_context *ctx = syi_job_context(job);
    json_t *report = syi_job_report(job);
    const sy_verb *verb = self->name ? sy_verb_find(self->name) : NULL;
    const sy_method *method = self->name && !verb ? sy_method_find(self->name, -1) : NULL;
    if (self->name && !verb && !method) return not_found(ctx, self->name);
    syi_text t;
    syi_text_init(&t, ctx, (size_t)16 << 20);
    if (self->completion == BASH) syi_completion_bash(&t);
    else syi_manual(&t, self->man ? SYI_PAGE_MAN : self->markdown ? SYI_PAGE_MARKDOWN : SYI_PAGE_TEXT, verb, method, self->advanced);
    if (t.failed) {
        syi_text_free(&t);
        return syi_nomem(ctx, t.len);
    }
    syi_job_print(job, "%s", t.s ? t.s : "");
    json_object_set_new(report, "name", json_string(self->name ? self->name : "steelyard"));
    json_object_set_new(report, "title", json_string(verb ? verb->title : method ? method->title : "changes the weights of neural networks"));
    json_object_set_new(report, "text", json_string(t.s ? t.s : ""));
    if (verb || method) json_object_set_new(report, "options", syi_rows_json(verb ? verb->options : method->options));
    syi_text_free(&t);
    return SY_OK;
}

const sy_verb sy_verb_help = {
    .name = "help", .title = "the page of a verb or a method",
    .about = "Without a name: what the verbs are. With one: what it does, its options with defaults and ranges, and an example.",
    .example = "help lora", .options = rows, .size = sizeof(help_self), .flags = SY_VERB_NO_MODEL | SY_VERB_RAW_OUTPUT, .run = run
};
