/* SPDX-License-Identifier: Apache-2.0 */
/* Unicode as tokenizers mean it: strict UTF-8, the character classes of the
 * components, and the map that byte-level models put between bytes and
 * characters. Malformed bytes are data here, not errors. */
#include "text.h"

#include <utf8proc.h>

int syi_utf8_decode(const uint8_t *s, int64_t n, uint32_t *cp)
{
    if (n <= 0) return 0;
    uint32_t a = s[0];
    if (a < 0x80) {
        *cp = a;
        return 1;
    }
    if (a < 0xC2 || a > 0xF4) return 0;
    if (n < 2 || (s[1] & 0xC0) != 0x80) return 0;
    if (a < 0xE0) {
        *cp = (a & 0x1F) << 6 | (s[1] & 0x3Fu);
        return 2;
    }
    if (n < 3 || (s[2] & 0xC0) != 0x80) return 0;
    if (a < 0xF0) {
        uint32_t c = (a & 0x0F) << 12 | (s[1] & 0x3Fu) << 6 | (s[2] & 0x3Fu);
        if (c < 0x800 || (c >= 0xD800 && c < 0xE000)) return 0;
        *cp = c;
        return 3;
    }
    if (n < 4 || (s[3] & 0xC0) != 0x80) return 0;
    uint32_t c = (a & 0x07) << 18 | (s[1] & 0x3Fu) << 12 | (s[2] & 0x3Fu) << 6 | (s[3] & 0x3Fu);
    if (c < 0x10000 || c > 0x10FFFF) return 0;
    *cp = c;
    return 4;
}

int syi_utf8_encode(uint32_t cp, uint8_t out[4])
{
    if (cp < 0x80) {
        out[0] = (uint8_t)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (uint8_t)(0xC0 | cp >> 6);
        out[1] = (uint8_t)(0x80 | (cp & 0x3F));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (uint8_t)(0xE0 | cp >> 12);
        out[1] = (uint8_t)(0x80 | (cp >> 6 & 0x3F));
        out[2] = (uint8_t)(0x80 | (cp & 0x3F));
        return 3;
    }
    out[0] = (uint8_t)(0xF0 | (cp >> 18 & 0x07));
    out[1] = (uint8_t)(0x80 | (cp >> 12 & 0x3F));
    out[2] = (uint8_t)(0x80 | (cp >> 6 & 0x3F));
    out[3] = (uint8_t)(0x80 | (cp & 0x3F));
    return 4;
}

bool syi_utf8_valid(const uint8_t *s, int64_t n)
{
    for (int64_t i = 0; i < n;) {
        if (i + 8 <= n) {
            uint64_t w;
            memcpy(&w, s + i, 8);
            if ((w & 0x8080808080808080u) == 0) {
                i += 8;
                continue;
            }
        }
        uint32_t cp;
        int k = syi_utf8_decode(s + i, n - i, &cp);
        if (k == 0) return false;
        i += k;
    }
    return true;
}

int64_t syi_utf8_complete(const uint8_t *s, int64_t n)
{
    /* A lead byte among the last three that announces more than what follows. */
    for (int64_t back = 1; back <= 3 && back <= n; back++) {
        uint8_t c = s[n - back];
        if ((c & 0xC0) == 0x80) continue;
        int64_t want = c >= 0xF0 && c <= 0xF4 ? 4 : c >= 0xE0 && c < 0xF0 ? 3 : c >= 0xC2 && c < 0xE0 ? 2 : 1;
        return want > back ? n - back : n;
    }
    return n;
}

void syi_utf8_cover(const uint8_t *s, int64_t n, int64_t i, int64_t *begin, int64_t *end)
{
    uint32_t cp;
    *begin = i;
    *end = i + 1;
    for (int64_t at = i; at >= 0 && at > i - 4; at--) {
        if ((s[at] & 0xC0) == 0x80) continue;
        int k = syi_utf8_decode(s + at, n - at, &cp);
        if (at + k > i) {
            *begin = at;
            *end = at + k;
        }
        return;
    }
}

