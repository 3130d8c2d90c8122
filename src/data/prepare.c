/* SPDX-License-Identifier: Apache-2.0 */
/* From an image to what a model reads, by the rules of preprocessor_config.json: resize, crop
 * the middle, rescale, normalise, in the order and arithmetic of transformers. */
#include "data/data.h"

#include "io/io.h"

static int64_t side(const json_t *size, const char *key)
{
    const json_t *v = json_is_object(size) ? json_object_get(size, key) : json_is_integer(size) && strcmp(key, "longest_edge") != 0 ? size : NULL;
    return json_is_integer(v) ? json_integer_value(v) : 0;
}

static bool flag(const json_t *j, const char *key, bool def)
{
    const json_t *v = json_object_get(j, key);
    return json_is_boolean(v) ? json_is_true(v) : def;
}

static sy_status floats(sy_context *ctx, const json_t *j, const char *key, const char *where, int64_t channels, float *out)
{
    const json_t *v = json_object_get(j, key);
    if (!json_is_array(v) || (int64_t)json_array_size(v) != channels)
        return syi_fail(ctx, SY_E_INPUT, "%s: %s: a list of %lld numbers was expected, one a channel of the model", where, key, (long long)channels);
    for (int64_t i = 0; i < channels; i++) {
        out[i] = (float)json_number_value(json_array_get(v, (size_t)i));
        if (strcmp(key, "image_std") == 0 && !(out[i] > 0)) return syi_fail(ctx, SY_E_INPUT, "%s: image_std: numbers above 0 were expected", where);
    }
    return SY_OK;
}

static sy_status read_rules(sy_context *ctx, const json_t *j, const char *where, syi_image_rules *r)
{
    const json_t *size = json_object_get(j, "size"), *crop = json_object_get(j, "crop_size"), *filter = json_object_get(j, "resample");
    r->resize = flag(j, "do_resize", true);
    r->rescale = flag(j, "do_rescale", true);
    r->normalize = flag(j, "do_normalize", json_object_get(j, "image_mean") != NULL);
    r->shortest = side(size, "shortest_edge");
    if (side(size, "height") > 0) r->resize_h = side(size, "height"), r->resize_w = side(size, "width");
    else if (json_is_integer(size) && flag(j, "do_center_crop", false)) r->shortest = json_integer_value(size);
    else if (json_is_integer(size)) r->resize_h = r->resize_w = json_integer_value(size);
    if (flag(j, "do_center_crop", false)) {
        r->crop_h = side(crop, "height"), r->crop_w = side(crop, "width");
        if (json_is_integer(crop)) r->crop_h = r->crop_w = json_integer_value(crop);
    }
    if (json_is_integer(filter)) r->filter = (int)json_integer_value(filter);
    if (json_is_number(json_object_get(j, "rescale_factor"))) r->factor = json_number_value(json_object_get(j, "rescale_factor"));
    if (r->filter < 0 || r->filter >= SYI_FILTERS) return syi_fail(ctx, SY_E_UNSUPPORTED, "%s: resample %d is none of PIL's filters 0 to 5", where, r->filter);
    if (r->shortest < 0 || r->shortest > SYI_IMAGE_SIDE || r->resize_h < 1 || r->resize_w < 1 || r->resize_h > SYI_IMAGE_SIDE || r->resize_w > SYI_IMAGE_SIDE)
        return syi_fail(ctx, SY_E_INPUT, "%s: size: a height and width, or a shortest_edge, from 1 to %d were expected", where, SYI_IMAGE_SIDE);
    if (!r->normalize) return SY_OK;
    SYI_TRY(floats(ctx, j, "image_mean", where, r->channels, r->mean));
    return floats(ctx, j, "image_std", where, r->channels, r->std);
}

