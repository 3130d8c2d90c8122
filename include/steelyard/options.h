/* SPDX-License-Identifier: Apache-2.0 */
/* Option rows: the one place where an option is described.
 *
 * A row is the source of the command-line flag, the YAML key, the key in
 * adapter_config.json, the line in `steelyard help`, the man page, the shell
 * completion, the reference page and the boundary test. Tables end with a row
 * whose name is NULL. */
#ifndef STEELYARD_OPTIONS_H
#define STEELYARD_OPTIONS_H

#include "context.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    SY_OPT_BOOL,   /* bool          --flag, --flag on|off, --no-flag            */
    SY_OPT_INT,    /* int64_t                                                   */
    SY_OPT_FLOAT,  /* double                                                    */
    SY_OPT_SIZE,   /* int64_t bytes: "512M", "1.5G", "2GiB"                     */
    SY_OPT_STRING, /* char *, NULL if not given and no default                  */
    SY_OPT_PATH,   /* char *, the same, completed as a file name                */
    SY_OPT_ENUM,   /* int: index of the choice                                  */
    SY_OPT_LIST,   /* sy_list: a,b,c or a YAML sequence                         */
    SY_OPT_MAP     /* sy_map: key=number,key=number or a YAML mapping           */
} sy_option_type;

typedef struct { char **item; int n; } sy_list;
typedef struct { char **key; double *value; int n; } sy_map;

enum {
    SY_OPT_REQUIRED = 1,   /* the verb refuses to start without it              */
    SY_OPT_ADVANCED = 2,   /* left out of the short help                        */
    SY_OPT_POSITION = 4,   /* may be given without its flag, in order of rows   */
    SY_OPT_MIN_OPEN = 8,   /* value > min, not >=                               */
    SY_OPT_MAX_OPEN = 16,  /* value < max, not <=                               */
    SY_OPT_RUNTIME = 32,   /* does not change results (threads, quiet): left
                              out of the fingerprint that --resume compares     */
    SY_OPT_PER_MODEL = 64  /* a merger's parameter that each model of the recipe
                              may have its own of; without default it must     */
};

typedef struct {
    const char *name;      /* "save-steps": the flag; YAML takes - and _ alike  */
    sy_option_type type;
    size_t offset;         /* of the field in the context that owns the row     */
    const char *def;       /* default as it would be typed; NULL: zero/absent   */
    double min, max;       /* numbers and sizes; both 0: no limits              */
    const char *const *choices; /* ENUM: NULL-terminated; "miss=true": `miss` for
                              people, true in adapter_config.json               */
    unsigned flags;
    const char *peft;      /* key in adapter_config.json, NULL: not stored      */
    const char *alias;     /* other tools' names, "lora_r micro_batch_size"     */
    const char *help;      /* one line, lower case, no full stop                */
    const char *example;   /* a value that works, for help and tests            */
} sy_option;

#ifdef __cplusplus
}
#endif
#endif
