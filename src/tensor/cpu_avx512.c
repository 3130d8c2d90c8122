/* SPDX-License-Identifier: Apache-2.0 */
/* The CPU path for AVX-512 F, BW, VL, DQ (compiled with these flags). */
#define CPU_ROW syi_cpu_avx512
#define CPU_NAME "avx512"
#define CPU_ISA SYI_ISA_AVX512
#include "tensor/cpu_impl.h"
