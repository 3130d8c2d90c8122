/* SPDX-License-Identifier: Apache-2.0 */
/* Names, texts and exit codes of the status list, from its X-macro. */
#include "steelyard/status.h"

#include <stddef.h>

static const struct { sy_status code; int exit_code; const char *name, *text; } table[] = {
#define ROW(code, value, exit_code, text) {code, exit_code, #code, text},
    SY_STATUS_LIST(ROW)
#undef ROW
};
enum { TABLE_ROWS = sizeof table / sizeof table[0] };

const char *sy_status_text(sy_status status)
{
    for (size_t i = 0; i < TABLE_ROWS; i++)
        if (table[i].code == status) return table[i].text;
    return "unknown status";
}

const char *sy_status_name(sy_status status)
{
    for (size_t i = 0; i < TABLE_ROWS; i++)
        if (table[i].code == status) return table[i].name;
    return "SY_E_UNKNOWN";
}

int sy_status_exit(sy_status status)
{
    for (size_t i = 0; i < TABLE_ROWS; i++)
        if (table[i].code == status) return table[i].exit_code;
    return 1;
}
