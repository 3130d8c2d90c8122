/* SPDX-License-Identifier: Apache-2.0 */
/* What every test includes: cmocka with its prerequisites in the right order. */
#ifndef TEST_H
#define TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#endif
