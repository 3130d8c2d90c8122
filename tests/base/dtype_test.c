/* SPDX-License-Identifier: Apache-2.0 */
/* The table of types: sizes that the formats fix, names that files carry. */
#include "support/test.h"

#include "base/base.h"

static void table(void **state)
{
    (void)state;
    /* bytes of 256 numbers, from the safetensors and GGUF formats */
    static const struct { sy_dtype dtype; const char *name; int bytes256; bool is_float; } rows[] = {
        {SY_F32, "F32", 1024, true},   {SY_BF16, "BF16", 512, true},  {SY_F16, "F16", 512, true},
        {SY_F64, "F64", 2048, true},   {SY_I8, "I8", 256, false},     {SY_U8, "U8", 256, false},
        {SY_I16, "I16", 512, false},   {SY_U16, "U16", 512, false},   {SY_I32, "I32", 1024, false},
        {SY_U32, "U32", 1024, false},  {SY_I64, "I64", 2048, false},  {SY_U64, "U64", 2048, false},
        {SY_BOOL, "BOOL", 256, false}, {SY_F8_E4M3, "F8_E4M3", 256, false},
        {SY_F8_E5M2, "F8_E5M2", 256, false},
        {SY_Q4_0, "Q4_0", 144, false}, {SY_Q4_1, "Q4_1", 160, false}, {SY_Q5_0, "Q5_0", 176, false},
        {SY_Q5_1, "Q5_1", 192, false}, {SY_Q8_0, "Q8_0", 272, false}, {SY_Q4_K, "Q4_K", 144, false},
        {SY_Q6_K, "Q6_K", 210, false}, {SY_Q2_K, "Q2_K", 84, false},  {SY_Q3_K, "Q3_K", 110, false},
        {SY_Q5_K, "Q5_K", 176, false}, {SY_Q8_K, "Q8_K", 292, false}, {SY_IQ4_NL, "IQ4_NL", 144, false},
        {SY_IQ4_XS, "IQ4_XS", 136, false}, {SY_TQ1_0, "TQ1_0", 54, false}, {SY_TQ2_0, "TQ2_0", 66, false},
        {SY_MXFP4, "MXFP4", 136, false},
    };
    assert_int_equal(SYI_COUNT(rows), SY_DTYPE_COUNT);
    for (int i = 0; i < SYI_COUNT(rows); i++) {
        sy_dtype d = rows[i].dtype;
        assert_string_equal(sy_dtype_name(d), rows[i].name);
        assert_int_equal(sy_dtype_find(rows[i].name), d);
        assert_int_equal(256 / sy_dtype_block_len(d) * sy_dtype_block_bytes(d), rows[i].bytes256);
        assert_int_equal(256 % sy_dtype_block_len(d), 0);
        assert_int_equal(sy_dtype_is_float(d), rows[i].is_float);
    }
    assert_int_equal(sy_dtype_find("bf16"), SY_BF16);
    assert_int_equal(sy_dtype_find("q4_k"), SY_Q4_K);
    assert_int_equal(sy_dtype_find("F33"), -1);
    assert_int_equal(sy_dtype_find(""), -1);
    assert_string_equal(sy_dtype_name((sy_dtype)99), "unknown");
    assert_int_equal(sy_dtype_block_bytes((sy_dtype)-1), 0);
}

static void shapes(void **state)
{
    (void)state;
    sy_tensor t = {.dtype = SY_BF16, .rank = 3, .dim = {2, 3, 64}};
    assert_int_equal(sy_tensor_count(&t), 384);
    assert_int_equal(sy_tensor_bytes(&t), 768);
    assert_int_equal(sy_tensor_rows(&t), 6);
    assert_int_equal(sy_tensor_cols(&t), 64);
    t.dtype = SY_Q4_1;
    assert_int_equal(sy_tensor_bytes(&t), 384 / 32 * 20);
    t = (sy_tensor){.dtype = SY_F64};
    assert_int_equal(sy_tensor_count(&t), 1);
    assert_int_equal(sy_tensor_bytes(&t), 8);
    assert_int_equal(sy_tensor_rows(&t), 1);
    assert_int_equal(sy_tensor_cols(&t), 1);
    t = (sy_tensor){.dtype = SY_F32, .rank = 1, .dim = {5}};
    assert_int_equal(sy_tensor_rows(&t), 1);
    assert_int_equal(sy_tensor_cols(&t), 5);
    t = (sy_tensor){.dtype = SY_F32, .rank = 2, .dim = {0, 5}};
    assert_int_equal(sy_tensor_bytes(&t), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(table), cmocka_unit_test(shapes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
