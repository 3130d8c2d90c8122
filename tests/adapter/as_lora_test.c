/* SPDX-License-Identifier: Apache-2.0 */
/* Any adapter as a plain LoRA: the same logits when nothing is cut, the best approximation when
 * a rank or a share of energy is asked for, a reason when it is no low-rank update. */
#include "support/adapter_check.h"

static void every_adapter(void **state)
{
    test_folder *f = *state;
    static const struct { const char *adapter, *settings[5]; bool exact; } cases[] = {
        { "lora", { "rank=3", "alpha=5", NULL }, true }, { "lora", { "rank=3", "use-dora=on", NULL }, false }, { "vera", { "rank=8", NULL }, true },
        { "miss", { "rank=5", NULL }, true }, { "miss", { "mode=bat", "rank=4", NULL }, false }, { "randlora", { "rank=4", "alpha=4", NULL }, false },
        { "lamda", { "rank=4", NULL }, true }, { "adalora", { "target-r=3", NULL }, true },
    };
    char model[512], dir[512];
    check_model(f, model, "model", NULL);
    tiny_batch b;
    tiny_batch_make(&b, TINY_MODEL.vocab, 3);
    for (int i = 0; i < SYI_COUNT(cases); i++) {
        double error[3];
        for (int k = 0; k < 3; k++) {
            sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = cases[i].adapter, .settings = cases[i].settings, .dtype = SY_F32 });
            tiny_shake(run, 0.1, 5);
            TEST_OK(f->ctx, syi_run_refresh(run));
            float *y = tiny_logits(f->ctx, run, &b.batch);
            syi_as_lora how = { .rank = k == 1 ? 2 : 0, .energy = k == 2 ? 0.9 : 0 };
            in_folder(f, dir, "as-lora");
            TEST_OK(f->ctx, syi_remove_tree(f->ctx, dir));
            TEST_OK(f->ctx, syi_run_adapter_to_lora(run, dir, &how));
            assert_int_equal(how.tensors, 28);
            sy_run_close(run);
            run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .folder = dir, .dtype = SY_F32, .evaluate = true });
            float *z = tiny_logits(f->ctx, run, &b.batch);
            error[k] = tiny_relative(z, y, TINY_TOKENS * TINY_MODEL.vocab);
            if (k == 0 && error[0] > 1e-4) fail_msg("%s: logits differ by %g", cases[i].adapter, error[0]);
            if (k == 1) assert_true(how.largest <= 2 && how.kept < 1);
            if (k == 2) assert_true(how.kept >= 0.9 && how.kept < 1);
            sy_run_close(run);
            free(y);
            free(z);
        }
        assert_true(error[1] > error[0]); /* what is cut does show */
    }
}

static void refused(void **state)
{
    test_folder *f = *state;
    char model[512], dir[512];
    check_model(f, model, "model", NULL);
    in_folder(f, dir, "never");
    const char *const saved[] = { "rank=2", "modules-to-save=norm", NULL }, *const embedding[] = { "rank=2", "target-modules=embed_tokens", NULL };
    for (int k = 0; k < 2; k++) {
        sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = "lora", .settings = k ? embedding : saved, .dtype = SY_F32 });
        syi_as_lora how = { .rank = 1 };
        assert_int_equal(syi_run_adapter_to_lora(run, dir, &how), SY_E_UNSUPPORTED);
        assert_non_null(strstr(sy_error_message(f->ctx), k ? "embed_tokens" : "fold it"));
        assert_false(syi_exists(dir));
        sy_run_close(run);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = { folder_test(every_adapter), folder_test(refused) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
