# SPDX-License-Identifier: Apache-2.0
# What the documentation shows is run: the example of every verb's page, and every block
# of README.md and docs/ that is fenced as ```sh (in {tmp}'s place: an empty folder).
. "$(dirname "$0")/lib.sh"
mkdir "$tmp/bin" && ln -s "$bin" "$tmp/bin/steelyard"
PATH=$tmp/bin:$PATH

# An adapter for the examples that want one.
"$bin" train --model models/tiny --data models/tiny/devil.jsonl --steps 2 --batch 2 --seq 64 --out "$tmp/adapter" --quiet || complain "no adapter"

# Examples of the verbs, with {tmp} as the source has them; {tmp}/run is an adapter unless
# the example makes it.
n=0
for v in $("$bin" help | sed -n '/^verbs:/,/^$/s/^  \([a-z]*\) .*/\1/p'); do
    example=$(sed -n '/^const sy_verb /,$s/.*\.example = "\(\([^"\\]\|\\.\)*\)".*/\1/p' "src/run/$v.c" | head -n 1 | sed 's/\\"/"/g')
    [ -n "$example" ] || { complain "$v has no example (src/run/$v.c: .example = \"...\" on one line)"; continue; }
    n=$((n + 1))
    where=$tmp/example-$v; mkdir "$where"
    [[ $example != *"--adapter {tmp}/run"* ]] || cp -r "$tmp/adapter" "$where/run"
    checks=$((checks + 1))
    bash -c "set -e; steelyard ${example//\{tmp\}/$where}" >"$tmp/.out" 2>&1 || { complain "steelyard $example"; tail -n 15 "$tmp/.out"; }
done
check "there are examples" [ "$n" -ge 9 ]

# ```sh blocks, each page in a folder of its own, in the order of the page; text.jsonl
# stands there for the reader's data. docs/training.md has a test that looks closer.
for page in README.md docs/*.md docs/methods/*.md models/tiny/README.md; do
    grep -q '^```sh$' "$page" && [ "$page" != docs/training.md ] || continue
    where=$tmp/page-$(basename "$page" .md); mkdir -p "$where"
    ln -s "$root/models" "$where/models"
    head -n 40 models/tiny/devil.jsonl >"$where/text.jsonl"
    awk '/^```sh$/ { on = 1; next } /^```/ { on = 0 } on' "$page" | sed 's/^\$ //' >"$where/blocks.sh"
    checks=$((checks + 1))
    (cd "$where" && bash -euo pipefail blocks.sh) >"$tmp/.out" 2>&1 </dev/null || { complain "the examples of $page"; tail -n 20 "$tmp/.out"; }
done
finish
