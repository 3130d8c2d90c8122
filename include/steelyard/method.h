/* SPDX-License-Identifier: Apache-2.0 */
/* Methods: where an adapter, optimizer, objective, trainer, compressor, merger or
 * aggregator meets the engine. One method = one file = one descriptor of this kind
 * at its bottom; the build finds it by its file name (src/adapter/lora.c defines
 * sy_method_lora).
 *
 * Life: options checked -> zeroed context -> init -> sites found, tensors planned,
 * memory refused or allocated -> slot rows filled -> attach (per site) ->
 * on(START) -> loop -> on(STOP) -> save -> free (always, also after a failed init).
 * One step: on(STEP); forward and loss; backward; clip; on(GRAD); masks; update for
 * every trained parameter; on(UPDATED); gradients cleared. */
#ifndef STEELYARD_METHOD_H
#define STEELYARD_METHOD_H

#include "compress.h"
#include "graph.h"
#include "model.h"
#include "options.h"
#include "text.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_run sy_run;
typedef struct sy_method sy_method;
struct sy_merger;

/* -- slot rows: tensors that a method owns ------------------------------------------ */

enum {
    SY_SLOT_TRAIN = 1,      /* gradient and optimizer state                          */
    SY_SLOT_FROZEN = 2,     /* saved with the adapter, not trained                   */
    SY_SLOT_STATE = 4,      /* saved for resuming only; not there unless training    */
    SY_SLOT_NO_DECAY = 8,   /* weight decay leaves it alone                          */
    SY_SLOT_SHARE_ALL = 16, /* one tensor for all sites; in,out = maxima over sites  */
    SY_SLOT_SHARE_SHAPE = 32, /* one tensor for all sites of one shape               */
    SY_SLOT_NOT_SAVED = 64, /* can be made again (seeded)                            */
    SY_SLOT_WIDE = 128,     /* products read the f32 master: no bf16 copy            */
    SY_SLOT_REPEATED = 256  /* of a shared row: saved again under every site         */
};
typedef enum {
    SY_FILL_ZERO, SY_FILL_ONE, SY_FILL_CONST,   /* a                                 */
    SY_FILL_UNIFORM,                            /* U(-a, a)                          */
    SY_FILL_NORMAL,                             /* N(0, a^2)                         */
    SY_FILL_KAIMING,                            /* U(-1/sqrt(fan_in), ..): PyTorch's
                                                   kaiming_uniform with a = sqrt(5);
                                                   fan_in = last dimension            */
    SY_FILL_KAIMING_RELU,                       /* U(-sqrt(6/fan_in), ..)            */
    SY_FILL_OWN                                 /* the method's attach fills it      */
} sy_fill;

/* Rows end with name NULL. For adapters `name` is the suffix in PEFT's file
 * (".lora_A.weight"); a shared slot's is its whole name ("base_model.vera_A").
 * For optimizers the name of the state ("exp_avg").
 * `shape`: dimensions separated by commas, each a product of: a number, in, out, small (the
 * lesser of them), large, or a
 * variable of the method's (an integer option, or set with sy_site_dim, as "r");
 * "=" alone is the shape of the parameter. `when`: NULL, or terms separated by blanks
 * that must all hold for the row to exist: "option" (on, not 0, not empty),
 * "option=value", "!option", "site=linear", "site=embed". */
typedef struct {
    const char *name, *shape, *when;
    unsigned flags;
    sy_fill fill;
    double a;
    const char *group;   /* learning-rate group, NULL: "default" (see sy_run_group)   */
    int moment;          /* on resize: 0 reset, 1 linear, 2 squared                  */
    const char *was;     /* name in older files, read too (".bone_block")            */
} sy_slot;

/* -- parameters ------------------------------------------------------------------------- */

