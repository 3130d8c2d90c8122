/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of src/text share: the tokenizer's parts as tables of rows
 * (one row a component: how it is parsed, how it runs), the encoder that runs
 * them, Unicode helpers, and chat templates parsed once. Internal.
 *
 * A text goes through: added tokens found in the raw text -> normalizers ->
 * added tokens found in the normalized text -> pre-tokenizers, which hand
 * pieces on one by one, never as a list -> the model, which emits tokens ->
 * post-processors. A new component is a function and a row. */
#ifndef SYI_TEXT_TEXT_H
#define SYI_TEXT_TEXT_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include "base/base.h"
#include "steelyard/text.h"
#include <jansson.h>
#include <pcre2.h>

/* -- unicode.c ------------------------------------------------------------- */
/* Length of the well-formed character at s (n bytes are there), its code point
 * in *cp; 0 if the bytes are not UTF-8 (overlong and surrogates included). */
int syi_utf8_decode(const uint8_t *s, int64_t n, uint32_t *cp);
int syi_utf8_encode(uint32_t cp, uint8_t out[4]);
bool syi_utf8_valid(const uint8_t *s, int64_t n);
/* Bytes of s that are left when a character cut off at its end is left out. */
int64_t syi_utf8_complete(const uint8_t *s, int64_t n);
/* Where the character that covers byte i begins and ends; a byte that is not
 * part of a well-formed character is its own. */
void syi_utf8_cover(const uint8_t *s, int64_t n, int64_t i, int64_t *begin, int64_t *end);
bool syi_is_space(uint32_t cp);       /* White_Space                            */
bool syi_is_numeric(uint32_t cp);     /* N*                                     */
bool syi_is_punctuation(uint32_t cp); /* P* of Unicode 8, and ASCII's own notion */
char syi_unicode8(uint32_t cp);       /* what a character was then; 0: the same   */
bool syi_is_word(uint32_t cp);        /* \w: Alphabetic, M*, Nd, Pc, joiners    */
/* The byte <-> character map of byte-level models. */
uint32_t syi_byte_char(uint8_t byte);
int syi_char_byte(uint32_t cp);       /* -1: none */

/* -- regex.c ---------------------------------------------------------------- */
/* A pattern written for Oniguruma (what tokenizer.json holds), compiled by
 * PCRE2 with the same meaning: \s, \w, \h and line anchors as there. */
typedef struct syi_regex syi_regex;
sy_status syi_regex_new(sy_context *ctx, const char *pattern, size_t len, bool literal, const char *where, syi_regex **out);
void syi_regex_free(syi_regex *r);
/* What matching needs to write on: one per encoder. */
typedef struct syi_matcher syi_matcher;
sy_status syi_matcher_new(sy_context *ctx, syi_matcher **out);
void syi_matcher_free(syi_matcher *m);
/* All matches in s from left to right, an empty one never right after another
 * match. valid: s is known to be UTF-8; otherwise malformed bytes match nothing
 * and bound what the pattern sees. */
typedef struct {
    syi_matcher *m;
    const syi_regex *r;
    const uint8_t *s;
    int64_t n, at, last, run_begin, run_end;
} syi_matches;
void syi_matches_begin(syi_matches *it, syi_matcher *m, const syi_regex *r, const uint8_t *s, int64_t n, bool valid);
sy_status syi_matches_next(syi_matches *it, bool *found, int64_t *begin, int64_t *end);

/* -- pieces ------------------------------------------------------------------ */
typedef struct { int32_t begin, end; } syi_span;

/* Text on its way to the model. Without a map, byte i is byte base+i of the
 * input; with one, it stems from bytes base+[map[i].begin, map[i].end). */
typedef struct {
    const uint8_t *s;
    int64_t n;
    const syi_span *map;
    int64_t base;
} syi_piece;
static inline syi_piece syi_piece_cut(const syi_piece *p, int64_t begin, int64_t end)
{
    return (syi_piece){p->s + begin, end - begin, p->map ? p->map + begin : NULL, p->map ? p->base : p->base + begin};
}

/* Text that was changed, with its map. */
typedef struct { uint8_t *s; syi_span *map; int64_t n, cap_s, cap_map; } syi_buffer;
/* Appends bytes that all stem from `span`; appends a piece with its own map (its
 * base must be the one that the buffer's map counts from); both fail above 2 GiB. */
sy_status syi_buffer_add(sy_context *ctx, syi_buffer *b, const uint8_t *s, int64_t n, syi_span span);
sy_status syi_buffer_copy(sy_context *ctx, syi_buffer *b, const syi_piece *p);
/* Bytes [from,to) of the piece into a buffer that counts from the piece's base. */
sy_status syi_buffer_part(sy_context *ctx, syi_buffer *b, const syi_piece *in, int64_t from, int64_t to);
/* Where byte i of a piece stems from, relative to its base. */
syi_span syi_piece_span(const syi_piece *p, int64_t i);
void syi_buffer_free(sy_context *ctx, syi_buffer *b);

