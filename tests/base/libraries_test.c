/* SPDX-License-Identifier: Apache-2.0 */
/* The libraries that were linked are the ones that were meant: OpenBLAS in its
 * OpenMP build (one pool of threads), LAPACKE on top of the same OpenBLAS, and
 * oneDNN with OpenMP. */
#include "support/test.h"

#include <cblas.h>
#include <lapacke.h>
#include <math.h>
#include <oneapi/dnnl/dnnl.h>

static void openblas_uses_openmp(void **state)
{
    (void)state;
    assert_int_equal(openblas_get_parallel(), 2); /* 0 none, 1 pthreads, 2 OpenMP */
}

static void lapacke_solves(void **state)
{
    (void)state;
    double a[4] = {4, 2, 2, 3}, b[2] = {10, 8};
    assert_int_equal(LAPACKE_dposv(LAPACK_ROW_MAJOR, 'L', 2, 1, a, 2, b, 1), 0);
    assert_true(fabs(b[0] - 1.75) < 1e-12 && fabs(b[1] - 1.5) < 1e-12);
}

static void onednn_uses_openmp(void **state)
{
    (void)state;
    assert_int_equal(dnnl_version()->cpu_runtime, DNNL_RUNTIME_OMP);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(openblas_uses_openmp),
        cmocka_unit_test(lapacke_solves),
        cmocka_unit_test(onednn_uses_openmp),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