/* A tensor that is or may be trained. The master copy is f32 (f64 in f64 runs). */
struct sy_param {
    const char *name;       /* Hugging Face or PEFT name                             */
    sy_role role;
    sy_site *site;          /* where it hangs, NULL: shared or not at a site         */
    sy_tensor value;        /* master, f32                                           */
    sy_tensor compute;      /* the copy that products read (bf16), or == value       */
    sy_tensor grad;         /* f32, data NULL unless trained                         */
    sy_tensor *state;       /* the optimizer's slot rows                             */
    int n_state;
    const char *group;      /* learning-rate group                                   */
    bool trained, decay;
    uint8_t *mask;          /* NULL, or 1 byte an index of axis `mask_axis` (-1: an
                               element): 0 = frozen, the engine zeroes its gradient
                               before the update and restores its bits after          */
    int mask_axis;
    const sy_slot *slot;    /* the row it was made from, NULL: a model's own          */
    const sy_method *owner; /* NULL: the model                                       */
    int64_t capacity;       /* numbers that value, grad and states have room for, 0: fixed shape */
    bool retired;           /* sy_param_train(false): its value stays as it is       */
    bool stale;             /* compute copy must be made again from value            */
    bool buffer;            /* not trained, but changed by the forward pass: running
                               statistics; saved with the model and for resuming       */
};

/* -- weight storages: src/storage/, one a file ------------------------------------------------ */

enum { SY_MAX_WEIGHT_SLOTS = 8 };
typedef struct sy_storage {
    const char *name;      /* "dense", "coded"                                       */
    const char *title;
    /* y[tokens,out] = x[tokens,in] W^T, or with `transposed` y[tokens,in] =
     * x[tokens,out] W, in graph ops: differentiable in x and in trained slots.       */
    sy_node *(*apply)(sy_graph *g, const sy_weight *w, sy_node *x, bool transposed);
    /* Rows [row,row+n) of W as f32. */
    sy_status (*dense)(sy_context *ctx, const sy_weight *w, int64_t row, int64_t n, float *dst);
    /* W * diag(s) (axis 1, s[in]) or diag(s) * W (axis 0, s[out]), exactly, or
     * SY_E_UNSUPPORTED. */
    sy_status (*scale)(sy_context *ctx, sy_weight *w, int axis, const float *s);
    double (*bits)(const sy_weight *w); /* stored bits a weight */
    /* What a file holds of it: tensors called MODULE + suffix, slot by slot (ended by
     * NULL; the first is never absent). NULL: no storage of its own in files.          */
    const char *const *suffixes;
    /* After the slots are there (from a file or a solver): checks them against out and in
     * (SY_E_INPUT) and makes what products want beside them, in `fast`.                */
    sy_status (*prepare)(sy_context *ctx, sy_weight *w);
    void (*release)(sy_context *ctx, sy_weight *w); /* frees `fast` */
} sy_storage;

struct sy_weight {
    const sy_storage *type;
    int64_t out, in;
    sy_tensor slot[SY_MAX_WEIGHT_SLOTS];
    sy_param *param;       /* dense and trained: slot[0] is its compute copy          */
    const char *name;
    void *fast;            /* the storage's own, made by prepare                      */
};

/* -- sites: places that a model states and methods wrap --------------------------------------------- */

typedef enum { SY_SITE_LINEAR, SY_SITE_EMBED, SY_SITE_NORM, SY_SITE_SUBLAYER, SY_SITE_SCORES } sy_site_kind;

struct sy_site {
    const char *name;       /* module path: "model.layers.0.self_attn.q_proj"         */
    sy_site_kind kind;
    sy_role role;
    int block;              /* layer number, -1: none                                */
    int input_group;        /* sites of one block with the same number share x        */
    int64_t in, out;
    sy_weight *weight;      /* LINEAR and EMBED                                      */
    sy_param *bias;         /* added after the chain, or NULL                        */
    int n_wraps;
    struct sy_wrap *wraps;  /* outermost last                                        */
    /* NULL, or called with every input x of the site (not while planning or replaying):
     * calibration and activation statistics. A result other than SY_OK ends the graph;
     * SY_SEEN_ENOUGH is for observers that want the forward to end here.               */
    sy_status (*see)(void *self, const sy_site *site, const sy_tensor *x);
    void *see_self;
};
enum { SY_SEEN_ENOUGH = 1 };

/* One method's view of one site. */
typedef struct sy_wrap {
    const sy_method *method;
    void *self;             /* the method's context                                  */
    sy_site *site;
    sy_param **slot;        /* by slot row; NULL where the row does not exist here    */
    int n_slots;
    void *own;              /* at_size bytes, zeroed                                 */
    int64_t dim[4];         /* values of the method's shape variables, by order of use */
    const char *dim_name[4];
    bool active;            /* off: the chain skips it, and it is not saved          */
} sy_wrap;

/* The rest of the chain below a wrap. */
typedef struct { const sy_site *site; int depth; } sy_next;
/* Base (and inner wraps) applied to x[..., in] -> [..., out], without bias. At an EMBED
 * site (in = vocabulary, out = hidden) x is the token ids, I32 [tokens]. */
