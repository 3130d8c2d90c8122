/* SPDX-License-Identifier: Apache-2.0 */
/* The verb "tokenize": lines in, one JSON line out for each: ids, pieces, offsets. */
#include "io/io.h"
#include "run/job.h"
#include "steelyard/text.h"

#include <errno.h>
#include <unistd.h>
#include <zlib.h>

typedef struct { char *model, *data, *text; bool special, add; } tokenize_self;

static const sy_option rows[] = {
    { .name = "model", .type = SY_OPT_PATH, .offset = offsetof(tokenize_self, model), .flags = SY_OPT_REQUIRED,
      .help = "Hugging Face folder or GGUF file whose tokenizer is used", .example = "models/tiny" },
    { .name = "data", .type = SY_OPT_PATH, .offset = offsetof(tokenize_self, data),
      .help = "text file, .gz too; without it (or -): standard input", .example = "models/tiny/lines.txt" },
    { .name = "text", .type = SY_OPT_STRING, .offset = offsetof(tokenize_self, text), .alias = "prompt",
      .help = "this text instead of a file, as one line", .example = "In the beginning" },
    { .name = "special", .type = SY_OPT_BOOL, .offset = offsetof(tokenize_self, special), .def = "on",
      .help = "special tokens written out in the text are recognised", .example = "off" },
    { .name = "add-special", .type = SY_OPT_BOOL, .offset = offsetof(tokenize_self, add), .def = "off", .alias = "add_special_tokens",
      .help = "add the tokens that the tokenizer puts around a text", .example = "on" },
    { .name = NULL }
};

typedef struct {
    const tokenize_self *self;
    sy_job *job;
    sy_context *ctx;
    sy_tokenizer *t;
    int64_t lines, tokens;
} work;

static sy_status one_line(work *w, const char *line, int64_t len)
{
    sy_token *tokens;
    int64_t n;
    SYI_TRY(sy_tokenize(w->ctx, w->t, line, len, w->self->special, w->self->add, &tokens, &n));
    json_t *ids = json_array(), *pieces = json_array(), *offsets = json_array();
    for (int64_t i = 0; i < n; i++) {
        int64_t size = 0;
        const char *piece = sy_token_text(w->t, tokens[i].id, &size, NULL);
        json_array_append_new(ids, json_integer(tokens[i].id));
        json_array_append_new(pieces, piece ? json_stringn(piece, (size_t)size) : json_string(""));
        json_array_append_new(offsets, json_pack("[II]", (json_int_t)tokens[i].begin, (json_int_t)tokens[i].end));
    }
    sy_tokens_free(w->ctx, tokens);
    json_t *o = json_pack("{s:o, s:o, s:o}", "ids", ids, "pieces", pieces, "offsets", offsets);
    char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
    json_decref(o);
    if (!text) return syi_nomem(w->ctx, (size_t)n * 32);
    syi_job_print(w->job, "%s\n", text);
    syi_json_free_text(text);
    w->lines++;
    w->tokens += n;
    return SY_OK;
}

/* Lines of any length; the last one may lack its newline. "\r\n" counts as "\n". */
static sy_status all_lines(work *w, gzFile in, const char *where)
{
    enum { CHUNK = 65536 };
    syi_text line;
    syi_text_init(&line, w->ctx, (size_t)1 << 30);
    char *chunk = syi_alloc(w->ctx, CHUNK);
    sy_status st = chunk ? SY_OK : SY_E_MEMORY;
    while (st == SY_OK) {
        int got = gzread(in, chunk, CHUNK), code = Z_OK;
        const char *why = got < 0 ? gzerror(in, &code) : "";
        if (got < 0) { st = syi_fail(w->ctx, SY_E_INPUT, "cannot read %s: %s", where, code == Z_ERRNO ? strerror(errno) : why); break; }
        if (got == 0) break;
        for (char *p = chunk, *end = chunk + got; p < end && st == SY_OK;) {
            char *nl = memchr(p, '\n', (size_t)(end - p));
            syi_text_add(&line, p, (size_t)((nl ? nl : end) - p));
            if (line.failed) { st = syi_nomem(w->ctx, line.len); break; }
            if (!nl) break;
            if (line.len && line.s[line.len - 1] == '\r') line.len--;
            st = one_line(w, line.s ? line.s : "", (int64_t)line.len);
            line.len = 0;
            p = nl + 1;
            if (st == SY_OK && sy_cancelled(w->ctx)) st = syi_fail(w->ctx, SY_E_CANCELLED, "interrupted after %lld lines", (long long)w->lines);
        }
    }
    if (st == SY_OK && line.len) st = one_line(w, line.s, (int64_t)line.len);
    syi_free(w->ctx, chunk);
    syi_text_free(&line);
    return st;
}

static sy_status from_files(work *w)
{
    const char *path = w->self->data;
    bool standard = !path || !strcmp(path, "-");
    int fd = standard ? dup(STDIN_FILENO) : -1;
    errno = 0;
    if (!standard && syi_is_dir(path)) return syi_fail(w->ctx, SY_E_INPUT, "cannot read %s: it is a folder; --data wants a text file", path);
    gzFile in = standard ? (fd >= 0 ? gzdopen(fd, "rb") : NULL) : gzopen(path, "rb");
    if (!in) {
        if (fd >= 0) close(fd);
        return syi_fail(w->ctx, SY_E_INPUT, "cannot open %s: %s", standard ? "standard input" : path, errno ? strerror(errno) : "out of memory");
    }
    sy_status st = all_lines(w, in, standard ? "standard input" : path);
    gzclose(in);
    return st;
}

static sy_status run(void *self, sy_job *job)
{
    work w = { .self = self, .job = job, .ctx = syi_job_context(job) };
    if (w.self->text && w.self->data) return syi_fail(w.ctx, SY_E_USAGE, "--text and --data exclude each other; give one of them");
    syi_source *source;
    SYI_TRY(syi_source_open(w.ctx, w.self->model, false, &source));
    sy_status st = SY_OK;
    const char *json = NULL;
    int64_t length = 0;
    st = syi_source_tokenizer_text(source, &json, &length);
    if (st == SY_OK && json == NULL)
        st = syi_fail(w.ctx, SY_E_INPUT, "%s has no tokenizer.json (or tokenizer keys of a GGUF)", w.self->model);
    char *where = syi_format(w.ctx, source->gguf ? "%s" : "%s/tokenizer.json", w.self->model);
    if (st == SY_OK) st = where ? sy_tokenizer_parse(w.ctx, json, (size_t)length, where, &w.t) : SY_E_MEMORY;
    syi_free(w.ctx, where);
    syi_source_close(source);
    if (st == SY_OK) st = w.self->text ? one_line(&w, w.self->text, (int64_t)strlen(w.self->text)) : from_files(&w);
    sy_tokenizer_free(w.t);
    json_object_set_new(syi_job_report(job), "lines", json_integer(w.lines));
    json_object_set_new(syi_job_report(job), "tokens", json_integer(w.tokens));
    return st;
}

const sy_verb sy_verb_tokenize = {
    .name = "tokenize", .title = "shows the tokens of lines of text",
    .about = "For each line one JSON line: ids, the pieces as the tokenizer writes them, and the bytes [begin, end) of the line that "
             "each piece covers.",
    .example = "tokenize --model models/tiny --text \"In the beginning\"", .options = rows, .size = sizeof(tokenize_self),
    .flags = SY_VERB_RAW_OUTPUT | SY_VERB_JSON_LINES, .run = run
};