bool syi_is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || c == 32 || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
           c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool syi_is_numeric(uint32_t c)
{
    if (c < 0x80) return c >= '0' && c <= '9';
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_NO;
}

/* Hugging Face's notion of punctuation and of marks that BERT drops stems from
 * Unicode 8. Characters that are classed otherwise since, with what they were: 'L'
 * neither, 'P' punctuation, 'M' a mark. Found by asking it about every code point. */
static const struct { uint32_t first, last; char was; } unicode8[] = {
    {0x61D, 0x61D, 'L'}, {0x7FD, 0x7FD, 'L'}, {0x890, 0x891, 'L'}, {0x898, 0x89F, 'L'}, {0x8CA, 0x8E2, 'L'}, {0x9FD, 0x9FE, 'L'},
    {0xA76, 0xA76, 'L'}, {0xAFA, 0xAFF, 'L'}, {0xB55, 0xB55, 'L'}, {0xC04, 0xC04, 'L'}, {0xC3C, 0xC3C, 'L'}, {0xC77, 0xC77, 'L'},
    {0xC84, 0xC84, 'L'}, {0xD00, 0xD00, 'L'}, {0xD3B, 0xD3C, 'L'}, {0xD81, 0xD81, 'L'}, {0xEBA, 0xEBA, 'L'}, {0xECE, 0xECE, 'L'},
    {0x166D, 0x166D, 'P'}, {0x1734, 0x1734, 'M'}, {0x180F, 0x180F, 'L'}, {0x1885, 0x1886, 'L'}, {0x1ABF, 0x1ACE, 'L'},
    {0x1B7D, 0x1B7E, 'L'}, {0x1DF6, 0x1DFB, 'L'}, {0x2E43, 0x2E4F, 'L'}, {0x2E52, 0x2E5D, 'L'}, {0xA82C, 0xA82C, 'L'},
    {0xA8C5, 0xA8C5, 'L'}, {0xA8FF, 0xA8FF, 'L'}, {0xA9BD, 0xA9BD, 'L'}, {0x10D24, 0x10D27, 'L'}, {0x10EAB, 0x10EAD, 'L'},
    {0x10EFD, 0x10EFF, 'L'}, {0x10F46, 0x10F50, 'L'}, {0x10F55, 0x10F59, 'L'}, {0x10F82, 0x10F89, 'L'}, {0x11070, 0x11070, 'L'},
    {0x11073, 0x11074, 'L'}, {0x110C2, 0x110C2, 'L'}, {0x110CD, 0x110CD, 'L'}, {0x111C9, 0x111C9, 'P'}, {0x111CF, 0x111CF, 'L'},
    {0x1123E, 0x1123E, 'L'}, {0x11241, 0x11241, 'L'}, {0x1133B, 0x1133B, 'L'}, {0x11438, 0x1143F, 'L'}, {0x11442, 0x11444, 'L'},
    {0x11446, 0x11446, 'L'}, {0x1144B, 0x1144F, 'L'}, {0x1145A, 0x1145B, 'L'}, {0x1145D, 0x1145E, 'L'}, {0x11660, 0x1166C, 'L'},
    {0x116B9, 0x116B9, 'L'}, {0x1182F, 0x11837, 'L'}, {0x11839, 0x1183B, 'L'}, {0x1193B, 0x1193C, 'L'}, {0x1193E, 0x1193E, 'L'},
    {0x11943, 0x11946, 'L'}, {0x119D4, 0x119D7, 'L'}, {0x119DA, 0x119DB, 'L'}, {0x119E0, 0x119E0, 'L'}, {0x119E2, 0x119E2, 'L'},
    {0x11A01, 0x11A0A, 'L'}, {0x11A33, 0x11A38, 'L'}, {0x11A3B, 0x11A47, 'L'}, {0x11A51, 0x11A56, 'L'}, {0x11A59, 0x11A5B, 'L'},
    {0x11A8A, 0x11A96, 'L'}, {0x11A98, 0x11A9C, 'L'}, {0x11A9E, 0x11AA2, 'L'}, {0x11B00, 0x11B09, 'L'}, {0x11C30, 0x11C36, 'L'},
    {0x11C38, 0x11C3D, 'L'}, {0x11C3F, 0x11C3F, 'L'}, {0x11C41, 0x11C45, 'L'}, {0x11C70, 0x11C71, 'L'}, {0x11C92, 0x11CA7, 'L'},
    {0x11CAA, 0x11CB0, 'L'}, {0x11CB2, 0x11CB3, 'L'}, {0x11CB5, 0x11CB6, 'L'}, {0x11D31, 0x11D36, 'L'}, {0x11D3A, 0x11D3A, 'L'},
    {0x11D3C, 0x11D3D, 'L'}, {0x11D3F, 0x11D45, 'L'}, {0x11D47, 0x11D47, 'L'}, {0x11D90, 0x11D91, 'L'}, {0x11D95, 0x11D95, 'L'},
    {0x11D97, 0x11D97, 'L'}, {0x11EF3, 0x11EF4, 'L'}, {0x11EF7, 0x11EF8, 'L'}, {0x11F00, 0x11F01, 'L'}, {0x11F36, 0x11F3A, 'L'},
    {0x11F40, 0x11F40, 'L'}, {0x11F42, 0x11F4F, 'L'}, {0x11FFF, 0x11FFF, 'L'}, {0x12FF1, 0x12FF2, 'L'}, {0x13430, 0x13440, 'L'},
    {0x13447, 0x13455, 'L'}, {0x16E97, 0x16E9A, 'L'}, {0x16F4F, 0x16F4F, 'L'}, {0x16FE2, 0x16FE2, 'L'}, {0x16FE4, 0x16FE4, 'L'},
    {0x1CF00, 0x1CF2D, 'L'}, {0x1CF30, 0x1CF46, 'L'}, {0x1E000, 0x1E006, 'L'}, {0x1E008, 0x1E018, 'L'}, {0x1E01B, 0x1E021, 'L'},
    {0x1E023, 0x1E024, 'L'}, {0x1E026, 0x1E02A, 'L'}, {0x1E08F, 0x1E08F, 'L'}, {0x1E130, 0x1E136, 'L'}, {0x1E2AE, 0x1E2AE, 'L'},
    {0x1E2EC, 0x1E2EF, 'L'}, {0x1E4EC, 0x1E4EF, 'L'}, {0x1E944, 0x1E94A, 'L'}, {0x1E95E, 0x1E95F, 'L'},
};

