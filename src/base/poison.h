/* SPDX-License-Identifier: Apache-2.0 */
/* Under AddressSanitizer, memory that we hold but have not handed out may not be
 * touched: reads past a block in an arena are found like reads past a malloc. */
#ifndef SYI_POISON_H
#define SYI_POISON_H

#if defined(__SANITIZE_ADDRESS__)
#define SYI_HAS_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SYI_HAS_ASAN 1
#endif
#endif

#ifdef SYI_HAS_ASAN
#include <sanitizer/asan_interface.h>
#define SYI_POISON(p, n) ASAN_POISON_MEMORY_REGION(p, n)
#define SYI_UNPOISON(p, n) ASAN_UNPOISON_MEMORY_REGION(p, n)
#else
#define SYI_POISON(p, n) ((void)(p), (void)(n))
#define SYI_UNPOISON(p, n) ((void)(p), (void)(n))
#endif

#endif