sy_node *sy_base(sy_graph *g, sy_next next, sy_node *x);
/* x W'^T, W' being what the chain up to and with `top` makes of the weight (its `weight` hooks):
 * by tiles of rows that are made, multiplied and dropped, in backward made again together with
 * the same rows of the weight's gradient dY^T x. No out x in buffer unless the matrix is small
 * (a tile is about 2^20 numbers). keep: tiles stay for backward instead of being made again (time
 * for the memory of a copy of the weight). */
sy_node *sy_tiled(sy_graph *g, sy_next top, sy_node *x, bool keep);
/* For models: the whole site on x, with bias. */
sy_node *sy_site_apply(sy_graph *g, sy_site *site, sy_node *x);
/* For models: n <= 4 sites that share their input, outputs in `out`. */
void sy_sites_apply(sy_graph *g, sy_site *const *sites, int n, sy_node *x, sy_node **out);

/* -- the descriptor ------------------------------------------------------------------------------------ */

typedef enum { SY_ADAPTER, SY_OPTIMIZER, SY_OBJECTIVE, SY_TRAINER, SY_COMPRESSOR, SY_MERGER, SY_AGGREGATOR, SY_KINDS } sy_kind;
const char *sy_kind_name(sy_kind kind);

typedef enum { SY_START, SY_STEP, SY_GRAD, SY_UPDATED, SY_BOUNDARY, SY_STOP } sy_when;

/* Every adapter's context begins with this; every adapter's rows begin with
 * SY_ADAPTER_ROWS(its context type) (its member must be called `common`). */
typedef struct {
    sy_list target_modules;      /* names, one regular expression, or all-linear      */
    sy_list exclude_modules;
    sy_list layers_to_transform; /* block numbers; empty: all                         */
    sy_list modules_to_save;     /* trained whole and stored with the adapter         */
    int bias;                    /* 0 none, 1 all, 2 lora_only                        */
} sy_adapter_common;
extern const char *const sy_bias_choices[];
#define SY_ADAPTER_ROWS(owner)                                                           \
    { .name = "target-modules", .type = SY_OPT_LIST, .offset = offsetof(owner, common.target_modules), .def = "all-linear", \
      .peft = "target_modules", .alias = "lora_target_modules", .help = "linears to adapt: names, one regular expression, or all-linear", .example = "q_proj,v_proj" }, \
    { .name = "exclude-modules", .type = SY_OPT_LIST, .offset = offsetof(owner, common.exclude_modules), .flags = SY_OPT_ADVANCED, \
      .peft = "exclude_modules", .help = "linears to leave alone", .example = "down_proj" }, \
    { .name = "layers-to-transform", .type = SY_OPT_LIST, .offset = offsetof(owner, common.layers_to_transform), .flags = SY_OPT_ADVANCED, \
      .peft = "layers_to_transform", .help = "block numbers to adapt (all if empty)", .example = "0,1" }, \
    { .name = "modules-to-save", .type = SY_OPT_LIST, .offset = offsetof(owner, common.modules_to_save), .flags = SY_OPT_ADVANCED, \
      .peft = "modules_to_save", .alias = "lora_modules_to_save", .help = "modules trained whole and stored with the adapter", .example = "norm" }, \
    { .name = "bias", .type = SY_OPT_ENUM, .offset = offsetof(owner, common.bias), .def = "none", .choices = sy_bias_choices, .flags = SY_OPT_ADVANCED, \
      .peft = "bias", .help = "which of the model's biases are trained too", .example = "all" }

enum {
    SY_CAP_LINEAR_IN_X = 1,  /* the wrapped site is a linear map of x: it can be folded by
                                sending unit vectors through it                       */
    SY_CAP_EDITS_BASE = 2,   /* attach changes the base weight (PiSSA)                */
    SY_CAP_PER_FORWARD = 16, /* much of its work does not shrink with the tokens: batches are
                                not cut but to save memory                           */
    SY_CAP_TRAINS_MODEL = 4, /* the model's own parameters are trained (full)         */
    SY_CAP_SEES_ORIGINAL = 8 /* compressor: inputs come from the original model, not from
                                the one whose earlier layers are compressed            */
};

typedef struct { const char *title, *authors, *venue, *id; int year; const char *equations; } sy_paper;

