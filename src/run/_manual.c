/* SPDX-License-Identifier: Apache-2.0 */
/* Writes help, man pages, Markdown pages and the bash completion out of option rows,
 * slot rows and descriptors, so that none of them can say anything else than the code. */
#include "run/_manual.h"

#include <ctype.h>

enum { COLUMNS = 80 };

/* -- words ------------------------------------------------------------------------ */

/* Text wrapped at `columns` with `indent` blanks before every line; "\n" starts a
 * paragraph, lines that begin with a blank stay as they are. */
static void wrapped(syi_text *t, const char *s, int indent, int columns)
{
    while (s && *s) {
        const char *end = strchr(s, '\n');
        int len = end ? (int)(end - s) : (int)strlen(s), column = indent;
        syi_text_printf(t, "%*s", len ? indent : 0, "");
        if (*s == ' ') syi_text_add(t, s, (size_t)len);
        else for (int i = 0; i < len;) {
            int word = 0;
            while (i + word < len && s[i + word] != ' ') word++;
            if (column > indent && column + word + 1 > columns) {
                syi_text_printf(t, "\n%*s", indent, "");
                column = indent;
            }
            if (column > indent) { syi_text_puts(t, " "); column++; }
            syi_text_add(t, s + i, (size_t)word);
            column += word;
            for (i += word; i < len && s[i] == ' ';) i++;
        }
        syi_text_puts(t, "\n");
        s += len + (end != NULL);
    }
}

/* roff: backslashes, hyphens that must stay hyphens, control lines. */
static void roff(syi_text *t, const char *s)
{
    bool start = t->len == 0 || t->s[t->len - 1] == '\n';
    for (; s && *s; s++) {
        if (start && (*s == '.' || *s == '\'')) syi_text_puts(t, "\\&");
        if (*s == '\\') syi_text_puts(t, "\\e");
        else if (*s == '-') syi_text_puts(t, "\\-");
        else syi_text_add(t, s, 1);
        start = *s == '\n';
    }
}

/* Markdown inside a table cell or paragraph. */
static void markdown(syi_text *t, const char *s)
{
    for (; s && *s; s++) {
        if (*s == '|' || *s == '<' || *s == '*' || *s == '_') syi_text_puts(t, "\\");
        syi_text_add(t, s, 1);
    }
}

static void upper(syi_text *t, const char *s)
{
    for (; *s; s++) {
        char c = (char)toupper((unsigned char)*s);
        syi_text_add(t, &c, 1);
    }
}

/* The example of a verb as a person would type it: "{tmp}/" left out. */
static void example_text(syi_text *t, const char *s)
{
    while (s && *s) {
        if (syi_starts(s, "{tmp}/")) { s += 6; continue; }
        syi_text_add(t, s++, 1);
    }
}

/* -- parts of pages ------------------------------------------------------------------ */

static void synopsis(syi_text *t, const sy_verb *v)
{
    syi_text_printf(t, "steelyard %s", v->name);
    bool options = false;
    char word[64];
    for (const sy_option *r = v->options; r && r->name; r++) {
        bool must = r->flags & SY_OPT_REQUIRED;
        if (r->flags & SY_OPT_POSITION) {
            syi_text_puts(t, must ? " " : " [");
            upper(t, r->name);
            if (!must) syi_text_puts(t, "]");
        } else if (must) {
            syi_text_printf(t, " --%s %s", r->name, syi_option_value_word(word, r));
        } else {
            options = true;
        }
    }
    if (options) syi_text_puts(t, " [options]");
}

/* "Hu et al.: Title. ICLR 2022 (arXiv:2106.09685)"; up to two authors are named. */
static void paper_text(syi_text *t, const sy_paper *p)
{
    const char *authors = p->authors ? p->authors : "", *comma = strchr(authors, ',');
    if (comma && strchr(comma + 1, ',')) syi_text_printf(t, "%.*s et al.: ", (int)(comma - authors), authors);
    else if (*authors) syi_text_printf(t, "%s: ", authors);
    syi_text_printf(t, "%s.", p->title);
    bool dated = false; /* a venue often says its year itself */
    for (const char *v = p->venue; v && *v && !dated; v++) dated = strspn(v, "0123456789") == 4;
    if (p->venue) syi_text_printf(t, " %s", p->venue);
    if (p->year && !dated) syi_text_printf(t, " %d", p->year);
    if (p->id) syi_text_printf(t, " (%s)", p->id);
}

