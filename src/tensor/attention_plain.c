/* SPDX-License-Identifier: Apache-2.0 */
/* Attention as the formulas say it, in f64, f32 and bf16 (through f32): the
 * reference of the tiled paths, the only path for f64, and what runs on a CPU
 * without a path of its own. Memory is linear in tokens, sums run in the order of
 * the keys whatever the threads. */
#include "tensor/attention_internal.h"

#include <math.h>

#define NUM double
#define REAL double
#define GET(x) (x)
#define PUT(x) (x)
#define NAME(x) x##_f64
#define EXP exp
#define LOG log
#define TANH tanh
#include "tensor/attention_plain_body.h"

#define NUM float
#define REAL float
#define GET(x) (x)
#define PUT(x) (x)
#define NAME(x) x##_f32
#define EXP expf
#define LOG logf
#define TANH tanhf
#include "tensor/attention_plain_body.h"

#define NUM uint16_t
#define REAL float
#define GET(x) syi_bf16_get(x)
#define PUT(x) syi_bf16_put(x)
#define NAME(x) x##_bf16
#define EXP expf
#define LOG logf
#define TANH tanhf
#include "tensor/attention_plain_body.h"

static int64_t scratch_plain(const syi_attend *a, int64_t n_keys, bool backward)
{
    (void)n_keys;
    return backward ? a->heads * a->n * (a->dt == SY_F64 ? 8 : 4) : 0;
}

static void forward_plain(const syi_attend *a)
{
    if (a->dt == SY_F64) forward_f64(a);
    else if (a->dt == SY_F32) forward_f32(a);
    else forward_bf16(a);
}

static void backward_plain(const syi_attend *a)
{
    if (a->dt == SY_F64) backward_f64(a);
    else if (a->dt == SY_F32) backward_f32(a);
    else backward_bf16(a);
}

const syi_attend_path syi_attend_plain = {scratch_plain, forward_plain, backward_plain};