/* -- components ---------------------------------------------------------------- */
typedef enum { SYI_REMOVED, SYI_ISOLATED, SYI_MERGED_PREVIOUS, SYI_MERGED_NEXT, SYI_CONTIGUOUS } syi_behavior;
enum { SYI_MAX_STAGES = 32 };

typedef struct syi_encoder syi_encoder;
typedef struct syi_stage syi_stage;
typedef struct syi_component syi_component;

/* One step of a pipeline; which fields mean something depends on its kind. */
struct syi_stage {
    const syi_component *kind;
    syi_regex *regex;
    char *text, *text2;     /* replacement, prefix, suffix                          */
    int64_t text_len, text2_len;
    int64_t start, stop;    /* decoder Strip                                        */
    uint32_t cp;            /* one character: delimiter, Strip's content            */
    syi_behavior behavior;
    bool invert, left, right, split, trim, prefix_space, use_regex;
    enum { SYI_PREPEND_ALWAYS, SYI_PREPEND_FIRST, SYI_PREPEND_NEVER } scheme;
    struct { int32_t *before, *after; int64_t n_before, n_after; } added; /* TemplateProcessing */
    bool (*drop)(uint32_t);        /* normalizers that treat characters one by one:       */
    uint32_t (*change)(uint32_t);  /* which go, what they become (NULL: nothing of that)  */
    bool spell;                    /* ByteLevel: characters for bytes, as others follow   */
    uint32_t *units;               /* Precompiled: the double array                        */
    int64_t n_units;
};

typedef struct { syi_stage stage[SYI_MAX_STAGES]; int n; } syi_pipeline;

/* -- the large parts of a tokenizer.json, without a tree (tokenizer_scan.c) ------------ */
typedef struct { const char *at, *end; } syi_scan;
typedef struct { bool taken, has_merges; syi_scan vocab, merges; int64_t n_vocab, n_merges; } syi_parts; /* with their brackets */
/* Takes model.vocab, an object, and model.merges, a list, out of the text: `rest` (the
 * caller's) has them empty. Not p->taken: it cannot, rest is NULL. */
sy_status syi_scan_split(sy_context *ctx, const char *json, size_t len, syi_parts *p, char **rest, size_t *rest_len);
/* The next thing, if it is that; false leaves s anywhere. A string is added to `out`. */
bool syi_scan_char(syi_scan *s, char c);
bool syi_scan_string(syi_scan *s, syi_text *out);
bool syi_scan_id(syi_scan *s, int64_t *id);

/* The pieces, in order, as decoders pass them on. */
typedef struct { uint8_t *s; int64_t *end; int64_t n, len, cap_s, cap_end; } syi_pieces;

typedef struct {
    sy_context *ctx;
    sy_tokenizer *t;
    const char *where;
    const syi_parts *parts; /* read from the text, not from the tree, or NULL        */
    bool odd;               /* they are not as tokenizer_scan.c reads them           */
    int depth;              /* of sequences inside sequences                        */
    syi_pipeline *line;     /* that is being loaded                                 */
} syi_load;

/* A row. Kinds that stand for several steps (Sequence) have no run function. */
struct syi_component {
    const char *type;
    sy_status (*parse)(syi_load *l, const json_t *j, const char *path, syi_stage *s);
    union {
        sy_status (*normalize)(syi_encoder *e, const syi_stage *s, const syi_piece *in, syi_buffer *out, bool *changed);
        sy_status (*split)(syi_encoder *e, const syi_stage *s, int at, const syi_piece *in);
        sy_status (*process)(syi_encoder *e, const syi_stage *s, bool add);
        sy_status (*decode)(sy_context *ctx, const syi_stage *s, const syi_pieces *in, syi_pieces *out);
    } run;
};
extern const syi_component syi_normalizers[], syi_pretokenizers[], syi_postprocessors[], syi_decoders[];

/* Helpers of parse functions (tokenizer_load.c): errors name file and path. */
sy_status syi_want_bool(syi_load *l, const json_t *j, const char *path, const char *key, int def, bool *out);
sy_status syi_want_string(syi_load *l, const json_t *j, const char *path, const char *key, const char *def, char **out,
                          int64_t *len);
sy_status syi_want_char(syi_load *l, const json_t *j, const char *path, const char *key, uint32_t *out);
/* "pattern": {"String": s} or {"Regex": s} */
sy_status syi_want_pattern(syi_load *l, const json_t *j, const char *path, syi_regex **out);
sy_status syi_want_behavior(syi_load *l, const json_t *j, const char *path, const char *def, syi_behavior *out);

