/* SPDX-License-Identifier: Apache-2.0 */
/* TensorBoard events against a reader written from the format's definition, with its own
 * bitwise CRC32C; metrics.jsonl beside it; cutting both back, as a resumed run does; and
 * the disk failing at every place. */
#include "support/test.h"

#include "io/io.h"
#include "run/train.h"

#include <errno.h>
#include <math.h>
#include <unistd.h>

static char folder[256];

static int set_up(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "%s/steelyard-metrics-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    return mkdtemp(folder) == NULL;
}

static int tear_down(void **state)
{
    (void)state;
    sy_context *ctx = sy_context_new();
    sy_status status = syi_remove_tree(ctx, folder);
    sy_context_free(ctx);
    return status;
}

/* -- an independent reader --------------------------------------------------------- */

static uint32_t crc32c(const unsigned char *p, size_t n)
{
    uint32_t crc = ~0u;
    while (n-- > 0) {
        crc ^= *p++;
        for (int i = 0; i < 8; i++) crc = crc & 1 ? crc >> 1 ^ 0x82f63b78u : crc >> 1;
    }
    return ~crc;
}

static uint64_t le(const unsigned char *p, int n)
{
    uint64_t v = 0;
    for (int i = n - 1; i >= 0; i--) v = v << 8 | p[i];
    return v;
}

static void check_masked(const unsigned char *p, size_t n, uint64_t stored)
{
    uint32_t crc = crc32c(p, n);
    assert_int_equal((uint32_t)((crc >> 15 | crc << 17) + 0xa282ead8u), stored);
}

typedef struct { double wall; int64_t step; char tag[128], version[64]; double value; } event;

static uint64_t varint(const unsigned char **p)
{
    uint64_t v = 0;
    for (int shift = 0;; shift += 7) {
        v |= (uint64_t)(**p & 127) << shift;
        if (*(*p)++ < 128) return v;
    }
}

static void read_message(const unsigned char *p, const unsigned char *end, int level, event *e)
{
    while (p < end) {
        uint64_t key = varint(&p);
        int field = (int)(key >> 3), wire = (int)(key & 7);
        if (wire == 1) {
            uint64_t u = le(p, 8);
            assert_true(level == 0 && field == 1);
            memcpy(&e->wall, &u, 8);
            p += 8;
        } else if (wire == 0) {
            assert_true(level == 0 && field == 2);
            e->step = (int64_t)varint(&p);
        } else if (wire == 5) {
            uint32_t u = (uint32_t)le(p, 4);
            float f;
            assert_true(level == 2 && field == 2);
            memcpy(&f, &u, 4);
            e->value = f;
            p += 4;
        } else {
            assert_int_equal(wire, 2);
            size_t n = (size_t)varint(&p);
            assert_true(p + n <= end);
            if (level == 0 && field == 3) memcpy(e->version, p, n);
            else if (level == 0 && field == 5) read_message(p, p + n, 1, e);
            else if (level == 1 && field == 1) read_message(p, p + n, 2, e);
            else if (level == 2 && field == 1) memcpy(e->tag, p, n);
            else fail_msg("unexpected field %d at level %d", field, level);
            p += n;
        }
    }
    assert_ptr_equal(p, end);
}

static int read_events(sy_context *ctx, const char *path, event *out, int max)
{
    char *text;
    int64_t size, at = 0;
    int n = 0;
    assert_int_equal(syi_read_file(ctx, path, 1 << 26, &text, &size), SY_OK);
    const unsigned char *b = (const unsigned char *)text;
    while (at < size) {
        assert_true(size - at >= 16);
        int64_t len = (int64_t)le(b + at, 8);
        check_masked(b + at, 8, le(b + at + 8, 4));
        assert_true(at + 16 + len <= size && n < max);
        check_masked(b + at + 12, (size_t)len, le(b + at + 12 + len, 4));
        memset(&out[n], 0, sizeof *out);
        read_message(b + at + 12, b + at + 12 + len, 0, &out[n++]);
        at += 16 + len;
    }
    syi_free(ctx, text);
    return n;
}

/* -- tests ------------------------------------------------------------------------------ */

