/* SPDX-License-Identifier: Apache-2.0 */
/* The CPU path for AVX2 with FMA (compiled with these flags). */
#define CPU_ROW syi_cpu_avx2
#define CPU_NAME "avx2"
#define CPU_ISA SYI_ISA_AVX2
#include "tensor/cpu_impl.h"
