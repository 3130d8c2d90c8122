/* SPDX-License-Identifier: Apache-2.0 */
/* The data set that a model reads: texts in windows for language models, images or labelled
 * texts, one a row, for models that classify. */
#include "data/data.h"
#include "train.h"

bool syi_run_classifies(const sy_run *run) { return run->model->arch->head == SY_HEAD_CLASS; }
bool syi_run_sees(const sy_run *run) { return run->model->arch->input == SY_INPUT_IMAGES; }

sy_status syi_run_data(sy_run *run, const char *path, const sy_dataset_options *o, sy_dataset **out)
{
    const sy_model *m = run->model;
    const json_t *labels = json_object_get(m->source->config, "label2id");
    if (!syi_run_classifies(run)) return sy_dataset_open(run->ctx, path, o, out);
    if (!syi_run_sees(run)) return syi_sentences_open(run->ctx, path, labels, m->outputs, o, out);
    int64_t side = 0, channels = 0;
    syi_image_rules rules;
    if (!syi_arch_field(m->arch, m->config, "image_size", &side) || !syi_arch_field(m->arch, m->config, "channels", &channels))
        return syi_fail(run->ctx, SY_E_BUG, "architecture %s reads images but does not say how large", m->arch->name);
    SYI_TRY(syi_image_rules_read(run->ctx, m->source->path, side, side, channels, &rules));
    return syi_images_open(run->ctx, path, &rules, labels, m->outputs, o, out);
}

sy_status syi_run_needs_tokenizer(sy_run *run, const char *model)
{
    if (syi_run_sees(run) || sy_run_tokenizer(run) != NULL) return SY_OK;
    return syi_fail(run->ctx, SY_E_INPUT, "%s has no tokenizer (tokenizer.json), so the data cannot be read with it", model);
}
