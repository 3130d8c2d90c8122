/* SPDX-License-Identifier: Apache-2.0 */
/* The portable table of mix.h, and which table a processor gets. */
#include "tensor/mix_body.h"

const syi_mix syi_mix_plain = MIX_TABLE("plain");

const syi_mix *syi_mix_pick(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq"))
        return &syi_mix_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &syi_mix_avx2;
#endif
    return &syi_mix_plain;
}
