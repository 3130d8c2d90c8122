/* SPDX-License-Identifier: Apache-2.0 */
/* PNG and JPEG files by libpng and libjpeg. Both report errors by jumping; nothing that lives
 * between is changed after the jump's mark but through volatile pointers. Sizes are checked
 * before memory is taken. */
#include "data/data.h"

#include <setjmp.h>
#include <stdio.h>

#include <jpeglib.h>
#include <png.h>
#include <strings.h>

static const int64_t PIXELS_MAX = INT64_C(1) << 28;

static sy_status check_size(sy_context *ctx, const char *where, int64_t height, int64_t width)
{
    if (height >= 1 && width >= 1 && height <= SYI_IMAGE_SIDE && width <= SYI_IMAGE_SIDE && height * width <= PIXELS_MAX) return SY_OK;
    return syi_fail(ctx, SY_E_INPUT, "%s: an image of %lld x %lld pixels; 1 x 1 to %d x %d and 2^28 in all are read", where, (long long)width, (long long)height,
                    SYI_IMAGE_SIDE, SYI_IMAGE_SIDE);
}

/* -- PNG ---------------------------------------------------------------------------------- */

typedef struct { const uint8_t *at; int64_t left; char message[160]; } png_input;

static void png_take(png_structp p, png_bytep to, size_t n)
{
    png_input *in = png_get_io_ptr(p);
    if ((int64_t)n > in->left) png_error(p, "the file ends too early");
    memcpy(to, in->at, n);
    in->at += n;
    in->left -= (int64_t)n;
}

static void png_fail(png_structp p, png_const_charp message)
{
    png_input *in = png_get_error_ptr(p);
    snprintf(in->message, sizeof in->message, "%s", message);
    png_longjmp(p, 1);
}

static void png_warn(png_structp p, png_const_charp message) { (void)p, (void)message; }

