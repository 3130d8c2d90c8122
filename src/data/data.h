/* SPDX-License-Identifier: Apache-2.0 */
/* Data sets of labelled items (images, texts with a class) behind the same interface as
 * texts: rows by number, epochs without end. Internal. */
#ifndef SYI_DATA_H
#define SYI_DATA_H

#include "base/base.h"
#include "steelyard/text.h"

#include <jansson.h>

/* -- dataset.c of src/text asks these, when a data set is one of theirs ----------------- */
typedef struct syi_dataset_ops {
    sy_status (*batch)(void *self, int64_t row, int64_t rows, int slot, sy_batch *out);
    void (*free)(void *self);
} syi_dataset_ops;
/* A data set of other rows than texts; self is freed with it. */
sy_status syi_dataset_of(sy_context *ctx, const syi_dataset_ops *ops, void *self, const sy_dataset_info *info, sy_dataset **out);

/* -- labelled.c: items in the order of an epoch ------------------------------------------ */
typedef struct {
    sy_context *ctx;
    int64_t n;               /* of this part                                              */
    int64_t *item;           /* [n] which of all items                                     */
    bool shuffle;
    uint64_t seed;
    int64_t *order[2], order_of[2];
} syi_labelled;
/* Of `all` items those that are (not) held out: a share of them, chosen by the seed. */
sy_status syi_labelled_init(sy_context *ctx, int64_t all, const sy_dataset_options *o, syi_labelled *out);
void syi_labelled_free(syi_labelled *l);
/* Which item is row `row` of the endless sequence. */
sy_status syi_labelled_at(syi_labelled *l, int64_t row, int64_t *item);

/* -- resample.c ------------------------------------------------------------------------------ */
/* PIL's filters under PIL's numbers; the same bytes as PIL's resize, 8 bits a channel. */
typedef enum { SYI_NEAREST, SYI_LANCZOS, SYI_BILINEAR, SYI_BICUBIC, SYI_BOX, SYI_HAMMING, SYI_FILTERS } syi_filter;
/* An image: rows of pixels, `channels` bytes each (1 grey, 3 RGB). */
typedef struct { int64_t height, width, channels; uint8_t *data; } syi_image;
sy_status syi_image_resize(sy_context *ctx, const syi_image *from, int64_t height, int64_t width, syi_filter filter, syi_image *to);

/* -- image.c: files ---------------------------------------------------------------------------- */
enum { SYI_IMAGE_SIDE = 1 << 15 };
/* PNG or JPEG, told by its first bytes, as 8-bit grey or RGB (alpha dropped, palettes looked up,
 * 16 bits cut to 8). The caller syi_free()s data. `where` is for messages. */
sy_status syi_image_decode(sy_context *ctx, const uint8_t *bytes, int64_t n, const char *where, syi_image *out);
bool syi_image_name(const char *path); /* .png, .jpg, .jpeg in any case */

/* -- prepare.c: preprocessor_config.json ---------------------------------------------------------- */
typedef struct {
    int64_t height, width, channels;   /* what the model reads                             */
    bool resize, rescale, normalize;
    int64_t resize_h, resize_w, shortest, crop_h, crop_w; /* shortest > 0: of the shorter side; crop 0: none */
    int filter;
    double factor;
    float mean[8], std[8];
} syi_image_rules;
/* From dir/preprocessor_config.json; without one: resized to the model's size, divided by 255. */
sy_status syi_image_rules_read(sy_context *ctx, const char *dir, int64_t height, int64_t width, int64_t channels, syi_image_rules *out);
/* [height, width, channels] as the model reads them. */
sy_status syi_image_prepare(sy_context *ctx, const syi_image_rules *rules, const syi_image *image, const char *where, float *out);

/* -- images.c ------------------------------------------------------------------------------------------ */
/* A folder with a folder of PNG or JPEG files for each class, an IDX file of images (MNIST;
 * its labels in the file beside it, "images" and "idx3" in the name read as "labels" and
 * "idx1"; both also .gz), or a CSV file with the columns file_name (or image, path, file) and
 * label (or class, target). labels: class names to numbers, from config.json's label2id, or
 * NULL: names in alphabetical order; classes: of the model. */
sy_status syi_images_open(sy_context *ctx, const char *path, const syi_image_rules *rules, const json_t *labels, int64_t classes,
                          const sy_dataset_options *o, sy_dataset **out);

/* -- sentences.c ---------------------------------------------------------------------------------------- */
/* JSONL, JSON or CSV records with a text (text, sentence, sentence1, question, premise) and maybe a
 * second one (text_pair, sentence2, hypothesis), and a label: one row each, o->seq tokens at most.
 * classes 0: labels are not looked at. */
sy_status syi_sentences_open(sy_context *ctx, const char *path, const json_t *labels, int64_t classes, const sy_dataset_options *o, sy_dataset **out);

/* A class by its name or number; -1 with the error set. */
int64_t syi_class_of(sy_context *ctx, const char *text, const json_t *labels, int64_t classes, const char *where);

#endif
