#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs every example of docs/training.md, one after the other, on a tiny random model in the
# place of models/tiny, and looks at what the page says they leave.
set -u
bin=${STEELYARD_BIN:?} build=${STEELYARD_BUILD:?} root=${STEELYARD_ROOT:?}
work=$(mktemp -d "${TMPDIR:-/tmp}/steelyard-doc-XXXXXX") || exit 2
trap 'rm -rf "$work"' EXIT
fail() { echo "training_doc: $*" >&2; exit 1; }

"$build/tests/test.run.train" make "$work" || fail "no model"
mkdir "$work/models" && mv "$work/model" "$work/models/tiny" || fail "no folder"
for file in devil devil-heldout; do cp "$root/models/tiny/$file.jsonl" "$work/models/tiny/"; done
mkdir "$work/bin" && ln -s "$bin" "$work/bin/steelyard"
awk '/^```sh$/ { on = 1; next } /^```$/ { on = 0 } on' "$root/docs/training.md" >"$work/examples.sh"
grep -c '^steelyard' "$work/examples.sh" | grep -q '^[4-9]' || fail "found too few examples"
(cd "$work" && PATH=$work/bin:$PATH bash -e examples.sh >out 2>err) || fail "an example failed: $(tail -n 5 "$work/err")"
cd "$work" || exit 2
# Each file that the table of the run folder names is there.
for file in adapter_model.safetensors adapter_config.json metrics.jsonl trainer_state.json loss.svg run.yaml receipt.json; do
    grep -q "\`$file\`" "$root/docs/training.md" || fail "$file is not in the table"
    [ -s "run/$file" ] || fail "run/$file is missing"
done
ls run/events.out.tfevents.* run/checkpoint-40/state.safetensors run/checkpoint-40/run_state.json >/dev/null || fail "a file is missing"
[ "$(ls -d recipe-run/checkpoint-* | wc -l)" = 1 ] || fail "--save-limit 1 left another number of checkpoints"
grep -q 'target_modules.*' recipe-run/adapter_config.json || fail "no targets in adapter_config.json"
[ "$(grep -c '"eval_loss"' recipe-run/metrics.jsonl)" = 3 ] || fail "expected evaluations at steps 0, 3 and 6"
# run.yaml does the same again, byte for byte.
"$bin" train recipe-run/run.yaml --out again --quiet >/dev/null || fail "run.yaml is not a recipe"
cmp again/adapter_model.safetensors recipe-run/adapter_model.safetensors || fail "run.yaml gives other weights"
echo "training_doc: every example ran"
