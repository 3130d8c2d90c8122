/* SPDX-License-Identifier: Apache-2.0 */
/* Parts of what inspect says, each one key of the report. Internal to src/run. */
#ifndef SYI_INSPECT_H
#define SYI_INSPECT_H

#include "io/io.h"
#include "run/job.h"

/* New references; NULL: nothing to say. What fails for want of memory leaves that error on
 * the context. */

/* Kind, ranks, scale, modules, trained numbers of an adapter with this config. */
json_t *syi_inspect_adapter(const json_t *config, const sy_checkpoint *tensors);
/* Type and size of the vocabulary, its components, special tokens. */
json_t *syi_inspect_tokenizer(sy_context *ctx, const json_t *tokenizer, const json_t *config, const char *chat_template);
/* Sizes of a model: config values that matter, numbers by part, bits a weight. */
json_t *syi_inspect_model(const syi_source *s);
/* Where a folder comes from: names, versions, licences, receipts, metadata of tensors. */
json_t *syi_inspect_provenance(sy_context *ctx, const char *path, const json_t *config, const sy_checkpoint *tensors);
/* A run folder: verb, settings that matter, how far it came, checkpoints. NULL: none.
 * *weights (syi_free): the newest checkpoint's folder where the run has no result yet. */
sy_status syi_inspect_run(sy_context *ctx, const char *path, json_t **out, char **weights);

#endif