/* "; default 3; also called max_n": what follows the help of a row. */
static void details(syi_text *t, syi_page page, const sy_option *r)
{
    char range[96];
    if (page == SYI_PAGE_MAN) {
        if (r->flags & SY_OPT_REQUIRED) syi_text_puts(t, "; required");
        if (*syi_option_range(range, r)) syi_text_printf(t, "; %s", range);
        if (r->def) syi_text_printf(t, "; default %s", r->def);
    }
    if (r->alias) syi_text_printf(t, "; also called %s", r->alias);
    if (r->peft && page == SYI_PAGE_MARKDOWN) syi_text_printf(t, "; in adapter_config.json: %s", r->peft);
}

/* The choices of an ENUM row, each with marks around it. */
static void choices_text(syi_text *t, const sy_option *r, const char *between, const char *mark)
{
    for (int i = 0; r->choices[i]; i++) /* "miss=true" is "miss" for people */
        syi_text_printf(t, "%s%s%.*s%s", i ? between : "", mark, (int)strcspn(r->choices[i], "="), r->choices[i], mark);
}

/* One row of a man page's or Markdown page's option list. */
static void option_entry(syi_text *t, syi_page page, const sy_option *r)
{
    char word[64], range[96];
    bool position = r->flags & SY_OPT_POSITION;
    syi_text more;
    syi_text_init(&more, t->ctx, 65536);
    details(&more, page, r);
    const char *rest = more.s && more.len > 2 ? more.s + 2 : NULL;
    syi_option_value_word(word, r);
    if (page == SYI_PAGE_MAN) {
        syi_text_puts(t, ".TP\n.B ");
        if (position) upper(t, r->name);
        else { roff(t, "--"); roff(t, r->name); }
        if (*word && !position) { syi_text_puts(t, " \\fI"); roff(t, word); syi_text_puts(t, "\\fR"); }
        syi_text_puts(t, "\n");
        roff(t, r->help);
        if (rest) { syi_text_puts(t, " ("); roff(t, rest); syi_text_puts(t, ")"); }
        syi_text_puts(t, "\n");
    } else {
        bool shown = *word && r->type != SY_OPT_ENUM && !position;
        syi_text_printf(t, "| `%s%s%s%s` | ", position ? "" : "--", r->name, shown ? " " : "", shown ? word : "");
        if (r->type == SY_OPT_ENUM) choices_text(t, r, ", ", "`");
        else syi_text_puts(t, syi_option_range(range, r));
        if (r->def) syi_text_printf(t, " | `%s` | ", r->def);
        else syi_text_puts(t, r->flags & SY_OPT_REQUIRED ? " | required | " : " | | ");
        markdown(t, r->help);
        if (rest) { syi_text_puts(t, " ("); markdown(t, rest); syi_text_puts(t, ")"); }
        syi_text_puts(t, " |\n");
    }
    syi_text_free(&more);
}

static void options_part(syi_text *t, syi_page page, const char *title, const sy_option *rows, bool advanced)
{
    if (!rows || !rows->name) return;
    if (page == SYI_PAGE_TEXT) {
        bool hidden = false;
        for (const sy_option *r = rows; r->name; r++) hidden |= (r->flags & SY_OPT_ADVANCED) != 0;
        syi_text_printf(t, "\n%s:\n", title);
        syi_options_help(t, rows, advanced);
        if (hidden && !advanced) syi_text_puts(t, "  (more with --advanced)\n");
        return;
    }
    if (page == SYI_PAGE_MAN) {
        syi_text_puts(t, ".SH ");
        upper(t, title);
        syi_text_puts(t, "\n");
    } else {
        syi_text_printf(t, "\n**%s**\n\n| option | values | default | what it is |\n|---|---|---|---|\n", title);
    }
    for (const sy_option *r = rows; r->name; r++) option_entry(t, page, r);
}

