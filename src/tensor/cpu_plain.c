/* SPDX-License-Identifier: Apache-2.0 */
/* The CPU path that every processor has, and the reference of the others. */
#define CPU_ROW syi_cpu_plain
#define CPU_NAME "plain"
#define CPU_ISA SYI_ISA_PLAIN
#include "tensor/cpu_impl.h"
