/* SPDX-License-Identifier: Apache-2.0 */
/* Progress and log on standard error: on a terminal one line that is drawn anew, with
 * a bar; elsewhere plain lines at intervals that grow with the length of the work. */
#include "cli/cli.h"

#include <math.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

void cli_screen_init(cli_screen *s)
{
    memset(s, 0, sizeof *s);
    const char *term = getenv("TERM");
    s->live = isatty(STDERR_FILENO) && (!term || strcmp(term, "dumb"));
    s->echo_lines = isatty(STDOUT_FILENO);
    s->last = -1;
}

static bool quiet(const cli_screen *s) { return s->job && syi_job_common(s->job)->quiet; }

void cli_screen_clear(cli_screen *s)
{
    if (s->shown) fputs("\r\033[K", stderr);
    s->shown = false;
}

void cli_log(void *screen, sy_log_level level, const char *line)
{
    cli_screen *s = screen;
    if (level == SY_LOG_DEBUG || (level == SY_LOG_INFO && quiet(s))) return;
    cli_screen_clear(s);
    fprintf(stderr, "%s%s\n", level == SY_LOG_INFO ? "" : level == SY_LOG_WARN ? "steelyard: warning: " : "steelyard: ", line);
}

void cli_error(cli_screen *s, const char *message)
{
    cli_screen_clear(s);
    fprintf(stderr, "steelyard: %s\n", message);
}

static int width(void)
{
    struct winsize w;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &w) || w.ws_col < 20) return 80;
    return w.ws_col;
}

/* "  loss 2.3412  1234 tokens/s  1.2 GiB  0:42 left" */
static void facts(char *out, size_t size, const sy_progress *p)
{
    char buf[32];
    size_t n = 0;
    out[0] = 0;
#define FACT(...) do { int k_ = snprintf(out + n, size - n, __VA_ARGS__); if (k_ > 0) n = n + (size_t)k_ < size ? n + (size_t)k_ : size - 1; } while (0)
    if (!isnan(p->loss)) FACT("  loss %.4f", p->loss);
    if (p->rate_unit && p->rate > 0) FACT(p->rate < 10 ? "  %.2f %s/s" : "  %.0f %s/s", p->rate, p->rate_unit);
    if (p->bytes > 0) FACT("  %s", syi_human_bytes(buf, p->bytes));
    if (p->eta >= 0 && (p->total <= 0 || p->done < p->total)) FACT("  %s left", syi_human_time(buf, p->eta));
    else if (p->seconds > 0) FACT("  %s", syi_human_time(buf, p->seconds));
#undef FACT
}

static void draw(cli_screen *s, const sy_progress *p)
{
    char tail[160], head[96], line[512], bar[40] = "";
    facts(tail, sizeof tail, p);
    if (p->total > 0) snprintf(head, sizeof head, "%s %lld/%lld", p->what, (long long)p->done, (long long)p->total);
    else snprintf(head, sizeof head, "%s %lld %ss", p->what, (long long)p->done, p->unit ? p->unit : "step");
    int columns = width() - 1, room = columns - (int)strlen(head) - (int)strlen(tail) - 4;
    if (p->total > 0 && room >= 6) {
        int cells = room > 24 ? 24 : room, full = (int)((double)cells * (double)p->done / (double)p->total);
        if (full > cells) full = cells;
        bar[0] = ' '; bar[1] = '[';
        for (int i = 0; i < cells; i++) bar[2 + i] = i < full ? '=' : i == full ? '>' : ' ';
        bar[2 + cells] = ']'; bar[3 + cells] = 0;
    }
    snprintf(line, sizeof line, "%s%s%s", head, bar, tail);
    fprintf(stderr, "\r%.*s\033[K", columns, line);
    fflush(stderr);
    s->shown = true;
}

void cli_progress(void *screen, const sy_progress *p)
{
    cli_screen *s = screen;
    if (quiet(s)) return;
    double now = syi_now();
    bool other = strncmp(s->what, p->what, sizeof s->what - 1) != 0 || p->done < s->last;
    bool end = p->total > 0 && p->done >= p->total;
    if (s->live) {
        if (!other && !end && now - s->drawn < 0.1) return;
        if (other && s->shown) fputc('\n', stderr);
        draw(s, p);
        if (end) { fputc('\n', stderr); s->shown = false; }
    } else {
        /* A line every 5 s in the first minute, every 30 s in the first hour, then every
         * minute, and one at the end unless all of it took no time. */
        double every = p->seconds < 60 ? 5 : p->seconds < 3600 ? 30 : 60;
        bool due = other ? false : now - s->drawn >= every;
        bool last = end && (other || s->last != p->done) && (p->seconds >= 0.5 || (p->unit && !strcmp(p->unit, "step")));
        if (!due && !last) {
            if (other) s->drawn = now;
            s->last = p->done;
            snprintf(s->what, sizeof s->what, "%s", p->what);
            return;
        }
        char tail[160];
        facts(tail, sizeof tail, p);
        if (p->total > 0) fprintf(stderr, "%s %s %lld/%lld%s\n", p->what, p->unit ? p->unit : "step", (long long)p->done, (long long)p->total, tail);
        else fprintf(stderr, "%s %s %lld%s\n", p->what, p->unit ? p->unit : "step", (long long)p->done, tail);
    }
    s->drawn = now;
    s->last = p->done;
    snprintf(s->what, sizeof s->what, "%s", p->what);
}
