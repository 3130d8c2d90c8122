/* SPDX-License-Identifier: Apache-2.0 */
/* Loops for one type of number: included twice by cpu_impl.h, with T, LOAD, STORE,
 * LOAD_PART, STORE_PART and NAME(f) defined. Arithmetic is f32. A tail goes through
 * the same vector code as the rest, so that a number's value does not depend on where
 * a piece ends. */

/* for each vector: expr computes y from x; `read_y` if the old y is wanted. */
static void NAME(axpy)(float a, const T *x, bool add, T *y, int64_t n)
{
    vf va = vset(a);
    int64_t i = 0;
    for (; i + VW <= n; i += VW) {
        vf v = va * LOAD(x + i);
        STORE(y + i, add ? v + LOAD(y + i) : v);
    }
    if (i < n) {
        vf v = va * LOAD_PART(x + i, n - i);
        STORE_PART(y + i, add ? v + LOAD_PART(y + i, n - i) : v, n - i);
    }
}
