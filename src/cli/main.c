/* SPDX-License-Identifier: Apache-2.0 */
/* The command: one verb, its arguments, one job, one exit code (0 done, 1 failed work,
 * 2 usage, 3 bad input, 4 memory or disk, 130 interrupted). Signals ask the work to
 * stop; it saves what it can. */
#include "cli/cli.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

static sy_context *context; /* for the signal handler only */

static void on_signal(int signal)
{
    (void)signal;
    if (context) sy_cancel(context); /* a second signal ends the process: SA_RESETHAND */
}

static void catch_signals(void)
{
    struct sigaction a;
    memset(&a, 0, sizeof a);
    a.sa_handler = on_signal;
    a.sa_flags = (int)(SA_RESETHAND | SA_RESTART);
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
    a.sa_handler = SIG_IGN; /* a closed pipe is an error of writing, reported below */
    a.sa_flags = 0;
    sigaction(SIGPIPE, &a, NULL);
}

static void print_text(void *self, const char *text, size_t len)
{
    cli_screen *s = self;
    if (s->no_lines_in_json && s->job && syi_job_common(s->job)->json) return; /* json: true in YAML */
    if (s->echo_lines) cli_screen_clear(s);
    fwrite(text, 1, len, stdout);
    if (s->echo_lines) fflush(stdout);
}

/* The report with {"error": {...}} in it, as one line. */
static void print_error_object(const sy_job *job, sy_context *ctx, sy_status st)
{
    json_t *j = json_loads(job ? sy_job_report(job) : "{}", 0, NULL);
    if (!j) j = json_object();
    json_t *e = json_pack("{s:s, s:s, s:i, s:s}", "code", sy_status_name(st), "class", sy_status_text(st), "exit", sy_status_exit(st),
                          "message", sy_error_message(ctx));
    if (e) json_object_set_new(j, "error", e);
    char *text = json_dumps(j, JSON_COMPACT);
    puts(text ? text : "{\"error\":{\"code\":\"SY_E_MEMORY\",\"class\":\"out of memory\",\"exit\":4,\"message\":\"\"}}");
    free(text);
    json_decref(j);
}

static int work(sy_context *ctx, cli_screen *screen, const char *name, int argc, char **argv)
{
    sy_job *job = NULL;
    bool json = cli_has(argc, argv, "--json");
    sy_status st = sy_job_new(ctx, name, &job);
    const sy_verb *verb = sy_verb_find(name);
    if (st == SY_OK) st = cli_arguments(ctx, job, verb, argc, argv);
    bool lines = st == SY_OK && (verb->flags & SY_VERB_RAW_OUTPUT) && (!json || (verb->flags & SY_VERB_JSON_LINES));
    if (st == SY_OK) {
        screen->job = job;
        screen->no_lines_in_json = !(verb->flags & SY_VERB_JSON_LINES);
        if (lines) sy_job_print_to(job, print_text, screen);
        st = sy_job_run(job);
        json = json || syi_job_common(job)->json; /* also from YAML */
    }
    cli_screen_clear(screen);
    if (st != SY_OK) {
        if (json) print_error_object(job, ctx, st);
        cli_error(screen, *sy_error_message(ctx) ? sy_error_message(ctx) : sy_status_text(st));
    } else if (json && !(verb->flags & SY_VERB_JSON_LINES)) {
        puts(sy_job_report(job));
    } else if (!lines && !syi_job_common(job)->quiet) {
        cli_print(name, syi_job_report(job));
    }
    screen->job = NULL;
    sy_job_free(job);
    return sy_status_exit(st);
}

/* The threads of GNU OpenMP spin for milliseconds at every barrier before they sleep. On a
 * machine that does other work too, that steals the very core the last thread is waiting
 * for: steps become several times slower. The limit is read when the library is loaded, so
 * the command starts itself once more with it (a millisecond). Who sets one keeps it. */
static void spin_less(char **argv)
{
#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__)
    if (getenv("GOMP_SPINCOUNT") || getenv("OMP_WAIT_POLICY")) return;
    if (setenv("GOMP_SPINCOUNT", "5000", 1) == 0) execv("/proc/self/exe", argv);
#else
    (void)argv;
#endif
}

int main(int argc, char **argv)
{
    spin_less(argv);
    static char help[] = "help";
    if (argc > 1 && (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V"))) {
        printf("steelyard %s\n", sy_version());
        return 0;
    }
    sy_context *ctx = sy_context_new();
    if (!ctx) {
        fputs("steelyard: out of memory\n", stderr);
        return sy_status_exit(SY_E_MEMORY);
    }
    context = ctx;
    catch_signals();
    cli_screen screen;
    cli_screen_init(&screen);
    sy_log_set(ctx, cli_log, &screen);
    sy_progress_set(ctx, cli_progress, &screen);

    int code;
    const char *verb = argc > 1 ? argv[1] : help;
    bool wants_help = !strcmp(verb, "--help") || !strcmp(verb, "-h");
    if (argc > 2 && !wants_help && sy_verb_find(verb))
        for (int i = 2; i < argc && strcmp(argv[i], "--") && !wants_help; i++)
            if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
                /* the page of the verb; "--advanced" beside it is the only other thing that counts */
                char *page[2] = { argv[1], NULL };
                static char advanced[] = "--advanced";
                if (cli_has(argc - 2, argv + 2, advanced)) page[1] = advanced;
                code = work(ctx, &screen, help, page[1] ? 2 : 1, page);
                goto done;
            }
    if (wants_help || argc < 2) code = work(ctx, &screen, help, argc > 2 ? argc - 2 : 0, argv + 2);
    else code = work(ctx, &screen, verb, argc - 2, argv + 2);
done:
    if ((fflush(stdout) || ferror(stdout)) && !code) {
        cli_error(&screen, errno == EPIPE ? "the reader of standard output has gone" : "cannot write to standard output; is the disk full?");
        code = sy_status_exit(SY_E_IO);
    }
    context = NULL;
    sy_context_free(ctx);
    return code;
}
