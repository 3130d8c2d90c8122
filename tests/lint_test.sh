#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Rules of the house that a program can check, on every source file of the tree:
# licence line, length, functions that must not be called in the library, markers
# of unfinished work. Comments and string literals are taken out before looking.
set -u
root=${STEELYARD_ROOT:-$(cd "$(dirname "$0")/.." && pwd)}
cd "$root" || exit 2
command -v awk >/dev/null || { echo "lint: awk is missing"; exit 2; }
fail=0
complain() { echo "$1"; fail=1; }

# The C files of the tree: what git knows or would add; without git, the folders.
list() {
    if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
        git ls-files --cached --others --exclude-standard -- "$@" | while read -r f; do [ -f "$f" ] && echo "$f"; done
    else
        for d in "$@"; do [ -e "$d" ] && find "$d" -type f; done
    fi
}
mapfile -t sources < <(list include src experiments tests bench examples | grep -E '\.[ch]$')
mapfile -t others < <(list CMakeLists.txt cmake tests bench .ci .clang-format | grep -E '(CMakeLists\.txt|\.cmake|\.sh|\.clang-format)$')
[ ${#sources[@]} -ge 20 ] || complain "lint: found only ${#sources[@]} source files below $root"

for f in "${sources[@]}"; do
    [ "$(head -c 42 "$f")" = "/* SPDX-License-Identifier: Apache-2.0 */" ] ||
        [ "$(head -n 1 "$f")" = "/* SPDX-License-Identifier: Apache-2.0 */" ] ||
        complain "$f:1: expected the line /* SPDX-License-Identifier: Apache-2.0 */"
    case $(sed -n 2p "$f") in
    "/*"*) ;;
    *) complain "$f:2: expected a comment that says what the file is for" ;;
    esac
    lines=$(wc -l <"$f")
    [ "$lines" -le 800 ] || complain "$f: $lines lines; at most 800 are allowed: split it"
    grep -nE $'\t| +$' "$f" | head -n 3 | while IFS=: read -r n _; do echo "$f:$n: a tab, or blanks at the end of the line"; done | grep . && fail=1
done
for f in "${others[@]}"; do
    head -n 2 "$f" | grep -q 'SPDX-License-Identifier: Apache-2.0' || complain "$f:1: expected a licence line"
done

# file:line:code with comments and literals blanked out
code() {
    awk '
    FNR == 1 { inside = 0 }
    {
        out = ""; n = length($0); i = 1
        while (i <= n) {
            two = substr($0, i, 2); one = substr($0, i, 1)
            if (inside) {
                end = index(substr($0, i), "*/")
                if (end == 0) break
                inside = 0; i += end + 1; continue
            }
            if (two == "/*") { inside = 1; i += 2; out = out " "; continue }
            if (two == "//") break
            if (one == "\"" || one == "\047") {
                q = one; i++
                while (i <= n && substr($0, i, 1) != q) i += substr($0, i, 1) == "\\" ? 2 : 1
                i++; out = out q q; continue
            }
            # a run of plain code at once
            rest = substr($0, i)
            run = match(substr(rest, 2), /[\/"\047]/) ? RSTART : length(rest)
            out = out substr(rest, 1, run); i += run
        }
        print FILENAME ":" FNR ":" out
    }' "$@"
}

mapfile -t all_src < <(printf '%s\n' "${sources[@]}" | grep -E '^(src|include|experiments)/')
word='(^|[^A-Za-z0-9_.>])'

# $1: pattern of calls, $2: why, then the lines on stdin
forbid() {
    hits=$(grep -E "${word}($1)[[:space:]]*\(" || true)
    [ -z "$hits" ] && return
    echo "$hits" | while IFS= read -r h; do echo "$h   <- $2"; done
    fail=1
}
everything=$(code "${all_src[@]}")
inside=$(grep -E '^src/' <<<"$everything" | grep -v '^src/cli/')
forbid 'strcpy|strcat|sprintf|vsprintf|gets|strtok|tmpnam|mktemp|alloca|system|popen|rand|srand' \
    'not safe; see base.h for what to use' <<<"$everything"
forbid 'atoi|atol|atoll|atof|sscanf' 'says nothing about bad input: syi_parse_int, syi_parse_double' <<<"$everything"
forbid 'abort|exit|_Exit|quick_exit|_exit' 'the library returns a status' <<<"$inside"
forbid 'printf|puts|putchar|perror|vprintf' 'the library prints nothing: syi_log, callbacks' <<<"$inside"
forbid 'assert' 'the library never asserts: return SY_E_BUG' <<<"$inside"
forbid 'malloc|calloc|realloc|aligned_alloc|posix_memalign|strdup|strndup|free' \
    'memory goes through syi_alloc and syi_free' <<<"$(grep -vE '^src/base/memory\.c:' <<<"$inside")"
# Disk changes pass through src/base, where tests can make them fail.
forbid 'fopen|fwrite|unlink|rename|mkdir|rmdir|ftruncate|fsync' 'files go through base.h' \
    <<<"$(grep -vE '^src/base/' <<<"$inside")"
hits=$(grep -E "${word}std(err|out)([^A-Za-z0-9_]|$)" <<<"$inside" || true)
[ -z "$hits" ] || complain "$hits   <- the library prints nothing"

# Mutable globals: two contexts in one process must not disturb each other.
hits=$(grep -E '^[^:]+:[0-9]+:(static )?(int|long|bool|char|float|double|size_t|u?int[0-9]+_t|void|struct [a-z_]+|syi?_[a-z_]+) \*?[a-z_]+(\[[^]]*\])?( = [^()]*)?;' \
    <<<"$inside" | grep -vE ':(typedef|extern|const|static const) | const |:return|:goto|:break' | grep -vE '\.h:' || true)
[ -z "$hits" ] || complain "$hits   <- a global variable"

# Marks of unfinished work, wherever they stand (this file names them).
marks='TO''DO|FIX''ME|XX''X:|HA''CK:'
hits=$(list include src experiments tests bench examples docs cmake CMakeLists.txt README.md .ci | grep -vE '\.(json|safetensors|gguf|gz|bin|png|svg)$' |
    tr '\n' '\0' | xargs -0 grep -nIE "(^|[^A-Za-z])($marks)" 2>/dev/null || true)
[ -z "$hits" ] || complain "$hits   <- finish it or leave it out"

[ $fail -eq 0 ] && echo "lint: ${#sources[@]} C files, ${#others[@]} others: fine"
exit $fail
