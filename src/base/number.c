/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers as people type them. strtod and printf follow the locale of the program
 * around us (a decimal comma, say); files and flags do not. */
#include "options.h"

#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdlib.h>

enum { NUMBER_MAX = 400 };

/* [+-] digits [. digits] [e [+-] digits], at least one digit before the e. */
static bool is_number(const char *s)
{
    int digits = 0;
    if (*s == '+' || *s == '-') s++;
    for (; *s >= '0' && *s <= '9'; s++) digits++;
    if (*s == '.') {
        s++;
        for (; *s >= '0' && *s <= '9'; s++) digits++;
    }
    if (digits == 0) return false;
    if (*s == 'e' || *s == 'E') {
        s++;
        if (*s == '+' || *s == '-') s++;
        if (!(*s >= '0' && *s <= '9')) return false;
        while (*s >= '0' && *s <= '9') s++;
    }
    return *s == '\0';
}

bool syi_parse_double(const char *s, double *out)
{
    size_t n = strlen(s);
    if (n > NUMBER_MAX || !is_number(s)) return false;
    char text[NUMBER_MAX + 16];
    const char *point = localeconv()->decimal_point, *dot = strchr(s, '.');
    size_t m = strlen(point);
    if (dot == NULL || m > 8) {
        memcpy(text, s, n + 1);
    } else {
        size_t before = (size_t)(dot - s);
        memcpy(text, s, before);
        memcpy(text + before, point, m);
        memcpy(text + before + m, dot + 1, n - before);
    }
    double v = strtod(text, NULL);
    if (!isfinite(v)) return false; /* 1e999 */
    *out = v;
    return true;
}

bool syi_parse_int(const char *s, int64_t *out)
{
    if (!is_number(s)) return false;
    if (strpbrk(s, ".eE") == NULL) {
        errno = 0;
        long long v = strtoll(s, NULL, 10);
        if (errno == ERANGE) return false;
        *out = (int64_t)v;
        return true;
    }
    double v;
    if (!syi_parse_double(s, &v) || v != floor(v) || fabs(v) > 0x1p53) return false;
    *out = (int64_t)v;
    return true;
}

bool syi_parse_size(const char *s, int64_t *out)
{
    size_t n = strspn(s, "0123456789.+eE-");
    /* "1E" would be an exponent without digits: the letter is exabyte, not offered. */
    char text[NUMBER_MAX + 1];
    if (n == 0 || n > NUMBER_MAX) return false;
    memcpy(text, s, n);
    text[n] = '\0';
    const char *unit = s + n;
    while (*unit == ' ') unit++;
    int shift = 0;
    if (*unit != '\0') {
        static const char letters[] = "KMGTP";
        char c = *unit >= 'a' && *unit <= 'z' ? (char)(*unit - 'a' + 'A') : *unit;
        const char *found = strchr(letters, c);
        if (found != NULL) {
            shift = 10 * (int)(found - letters + 1);
            unit++;
            if (*unit == 'i' || *unit == 'I') {
                unit++;
                if (*unit != 'b' && *unit != 'B') return false;
            }
        }
        if (*unit == 'b' || *unit == 'B') unit++;
        if (*unit != '\0') return false;
    }
    int64_t whole;
    double v;
    if (strpbrk(text, ".eE") == NULL) {
        if (!syi_parse_int(text, &whole) || whole < 0 || whole > INT64_MAX >> shift) return false;
        *out = whole << shift;
        return true;
    }
    if (!syi_parse_double(text, &v)) return false;
    v = floor(ldexp(v, shift) + 0.5);
    if (!(v >= 0) || v >= 0x1p63) return false;
    *out = (int64_t)v;
    return true;
}

char *syi_double_text(char buf[40], double v)
{
    if (v == floor(v) && fabs(v) < 1e15) { /* 10, not 1e+01 */
        snprintf(buf, 40, "%.0f", v);
        return buf;
    }
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(buf, 40, "%.*g", digits, v);
        const char *point = localeconv()->decimal_point;
        size_t m = strlen(point);
        char *at = m > 0 && strcmp(point, ".") != 0 ? strstr(buf, point) : NULL;
        if (at != NULL) {
            *at = '.';
            memmove(at + 1, at + m, strlen(at + m) + 1);
        }
        double back;
        if (syi_parse_double(buf, &back) && back == v) break;
    }
    return buf;
}