static void paragraph(syi_text *t, syi_page page, const char *s)
{
    if (!s) return;
    if (page == SYI_PAGE_TEXT) { syi_text_puts(t, "\n"); wrapped(t, s, 0, COLUMNS); return; }
    if (page == SYI_PAGE_MARKDOWN) { syi_text_puts(t, "\n"); syi_text_puts(t, s); syi_text_puts(t, "\n"); return; }
    for (const char *p = s; *p;) {
        const char *end = strchr(p, '\n');
        size_t len = end ? (size_t)(end - p) : strlen(p);
        char *line = syi_strndup(t->ctx, p, len);
        if (line && len) { syi_text_puts(t, ".PP\n"); roff(t, line); syi_text_puts(t, "\n"); }
        syi_free(t->ctx, line);
        p += len + (end != NULL);
    }
}

static void code_part(syi_text *t, syi_page page, const char *title, const char *code)
{
    if (!code) return;
    if (page == SYI_PAGE_TEXT) {
        syi_text_printf(t, "\n%s:\n  ", title);
        syi_text_puts(t, code);
        syi_text_puts(t, "\n");
    } else if (page == SYI_PAGE_MAN) {
        syi_text_puts(t, ".SH ");
        upper(t, title);
        syi_text_puts(t, "\n.nf\n");
        roff(t, code);
        syi_text_puts(t, "\n.fi\n");
    } else {
        syi_text_puts(t, "\n```\n");
        syi_text_puts(t, code);
        syi_text_puts(t, "\n```\n");
    }
}

static void title_part(syi_text *t, syi_page page, const char *name, const char *title, int depth)
{
    if (page == SYI_PAGE_MAN) {
        syi_text_puts(t, ".TH ");
        upper(t, name);
        syi_text_printf(t, " 1 \"\" \"steelyard %s\" \"User Commands\"\n.SH NAME\n", sy_version());
        roff(t, name);
        syi_text_puts(t, " \\- ");
        roff(t, title);
        syi_text_puts(t, "\n");
    } else if (page == SYI_PAGE_MARKDOWN) {
        syi_text_printf(t, "%.*s `%s`: ", depth, "####", name);
        syi_text_puts(t, title);
        syi_text_puts(t, "\n");
    } else {
        syi_text_printf(t, "%s: %s\n", name, title);
    }
}

/* The method and its presets: what a line may call it by. */
static void preset_names(syi_text *t, const sy_method *m, const char *before, const char *between)
{
    syi_text_printf(t, "%s%s", before, m->name);
    for (const sy_preset *p = m->presets; p && p->name; p++) syi_text_printf(t, "%s%s", between, p->name);
}

/* Which methods a verb can have: "--adapter: full, lora". */
static void methods_part(syi_text *t, syi_page page, const sy_verb *v)
{
    int kind;
    const sy_option *row;
    for (int i = 0; (row = syi_verb_names(v, i, &kind)); i++) {
        syi_text line;
        syi_text_init(&line, t->ctx, 65536);
        int n = 0;
        for (const sy_method *const *m = sy_methods(); *m; m++)
            if ((int)(*m)->kind == kind)
                preset_names(&line, *m, n++ ? ", " : "", ", ");
        if (page == SYI_PAGE_TEXT) {
            syi_text all;
            syi_text_init(&all, t->ctx, 65536);
            syi_text_printf(&all, "--%s is one of: %s. It brings options of its own, which are given beside those above: "
                            "\"steelyard help NAME\".", row->name, line.s ? line.s : "");
            syi_text_puts(t, "\n");
            wrapped(t, all.s, 0, COLUMNS);
            syi_text_free(&all);
        } else if (page == SYI_PAGE_MAN) {
            syi_text_puts(t, ".PP\n");
            roff(t, "--");
            roff(t, row->name);
            roff(t, " is one of: ");
            roff(t, line.s);
            roff(t, "; each brings options of its own (steelyard help NAME).\n");
        } else {
            syi_text_printf(t, "\n`--%s` is one of: %s; each brings options of its own.\n", row->name, line.s ? line.s : "");
        }
        syi_text_free(&line);
    }
}

static const char exit_codes[] =
    "Exit codes: 0 done, 1 failed work, 2 bad usage or configuration, 3 bad input file, 4 memory or disk, 130 interrupted.";

/* -- pages ------------------------------------------------------------------------------- */

