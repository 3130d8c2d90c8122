/* SPDX-License-Identifier: Apache-2.0 */
/* The CPU path for 64-bit Arm, where NEON is always present. */
#define CPU_ROW syi_cpu_neon
#define CPU_NAME "neon"
#define CPU_ISA SYI_ISA_NEON
#include "tensor/cpu_impl.h"
