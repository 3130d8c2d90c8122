/* SPDX-License-Identifier: Apache-2.0 */
/* Learning rates against values worked out by hand from Hugging Face's definitions, and
 * against what any schedule must satisfy. */
#include "support/test.h"

#include "run/train.h"

#include <math.h>

static void near(double got, double want)
{
    assert_true(fabs(got - want) <= 1e-15 + 1e-12 * fabs(want));
}

static void values(void **state)
{
    (void)state;
    const syi_schedule constant = {SYI_CONSTANT, 1e-3, 100, 0}, warm = {SYI_CONSTANT, 1e-3, 100, 4};
    near(syi_schedule_lr(&constant, 0), 1e-3);
    near(syi_schedule_lr(&constant, 1000), 1e-3);
    near(syi_schedule_lr(&warm, 0), 0);
    near(syi_schedule_lr(&warm, 1), 2.5e-4);
    near(syi_schedule_lr(&warm, 4), 1e-3);
    const syi_schedule linear = {SYI_LINEAR, 2, 10, 0}, linear_warm = {SYI_LINEAR, 2, 10, 2};
    near(syi_schedule_lr(&linear, 0), 2);
    near(syi_schedule_lr(&linear, 5), 1);
    near(syi_schedule_lr(&linear, 9), 0.2);
    near(syi_schedule_lr(&linear, 10), 0);
    near(syi_schedule_lr(&linear, 11), 0);
    near(syi_schedule_lr(&linear_warm, 1), 1);
    near(syi_schedule_lr(&linear_warm, 2), 2);
    near(syi_schedule_lr(&linear_warm, 6), 1);
    near(syi_schedule_lr(&linear_warm, 9), 0.25);
    const syi_schedule cosine = {SYI_COSINE, 1, 12, 0}, cosine_warm = {SYI_COSINE, 1, 14, 2};
    near(syi_schedule_lr(&cosine, 0), 1);
    near(syi_schedule_lr(&cosine, 4), 0.75);  /* cos 60 degrees  */
    near(syi_schedule_lr(&cosine, 6), 0.5);   /* cos 90 degrees  */
    near(syi_schedule_lr(&cosine, 8), 0.25);  /* cos 120 degrees */
    near(syi_schedule_lr(&cosine, 12), 0);
    near(syi_schedule_lr(&cosine_warm, 1), 0.5);
    near(syi_schedule_lr(&cosine_warm, 6), 0.75);
}

static void properties(void **state)
{
    (void)state;
    for (int kind = SYI_CONSTANT; kind <= SYI_COSINE; kind++)
        for (int64_t total = 1; total < 40; total += 3)
            for (int64_t warmup = 0; warmup <= total + 2; warmup++) {
                const syi_schedule s = {kind, 0.1, total, warmup};
                for (int64_t i = 0; i < total; i++) {
                    double lr = syi_schedule_lr(&s, i), next = syi_schedule_lr(&s, i + 1);
                    assert_true(lr >= 0 && lr <= 0.1);
                    if (i + 1 <= warmup) assert_true(next > lr); /* rises, then never again */
                    else assert_true(next <= lr);
                }
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(values), cmocka_unit_test(properties)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
