/* SPDX-License-Identifier: Apache-2.0 */
/* TensorBoard's event file. A record is its length (u64), a masked CRC32C of the length,
 * the payload and its masked CRC32C; the payload is a protobuf message Event, of which
 * three fields are enough: wall_time (1, double), step (2, varint), and file_version (3,
 * string) in the first record or summary (5, message) after it. A record is one write,
 * so a reader beside us never sees half of one. */
#include "train.h"

struct syi_tfevents {
    sy_context *ctx;
    syi_appender *file;
};

enum { MAX_TAG = 200 };

typedef struct { uint8_t b[MAX_TAG + 96]; size_t n; } bytes;

static void put(bytes *o, const void *p, size_t n)
{
    memcpy(o->b + o->n, p, n);
    o->n += n;
}

static void put_le(bytes *o, uint64_t v, int n)
{
    for (int i = 0; i < n; i++) o->b[o->n++] = (uint8_t)(v >> 8 * i);
}

static void put_varint(bytes *o, uint64_t v)
{
    for (; v > 127; v >>= 7) o->b[o->n++] = (uint8_t)(v | 128);
    o->b[o->n++] = (uint8_t)v;
}

static void put_key(bytes *o, int field, int wire)
{
    put_varint(o, (uint64_t)(field << 3 | wire));
}

static void put_bytes(bytes *o, int field, const void *p, size_t n)
{
    put_key(o, field, 2);
    put_varint(o, n);
    put(o, p, n);
}

static void put_double(bytes *o, int field, double v)
{
    uint64_t u;
    memcpy(&u, &v, sizeof u);
    put_key(o, field, 1);
    put_le(o, u, 8);
}

static uint32_t masked_crc(const void *p, size_t n)
{
    uint32_t crc = syi_crc32c(p, n);
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

static sy_status write_record(syi_tfevents *t, const bytes *event)
{
    bytes r = {.n = 0};
    put_le(&r, event->n, 8);
    put_le(&r, masked_crc(r.b, 8), 4);
    put(&r, event->b, event->n);
    put_le(&r, masked_crc(event->b, event->n), 4);
    return syi_append(t->file, r.b, (int64_t)r.n);
}

sy_status syi_tfevents_open(sy_context *ctx, const char *path, int64_t keep, double wall_time, syi_tfevents **out)
{
    *out = NULL;
    syi_tfevents *t = syi_calloc(ctx, 1, sizeof *t);
    if (t == NULL) return SY_E_MEMORY;
    t->ctx = ctx;
    sy_status status = syi_append_open(ctx, path, keep, &t->file);
    if (status == SY_OK && syi_append_size(t->file) == 0) {
        static const char version[] = "brain.Event:2";
        bytes event = {.n = 0};
        put_double(&event, 1, wall_time);
        put_bytes(&event, 3, version, sizeof version - 1);
        status = write_record(t, &event);
    }
    if (status != SY_OK) {
        syi_append_close(t->file, false);
        syi_free(ctx, t);
        return status;
    }
    *out = t;
    return SY_OK;
}

sy_status syi_tfevents_scalar(syi_tfevents *t, double wall_time, int64_t step, const char *tag, double value)
{
    bytes scalar = {.n = 0}, summary = {.n = 0}, event = {.n = 0};
    size_t len = strlen(tag);
    if (len > MAX_TAG)
        return syi_fail(t->ctx, SY_E_BUG, "a TensorBoard tag has at most %d bytes, found %zu in \"%.40s...\"", MAX_TAG, len,
                        tag);
    float narrow = (float)value;
    uint32_t u;
    memcpy(&u, &narrow, sizeof u);
    put_bytes(&scalar, 1, tag, len);
    put_key(&scalar, 2, 5);
    put_le(&scalar, u, 4);
    put_bytes(&summary, 1, scalar.b, scalar.n);
    put_double(&event, 1, wall_time);
    put_key(&event, 2, 0);
    put_varint(&event, (uint64_t)step);
    put_bytes(&event, 5, summary.b, summary.n);
    return write_record(t, &event);
}

int64_t syi_tfevents_size(const syi_tfevents *t)
{
    return syi_append_size(t->file);
}

sy_status syi_tfevents_close(syi_tfevents *t)
{
    if (t == NULL) return SY_OK;
    sy_status status = syi_append_close(t->file, true);
    syi_free(t->ctx, t);
    return status;
}