/* A name of its own for a method with other defaults, as papers and other tools call it
 * ("gptq" is rescomp with variant=gptq). Usable wherever the method's name is. */
typedef struct {
    const char *name, *title;
    const char *settings;      /* "key=value", separated by blanks; what the user says wins   */
} sy_preset;

struct sy_method {
    int abi;                   /* SY_METHOD_ABI                                        */
    const char *name;          /* the file's name: "lora"                              */
    sy_kind kind;
    const char *title;         /* one line                                             */
    const sy_paper *papers;    /* ended by title NULL                                  */
    const char *about;         /* a few sentences: what it does, when to use it, cost  */
    const char *peft_type;     /* "LORA"; NULL: PEFT does not know it                   */
    const char *peft_defaults; /* JSON: what PEFT's config has beyond the option rows, with its
                                  defaults (so that it opens there without a warning)     */
    const char *peft_lacks;    /* keys of the common rows that PEFT's config does not have,
                                  separated by blanks                                     */
    const char *also;          /* other names of it, separated by blanks: of the method, and
                                  peft_types that are read as this one ("bone BONE")       */
    const sy_preset *presets;  /* ended by name NULL, or NULL                           */
    unsigned caps;
    const sy_option *options;  /* into the context                                     */
    const sy_slot *slots;
    size_t size, at_size;      /* of the context; of sy_wrap.own                        */
    const sy_op *const *ops;   /* op rows of its own, NULL-terminated, or NULL: the gradient
                                  test runs them like the engine's                       */

    sy_status (*init)(void *self, sy_run *run);
    sy_status (*attach)(void *self, sy_run *run, sy_wrap *at);   /* after fill: SVD     */
    sy_status (*on)(void *self, sy_run *run, sy_when when);
    void (*free)(void *self);
    /* adapter: the site's output without bias. NULL with a `weight` hook: sy_tiled     */
    sy_node *(*forward)(void *self, sy_graph *g, const sy_wrap *at, sy_next next, sy_node *x);
    /* adapter: the same for n sites that share their input (q,k,v; gate,up), out[i] of at[i], so
     * that work on the input is done once. NULL, or false with nothing built: one by one   */
    bool (*forward_many)(void *self, sy_graph *g, const sy_wrap *const *at, const sy_next *next, int n, sy_node *x, sy_node **out);
    /* adapter: rows [first, first + n) of the effective weight, from those rows of the weight
     * below, `w` [n, in] of the graph's type. Built again in backward, tile by tile.   */
    sy_node *(*weight)(void *self, sy_graph *g, const sy_wrap *at, sy_node *w, int64_t first);
    /* rows of a tile come in multiples of this; NULL: of 1; 0: the method leaves the weight of
     * this site alone (its forward does not go through `weight`)                       */
    int64_t (*tile)(void *self, const sy_wrap *at);
    /* adapter -> plain LoRA of the same function on the ORIGINAL weight: *scale, and
     * A [r,in], B [out,r] allocated with syi_alloc (the caller frees). NULL: has none. */
    sy_status (*to_lora)(void *self, const sy_wrap *at, sy_tensor *a, sy_tensor *b, double *scale);
    /* adapter: what is saved for slot row `slot` of a site when it is not the parameter's
     * value itself: *out with data from syi_alloc (the caller frees). data stays NULL:
     * the value. NULL hook: always the value.                                          */
    sy_status (*save_slot)(void *self, const sy_wrap *at, int slot, sy_tensor *out);
    /* adapter: keys of adapter_config.json beyond the option rows' (json_t *)          */
    sy_status (*config_out)(void *self, sy_run *run, void *json);
    sy_status (*config_in)(void *self, sy_run *run, const void *json);
    /* optimizer: one parameter, gradient in p->grad, learning rate of its group        */
    sy_status (*update)(void *self, sy_run *run, sy_param *p, double lr);
    /* objective: *total NULL: build the loss; otherwise add a term. adapter: adds a term that
     * does not depend on the batch, to *total; called once a step, when training, not part of
     * the loss that is reported                                                       */
    sy_status (*loss)(void *self, sy_run *run, sy_graph *g, const sy_batch *batch, sy_node **total);
    /* trainer: owner of the loop                                                      */
    sy_status (*train)(void *self, sy_run *run);
    /* compressor (compress.h): statistics (SY_STAT_*) of the site's inputs that solve
     * wants, 0 none                                                                   */
    unsigned (*needs)(void *self, sy_run *run, const sy_site *site);
    /* compressor: ways to compress the layer (at most max) that differ in cost and error;
     * a pass over the original model before the one that solves. NULL: one way only     */
    sy_status (*profile)(void *self, sy_run *run, sy_layer *layer, sy_choice *out, int max, int *n);
    /* compressor: which way for each layer; pick[item] is an index into `all`. NULL:
     * sy_knapsack is not asked, the first way is taken                                  */
    sy_status (*allocate)(void *self, sy_run *run, const sy_choice *all, int n, int items, int *pick);
    /* compressor: layer->take                                                         */
    sy_status (*solve)(void *self, sy_run *run, sy_layer *layer);
    /* compressor: work on a whole block instead of the ordinary schedule of stages       */
    sy_status (*block)(void *self, sy_run *run, sy_calibration *c, int block);
    /* merger: its hooks, see merge.h                                                  */
    const struct sy_merger *merger;
};
enum { SY_METHOD_ABI = 1 };

