/* SPDX-License-Identifier: Apache-2.0 */
/* The CPU path for AVX-512 with bf16 conversions and dot products. */
#define CPU_ROW syi_cpu_avx512_bf16
#define CPU_NAME "avx512_bf16"
#define CPU_ISA SYI_ISA_AVX512_BF16
#include "tensor/cpu_impl.h"
