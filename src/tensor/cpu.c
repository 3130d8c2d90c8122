/* SPDX-License-Identifier: Apache-2.0 */
/* Picks the CPU path at run time: best first, unless STEELYARD_CPU names one. */
#include "tensor/cpu.h"

#include <stdlib.h>

/* Best first. */
static const syi_cpu *const rows[] = {
#if defined(__x86_64__)
    &syi_cpu_avx512_bf16, &syi_cpu_avx512, &syi_cpu_avx2,
#elif defined(__aarch64__)
    &syi_cpu_neon,
#endif
    &syi_cpu_plain,
};

static bool has(syi_isa isa)
{
    switch (isa) {
    case SYI_ISA_PLAIN: return true;
#if defined(__x86_64__)
    case SYI_ISA_AVX2: return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case SYI_ISA_AVX512:
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    case SYI_ISA_AVX512_BF16: return has(SYI_ISA_AVX512) && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi");
#elif defined(__aarch64__)
    case SYI_ISA_NEON: return true;
#endif
    default: return false;
    }
}

const syi_cpu *syi_cpu_find(const char *name)
{
    for (int i = 0; i < SYI_COUNT(rows); i++)
        if (strcmp(rows[i]->name, name) == 0 && has(rows[i]->isa)) return rows[i];
    return NULL;
}

sy_status syi_cpu_pick(sy_context *ctx, const syi_cpu **out, bool *forced)
{
    const char *name = getenv("STEELYARD_CPU");
    *forced = name != NULL && name[0] != '\0';
    if (*forced) {
        *out = syi_cpu_find(name);
        if (*out != NULL) return SY_OK;
        char known[128] = "";
        for (int i = 0; i < SYI_COUNT(rows); i++) {
            if (!has(rows[i]->isa)) continue;
            size_t at = strlen(known);
            snprintf(known + at, sizeof known - at, "%s%s", at > 0 ? ", " : "", rows[i]->name);
        }
        return syi_fail(ctx, SY_E_USAGE, "STEELYARD_CPU=%s: not a path that this processor and build have; use one of %s, or unset it",
                        name, known);
    }
    for (int i = 0; i < SYI_COUNT(rows); i++) {
        if (!has(rows[i]->isa)) continue;
        *out = rows[i];
        return SY_OK;
    }
    return syi_fail(ctx, SY_E_BUG, "the table of CPU paths has no plain row");
}