/* The registry, NULL-terminated; by name, other name or preset (kind -1: any). */
const sy_method *const *sy_methods(void);
const sy_method *sy_method_find(const char *name, int kind);
/* The preset of the method that has this name, NULL: none. */
const sy_preset *sy_preset_find(const sy_method *method, const char *name);

/* -- what methods ask of a run ---------------------------------------------------------------------------- */

sy_context *sy_run_context(const sy_run *run);
syi_engine *sy_run_engine(const sy_run *run);
sy_model *sy_run_model(const sy_run *run);
int64_t sy_run_step(const sy_run *run);    /* optimizer steps done, from 0          */
int64_t sy_run_total(const sy_run *run);   /* planned, 0 unknown                    */
uint64_t sy_run_seed(const sy_run *run);
uint64_t sy_run_key(const sy_run *run, const char *purpose, const char *tensor);
bool sy_run_planning(const sy_run *run);
/* The file an adapter is being loaded from (its adapter_config.json), else NULL. */
const void *sy_run_adapter_config(const sy_run *run);

/* Sites by selection: names (module suffix "q_proj" or a whole path), one regular
 * expression that matches a whole path, or "all-linear" (all but the head). Returns the
 * number, fills at most max. */
int sy_sites(sy_run *run, sy_site **out, int max);
int sy_site_match(sy_context *ctx, const sy_site *site, const sy_list *targets, bool *match);
/* In init: value of shape variable `var` at a site (NULL: of shared rows and of sites without
 * one of their own); 0 leaves the site out. */
sy_status sy_site_dim(sy_run *run, const sy_site *site, const char *var, int64_t value);
/* All parameters of the run (the model's and the methods'). */
sy_param *const *sy_params(const sy_run *run, int *n);
/* A method makes one of its groups learn at factor * lr ("lora_B": LoRA+). */
sy_status sy_run_group(sy_run *run, const char *group, double factor);
/* At START: batch `index` of `rows` rows of what will be trained on (see sy_run_feed);
 * SY_E_USAGE when the run has no data. */
sy_status sy_run_batch(sy_run *run, int64_t index, int64_t rows, sy_batch *out);
/* A forward in evaluation mode up to the last hidden state, for its observers (site->see); ends
 * early when one of them says SY_SEEN_ENOUGH. Within the planned number of tokens. */
sy_status sy_run_observe(sy_run *run, const sy_batch *batch);
/* From START on. Off: the parameter keeps its value for good and gives back its gradient and
 * optimizer state; a STATE row gives back everything. On again is not possible. */
sy_status sy_param_train(sy_run *run, sy_param *p, bool on);
/* A parameter of a method gets n entries along `axis`, entry k being the old entry keep[k], or
 * zeros where keep[k] < 0; gradient and compute copy follow, and optimizer state by its rows'
 * `moment` (0 is zeroed). No larger than it was made: `init` declares the largest phase. What
 * is resumed takes its shapes from the state file. */
sy_status sy_param_resize(sy_run *run, sy_param *p, int axis, const int64_t *keep, int64_t n);
/* The base weight of a site is replaced (PiSSA's residual): the values move into the
 * run; `take` is f32 [out,in] from syi_alloc. */
sy_status sy_site_replace(sy_run *run, sy_site *site, float *take);

#ifdef __cplusplus
}
#endif
#endif
