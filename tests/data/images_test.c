/* SPDX-License-Identifier: Apache-2.0 */
/* Image data sets: folders, IDX, CSV lists; the order of epochs, the part that is held out,
 * what is refused; resizing against a closed form. */
#include "support/folder.h"

#include "data/data.h"

#include <png.h>

static void write_bytes(const char *path, const void *p, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(p, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* A grey PNG of one value. */
static void write_png(const char *path, int w, int h, uint8_t value)
{
    png_image image = {.version = PNG_IMAGE_VERSION, .width = (unsigned)w, .height = (unsigned)h, .format = PNG_FORMAT_GRAY};
    uint8_t *data = malloc((size_t)(w * h));
    memset(data, value, (size_t)(w * h));
    assert_true(png_image_write_to_file(&image, path, 0, data, 0, NULL));
    free(data);
}

static syi_image_rules rules_of(test_folder *f, int64_t side, int64_t channels)
{
    syi_image_rules r;
    assert_int_equal(syi_image_rules_read(f->ctx, f->dir, side, side, channels, &r), SY_OK);
    return r;
}

static void idx_write(test_folder *f, int n, int side)
{
    char path[512];
    uint8_t *data = malloc((size_t)(16 + n * side * side));
    const uint8_t head[16] = {0, 0, 8, 3, 0, 0, 0, (uint8_t)n, 0, 0, 0, (uint8_t)side, 0, 0, 0, (uint8_t)side}, labels[8] = {0, 0, 8, 1, 0, 0, 0, (uint8_t)n};
    memcpy(data, head, 16);
    for (int i = 0; i < n * side * side; i++) data[16 + i] = (uint8_t)(i / (side * side));
    write_bytes(in_folder(f, path, "t-images-idx3-ubyte"), data, (size_t)(16 + n * side * side));
    memcpy(data, labels, 8);
    for (int i = 0; i < n; i++) data[8 + i] = (uint8_t)(i % 3);
    write_bytes(in_folder(f, path, "t-labels-idx1-ubyte"), data, (size_t)(8 + n));
    free(data);
}

static void idx(void **state)
{
    test_folder *f = *state;
    char path[512];
    idx_write(f, 10, 4);
    const syi_image_rules r = rules_of(f, 4, 1);
    sy_dataset *d;
    sy_dataset_info info;
    sy_batch b;
    sy_dataset_options o = {.seed = 5, .shuffle = true};
    assert_int_equal(syi_images_open(f->ctx, in_folder(f, path, "t-images-idx3-ubyte"), &r, NULL, 3, &o, &d), SY_OK);
    sy_dataset_stat(d, &info);
    assert_true(info.rows_per_epoch == 10 && info.documents == 10);
    for (int epoch = 0; epoch < 3; epoch++) { /* each image once */
        int seen[10] = {0};
        for (int part = 0; part < 2; part++) {
            assert_int_equal(sy_dataset_batch(d, epoch * 10 + part * 5, 5, 0, &b), SY_OK);
            assert_true(b.rows == 5 && b.seq == 1 && b.tokens == 5 && b.height == 4 && b.width == 4 && b.channels == 1 && b.trained == 5);
            for (int i = 0; i < 5; i++) {
                const int which = (int)(b.pixels[i * 16] * 255 + 0.5f);
                assert_true(which >= 0 && which < 10 && b.target[i] == which % 3);
                for (int k = 0; k < 16; k++) assert_true(b.pixels[i * 16 + k] == (float)(which * (1.0 / 255)));
                seen[which]++;
            }
        }
        for (int i = 0; i < 10; i++) assert_int_equal(seen[i], 1);
    }
    sy_dataset_free(d);
    int64_t total = 0; /* held out and rest together are all */
    for (int part = 0; part < 2; part++) {
        sy_dataset_options h = {.seed = 5, .holdout = 0.3, .heldout = part == 1};
        assert_int_equal(syi_images_open(f->ctx, path, &r, NULL, 3, &h, &d), SY_OK);
        sy_dataset_stat(d, &info);
        assert_int_equal(info.rows_per_epoch, part == 1 ? 3 : 7);
        assert_int_equal(sy_dataset_batch(d, 0, info.rows_per_epoch, 0, &b), SY_OK);
        for (int64_t i = 0; i < b.rows; i++) total += 1 << (int)(b.pixels[i * 16] * 255 + 0.5f);
        sy_dataset_free(d);
    }
    assert_int_equal(total, 1023);
}

static void folders(void **state)
{
    test_folder *f = *state;
    static const char *const names[] = {"cat", "dog", "eel"};
    char path[512];
    for (int c = 0; c < 3; c++)
        for (int i = 0; i < 2; i++) {
            char name[64];
            snprintf(name, sizeof name, "set/%s", names[c]);
            assert_int_equal(syi_mkdirs(f->ctx, in_folder(f, path, name)), SY_OK);
            snprintf(name, sizeof name, "set/%s/%d.png", names[c], i);
            write_png(in_folder(f, path, name), 3 + i, 5, (uint8_t)(10 * c + i));
        }
    const syi_image_rules r = rules_of(f, 2, 3);
    sy_dataset *d;
    sy_batch b;
    sy_dataset_options o = {.seed = 1};
    in_folder(f, path, "set");
    assert_int_equal(syi_images_open(f->ctx, path, &r, NULL, 3, &o, &d), SY_OK);
    assert_int_equal(sy_dataset_batch(d, 0, 6, 0, &b), SY_OK);
    for (int i = 0; i < 6; i++) assert_true(b.target[i] == i / 2 && b.pixels[i * 12 + 11] == (float)((10 * (i / 2) + i % 2) * (1.0 / 255)));
    sy_dataset_free(d);
    json_t *labels = json_pack("{s:i,s:i,s:i}", "cat", 2, "dog", 0, "eel", 1);
    assert_int_equal(syi_images_open(f->ctx, path, &r, labels, 3, &o, &d), SY_OK);
    assert_int_equal(sy_dataset_batch(d, 0, 6, 0, &b), SY_OK);
    assert_true(b.target[0] == 2 && b.target[2] == 0 && b.target[5] == 1);
    sy_dataset_free(d);
    assert_int_equal(syi_images_open(f->ctx, path, &r, NULL, 2, &o, &d), SY_E_INPUT);
    assert_non_null(strstr(sy_error_message(f->ctx), "3 folders"));
    char csv[512];
    const char *text = "label,file_name\ndog,set/dog/1.png\n\"eel\",\"set/eel/0.png\"\r\n\n2,set/cat/0.png\n";
    write_bytes(in_folder(f, csv, "list.csv"), text, strlen(text));
    assert_int_equal(syi_images_open(f->ctx, csv, &r, labels, 3, &o, &d), SY_OK);
    assert_int_equal(sy_dataset_batch(d, 0, 3, 0, &b), SY_OK);
    assert_true(b.target[0] == 0 && b.target[1] == 1 && b.target[2] == 2 && b.pixels[12] == (float)(20 * (1.0 / 255)));
    sy_dataset_free(d);
    json_decref(labels);
}

static void refused(void **state)
{
    test_folder *f = *state;
    static const struct { const char *name, *text, *says; } rows[] = {
        {"a.csv", "name,kind\nx.png,1\n", "file_name and label"}, {"b.csv", "file_name,label\nx.png,7\n", "class 7"}, {"c.csv", "file_name,label\nx.png\n", "fields"},
        {"d.csv", "file_name,label\nx.png,bird\n", "bird"}, {"e.csv", "file_name,label\n", "no images"}, {"f.csv", "file_name,label\nnone.png,1\n", "none.png"},
        {"g-images-idx3-ubyte", "no idx at all", "IDX"}, {"h-images-idx3-ubyte", "\0\0\x08\x03\x7f\xff\xff\xff\x7f\xff\xff\xff\x7f\xff\xff\xff", "promises|dimension"},
    };
    const syi_image_rules r = rules_of(f, 2, 1);
    const sy_dataset_options o = {.seed = 1};
    for (int i = 0; i < SYI_COUNT(rows); i++) {
        char path[512];
        sy_dataset *d = NULL;
        write_bytes(in_folder(f, path, rows[i].name), rows[i].text, rows[i].name[0] == 'h' ? 16 : strlen(rows[i].text));
        const sy_status s = syi_images_open(f->ctx, path, &r, NULL, 3, &o, &d);
        const char *either = strchr(rows[i].says, '|');
        char first[64];
        snprintf(first, sizeof first, "%.*s", either ? (int)(either - rows[i].says) : (int)strlen(rows[i].says), rows[i].says);
        if (s == SY_OK || (!strstr(sy_error_message(f->ctx), first) && !(either && strstr(sy_error_message(f->ctx), either + 1))))
            fail_msg("%s: \"%s\" does not say \"%s\"", rows[i].name, s == SY_OK ? "" : sy_error_message(f->ctx), rows[i].says);
    }
    /* every beginning of a PNG */
    char path[512];
    uint8_t *bytes;
    int64_t n;
    write_png(in_folder(f, path, "x.png"), 9, 7, 77);
    assert_int_equal(syi_read_file(f->ctx, path, 1 << 20, (char **)&bytes, &n), SY_OK);
    syi_image image;
    for (int64_t k = 0; k < n - 12; k++) {
        assert_int_equal(syi_image_decode(f->ctx, bytes, k, "cut", &image), SY_E_INPUT);
        assert_null(image.data);
    }
    bytes[16] = 0x7f; /* a width of 2^31 */
    assert_int_equal(syi_image_decode(f->ctx, bytes, n, "wide", &image), SY_E_INPUT);
    syi_free(f->ctx, bytes);
}

static void resizing(void **state)
{
    test_folder *f = *state;
    uint8_t ramp[64];
    for (int i = 0; i < 64; i++) ramp[i] = (uint8_t)(4 * i);
    const syi_image from = {1, 64, 1, ramp};
    syi_image to;
    /* boxes of 4 pixels: their mean, rounded */
    assert_int_equal(syi_image_resize(f->ctx, &from, 1, 16, SYI_BOX, &to), SY_OK);
    for (int i = 0; i < 16; i++) assert_int_equal(to.data[i], 16 * i + 6);
    syi_free(f->ctx, to.data);
    /* a straight line stays one away from the ends, whatever the filter */
    for (int filter = SYI_BILINEAR; filter <= SYI_BICUBIC; filter++) {
        assert_int_equal(syi_image_resize(f->ctx, &from, 1, 128, (syi_filter)filter, &to), SY_OK);
        for (int i = 8; i < 120; i++) assert_true(abs(to.data[i] - (2 * i - 1)) <= 1);
        syi_free(f->ctx, to.data);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {folder_test(idx), folder_test(folders), folder_test(refused), folder_test(resizing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
