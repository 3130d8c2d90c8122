/* SPDX-License-Identifier: Apache-2.0 */
/* Small questions about strings, "did you mean", and sizes for people. */
#include "base.h"

#include <math.h>

bool syi_starts(const char *s, const char *prefix)
{
    return strncmp(s, prefix, strlen(prefix)) == 0;
}

bool syi_ends(const char *s, const char *suffix)
{
    size_t n = strlen(s), m = strlen(suffix);
    return n >= m && memcmp(s + n - m, suffix, m) == 0;
}

bool syi_has_word(const char *list, const char *word)
{
    const size_t n = strlen(word);
    for (const char *p = list + strspn(list, " "); *p; p += strspn(p, " ")) {
        const size_t k = strcspn(p, " ");
        if (k == n && memcmp(p, word, n) == 0) return true;
        p += k;
    }
    return false;
}

enum { WORD_MAX = 63 };

/* Letter case and '-' against '_' are no mistakes. */
static char fold(char c)
{
    return c == '_' ? '-' : c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static int min3(int a, int b, int c)
{
    int m = a < b ? a : b;
    return m < c ? m : c;
}

/* Insertions, deletions, replacements and swaps of neighbours (Damerau's
 * distance, optimal string alignment). */
static int distance(const char *a, int n, const char *b, int m)
{
    int rows[3][WORD_MAX + 1];
    int *before = rows[0], *last = rows[1], *now = rows[2];
    for (int j = 0; j <= m; j++) last[j] = j;
    for (int i = 1; i <= n; i++) {
        now[0] = i;
        for (int j = 1; j <= m; j++) {
            char x = fold(a[i - 1]), y = fold(b[j - 1]);
            now[j] = min3(last[j] + 1, now[j - 1] + 1, last[j - 1] + (x != y));
            if (i > 1 && j > 1 && x == fold(b[j - 2]) && fold(a[i - 2]) == y && before[j - 2] + 1 < now[j])
                now[j] = before[j - 2] + 1;
        }
        int *spare = before;
        before = last;
        last = now;
        now = spare;
    }
    return last[m];
}

const char *syi_nearest(const char *word, const char *const *names, int n)
{
    size_t len = strlen(word);
    if (len > WORD_MAX) return NULL;
    int best = 1 + (int)len / 3;
    const char *found = NULL;
    for (int i = 0; i < n; i++) {
        if (names[i] == NULL) continue;
        size_t m = strlen(names[i]);
        if (m > WORD_MAX) continue;
        int d = distance(word, (int)len, names[i], (int)m);
        if (d < best || (d == best && found == NULL)) {
            best = d;
            found = names[i];
        }
    }
    return found;
}

char *syi_human_bytes(char buf[32], int64_t bytes)
{
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double v = (double)bytes;
    int u = 0;
    /* 1023.95 KiB would be written as "1024.0 KiB". */
    while (fabs(v) >= (u == 0 ? 1024 : 1023.95) && u < SYI_COUNT(unit) - 1) {
        v /= 1024;
        u++;
    }
    snprintf(buf, 32, u == 0 ? "%.0f %s" : "%.1f %s", v, unit[u]);
    return buf;
}

char *syi_human_time(char buf[32], double seconds)
{
    if (!(seconds >= 0) || seconds > 1e9) {
        snprintf(buf, 32, "?");
    } else if (seconds < 9.95) {
        snprintf(buf, 32, "%.1f s", seconds);
    } else if (seconds < 59.5) {
        snprintf(buf, 32, "%.0f s", seconds);
    } else {
        long long s = (long long)(seconds + 0.5);
        if (s < 3600) snprintf(buf, 32, "%lld:%02lld", s / 60, s % 60);
        else snprintf(buf, 32, "%lld:%02lld:%02lld", s / 3600, s / 60 % 60, s % 60);
    }
    return buf;
}
