/* SPDX-License-Identifier: Apache-2.0 */
/* inspect when memory runs out at any point: a model folder, an adapter and a run. */
#include "run/job.h"
#include "support/folder.h"
#include "support/tiny_model.h"
#include "support/torture.h"

static sy_status once(sy_context *ctx, void *self)
{
    sy_job *job = NULL;
    SYI_TRY(sy_job_new(ctx, "inspect", &job));
    sy_status st = sy_job_set(job, "path", self);
    if (st == SY_OK) st = sy_job_run(job);
    sy_job_free(job);
    return st;
}

static void write_text(const char *dir, const char *name, const char *text)
{
    char path[600];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fputs(text, f) >= 0, 1);
    assert_int_equal(fclose(f), 0);
}

static void torture(void **state)
{
    test_folder *f = *state;
    char model[512], adapter[512];
    tiny_model_write(f->ctx, &TINY_MODEL, in_folder(f, model, "model"));
    write_text(model, "tokenizer.json", "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1},\"merges\":[]},\"pre_tokenizer\":{\"type\":\"Sequence\","
                                        "\"pretokenizers\":[{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true}]},\"added_tokens\":[]}");
    assert_true(torture_memory(f->ctx, once, model) > 40);
    static const char *const settings[] = {"rank=2", NULL};
    sy_run *run = tiny_run_open(f->ctx, &(tiny_run){.model = model, .adapter = "lora", .settings = settings, .dtype = SY_F32});
    TEST_OK(f->ctx, syi_mkdirs(f->ctx, in_folder(f, adapter, "adapter")));
    TEST_OK(f->ctx, sy_run_save(run, adapter));
    sy_run_close(run);
    write_text(adapter, "run.yaml", "model: x\nadapter: lora\n");
    write_text(adapter, "receipt.json", "{\"verb\":\"train\",\"result\":{\"steps\":3}}");
    assert_true(torture_memory(f->ctx, once, adapter) > 40);
}

int main(void)
{
    const struct CMUnitTest tests[] = {folder_test(torture)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
