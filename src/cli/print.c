/* SPDX-License-Identifier: Apache-2.0 */
/* Reports for people: most verbs as aligned lines "key  value"; inspect and methods as
 * tables. The keys are those of --json, so that one leads to the other. */
#include "cli/cli.h"

#include <stdlib.h>

static void print_number(const char *key, const json_t *v)
{
    char buf[32];
    if (json_is_integer(v)) {
        long long n = (long long)json_integer_value(v);
        size_t k = strlen(key);
        bool bytes = k >= 5 && !strcmp(key + k - 5, "bytes");
        if (bytes || strstr(key, "bytes_")) printf("%s\n", syi_human_bytes(buf, n));
        else printf("%lld\n", n);
        return;
    }
    double d = json_number_value(v);
    if (!strcmp(key, "seconds")) printf("%s\n", syi_human_time(buf, d));
    else printf("%.6g\n", d);
}

/* Objects and lists are details: the log has said them in words. */
static bool shown(const json_t *v) { return json_is_number(v) || json_is_string(v) || json_is_boolean(v); }

static void print_pairs(const json_t *report)
{
    const char *key;
    json_t *v, *pairs = (json_t *)(uintptr_t)report;
    int wide = 0;
    json_object_foreach(pairs, key, v)
        if (shown(v) && (int)strlen(key) > wide) wide = (int)strlen(key);
    json_object_foreach(pairs, key, v) {
        if (!shown(v)) continue;
        printf("%-*s  ", wide, key);
        if (json_is_number(v)) print_number(key, v);
        else if (json_is_string(v)) puts(json_string_value(v));
        else puts(json_is_true(v) ? "yes" : "no");
    }
}

/* -- tables --------------------------------------------------------------------- */

static const char *text_of(const json_t *row, const char *key)
{
    const char *s = json_string_value(json_object_get(row, key));
    return s ? s : "";
}

static void print_methods(const json_t *report)
{
    json_t *row, *list = json_object_get(report, "methods");
    size_t i;
    int wide = 4;
    const char *kind = "";
    json_array_foreach(list, i, row) {
        int n = (int)strlen(text_of(row, "name"));
        if (n > wide) wide = n;
    }
    json_array_foreach(list, i, row) {
        const char *k = text_of(row, "kind");
        if (strcmp(k, kind)) printf("%s%ss\n", i ? "\n" : "", k);
        kind = k;
        printf("  %-*s  %s\n", wide, text_of(row, "name"), text_of(row, "title"));
        if (*text_of(row, "paper")) printf("  %-*s  %s\n", wide, "", text_of(row, "paper"));
        json_t *preset;
        size_t j;
        json_array_foreach(json_object_get(row, "presets"), j, preset)
            printf("  %-*s  %s: %s (%s)\n", wide, "", text_of(preset, "name"), text_of(preset, "title"), text_of(preset, "settings"));
    }
    puts("\n\"steelyard help NAME\" shows a method's page.");
}

static void print_repro(const json_t *report)
{
    json_t *row, *list = json_object_get(report, "experiments");
    size_t i;
    json_array_foreach(list, i, row) {
        printf("%s: %s\n", text_of(row, "name"), text_of(row, "claim"));
        if (*text_of(row, "paper")) printf("  %s\n", text_of(row, "paper"));
    }
    if (list) return;
    int wide = 4;
    printf("%s: %s\n%s\n\n", text_of(report, "name"), text_of(report, "claim"), text_of(report, "paper"));
    list = json_object_get(report, "rows");
    json_array_foreach(list, i, row) {
        int n = (int)strlen(text_of(row, "what"));
        if (n > wide) wide = n;
    }
    if (json_array_size(list)) printf("%-*s  %12s  %10s  %12s\n", wide, "what", "mean", "deviation", "expected");
    json_array_foreach(list, i, row) {
        const json_t *expected = json_object_get(row, "expected");
        printf("%-*s  %12.6g  %10.3g", wide, text_of(row, "what"), json_number_value(json_object_get(row, "mean")),
               json_number_value(json_object_get(row, "sd")));
        if (json_is_number(expected)) printf("  %12.6g", json_number_value(expected));
        putchar('\n');
    }
    list = json_object_get(report, "checks");
    if (json_array_size(list)) putchar('\n');
    json_array_foreach(list, i, row)
        printf("%s  %s\n", json_is_true(json_object_get(row, "held")) ? "held    " : "did not ", text_of(row, "text"));
    if (*text_of(report, "verdict")) printf("\nverdict: %s\n", text_of(report, "verdict"));
}

static void shape_text(char *out, size_t size, const json_t *shape)
{
    size_t n = 0, i;
    json_t *d;
    out[n++] = '[';
    json_array_foreach(shape, i, d) {
        int k = snprintf(out + n, size - n, "%s%lld", i ? ", " : "", (long long)json_integer_value(d));
        if (k < 0 || n + (size_t)k + 2 >= size) break;
        n += (size_t)k;
    }
    out[n++] = ']';
    out[n] = 0;
}