/* Appends a step to the pipeline that is being loaded, for components that stand for
 * several (BertNormalizer): NULL with the error set if there are too many. */
syi_stage *syi_stage_add(syi_load *l, const char *path, const syi_component *kind);
/* Ids of a post-processor's token, to the end of a list. */
sy_status syi_ids_add(syi_load *l, const char *path, int64_t id, int32_t **list, int64_t *n);

/* -- components that have files of their own ---------------------------------------- */
sy_status syi_bert_parse(syi_load *l, const json_t *j, const char *path, syi_stage *s);
sy_status syi_strip_accents_parse(syi_load *l, const json_t *j, const char *path, syi_stage *s);
sy_status syi_nmt_parse(syi_load *l, const json_t *j, const char *path, syi_stage *s);
sy_status syi_map_chars(syi_encoder *e, const syi_stage *s, const syi_piece *in, syi_buffer *out, bool *changed);
sy_status syi_charsmap_parse(syi_load *l, const json_t *j, const char *path, syi_stage *s);
sy_status syi_charsmap_run(syi_encoder *e, const syi_stage *s, const syi_piece *in, syi_buffer *out, bool *changed);
/* Bytes as the characters of byte-level models. */
sy_status syi_bytes_to_chars(sy_context *ctx, const syi_piece *in, syi_buffer *out);

/* -- tries (trie.c) ------------------------------------------------------------------- */
typedef struct syi_trie syi_trie;
sy_status syi_trie_new(sy_context *ctx, syi_trie **out);
void syi_trie_free(syi_trie *t);
sy_status syi_trie_add(syi_trie *t, const uint8_t *s, int64_t n, int32_t value); /* value >= 0 */
/* The node after `byte`, or -1; the root is 0. The value of a node, or -1. */
int32_t syi_trie_step(const syi_trie *t, int32_t at, uint8_t byte);
int32_t syi_trie_value(const syi_trie *t, int32_t at);
/* The leftmost, then longest entry at or after `from`; false if there is none. */
bool syi_trie_next(const syi_trie *t, const uint8_t *s, int64_t n, int64_t from, int64_t *begin, int64_t *end, int32_t *value);

typedef struct {
    int32_t id;
    char *content;
    int64_t len;
    bool single_word, lstrip, rstrip, normalized, special;
} syi_added;

/* -- models: one file each, rows in tokenizer_load.c ------------------------------------ */
typedef struct {
    const char *type;
    /* *state is set before anything can fail, so that free sees what there is. */
    sy_status (*parse)(syi_load *l, const json_t *model, void **state);
    void (*free)(sy_context *ctx, void *state);
    /* Tokens of one piece, by syi_out. */
    sy_status (*run)(syi_encoder *e, const void *state, const uint8_t *s, int64_t n);
    /* The first place after `from` where the piece may be cut without changing its
     * tokens, or n. NULL: there is none. */
    int64_t (*cut)(const void *state, const uint8_t *s, int64_t n, int64_t from);
} syi_model;
extern const syi_model syi_bpe, syi_wordpiece, syi_wordlevel, syi_unigram;

/* Helpers of models: "vocab" as an object of token: id; an id by its token's text;
 * the ids of <0x00>..<0xFF> (-1: absent); a word without tokens and without unk. */
sy_status syi_vocab_object(syi_load *l, const json_t *vocab);
sy_status syi_scan_odd(syi_load *l); /* l->parts cannot be read: SY_E_INPUT without a message */
bool syi_find_id(const sy_tokenizer *t, const char *s, size_t n, int32_t *id);
void syi_byte_tokens(const sy_tokenizer *t, int32_t id[256]);
sy_status syi_no_unk(syi_encoder *e, const uint8_t *s, int64_t n);

/* -- the tokenizer --------------------------------------------------------------------- */
typedef struct {
    int64_t at;             /* of the content in the pool, -1: no such id             */
    int32_t len;
    int32_t chars;          /* characters: bytes of the input, for byte-level tokens   */
    uint16_t lead, trail;   /* spaces at its ends, for trim_offsets                    */
    bool added, special;
} syi_entry;

struct sy_tokenizer {
    sy_context *ctx;
    syi_hash hash;          /* of the text it was made of                            */
    syi_map *ids;           /* content -> id                                         */
    syi_entry *entry;       /* [size]                                                */
    int64_t size, cap_entry;
    char *pool;
    int64_t pool_len, cap_pool;
    syi_pipeline normalizer, pretokenizer, processor, decoder;
    bool has_decoder;
    bool byte_level;        /* the model takes bytes: ByteLevel is the last step before BPE */
    const syi_model *model;
    void *state;            /* the model's                                            */
    syi_added *added;
    int64_t n_added;
    syi_trie *raw, *normalized; /* added tokens, by index; NULL: none                 */
};
sy_status syi_tokenizer_add_entry(syi_load *l, const char *content, size_t len, int64_t id);
/* From parsed JSON, which is borrowed. */
sy_status syi_tokenizer_from_json(sy_context *ctx, const json_t *j, const char *where, sy_tokenizer **out);