char syi_unicode8(uint32_t c)
{
    int low = 0, high = SYI_COUNT(unicode8) - 1;
    if (c < unicode8[0].first) return 0;
    while (low < high) {
        int mid = (low + high) / 2;
        if (unicode8[mid].last < c) low = mid + 1;
        else high = mid;
    }
    return c >= unicode8[low].first && c <= unicode8[low].last ? unicode8[low].was : 0;
}

bool syi_is_punctuation(uint32_t c)
{
    if (c < 0x80) return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) || (c >= 123 && c <= 126);
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    char was = syi_unicode8(c);
    return was != 0 ? was == 'P' : k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO;
}

bool syi_is_word(uint32_t c)
{
    if (c < 0x80) return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_ME) || k == UTF8PROC_CATEGORY_ND ||
           k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_PC || c == 0x200C || c == 0x200D ||
           (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) ||
           (c >= 0x1F170 && c <= 0x1F189);
}

/* Printable bytes stand for themselves; the 68 others are 256, 257, ... */
static bool printable(unsigned b)
{
    return (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
}

uint32_t syi_byte_char(uint8_t byte)
{
    if (printable(byte)) return byte;
    uint32_t k = 256;
    for (unsigned b = 0; b < byte; b++) k += !printable(b);
    return k;
}

int syi_char_byte(uint32_t cp)
{
    if (cp < 256) return printable(cp) ? (int)cp : -1;
    if (cp >= 256 + 68) return -1;
    uint32_t k = 256;
    for (unsigned b = 0; b < 256; b++) {
        if (printable(b)) continue;
        if (k++ == cp) return (int)b;
    }
    return -1;
}
