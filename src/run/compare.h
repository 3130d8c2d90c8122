/* SPDX-License-Identifier: Apache-2.0 */
/* Parts of the verb `compare`: what is asked for, what was measured, the page. Internal. */
#ifndef SYI_COMPARE_H
#define SYI_COMPARE_H

#include "run/job.h"
#include "run/run.h"

/* Loss and right answers of a model over a data set. An answer is right when every one of its
 * tokens is the likeliest one after the right ones before it: what greedy decoding would give. */
typedef struct { double loss, token_accuracy, exact; int64_t tokens, answers; bool has_answers; } syi_score;
/* _compare_score.c: adapter may be NULL. */
typedef struct { const char *model, *adapter, *data; int64_t seq, batch; sy_dtype dtype; } syi_scored;
sy_status syi_compare_score(sy_context *ctx, const syi_scored *what, syi_score *out);

/* _compare_page.c: the page of compare.json's contents: one HTML text, nothing outside of it. */
sy_status syi_compare_page(sy_context *ctx, const json_t *result, syi_text *out);
/* Sentences that the numbers support, as a JSON array of texts (new reference). */
json_t *syi_compare_summary(const json_t *result);

#endif
