/* SPDX-License-Identifier: Apache-2.0 */
/* The boundary test over every table of option rows there is: all methods, all verbs
 * and the rows that verbs have in common. New ones are met here by themselves. */
#include "support/folder.h"
#include "support/option_rows.h"

#include "run/job.h"
#include "steelyard/method.h"

static void methods(void **state)
{
    sy_context *ctx = ((test_folder *)*state)->ctx;
    for (const sy_method *const *m = sy_methods(); *m != NULL; m++) check_option_rows(ctx, (*m)->name, (*m)->options, (*m)->size);
}

static void verbs(void **state)
{
    sy_context *ctx = ((test_folder *)*state)->ctx;
    for (const sy_verb *const *v = sy_verbs(); *v != NULL; v++) check_option_rows(ctx, (*v)->name, (*v)->options, (*v)->size);
}

static void common(void **state)
{
    check_option_rows(((test_folder *)*state)->ctx, "common", sy_common_options(), sizeof(syi_common));
}

/* A verb and what every verb has may not use one name for two things. */
static void no_clashes(void **state)
{
    (void)state;
    for (const sy_verb *const *v = sy_verbs(); *v != NULL; v++)
        for (const sy_option *r = (*v)->options; r != NULL && r->name != NULL; r++)
            for (const sy_option *c = sy_common_options(); c->name != NULL; c++)
                if (syi_option_is(r, c->name) || syi_option_is(c, r->name))
                    fail_msg("%s --%s clashes with the common --%s", (*v)->name, r->name, c->name);
}

int main(void)
{
    const struct CMUnitTest tests[] = {folder_test(methods), folder_test(verbs), folder_test(common), cmocka_unit_test(no_clashes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