static void events_as_written(void **state)
{
    (void)state;
    sy_context *ctx = sy_context_new();
    char *path = syi_join(ctx, folder, "events.out.tfevents.1.x.2.0");
    syi_tfevents *t;
    static const int64_t steps[] = {0, 1, 127, 128, 16384, INT64_MAX};
    assert_int_equal(syi_tfevents_open(ctx, path, 0, 1.7e9, &t), SY_OK);
    for (int i = 0; i < 6; i++)
        assert_int_equal(syi_tfevents_scalar(t, 1.7e9 + i + 0.25, steps[i], "train/loss", 1.0 / (i + 1)), SY_OK);
    char tag[260];
    memset(tag, 'x', sizeof tag);
    tag[100] = '\0';
    assert_int_equal(syi_tfevents_scalar(t, 0, 7, tag, -INFINITY), SY_OK);
    tag[100] = 'x';
    tag[259] = '\0';
    assert_int_equal(syi_tfevents_scalar(t, 0, 7, tag, 0), SY_E_BUG);
    int64_t size = syi_tfevents_size(t);
    assert_int_equal(syi_tfevents_close(t), SY_OK);
    assert_int_equal(size, syi_file_size(path));
    event e[16];
    assert_int_equal(read_events(ctx, path, e, 16), 8);
    assert_string_equal(e[0].version, "brain.Event:2");
    assert_true(e[0].wall == 1.7e9);
    for (int i = 0; i < 6; i++) {
        assert_true(e[i + 1].wall == 1.7e9 + i + 0.25);
        assert_int_equal(e[i + 1].step, steps[i]);
        assert_string_equal(e[i + 1].tag, "train/loss");
        assert_true(e[i + 1].value == (double)(float)(1.0 / (i + 1)));
    }
    assert_int_equal(strlen(e[7].tag), 100);
    assert_true(isinf(e[7].value) && e[7].value < 0);
    /* appending writes no second version record */
    assert_int_equal(syi_tfevents_open(ctx, path, -1, 5, &t), SY_OK);
    assert_int_equal(syi_tfevents_scalar(t, 5, 9, "a", 1), SY_OK);
    assert_int_equal(syi_tfevents_close(t), SY_OK);
    assert_int_equal(read_events(ctx, path, e, 16), 9);
    assert_string_equal(e[8].tag, "a");
    syi_free(ctx, path);
    assert_int_equal(sy_memory_now(ctx), 0);
    sy_context_free(ctx);
}

static json_t *line_of(int step)
{
    return json_pack("{s:i, s:f, s:f, s:i}", "step", step, "loss", 5.0 / step, "learning_rate", 1e-3, "total_steps", 9);
}