sy_status syi_image_rules_read(sy_context *ctx, const char *dir, int64_t height, int64_t width, int64_t channels, syi_image_rules *out)
{
    *out = (syi_image_rules){.height = height, .width = width, .channels = channels, .resize = true, .rescale = true, .resize_h = height, .resize_w = width,
                             .filter = SYI_BILINEAR, .factor = 1.0 / 255};
    if (channels > SYI_COUNT(out->mean)) return syi_fail(ctx, SY_E_UNSUPPORTED, "images of %lld channels; at most %d are read", (long long)channels, SYI_COUNT(out->mean));
    char *path = syi_join(ctx, dir, "preprocessor_config.json");
    if (path == NULL) return SY_E_MEMORY;
    sy_status s = SY_OK;
    json_t *j = NULL;
    if (syi_exists(path)) s = syi_json_read(ctx, path, &j);
    if (s == SY_OK && j != NULL) s = read_rules(ctx, j, path, out);
    json_decref(j);
    syi_free(ctx, path);
    return s;
}

/* Grey from RGB as PIL's convert("L"), RGB from grey by repeating. */
static uint8_t channel(const uint8_t *pixel, int64_t has, int64_t wants, int64_t c)
{
    if (has == wants) return pixel[c];
    if (has == 1) return pixel[0];
    return (uint8_t)((pixel[0] * 19595u + pixel[1] * 38470u + pixel[2] * 7471u + 0x8000u) >> 16);
}

sy_status syi_image_prepare(sy_context *ctx, const syi_image_rules *r, const syi_image *image, const char *where, float *out)
{
    syi_image now = *image, made = {0};
    if (image->channels != r->channels && !(image->channels == 1 || (image->channels == 3 && r->channels == 1)))
        return syi_fail(ctx, SY_E_INPUT, "%s: %lld channels; the model reads %lld", where, (long long)image->channels, (long long)r->channels);
    syi_image grey = {image->height, image->width, 1, NULL};
    if (image->channels == 3 && r->channels == 1) { /* before resizing, as PIL's users do */
        grey.data = syi_alloc(ctx, (size_t)(image->height * image->width));
        if (grey.data == NULL) return SY_E_MEMORY;
        for (int64_t i = 0; i < image->height * image->width; i++) grey.data[i] = channel(image->data + 3 * i, 3, 1, 0);
        now = grey;
    }
    sy_status s = SY_OK;
    if (r->resize) {
        int64_t h = r->resize_h, w = r->resize_w;
        if (r->shortest > 0) {
            const int64_t small = syi_min(now.height, now.width), large = syi_max(now.height, now.width), longer = r->shortest * large / small;
            h = now.height <= now.width ? r->shortest : longer;
            w = now.height <= now.width ? longer : r->shortest;
        }
        if (h > SYI_IMAGE_SIDE || w > SYI_IMAGE_SIDE) s = syi_fail(ctx, SY_E_INPUT, "%s: resized it would be %lld x %lld pixels", where, (long long)w, (long long)h);
        else s = syi_image_resize(ctx, &now, h, w, (syi_filter)r->filter, &made);
        now = made;
    }
    int64_t top = 0, left = 0;
    if (s == SY_OK && r->crop_h > 0) {
        top = (now.height - r->crop_h) / 2, left = (now.width - r->crop_w) / 2;
        if (now.height < r->crop_h || now.width < r->crop_w) s = syi_fail(ctx, SY_E_UNSUPPORTED, "%s: %lld x %lld pixels are less than the crop", where, (long long)now.width, (long long)now.height);
    }
    const int64_t height = r->crop_h > 0 ? r->crop_h : now.height, width = r->crop_h > 0 ? r->crop_w : now.width;
    if (s == SY_OK && (height != r->height || width != r->width))
        s = syi_fail(ctx, SY_E_INPUT, "%s: %lld x %lld pixels after preprocessor_config.json's rules; the model reads %lld x %lld", where, (long long)width, (long long)height,
                     (long long)r->width, (long long)r->height);
    for (int64_t y = 0; s == SY_OK && y < height; y++)
        for (int64_t x = 0; x < width; x++)
            for (int64_t c = 0; c < r->channels; c++) {
                float v = channel(now.data + ((top + y) * now.width + left + x) * now.channels, now.channels, r->channels, c);
                if (r->rescale) v = (float)((double)v * r->factor);
                if (r->normalize) v = (v - r->mean[c]) / r->std[c];
                out[(y * width + x) * r->channels + c] = v;
            }
    syi_free(ctx, made.data);
    syi_free(ctx, grey.data);
    return s;
}