static void print_inspect(const json_t *report)
{
    char buf[32], shape[128];
    static const char *const sections[] = { "run", "model", "adapter", "tokenizer", "provenance" };
    json_t *v, *list = json_object_get(report, "groups");
    const char *key;
    size_t i;
    int wide = 6;
    printf("%s: %s\n", text_of(report, "path"), text_of(report, "kind"));
    for (int k = 0; k < SYI_COUNT(sections); k++) {
        json_t *section = json_object_get(report, sections[k]);
        if (json_object_size(section)) printf("\n%s\n", sections[k]);
        json_object_foreach(section, key, v) {
            char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_REAL_PRECISION(6));
            if (json_is_string(v) || !text || strlen(text) <= 200) printf("  %-24s %s\n", key, json_is_string(v) ? json_string_value(v) : text ? text : "");
            else printf("  %-24s %.190s ...\n", key, text);
            free(text);
        }
    }
    json_array_foreach(list, i, v) {
        int n = (int)strlen(text_of(v, "name"));
        if (n > wide) wide = n;
    }
    if (wide > 64) wide = 64;
    printf("\n%-*s  %-6s %5s  %-18s %s\n", wide, "tensor", "type", "count", "shape", "bytes");
    json_array_foreach(list, i, v) {
        shape_text(shape, sizeof shape, json_object_get(v, "shape"));
        printf("%-*s  %-6s %5lld  %-18s %s\n", wide, text_of(v, "name"), text_of(v, "type"),
               (long long)json_integer_value(json_object_get(v, "count")), shape,
               syi_human_bytes(buf, json_integer_value(json_object_get(v, "bytes"))));
    }
    printf("\n%lld tensors, %lld parameters, %s", (long long)json_integer_value(json_object_get(report, "tensor_count")),
           (long long)json_integer_value(json_object_get(report, "parameters")),
           syi_human_bytes(buf, json_integer_value(json_object_get(report, "bytes"))));
    json_t *types = json_object_get(report, "types");
    json_object_foreach(types, key, v)
        printf(", %s %s", key, syi_human_bytes(buf, json_integer_value(json_object_get(v, "bytes"))));
    putchar('\n');
}

/* One line of norms; "-" where there is no such number. */
static void print_change(const char *name, int wide, const json_t *row, const json_t *rank)
{
    static const char *const keys[] = { "norm_a", "norm_b", "norm_delta", "relative", "cosine", "max_delta" };
    printf("%-*s", wide, name);
    for (int i = 0; i < SYI_COUNT(keys); i++) {
        const json_t *v = json_object_get(row, keys[i]);
        if (json_is_number(v)) printf("  %10.4g", json_number_value(v));
        else printf("  %10s", "-");
    }
    if (json_is_number(rank)) printf("  %8.1f\n", json_number_value(rank));
    else printf("  %8s\n", "-");
}

static void change_heading(const char *name, int wide)
{
    printf("\n%-*s  %10s  %10s  %10s  %10s  %10s  %10s  %8s\n", wide, name, "|A|", "|B|", "|B-A|", "relative", "cosine", "max", "rank");
}

static void print_diff(const json_t *report)
{
    json_t *v, *kinds = json_object_get(report, "kinds"), *layers = json_object_get(report, "layers"), *tensors = json_object_get(report, "tensors");
    const json_t *total = json_object_get(report, "total");
    const bool all = json_is_true(json_object_get(report, "show_all"));
    char name[32];
    size_t i;
    int wide = 12;
    printf("A  %s (%s)\n", text_of(json_object_get(report, "a"), "path"), text_of(json_object_get(report, "a"), "kind"));
    if (json_object_get(report, "b")) printf("B  %s (%s)\n", text_of(json_object_get(report, "b"), "path"), text_of(json_object_get(report, "b"), "kind"));
    printf("%s: %lld tensors, %lld of them identical\n", text_of(report, "compares"), (long long)json_integer_value(json_object_get(report, "compared")),
           (long long)json_integer_value(json_object_get(report, "identical")));
    json_array_foreach(all ? tensors : kinds, i, v)
        if ((int)strlen(text_of(v, "name")) > wide) wide = (int)strlen(text_of(v, "name"));
    if (wide > 64) wide = 64;
    change_heading(all ? "tensor" : "kind", wide);
    json_array_foreach(all ? tensors : kinds, i, v)
        print_change(text_of(v, "name"), wide, v, all ? json_object_get(json_object_get(v, "spectrum"), "effective_rank") : json_object_get(v, "mean_effective_rank"));
    change_heading("block", wide);
    json_array_foreach(layers, i, v) {
        const json_t *layer = json_object_get(v, "layer");
        if (json_is_integer(layer)) snprintf(name, sizeof name, "%lld", (long long)json_integer_value(layer));
        else snprintf(name, sizeof name, "(others)");
        print_change(name, wide, v, json_object_get(v, "mean_effective_rank"));
    }
    putchar('\n');
    print_change("all", wide, total, json_object_get(total, "mean_effective_rank"));
}

void cli_print(const char *verb, const json_t *report)
{
    static const struct { const char *verb; void (*print)(const json_t *); } own[] = {
        { "methods", print_methods }, { "inspect", print_inspect }, { "diff", print_diff }, { "repro", print_repro }
    };
    for (int i = 0; i < SYI_COUNT(own); i++)
        if (!strcmp(verb, own[i].verb)) { own[i].print(report); return; }
    print_pairs(report);
}
