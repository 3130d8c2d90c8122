/* SPDX-License-Identifier: Apache-2.0 */
/* XXH3 and CRC-32C against published values; streaming equals one call. */
#include "support/folder.h"
#include "support/torture.h"

static void crc32c(void **state)
{
    (void)state;
    unsigned char bytes[32];
    /* RFC 3720, B.4 */
    memset(bytes, 0, 32);
    assert_int_equal(syi_crc32c(bytes, 32), 0x8a9136aa);
    memset(bytes, 0xff, 32);
    assert_int_equal(syi_crc32c(bytes, 32), 0x62a8ab43);
    for (int i = 0; i < 32; i++) bytes[i] = (unsigned char)i;
    assert_int_equal(syi_crc32c(bytes, 32), 0x46dd794e);
    for (int i = 0; i < 32; i++) bytes[i] = (unsigned char)(31 - i);
    assert_int_equal(syi_crc32c(bytes, 32), 0x113fdb5c);
    assert_int_equal(syi_crc32c("123456789", 9), 0xe3069283);
    assert_int_equal(syi_crc32c("", 0), 0);
}

static void xxh3(void **state)
{
    (void)state;
    char text[33];
    /* of the empty input, as the XXH3 specification lists them (seed 0) */
    assert_string_equal(syi_hash_text(text, syi_hash_bytes("", 0)), "99aa06d3014798d86001c324468d497f");
    assert_true(syi_hash64("", 0, 0) == UINT64_C(0x2d06800538d394c2));
    assert_true(syi_hash64("a", 1, 0) != syi_hash64("a", 1, 1));
}

static void streaming(void **state)
{
    sy_context *ctx = ((test_folder *)*state)->ctx;
    unsigned char bytes[5000];
    for (int i = 0; i < 5000; i++) bytes[i] = (unsigned char)(i * 31 + i / 256);
    syi_hash whole = syi_hash_bytes(bytes, sizeof bytes);
    for (size_t step = 1; step < 6000; step = step * 3 + 1) {
        syi_hasher *h = NULL;
        assert_int_equal(syi_hasher_new(ctx, &h), SY_OK);
        for (size_t at = 0; at < sizeof bytes; at += step)
            syi_hasher_add(h, bytes + at, at + step < sizeof bytes ? step : sizeof bytes - at);
        syi_hasher_add(h, NULL, 0);
        syi_hash parts = syi_hasher_end(h);
        assert_true(parts.lo == whole.lo && parts.hi == whole.hi);
    }
    bytes[4999] ^= 1;
    syi_hash other = syi_hash_bytes(bytes, sizeof bytes);
    assert_true(other.lo != whole.lo && other.hi != whole.hi);
}

static sy_status stream(sy_context *ctx, void *self)
{
    (void)self;
    syi_hasher *h = NULL;
    SYI_TRY(syi_hasher_new(ctx, &h));
    syi_hasher_add(h, "abc", 3);
    syi_hasher_end(h);
    return SY_OK;
}

static void torture(void **state)
{
    assert_int_equal(torture_memory(((test_folder *)*state)->ctx, stream, NULL), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(crc32c), cmocka_unit_test(xxh3), folder_test(streaming),
                                       folder_test(torture)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
