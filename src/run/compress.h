/* SPDX-License-Identifier: Apache-2.0 */
/* The work of the verb `compress`: schedule, journal, report, output. Internal to src/run
 * and to the block hooks of compressors. */
#ifndef SYI_COMPRESS_H
#define SYI_COMPRESS_H

#include "run/calibrate.h"
#include "run/job.h"

/* What is known of a layer that is done. */
typedef struct {
    char *name;
    int block;
    int64_t out, in, bytes;
    double bits, weight_error, output_error, seconds; /* errors: squared, relative; NAN: not known */
    char note[120];
} syi_layer_report;

typedef struct syi_compress {
    sy_context *ctx;
    sy_job *job;
    sy_run *run;
    sy_model *model;
    syi_arena *arena;
    sy_use use;
    sy_calibration *c;
    char *journal;             /* folder of what is solved so far                         */
    int lock;
    sy_list targets, excluded;
    sy_site **site; int n_sites; /* to be compressed, in order of work                    */
    int *pick;                 /* the choice of each, NULL: nobody was asked              */
    syi_layer_report *report;  /* by layer                                                */
    int reused;                /* layers that a run before this one solved                */
    char report_note[160];     /* about the whole, "" nothing                             */
    double loss_before, loss_after;
    int64_t heldout_tokens;
    /* the unit that is being filled */
    struct { sy_weight *weight; const char *module; } *made; int n_made;
    struct { const sy_param *param; float *data; } *vector; int n_vectors;
    bool block_unit;
    const char *kept;          /* a layer without a weight of its own in the unit         */
} syi_compress;

/* Everything between an open run and a complete journal. sets, windows as for
 * syi_calibration_open; limit: --memory-limit. */
sy_status syi_compress_all(syi_compress *s, sy_dataset *const set[2], const int64_t windows[2], int64_t seq, int64_t limit);

/* --dry-run: what it would hold, as receipt and report. */
sy_status syi_compress_plan(syi_compress *s, const int64_t windows[2], int64_t seq);

/* -- for block hooks (and the ordinary schedule) ------------------------------------------- */
/* A layer: its weight in f32 from the original, or `w` [out,in] when that is given (copied).
 * NaN or infinity in it is SY_E_INPUT. */
sy_status syi_layer_begin(sy_calibration *c, const sy_site *site, sy_stats *stats, const float *w, sy_layer *layer);
/* layer->take replaces the weight: errors are measured, the compressed model gets it, the
 * journal too (a whole block at once where the method works on blocks). `take` moves. */
sy_status syi_layer_end(sy_calibration *c, sy_layer *layer);
void syi_layer_free(sy_calibration *c, sy_layer *layer); /* after a failure; fine after end */
/* The compressed model has another norm or bias from here on. */
sy_status syi_compress_vector(sy_calibration *c, sy_param *param, const float *v);
/* The weight that a layer of this block was given, before the block's unit is written. */
sy_weight *syi_compress_made(sy_calibration *c, const sy_site *site);
/* Is the site one that is to be compressed? Its number, or -1. */
int syi_compress_index(const sy_calibration *c, const sy_site *site);

/* -- _compress_journal.c ---------------------------------------------------------------------- */
sy_status syi_journal_open(syi_compress *s, const char *out, const json_t *fingerprint);
/* Is the unit there? Then its weights (loaded and dense in the compressed model), vectors and
 * reports are taken over. */
sy_status syi_journal_load(syi_compress *s, const char *unit, bool *there);
sy_status syi_journal_save(syi_compress *s, const char *unit);
sy_status syi_journal_choices(syi_compress *s, bool save, bool *there);
sy_status syi_journal_remove(syi_compress *s);

/* -- _compress_out.c ----------------------------------------------------------------------------- */
typedef enum { SYI_OUT_STEELYARD, SYI_OUT_GPTQ, SYI_OUT_AWQ, SYI_OUT_DENSE, SYI_OUT_GGUF } syi_out_form;
/* The journal as a folder (or GGUF file) that appears complete or not at all. */
sy_status syi_compress_write(syi_compress *s, const char *out, syi_out_form form, const json_t *settings, int64_t *bytes);

#endif
