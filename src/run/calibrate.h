/* SPDX-License-Identifier: Apache-2.0 */
/* Calibration: a model run block by block over windows of text, with memory of one block
 * and of the hidden states. Two streams of them, through the original model and through
 * the one that is being compressed. Internal. */
#ifndef SYI_CALIBRATE_H
#define SYI_CALIBRATE_H

#include "run/observe.h"
#include "run/run.h"

enum { SYI_ORIGINAL, SYI_STUDENT, SYI_LINEARS_ORIGINAL }; /* streams, and whose weights; the last: linears of the original, vectors of the student */
enum { SYI_CALIB, SYI_HELDOUT };     /* sets of windows            */

/* A linear of the block at hand: its weight as it was and as it has become. */
typedef struct {
    sy_site *site;
    sy_weight *original;
    sy_weight student;       /* dense in the compute type; type NULL: not there yet      */
} syi_pair;

/* A vector (norm, bias) that the compressed model has otherwise. */
typedef struct { sy_param *param; sy_tensor original; float *student; } syi_changed;

struct sy_calibration {
    sy_context *ctx;
    sy_run *run;
    sy_model *model;
    sy_dataset *set[2];
    int64_t windows[2];       /* of each set that are used                                */
    int64_t seq, hidden, rows;/* rows: windows of a forward                               */
    bool runs[2][2];          /* [stream][set]: is it there?                              */
    char *at[2][2];           /* [windows][seq][hidden] in the compute type               */
    int64_t bytes[2][2];
    bool spilled[2][2];
    sy_graph *graph;
    syi_heap *heap;
    int block;                /* at hand                                                  */
    syi_pair *pair; int n_pairs;
    syi_changed *changed; int64_t n_changed, cap_changed;
    double busy;              /* seconds in forwards                                      */
    struct syi_compress *owner; /* whose work it is, or NULL                              */
};

typedef struct {
    const char *spill;         /* folder for hidden states beyond the memory limit         */
    int64_t memory_limit;      /* 0: none                                                  */
    bool runs[2][2];
} syi_calibration_options;
/* Hidden states start as the embeddings. Data sets are borrowed. */
sy_status syi_calibration_open(sy_run *run, sy_dataset *const set[2], const int64_t windows[2], int64_t seq, const syi_calibration_options *o, sy_calibration **out);
void syi_calibration_close(sy_calibration *c);

/* The linears of block b become the pairs; weights of the last block at hand go. */
sy_status syi_calibration_block(sy_calibration *c, int block);
syi_pair *syi_calibration_pair(sy_calibration *c, const sy_site *site);
/* From here on the compressed model has this weight at the site (f32 [out,in]). */
sy_status syi_calibration_put(sy_calibration *c, const sy_site *site, const float *w);
/* ... this vector; `param` is the model's. */
sy_status syi_calibration_put_vector(sy_calibration *c, sy_param *param, const float *v);

/* What is watched in a pass: inputs of a site. */
typedef sy_status syi_watch_fn(void *self, const sy_site *site, const sy_tensor *x, const uint8_t *mask);
typedef struct { sy_site *site; syi_watch_fn *fn; void *self; bool stop; /* the forward ends here */ } syi_watch;
/* One forward of a piece over windows [first, first + n) of a set, on the stream's hidden
 * states, with the weights of `whose`. push: its result becomes the stream's. out (may be
 * NULL) sees the result. */
typedef struct {
    int set, stream, whose, block, part;
    const void *x;          /* hidden states of the windows, instead of the stream's; NULL */
    const syi_watch *watch; int n_watch;
    bool push;
    sy_status (*out)(void *self, int64_t window, const sy_tensor *y, const uint8_t *mask);
    void *out_self;
} syi_piece;
sy_status syi_calibration_forward(sy_calibration *c, const syi_piece *p, int64_t first, int64_t n);
/* Over all windows of the set, c->rows at a time. */
sy_status syi_calibration_pass(sy_calibration *c, const syi_piece *p);
/* Every stream goes through the piece. */
sy_status syi_calibration_push(sy_calibration *c, int block, int part);
/* Mean loss of the held-out windows by the stream, after the last block. */
sy_status syi_calibration_loss(sy_calibration *c, int stream, double *loss, int64_t *tokens);
/* Sums of a site's inputs on the calibration windows: `want` of SY_STAT_*. */
sy_status syi_calibration_stats(sy_calibration *c, sy_site *site, int part, unsigned want, int64_t rows, bool original, sy_stats **out);
/* The part of a block that a site belongs to. */
int syi_site_part(const sy_model *m, const sy_site *site);

#endif
