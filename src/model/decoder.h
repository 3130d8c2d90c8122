/* SPDX-License-Identifier: Apache-2.0 */
/* The decoder-only transformer that llama and its relatives share: its config struct,
 * its layout, its forward graph. An architecture file says which rows, values and layout
 * are its own; the graph knows no architecture by name. Internal. */
#ifndef SYI_DECODER_H
#define SYI_DECODER_H

#include "steelyard/model.h"

struct syi_kv_cache;

/* What stands where in a block. Norms by the name of their module ("...%d.input_layernorm");
 * NULL: there is none. Whether q, k, v and gate, up are one matrix is told by the rows. */
typedef struct {
    const char *attention_norm, *attention_post_norm; /* before; on what attention gives        */
    const char *ffn_norm, *ffn_post_norm, *last_norm;
    const char *q_norm, *k_norm;
    bool whole_qk_norm;      /* over all heads together (OLMo 2), not each                      */
    bool layer_norm;         /* with mean and bias, not RMS                                     */
    bool norm_from_one;      /* stored as the distance from 1 (Gemma)                           */
    bool scaled_embedding;   /* times sqrt(hidden) (Gemma)                                      */
    const char *positions;   /* a table of learned positions instead of rotation                */
} syi_decoder_layout;

enum { SYI_DECODER_LAYERS = 4096 };
enum { SYI_LAYER_WINDOW = 1 /* sees the last sliding_window tokens */, SYI_LAYER_NO_ROPE = 2, SYI_LAYER_LOCAL_ROPE = 4 };
/* Rotary tables: the usual one, that of local layers, that of texts beyond the context that
 * the model was first trained on. */
enum { SYI_ROPE_MAIN, SYI_ROPE_LOCAL, SYI_ROPE_LONG, SYI_ROPES };

typedef struct {
    int64_t hidden, layers, heads, kv_heads, head_dim, ffn, vocab, context;
    double norm_eps, rope_theta;
    char *rope_type;              /* "default", "linear", "llama3", "longrope"              */
    double rope_factor, rope_low_freq, rope_high_freq, rope_local_theta, rope_attention_factor;
    int64_t rope_original_context;
    bool tied, qkv_bias, o_bias, mlp_bias, qk_norm;
    char *act;                    /* a name that syi_act_find knows                          */
    int64_t sliding_window;       /* 0: none                                                 */
    bool use_sliding_window;
    int64_t sliding_every;        /* layers without a window: every so many; 0: all have it   */
    int64_t no_rope_every;        /* layers without rotation: every so many; 0: none          */
    double query_scale;           /* q k^T is divided by its root; 0: head_dim               */
    double attention_cap, logit_cap; /* soft caps; 0: none                                   */
    int64_t full_layers;          /* the first so many have no window                        */
    int64_t query_heads;          /* derived: heads / kv_heads, that share a key/value head */
    int64_t qkv_rows, k_row, v_row, gate_up_rows; /* derived: of fused matrices; where k and v begin */
    const syi_decoder_layout *layout; /* of the architecture's file; NULL: Llama's           */
    uint8_t layer[SYI_DECODER_LAYERS]; /* derived: SYI_LAYER_...                             */
    int n_short, n_long;          /* longrope: divisors of the frequencies                   */
    float rope_short[512], rope_long[512];
} syi_decoder_config;

/* The forward graph of all of them (src/model/_decoder.c). */
sy_node *syi_decoder_build(sy_graph *g, sy_model *m, const sy_batch *batch);
/* ... and in pieces: attention and feed-forward of each block. */
sy_node *syi_decoder_piece(sy_graph *g, sy_model *m, const sy_batch *batch, int block, int part, sy_node *x);
enum { SYI_DECODER_PARTS = 2 };
/* The soft cap of the logits (sy_arch.logits). */
sy_node *syi_decoder_logits(sy_graph *g, sy_model *m, sy_node *y);
/* Range checks and derived values (head_dim = hidden/heads, ...). */
sy_status syi_decoder_check(sy_context *ctx, void *config, const void *config_json);
/* Inverse frequencies of one rotary table, [head_dim/2]; the factor that its cosines and sines
 * get. false: this model has no such table. */
bool syi_decoder_rope(const syi_decoder_config *c, int table, float *inverse, float *factor);
/* Which table a layer takes for texts of so many positions; -1: it does not rotate. */
int syi_decoder_rope_of(const syi_decoder_config *c, int block, int64_t positions);
extern const syi_decoder_layout syi_decoder_llama_layout;

/* -- GGUF (src/model/_decoder_gguf.c) -------------------------------------------------- */

struct json_t;
/* sy_arch.to_gguf of those that llama.cpp runs like Llama: SiLU, and a warning about windows. */
sy_status syi_decoder_to_gguf(sy_context *ctx, void *config);
/* SY_E_UNSUPPORTED unless the activation is that one. */
sy_status syi_decoder_gguf_act(sy_context *ctx, const syi_decoder_config *c, const char *act, const char *arch);
/* Warns if a layer has a window. */
void syi_decoder_gguf_no_window(sy_context *ctx, const syi_decoder_config *c, const char *arch);
/* Layers without a window are every so many; 1: none has one; 0: they come in another order. */
int64_t syi_decoder_window_period(const syi_decoder_config *c);
/* Gemma: query_pre_attn_scalar, which no key holds. largest: layers of the family's largest
 * model, where it is hidden / heads and not head_dim. */
sy_status syi_gemma_from_gguf(sy_context *ctx, struct json_t *config_json, int64_t largest);
sy_status syi_gemma_gguf_scale(sy_context *ctx, const syi_decoder_config *c, int64_t largest);

#endif