static void verb_page(syi_text *t, syi_page page, const sy_verb *v, bool advanced)
{
    syi_text s;
    syi_text_init(&s, t->ctx, 65536);
    char name[64];
    snprintf(name, sizeof name, page == SYI_PAGE_MAN ? "steelyard-%s" : "steelyard %s", v->name);
    title_part(t, page, name, v->title, 2);
    synopsis(&s, v);
    if (page == SYI_PAGE_TEXT) { syi_text_puts(t, "\nusage: "); syi_text_puts(t, s.s); syi_text_puts(t, "\n"); }
    else code_part(t, page, "synopsis", s.s);
    if (page == SYI_PAGE_MAN) syi_text_puts(t, ".SH DESCRIPTION\n");
    paragraph(t, page, v->about);
    options_part(t, page, "options", v->options, advanced);
    if (page != SYI_PAGE_MARKDOWN) options_part(t, page, "options of every verb", sy_common_options(), advanced);
    methods_part(t, page, v);
    s.len = 0;
    if (v->example) {
        syi_text_puts(&s, "steelyard ");
        example_text(&s, v->example);
        code_part(t, page, "example", s.s);
    }
    if (page == SYI_PAGE_MAN) { syi_text_puts(t, ".SH EXIT STATUS\n"); roff(t, exit_codes + sizeof "Exit codes: " - 1); syi_text_puts(t, "\n.SH SEE ALSO\n.BR steelyard (1)\n"); }
    syi_text_free(&s);
}

static void method_page(syi_text *t, syi_page page, const sy_method *m, bool advanced)
{
    char line[1024];
    snprintf(line, sizeof line, page == SYI_PAGE_MAN ? "steelyard-%s" : "%s", m->name);
    title_part(t, page, line, m->title, 1);
    if (page == SYI_PAGE_MAN) syi_text_puts(t, ".SH DESCRIPTION\n");
    snprintf(line, sizeof line, "Kind: %s.%s%s%s", sy_kind_name(m->kind), m->peft_type ? " PEFT calls it " : "",
             m->peft_type ? m->peft_type : "", m->peft_type ? "." : "");
    paragraph(t, page, line);
    paragraph(t, page, m->about);
    for (const sy_preset *p = m->presets; p && p->name; p++) {
        snprintf(line, sizeof line, "%s: %s (%s)", p->name, p->title, p->settings);
        paragraph(t, page, line);
    }
    for (const sy_paper *p = m->papers; p && p->title; p++) {
        syi_text one;
        syi_text_init(&one, t->ctx, 65536);
        syi_text_puts(&one, "Paper: ");
        paper_text(&one, p);
        if (p->equations && page == SYI_PAGE_TEXT) syi_text_printf(&one, "\n  %s", p->equations);
        paragraph(t, page, one.s);
        if (p->equations && page != SYI_PAGE_TEXT) {
            syi_text_puts(t, page == SYI_PAGE_MAN ? ".IP\n" : "\n    ");
            if (page == SYI_PAGE_MAN) roff(t, p->equations);
            else syi_text_puts(t, p->equations);
            syi_text_puts(t, "\n");
        }
        syi_text_free(&one);
    }
    options_part(t, page, "options", m->options, advanced);
    if (m->slots && m->slots->name && page != SYI_PAGE_TEXT) {
        syi_text_puts(t, page == SYI_PAGE_MAN ? ".SH TENSORS\n" : "\n| tensor | shape | kept | when |\n|---|---|---|---|\n");
        for (const sy_slot *s = m->slots; s->name; s++) {
            const char *kept = s->flags & SY_SLOT_TRAIN ? "trained" : s->flags & SY_SLOT_STATE ? "for resuming" : "frozen";
            if (page == SYI_PAGE_MAN) {
                syi_text_puts(t, ".TP\n.B ");
                roff(t, s->name);
                syi_text_puts(t, "\n");
                roff(t, s->shape);
                roff(t, ", ");
                roff(t, kept);
                if (s->when && *s->when) { roff(t, ", when "); roff(t, s->when); }
                syi_text_puts(t, "\n");
            } else {
                syi_text_printf(t, "| `%s` | `%s` | %s | %s |\n", s->name, s->shape, kept, s->when ? s->when : "");
            }
        }
    }
}

static void verbs_part(syi_text *t, syi_page page)
{
    for (const sy_verb *const *v = sy_verbs(); *v; v++) {
        if (page == SYI_PAGE_TEXT) syi_text_printf(t, "  %-10s %s\n", (*v)->name, (*v)->title);
        else if (page == SYI_PAGE_MAN) {
            syi_text_puts(t, ".TP\n.BR ");
            roff(t, "steelyard-");
            roff(t, (*v)->name);
            syi_text_puts(t, " (1)\n");
            roff(t, (*v)->title);
            syi_text_puts(t, "\n");
        } else {
            syi_text_printf(t, "| [`%s`](#steelyard-%s) | %s |\n", (*v)->name, (*v)->name, (*v)->title);
        }
    }
}

