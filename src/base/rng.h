/* SPDX-License-Identifier: Apache-2.0 */
/* The bare generator, for its known-answer test and for kernels that make noise
 * in place. */
#ifndef SYI_RNG_H
#define SYI_RNG_H

#include "base.h"

/* One block of Philox4x32-10. */
void syi_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

#endif