static void logs_cut_and_go_on(void **state)
{
    (void)state;
    sy_context *ctx = sy_context_new();
    syi_metrics *m;
    syi_log_sizes at = {0}, unused;
    assert_int_equal(syi_metrics_open(ctx, folder, &at, &m), SY_OK);
    for (int i = 1; i <= 3; i++) assert_int_equal(syi_metrics_add(m, line_of(i)), SY_OK);
    assert_int_equal(syi_metrics_add(m, json_pack("{s:i, s:f}", "step", 3, "eval_loss", 2.5)), SY_OK);
    assert_int_equal(syi_metrics_sync(m, &at), SY_OK);
    /* written after the checkpoint: must not survive */
    for (int i = 4; i <= 6; i++) assert_int_equal(syi_metrics_add(m, line_of(i)), SY_OK);
    assert_int_equal(syi_metrics_close(m), SY_OK);

    assert_int_equal(syi_metrics_open(ctx, folder, &at, &m), SY_OK);
    assert_int_equal(syi_metrics_add(m, line_of(4)), SY_OK);
    assert_int_equal(syi_metrics_picture(m, "title", NULL), SY_OK);
    syi_text history;
    syi_text_init(&history, ctx, 1 << 20);
    syi_text_puts(&history, "[");
    assert_int_equal(syi_metrics_history(m, &history), SY_OK);
    syi_text_puts(&history, "]");
    json_t *list = json_loads(history.s, JSON_REJECT_DUPLICATES, NULL);
    assert_int_equal(json_array_size(list), 5);
    static const int want[] = {1, 2, 3, 3, 4};
    for (size_t i = 0; i < 5; i++) {
        const json_t *j = json_array_get(list, i);
        assert_int_equal(json_integer_value(json_object_get(j, "step")), want[i]);
        if (i != 3) assert_true(fabs(json_real_value(json_object_get(j, "loss")) - 5.0 / want[i]) < 1e-8);
    }
    json_decref(list);
    syi_text_free(&history);
    assert_int_equal(syi_metrics_sync(m, &unused), SY_OK);
    assert_string_equal(unused.events_name, at.events_name);
    assert_true(unused.jsonl > at.jsonl && unused.events > at.events);
    assert_int_equal(syi_metrics_close(m), SY_OK);

    char *path = syi_join(ctx, folder, at.events_name), *svg = syi_join(ctx, folder, "loss.svg");
    event e[64];
    int n = read_events(ctx, path, e, 64);
    assert_int_equal(n, 1 + 4 * 2 + 1); /* version; loss and rate of 4 steps; an evaluation */
    assert_string_equal(e[7].tag, "eval/loss");
    assert_string_equal(e[8].tag, "train/loss");
    assert_int_equal(e[8].step, 4);
    assert_true(syi_file_size(svg) > 500);

    /* removed by hand: begun anew; shortened by hand: said */
    assert_int_equal(unlink(path), 0);
    assert_int_equal(syi_metrics_open(ctx, folder, &at, &m), SY_OK);
    assert_int_equal(syi_metrics_close(m), SY_OK);
    char *jsonl = syi_join(ctx, folder, "metrics.jsonl");
    assert_int_equal(truncate(jsonl, at.jsonl - 5), 0);
    assert_int_equal(syi_metrics_open(ctx, folder, &at, &m), SY_E_INPUT);
    assert_non_null(strstr(sy_error_message(ctx), "metrics.jsonl"));
    /* an attempt that reached no checkpoint leaves no second event file */
    at = (syi_log_sizes){0};
    assert_int_equal(syi_metrics_open(ctx, folder, &at, &m), SY_OK);
    assert_int_equal(syi_metrics_close(m), SY_OK);
    char **names;
    int events = 0;
    assert_int_equal(syi_list_dir(ctx, folder, &names, &n), SY_OK);
    for (int i = 0; i < n; i++) {
        events += syi_starts(names[i], "events.");
        syi_free(ctx, names[i]);
    }
    syi_free(ctx, names);
    assert_int_equal(events, 1);
    assert_int_equal(syi_file_size(jsonl), 0);
    syi_free(ctx, path);
    syi_free(ctx, svg);
    syi_free(ctx, jsonl);
    assert_int_equal(sy_memory_now(ctx), 0);
    sy_context_free(ctx);
}

/* A full disk at the n-th operation: an error, no leak, whole lines only. */
static void disk_full(void **state)
{
    (void)state;
    for (int64_t n = 1;; n++) {
        sy_context *ctx = sy_context_new();
        syi_metrics *m;
        syi_log_sizes at = {0};
        syi_file_fail_after(ctx, n, ENOSPC);
        sy_status status = syi_metrics_open(ctx, folder, &at, &m);
        if (status == SY_OK) status = syi_metrics_add(m, line_of(1));
        if (status == SY_OK) status = syi_metrics_sync(m, &at);
        if (status == SY_OK) status = syi_metrics_picture(m, "t", NULL);
        sy_status end = syi_metrics_close(m);
        syi_file_fail_after(ctx, 0, 0);
        if (status == SY_OK) status = end;
        bool done = status == SY_OK;
        if (!done) {
            assert_int_equal(status, SY_E_IO);
            assert_non_null(strstr(sy_error_message(ctx), folder));
        }
        char *jsonl = syi_join(ctx, folder, "metrics.jsonl"), *text = NULL;
        int64_t size = 0;
        if (syi_exists(jsonl)) {
            assert_int_equal(syi_read_file(ctx, jsonl, 1 << 20, &text, &size), SY_OK);
            assert_true(size == 0 || text[size - 1] == '\n');
            syi_free(ctx, text);
        }
        syi_free(ctx, jsonl);
        assert_int_equal(sy_memory_now(ctx), 0);
        sy_context_free(ctx);
        assert_true(n < 60);
        if (done) {
            assert_true(n > 8);
            break;
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(events_as_written, set_up, tear_down),
        cmocka_unit_test_setup_teardown(logs_cut_and_go_on, set_up, tear_down),
        cmocka_unit_test_setup_teardown(disk_full, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
