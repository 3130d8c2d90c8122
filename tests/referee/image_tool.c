/* SPDX-License-Identifier: Apache-2.0 */
/* For image_referee.py: an image prepared by the rules of a folder, as raw f32 [height, width, channels].
 *     image_tool IMAGE FOLDER HEIGHT WIDTH CHANNELS OUT */
#include "data/data.h"

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    if (argc != 7) return 2;
    sy_context *ctx = sy_context_new();
    const int64_t h = atoll(argv[3]), w = atoll(argv[4]), c = atoll(argv[5]);
    syi_mapped file;
    syi_image image;
    syi_image_rules rules;
    sy_status s = syi_map_file(ctx, argv[1], &file);
    if (s == SY_OK) {
        s = syi_image_decode(ctx, file.data, file.size, argv[1], &image);
        if (s == SY_OK) s = syi_image_rules_read(ctx, argv[2], h, w, c, &rules);
        float *out = malloc((size_t)(h * w * c) * sizeof *out);
        if (s == SY_OK) s = syi_image_prepare(ctx, &rules, &image, argv[1], out);
        FILE *f = s == SY_OK ? fopen(argv[6], "wb") : NULL;
        if (f != NULL) {
            if (fwrite(out, sizeof *out, (size_t)(h * w * c), f) != (size_t)(h * w * c)) s = SY_E_IO;
            fclose(f);
        }
        free(out);
        syi_free(ctx, image.data);
        syi_unmap_file(ctx, &file);
    }
    if (s != SY_OK) fprintf(stderr, "%s\n", sy_error_message(ctx));
    sy_context_free(ctx);
    return s == SY_OK ? 0 : 1;
}