static void png_convert(png_structp p, png_infop info)
{
    png_set_strip_16(p);
    if (png_get_color_type(p, info) == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(p);
    if (png_get_color_type(p, info) == PNG_COLOR_TYPE_GRAY && png_get_bit_depth(p, info) < 8) png_set_expand_gray_1_2_4_to_8(p);
    png_set_strip_alpha(p);
    png_set_interlace_handling(p);
    png_read_update_info(p, info);
}

static sy_status decode_png(sy_context *ctx, const uint8_t *bytes, int64_t n, const char *where, syi_image *out)
{
    png_input in = {.at = bytes, .left = n};
    png_structp p = png_create_read_struct(PNG_LIBPNG_VER_STRING, &in, png_fail, png_warn);
    png_infop info = p != NULL ? png_create_info_struct(p) : NULL;
    uint8_t *volatile data = NULL;
    png_bytep *volatile rows = NULL;
    volatile sy_status status = SY_OK;
    if (info == NULL) {
        png_destroy_read_struct(&p, NULL, NULL);
        return syi_nomem(ctx, 1024);
    }
    if (setjmp(png_jmpbuf(p)) == 0) {
        png_set_read_fn(p, &in, png_take);
        png_set_user_limits(p, SYI_IMAGE_SIDE, SYI_IMAGE_SIDE);
        png_set_chunk_malloc_max(p, 16 << 20);
        png_read_info(p, info);
        status = check_size(ctx, where, png_get_image_height(p, info), png_get_image_width(p, info));
        if (status == SY_OK) {
            png_convert(p, info);
            *out = (syi_image){png_get_image_height(p, info), png_get_image_width(p, info), png_get_channels(p, info), NULL};
            if ((out->channels != 1 && out->channels != 3) || png_get_rowbytes(p, info) != (size_t)(out->width * out->channels))
                status = syi_fail(ctx, SY_E_UNSUPPORTED, "%s: a PNG with %lld channels of %d bits", where, (long long)out->channels, png_get_bit_depth(p, info));
        }
        if (status == SY_OK) {
            data = syi_alloc(ctx, (size_t)(out->height * out->width * out->channels));
            rows = syi_alloc(ctx, (size_t)out->height * sizeof *rows);
            if (data == NULL || rows == NULL) status = SY_E_MEMORY;
        }
        if (status == SY_OK) {
            for (int64_t y = 0; y < out->height; y++) rows[y] = data + y * out->width * out->channels;
            png_read_image(p, rows);
        }
    } else {
        status = syi_fail(ctx, SY_E_INPUT, "%s: not a readable PNG: %s (at byte %lld)", where, in.message, (long long)(n - in.left));
    }
    png_destroy_read_struct(&p, &info, NULL);
    syi_free(ctx, rows);
    if (status == SY_OK) out->data = data;
    else syi_free(ctx, data);
    return status;
}

/* -- JPEG ------------------------------------------------------------------------------------ */

typedef struct { struct jpeg_error_mgr base; jmp_buf mark; char message[JMSG_LENGTH_MAX]; } jpeg_trouble;

static void jpeg_fail(j_common_ptr c)
{
    jpeg_trouble *t = (jpeg_trouble *)c->err;
    c->err->format_message(c, t->message);
    longjmp(t->mark, 1);
}

static void jpeg_note(j_common_ptr c, int level) { (void)c, (void)level; }

static sy_status decode_jpeg(sy_context *ctx, const uint8_t *bytes, int64_t n, const char *where, syi_image *out)
{
    struct jpeg_decompress_struct d;
    jpeg_trouble t;
    uint8_t *volatile data = NULL;
    volatile sy_status status = SY_OK;
    memset(&d, 0, sizeof d);
    d.err = jpeg_std_error(&t.base);
    t.base.error_exit = jpeg_fail;
    t.base.emit_message = jpeg_note;
    if (setjmp(t.mark) == 0) {
        jpeg_create_decompress(&d);
        d.mem->max_memory_to_use = 512 << 20;
        jpeg_mem_src(&d, bytes, (unsigned long)n);
        jpeg_read_header(&d, TRUE);
        status = check_size(ctx, where, d.image_height, d.image_width);
        if (status == SY_OK && d.num_components != 1 && d.num_components != 3)
            status = syi_fail(ctx, SY_E_UNSUPPORTED, "%s: a JPEG with %d components; grey and RGB are read", where, d.num_components);
        if (status == SY_OK) {
            d.out_color_space = d.num_components == 1 ? JCS_GRAYSCALE : JCS_RGB;
            jpeg_start_decompress(&d);
            *out = (syi_image){d.output_height, d.output_width, d.output_components, NULL};
            data = syi_alloc(ctx, (size_t)(out->height * out->width * out->channels));
            if (data == NULL) status = SY_E_MEMORY;
        }
        while (status == SY_OK && d.output_scanline < d.output_height) {
            JSAMPROW row = data + (int64_t)d.output_scanline * out->width * out->channels;
            jpeg_read_scanlines(&d, &row, 1);
        }
        if (status == SY_OK) jpeg_finish_decompress(&d);
    } else {
        status = syi_fail(ctx, SY_E_INPUT, "%s: not a readable JPEG: %s", where, t.message);
    }
    jpeg_destroy_decompress(&d);
    if (status == SY_OK) out->data = data;
    else syi_free(ctx, data);
    return status;
}

/* -- both ---------------------------------------------------------------------------------------- */

bool syi_image_name(const char *path)
{
    const char *dot = strrchr(path, '.');
    return dot != NULL && (strcasecmp(dot, ".png") == 0 || strcasecmp(dot, ".jpg") == 0 || strcasecmp(dot, ".jpeg") == 0);
}

sy_status syi_image_decode(sy_context *ctx, const uint8_t *bytes, int64_t n, const char *where, syi_image *out)
{
    *out = (syi_image){0};
    if (n >= 8 && png_sig_cmp(bytes, 0, 8) == 0) return decode_png(ctx, bytes, n, where, out);
    if (n >= 3 && bytes[0] == 0xff && bytes[1] == 0xd8 && bytes[2] == 0xff) return decode_jpeg(ctx, bytes, n, where, out);
    return syi_fail(ctx, SY_E_INPUT, "%s: neither PNG nor JPEG by its first bytes", where);
}