/* -- the encoder (encode.c) --------------------------------------------------------------- */
/* All that encoding writes on. The tokenizer is read-only: one encoder a thread,
 * each with a context of its own, share it. Tokens are appended to the arrays. */
enum { SYI_CACHE_KEY = 22, SYI_CACHE_IDS = 8 };
typedef struct { uint8_t len, n, size[SYI_CACHE_IDS], key[SYI_CACHE_KEY]; int32_t id[SYI_CACHE_IDS]; } syi_cached; /* one cache line */
typedef struct { int32_t id, len, prev, next; } syi_symbol;
/* Candidates for merging in a long word, by rank: lists in one pool, and a heap of the
 * ranks that have any. Few ranks with many candidates each (a run of one letter) cost
 * no more than many with few. */
typedef struct { int32_t at, next; } syi_candidate;
typedef struct {
    syi_candidate *pool;
    int64_t n, cap;
    int32_t *head, *tail;   /* [ranks] index in the pool + 1, 0: empty                */
    int64_t ranks;
    int32_t *heap, *turn;   /* ranks; the candidates of the rank whose turn it is     */
    int64_t n_heap, cap_heap, cap_turn;
} syi_queue;
typedef struct { int32_t id, begin, end; } syi_made; /* bytes of the piece */

struct syi_encoder {
    sy_context *ctx;
    const sy_tokenizer *t;
    syi_matcher *matcher;
    const uint8_t *text;    /* the whole input                                       */
    int64_t len;
    bool valid;             /* the input is UTF-8                                     */
    int32_t *id;            /* [n]                                                   */
    int64_t *begin, *end;   /* [n], NULL if offsets are not wanted                    */
    int64_t n, cap_id, cap_begin, cap_end;
    bool offsets;
    /* Takes ids away when there are many, instead of keeping all to the end; the
     * first call has the post-processor's tokens of the beginning. Without offsets. */
    sy_status (*flush)(void *self, const int32_t *id, int64_t n);
    void *flush_to;
    syi_cached *cache;      /* words met before; grows with what was encoded          */
    int64_t cache_slots, seen;
    syi_buffer buffer[2];             /* normalizers write from one to the other      */
    syi_buffer rewrite[SYI_MAX_STAGES];
    syi_made *made;         /* what the model made of the piece                      */
    int64_t n_made, cap_made;
    void *work;             /* a model's own, freed with the encoder                 */
    int64_t cap_work;
    syi_symbol *symbol;
    int64_t cap_symbol;
    syi_queue queue;
};
sy_status syi_encoder_new(sy_context *ctx, const sy_tokenizer *t, syi_encoder **out);
void syi_encoder_free(syi_encoder *e);
/* Replaces what e->id holds with the tokens of the text. trim: offsets as the
 * post-processors want them (without the spaces at the ends of a token). */
sy_status syi_encode(syi_encoder *e, const char *text, int64_t len, bool special, bool add, bool offsets, bool trim);
/* For the stages: hands a piece to stage `at` or, after the last, to the model. */
sy_status syi_encode_piece(syi_encoder *e, int at, const syi_piece *p);
/* For the models: a token for bytes [begin,end) of the piece. */
sy_status syi_out(syi_encoder *e, int32_t id, int64_t begin, int64_t end);
sy_status syi_encoder_room(syi_encoder *e, int64_t more); /* in the arrays */

/* -- chat templates (chat.c) ------------------------------------------------------------------ */
typedef struct syi_chat syi_chat;
/* Parsed once, rendered often; read-only after parsing. NULL text: ChatML. */
sy_status syi_chat_parse(sy_context *ctx, const char *jinja, size_t len, const char *where, syi_chat **out);
void syi_chat_free(syi_chat *c);
/* Adds the names of the built-in templates to the error that is there. */
sy_status syi_chat_advise(sy_context *ctx);
/* Are these messages that a template can be given? Fills in what transformers does.
 * `where` begins the error's text. */
sy_status syi_chat_messages(sy_context *ctx, const json_t *messages, const char *where);
/* `variables`: an object, which may have tools and documents; `messages`: an array.
 * Both borrowed. */
sy_status syi_chat_run(sy_context *ctx, const syi_chat *c, const json_t *variables, const json_t *messages, size_t n,
                       bool add_generation_prompt, syi_text *out);

#endif