static void command_page(syi_text *t, syi_page page, bool advanced)
{
    static const char title[] = "changes the weights of neural networks";
    static const char about[] =
        "Options may stand in a YAML file too (steelyard train run.yaml --lr 2e-4): flags win over it. "
        "A model is a Hugging Face folder or a GGUF file everywhere.";
    title_part(t, page, "steelyard", title, 1);
    if (page == SYI_PAGE_TEXT) {
        syi_text_puts(t, "\nusage: steelyard VERB [arguments] [--option value]\n\nverbs:\n");
        verbs_part(t, page);
        paragraph(t, page, about);
        paragraph(t, page, exit_codes);
        paragraph(t, page, "\"steelyard VERB --help\" explains a verb, \"steelyard help NAME\" a verb or a method, "
                           "\"steelyard methods\" lists the methods, \"steelyard --version\" says which version this is.");
        return;
    }
    code_part(t, page, "synopsis", "steelyard VERB [arguments] [--option value]");
    if (page == SYI_PAGE_MAN) syi_text_puts(t, ".SH DESCRIPTION\n");
    paragraph(t, page, about);
    if (page == SYI_PAGE_MAN) syi_text_puts(t, ".SH VERBS\n");
    else syi_text_puts(t, "\n| verb | does |\n|---|---|\n");
    verbs_part(t, page);
    options_part(t, page, "options of every verb", sy_common_options(), advanced);
    if (page == SYI_PAGE_MAN) { syi_text_puts(t, ".SH EXIT STATUS\n"); roff(t, exit_codes + sizeof "Exit codes: " - 1); syi_text_puts(t, "\n"); }
    else paragraph(t, page, exit_codes);
}

void syi_manual(syi_text *out, syi_page page, const sy_verb *verb, const sy_method *method, bool advanced)
{
    if (page != SYI_PAGE_TEXT) advanced = true;
    if (verb) verb_page(out, page, verb, advanced);
    else if (method) method_page(out, page, method, advanced);
    else command_page(out, page, advanced);
}

json_t *syi_rows_json(const sy_option *rows)
{
    static const char *const types[] = {
        [SY_OPT_BOOL] = "bool", [SY_OPT_INT] = "int", [SY_OPT_FLOAT] = "float", [SY_OPT_SIZE] = "size", [SY_OPT_STRING] = "string",
        [SY_OPT_PATH] = "path", [SY_OPT_ENUM] = "enum", [SY_OPT_LIST] = "list", [SY_OPT_MAP] = "map"
    };
    json_t *list = json_array();
    for (const sy_option *r = rows; r && r->name; r++) {
        json_t *o = json_pack("{s:s, s:s, s:s?}", "name", r->name, "type", types[r->type], "help", r->help);
        if (!o) continue;
        if (r->def) json_object_set_new(o, "default", json_string(r->def));
        if (r->flags & SY_OPT_REQUIRED) json_object_set_new(o, "required", json_true());
        if (r->min != 0 || r->max != 0) {
            json_object_set_new(o, "min", json_real(r->min));
            json_object_set_new(o, "max", json_real(r->max));
        }
        if (r->type == SY_OPT_ENUM) {
            json_t *c = json_array();
            for (int i = 0; r->choices[i]; i++) json_array_append_new(c, json_stringn(r->choices[i], strcspn(r->choices[i], "=")));
            json_object_set_new(o, "choices", c);
        }
        if (r->alias) json_object_set_new(o, "aliases", json_string(r->alias));
        if (r->peft) json_object_set_new(o, "peft", json_string(r->peft));
        json_array_append_new(list, o);
    }
    return list;
}

/* -- bash completion ------------------------------------------------------------------------ */

static void flags_of(syi_text *t, const sy_option *rows)
{
    for (const sy_option *r = rows; r && r->name; r++)
        if (!(r->flags & SY_OPT_POSITION)) syi_text_printf(t, " --%s", r->name);
}

