/* SPDX-License-Identifier: Apache-2.0 */
/* The decoder-only transformer that llama, mistral, qwen2 and qwen3 share: its
 * config struct, its tensor rows and its forward graph. An architecture file
 * says which rows and switches are its own. Internal. */
#ifndef SYI_DECODER_H
#define SYI_DECODER_H

#include "steelyard/model.h"

typedef struct {
    int64_t hidden, layers, heads, kv_heads, head_dim, ffn, vocab, context;
    double norm_eps, rope_theta;
    char *rope_type;              /* "default", "linear", "llama3"                 */
    double rope_factor, rope_low_freq, rope_high_freq;
    int64_t rope_original_context;
    bool tied, qkv_bias, o_bias, mlp_bias, qk_norm;
    char *act;                    /* "silu"; anything else is refused               */
    int64_t sliding_window;       /* Mistral's and Qwen's; 0: none. Refused (SY_E_UNSUPPORTED)
                                     only when it is smaller than the context in use */
    bool use_sliding_window;
    int64_t query_heads;          /* derived: heads / kv_heads, that share a key/value head */
} syi_decoder_config;

/* The forward graph of all of them (src/model/_decoder.c). */
sy_node *syi_decoder_build(sy_graph *g, sy_model *m, const sy_batch *batch);
/* ... and in pieces: attention and feed-forward of each block. */
sy_node *syi_decoder_piece(sy_graph *g, sy_model *m, const sy_batch *batch, int block, int part, sy_node *x);
enum { SYI_DECODER_PARTS = 2 };
/* Range checks and derived values (head_dim = hidden/heads, ...). */
sy_status syi_decoder_check(sy_context *ctx, void *config, const void *config_json);

#endif
