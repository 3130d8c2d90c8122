/* SPDX-License-Identifier: Apache-2.0 */
/* Arguments to settings: --key value, --key=value, --flag, --no-flag, positions and
 * YAML files. The rows tell which keys take a value; whether a key and its value are
 * right is for the job to say, which knows the methods in use. */
#include "cli/cli.h"

#include <ctype.h>

/* The row of a key in anything that the verb could have. */
static const sy_option *row_of(const sy_verb *verb, const char *key)
{
    const sy_option *row = syi_row_find(verb->options, key), *name;
    if (!row) row = syi_row_find(sy_common_options(), key);
    int kind;
    for (int i = 0; !row && (name = syi_verb_names(verb, i, &kind)); i++)
        for (const sy_method *const *m = sy_methods(); *m && !row; m++)
            if ((int)(*m)->kind == kind) row = syi_row_find((*m)->options, key);
    return row;
}

static bool is_yes_or_no(const char *s)
{
    static const char *const words[] = { "on", "off", "true", "false", "yes", "no", "1", "0" };
    for (int i = 0; i < SYI_COUNT(words); i++)
        if (!strcmp(s, words[i])) return true;
    return false;
}

/* "--like-this" looks like a flag; "-1", "-" and "-0.5" are values. */
static bool is_flag(const char *s) { return s[0] == '-' && s[1] == '-'; }

bool cli_has(int argc, char **argv, const char *flag)
{
    size_t n = strlen(flag);
    for (int i = 0; i < argc && strcmp(argv[i], "--"); i++) {
        if (strncmp(argv[i], flag, n)) continue;
        const char *rest = argv[i] + n;
        if (!*rest) return i + 1 >= argc || (strcmp(argv[i + 1], "off") && strcmp(argv[i + 1], "false"));
        if (*rest == '=') return !strcmp(rest, "=on") || !strcmp(rest, "=true") || !strcmp(rest, "=yes") || !strcmp(rest, "=1");
    }
    return false;
}

static const sy_option *position(const sy_verb *verb, int i)
{
    for (const sy_option *r = verb->options; r && r->name; r++)
        if ((r->flags & SY_OPT_POSITION) && i-- == 0) return r;
    return NULL;
}

static sy_status positional(sy_context *ctx, sy_job *job, const sy_verb *verb, const char *arg, int *n)
{
    const sy_option *row = position(verb, *n);
    if (row) {
        ++*n;
        return sy_job_set(job, row->name, arg);
    }
    if (syi_ends(arg, ".yaml") || syi_ends(arg, ".yml")) return sy_job_load(job, arg);
    if (arg[0] == '-' && isalpha((unsigned char)arg[1]))
        return syi_fail(ctx, SY_E_USAGE, "unknown option \"%s\": options have two dashes and whole names; see \"steelyard %s --help\"",
                        arg, verb->name);
    if (*n)
        return syi_fail(ctx, SY_E_USAGE, "argument \"%s\" is one too many: \"steelyard %s\" takes %d; see \"steelyard %s --help\"",
                        arg, verb->name, *n, verb->name);
    return syi_fail(ctx, SY_E_USAGE, "argument \"%s\" was not expected: \"steelyard %s\" takes options (--model PATH) and YAML files; "
                    "see \"steelyard %s --help\"", arg, verb->name, verb->name);
}

sy_status cli_arguments(sy_context *ctx, sy_job *job, const sy_verb *verb, int argc, char **argv)
{
    int positions = 0;
    bool flags = true;
    for (int i = 0; i < argc; i++) {
        const char *arg = argv[i];
        if (flags && !strcmp(arg, "--")) { flags = false; continue; }
        if (!flags || !is_flag(arg)) {
            SYI_TRY(positional(ctx, job, verb, arg, &positions));
            continue;
        }
        char key[128];
        const char *eq = strchr(arg, '=');
        size_t len = eq ? (size_t)(eq - arg - 2) : strlen(arg + 2);
        if (len == 0 || len >= sizeof key) return syi_fail(ctx, SY_E_USAGE, "\"%s\" is not an option", arg);
        for (size_t c = 0; c < len; c++) key[c] = arg[2 + c] == '_' ? '-' : arg[2 + c];
        key[len] = 0;
        const sy_option *row = row_of(verb, key);
        if (!row && !strcmp(key, "config")) {
            if (!eq && i + 1 >= argc) return syi_fail(ctx, SY_E_USAGE, "--config needs a YAML file");
            SYI_TRY(sy_job_load(job, eq ? eq + 1 : argv[++i]));
        } else if (eq) {
            SYI_TRY(sy_job_set(job, key, eq + 1));
        } else if (!row && syi_starts(key, "no-") && (row = row_of(verb, key + 3)) && row->type == SY_OPT_BOOL) {
            SYI_TRY(sy_job_set(job, key + 3, "off"));
        } else if (row && row->type == SY_OPT_BOOL) {
            bool value = i + 1 < argc && is_yes_or_no(argv[i + 1]);
            SYI_TRY(sy_job_set(job, key, value ? argv[++i] : "on"));
        } else if (i + 1 < argc && !is_flag(argv[i + 1])) {
            SYI_TRY(sy_job_set(job, key, argv[++i]));
        } else if (row) {
            return syi_fail(ctx, SY_E_USAGE, "--%s needs a value: %s%s%s", key, row->help, row->example ? ", as in " : "",
                            row->example ? row->example : "");
        } else {
            SYI_TRY(sy_job_set(job, key, "on")); /* the job says that there is no such option */
        }
    }
    return SY_OK;
}