/* case arms "--key) words" for the values of rows. */
static void values_of(syi_text *t, const sy_option *rows)
{
    for (const sy_option *r = rows; r && r->name; r++) {
        if (r->type == SY_OPT_ENUM) {
            syi_text_printf(t, "        --%s) words=\"", r->name);
            choices_text(t, r, " ", "");
            syi_text_puts(t, "\" ;;\n");
        } else if (r->type == SY_OPT_PATH) {
            syi_text_printf(t, "        --%s) files=1 ;;\n", r->name);
        } else if (r->type != SY_OPT_BOOL) {
            syi_text_printf(t, "        --%s) return ;;\n", r->name);
        }
    }
}

void syi_completion_bash(syi_text *t)
{
    syi_text_puts(t, "# bash completion for steelyard; made by \"steelyard help --completion bash\"\n"
                     "_steelyard() {\n"
                     "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} verb=${COMP_WORDS[1]} words= files= options=\n"
                     "    COMPREPLY=()\n"
                     "    if [ \"$COMP_CWORD\" -eq 1 ]; then\n        COMPREPLY=($(compgen -W \"");
    for (const sy_verb *const *v = sy_verbs(); *v; v++) syi_text_printf(t, "%s%s", v == sy_verbs() ? "" : " ", (*v)->name);
    syi_text_puts(t, " --help --version\" -- \"$cur\"))\n        return\n    fi\n    case $verb in\n");
    for (const sy_verb *const *v = sy_verbs(); *v; v++) {
        int kind;
        const sy_option *row;
        syi_text_printf(t, "    %s)\n        options=\"--help", (*v)->name);
        flags_of(t, (*v)->options);
        flags_of(t, sy_common_options());
        syi_text_puts(t, "\"\n        case $prev in\n");
        for (int i = 0; (row = syi_verb_names(*v, i, &kind)); i++) {
            syi_text_printf(t, "        --%s) words=\"", row->name);
            for (const sy_method *const *m = sy_methods(); *m; m++)
                if ((int)(*m)->kind == kind) preset_names(t, *m, " ", " ");
            syi_text_puts(t, "\" ;;\n");
        }
        values_of(t, (*v)->options);
        values_of(t, sy_common_options());
        syi_text_puts(t, "        esac\n");
        /* options of the methods that the line names, or of the defaults */
        for (int i = 0; (row = syi_verb_names(*v, i, &kind)); i++) {
            syi_text_printf(t, "        case \" ${COMP_WORDS[*]} \" in\n");
            for (const sy_method *const *m = sy_methods(); *m; m++) {
                if ((int)(*m)->kind != kind || !(*m)->options) continue;
                bool is_default = row->def && !strcmp(row->def, (*m)->name);
                if (is_default) continue;
                syi_text_printf(t, "        *\" --%s %s \"*", row->name, (*m)->name);
                for (const sy_preset *p = (*m)->presets; p && p->name; p++) syi_text_printf(t, "|*\" --%s %s \"*", row->name, p->name);
                syi_text_puts(t, ") options+=\"");
                flags_of(t, (*m)->options);
                syi_text_puts(t, "\" ;;\n");
            }
            const sy_method *def = row->def ? sy_method_find(row->def, kind) : NULL;
            if (def && def->options) {
                syi_text_printf(t, "        *) options+=\"");
                flags_of(t, def->options);
                syi_text_puts(t, "\" ;;\n");
            }
            syi_text_puts(t, "        esac\n");
        }
        if (!strcmp((*v)->name, "help")) {
            syi_text_puts(t, "        [ -n \"$words$files\" ] || words=\"");
            for (const sy_verb *const *w = sy_verbs(); *w; w++) syi_text_printf(t, "%s ", (*w)->name);
            for (const sy_method *const *m = sy_methods(); *m; m++) preset_names(t, *m, " ", " ");
            syi_text_puts(t, "\"\n");
        }
        syi_text_puts(t, "        ;;\n");
    }
    syi_text_puts(t, "    esac\n"
                     "    if [ -n \"$words\" ]; then COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
                     "    elif [ -z \"$files\" ] && [[ $cur == -* ]]; then COMPREPLY=($(compgen -W \"$options\" -- \"$cur\"))\n"
                     "    else compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- \"$cur\"))\n"
                     "    fi\n"
                     "}\n"
                     "complete -F _steelyard steelyard\n");
}
