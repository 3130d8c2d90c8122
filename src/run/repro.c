/* SPDX-License-Identifier: Apache-2.0 */
/* The verb "repro": runs the experiment of a method and reports rows, checks and the
 * verdict. Without a name: which experiments there are. */
#include "run/job.h"
#include "steelyard/experiment.h"
#include "steelyard/text.h"

typedef struct { char *name; int64_t seeds; } repro_self;

static const sy_option rows[] = {
    { .name = "name", .type = SY_OPT_STRING, .offset = offsetof(repro_self, name), .flags = SY_OPT_POSITION,
      .help = "a method; without it: the list of experiments", .example = "lora" },
    { .name = "seeds", .type = SY_OPT_INT, .offset = offsetof(repro_self, seeds), .def = "0", .min = 0, .max = 1000,
      .help = "repetitions with other seeds (0: as many as the experiment wants)", .example = "2" },
    { .name = NULL }
};

static sy_status not_found(sy_context *ctx, const char *name)
{
    const char *names[512];
    int n = 0;
    for (const sy_experiment *const *e = sy_experiments(); *e && n < SYI_COUNT(names); e++) names[n++] = (*e)->name;
    const char *near = syi_nearest(name, names, n);
    if (near) return syi_fail(ctx, SY_E_USAGE, "there is no experiment \"%s\"; did you mean \"%s\"?", name, near);
    return syi_fail(ctx, SY_E_USAGE, "there is no experiment \"%s\"; \"steelyard repro\" lists them", name);
}

static void list(sy_job *job)
{
    json_t *a = json_array();
    for (const sy_experiment *const *e = sy_experiments(); *e; e++)
        json_array_append_new(a, json_pack("{s:s, s:s, s:s, s:i}", "name", (*e)->name, "claim", (*e)->claim, "paper",
                                           (*e)->paper ? (*e)->paper : "", "seeds", (*e)->seeds));
    json_object_set_new(syi_job_report(job), "experiments", a);
}

static sy_status run(void *self_, sy_job *job)
{
    const repro_self *self = self_;
    sy_context *ctx = syi_job_context(job);
    if (!self->name) {
        list(job);
        return SY_OK;
    }
    const sy_experiment *e = sy_experiment_find(self->name);
    if (!e) return not_found(ctx, self->name);
    int seeds = self->seeds ? (int)self->seeds : e->seeds;
    json_object_set_new(syi_job_report(job), "name", json_string(e->name));
    json_object_set_new(syi_job_report(job), "claim", json_string(e->claim));
    if (syi_job_common(job)->dry_run) {
        syi_job_receipt(job, "%s: %d seeds (not run: --dry-run)", e->name, seeds);
        return SY_OK;
    }
    double began = syi_now();
    char *text;
    SYI_TRY(sy_experiment_run(ctx, e, seeds, &text));
    json_t *result = json_loads(text, 0, NULL);
    sy_string_free(ctx, text);
    if (!result) return syi_fail(ctx, SY_E_BUG, "the report of the experiment %s is not JSON", e->name);
    json_object_update(syi_job_report(job), result);
    json_decref(result);
    json_object_set_new(syi_job_report(job), "seconds", json_real(syi_now() - began));
    return SY_OK;
}

const sy_verb sy_verb_repro = {
    .name = "repro", .title = "measures a paper's claim again at small scale",
    .about = "Runs the experiment of a method, with baselines and several seeds, and says what held: reproduced, partly, or not "
             "reproduced (steelyard repro lora --seeds 1; minutes). A claim that does not hold is a result, not a failure: the exit code "
             "is 0. Without a name it lists the experiments.",
    .example = "repro --json", .options = rows, .size = sizeof(repro_self), .flags = SY_VERB_NO_MODEL, .run = run
};
