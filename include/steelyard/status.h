/* SPDX-License-Identifier: Apache-2.0 */
/* Status codes: what every fallible call returns.
 *
 * A call returns SY_OK (0) or one of the negative codes below. The code says
 * which class of trouble it was (what a program acts on); the message for the
 * human (what was expected, what was found, where, what to do) lies on the
 * context: sy_error_message(). The library never prints, exits or aborts on
 * anything that came from a file, an option or a caller. */
#ifndef STEELYARD_STATUS_H
#define STEELYARD_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

/* X(code, value, exit code of the command, one line) */
#define SY_STATUS_LIST(X)                                                     \
    X(SY_OK, 0, 0, "done")                                                    \
    X(SY_E_FAILED, -1, 1, "the work failed")                                  \
    X(SY_E_USAGE, -2, 2, "bad usage or configuration")                        \
    X(SY_E_INPUT, -3, 3, "bad input file")                                    \
    X(SY_E_UNSUPPORTED, -4, 3, "valid, but not supported")                    \
    X(SY_E_MEMORY, -5, 4, "out of memory")                                    \
    X(SY_E_IO, -6, 4, "reading or writing failed")                            \
    X(SY_E_CANCELLED, -7, 130, "interrupted")                                 \
    X(SY_E_NUMERIC, -8, 1, "not a finite number, or diverged")                \
    X(SY_E_DISTRIBUTED, -9, 1, "communication between ranks failed")          \
    X(SY_E_BUG, -10, 1, "a bug in this library")

typedef int sy_status;

enum {
#define SY_X_(code, value, exit_code, text) code = (value),
    SY_STATUS_LIST(SY_X_)
#undef SY_X_
};

/* One line for a code ("bad input file"); never NULL. */
const char *sy_status_text(sy_status status);

/* The symbolic name of a code ("SY_E_INPUT"); never NULL. */
const char *sy_status_name(sy_status status);

/* The exit code of the command for a status: 0, 1, 2, 3, 4 or 130. */
int sy_status_exit(sy_status status);

#ifdef __cplusplus
}
#endif
#endif
