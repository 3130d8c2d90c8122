#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# kill -9 at 20 random moments of a training run, resumed each time with another number
# of threads: the result is byte for byte that of the run nobody disturbed. Then the same
# with a disk that fills up (a small tmpfs, where mounting one is permitted).
set -u
bin=${STEELYARD_BIN:?} build=${STEELYARD_BUILD:?}
work=$(mktemp -d "${TMPDIR:-/tmp}/steelyard-kill-XXXXXX") || exit 2
mounted=
cleanup() { [ -z "$mounted" ] || umount "$work/small"; rm -rf "$work"; }
trap cleanup EXIT
fail() { echo "kill_resume: $*" >&2; exit 1; }

"$build/tests/test.run.train" make "$work" || fail "no model"
options=(--model "$work/model" --data "$work/data.jsonl" --eval-data "$work/eval.jsonl" --steps 240 --batch 2 --seq 48
         --rank 4 --lora-dropout 0.1 --lr 1e-3 --save-steps 4 --eval-steps 30 --save-limit 2 --dtype f32 --quiet)

begin=$(date +%s%N)
"$bin" train "${options[@]}" --out "$work/whole" --threads 1 || fail "the undisturbed run failed with $?"
took=$(( ($(date +%s%N) - begin) / 1000000 ))
[ "$took" -gt 200 ] || took=200

# Moments are spread over the whole run: some before the folder is there, some after the end.
RANDOM=${KILL_SEED:-7}
kills=0 tries=0
while [ "$kills" -lt 20 ]; do
    tries=$((tries + 1))
    [ "$tries" -le 200 ] || fail "the run ends before it can be killed: $kills kills in $tries tries"
    if [ -f "$work/run/receipt.json" ]; then
        cmp -s "$work/run/adapter_model.safetensors" "$work/whole/adapter_model.safetensors" || fail "other weights after $kills kills"
        rm -rf "$work/run"
    fi
    "$bin" train "${options[@]}" --out "$work/run" --auto-resume --threads $((RANDOM % 3 + 1)) 2>"$work/log" &
    pid=$!
    ms=$((RANDOM * 32768 + RANDOM)); ms=$((ms % (took / 3) + 5))
    sleep "$(printf '%d.%03d' $((ms / 1000)) $((ms % 1000)))"
    if kill -9 "$pid" 2>/dev/null; then
        wait "$pid" 2>/dev/null
        status=$?
        [ "$status" -eq 137 ] && kills=$((kills + 1))
    else
        wait "$pid"
        status=$?
    fi
    [ "$status" -eq 137 ] || [ "$status" -eq 0 ] || fail "exit code $status: $(cat "$work/log")"
done
"$bin" train "${options[@]}" --out "$work/run" --auto-resume --threads 2 || fail "the last resume failed with $?"
for file in adapter_model.safetensors adapter_config.json checkpoint-240/state.safetensors; do
    cmp "$work/run/$file" "$work/whole/$file" || fail "$file differs after $kills kills"
done
[ "$(grep -c '"loss"' "$work/run/metrics.jsonl")" -eq 240 ] || fail "metrics.jsonl does not have each of 240 steps once"
left=$(find "$work/run" -name '.*' ! -path "$work/run" | head -n 3)
[ -z "$left" ] || fail "left behind: $left"
echo "kill_resume: $kills kills in $tries tries: same bytes"

# Ctrl-C: saved, exit code 130.
"$bin" train "${options[@]}" --out "$work/stopped" 2>"$work/log" &
pid=$!
while [ ! -s "$work/stopped/metrics.jsonl" ] && kill -0 "$pid" 2>/dev/null; do sleep 0.02; done
kill -INT "$pid"
wait "$pid"
status=$?
[ "$status" -eq 130 ] || fail "exit code $status after an interrupt, expected 130: $(cat "$work/log")"
ls -d "$work/stopped"/checkpoint-* >/dev/null || fail "no checkpoint after an interrupt"
"$bin" train --resume "$work/stopped" --quiet || fail "resuming failed with $?"
cmp "$work/stopped/adapter_model.safetensors" "$work/whole/adapter_model.safetensors" || fail "other weights after an interrupt"

# A full disk: exit code 4 and a message; with room again the run goes on to the same bytes.
mkdir "$work/small"
if mount -t tmpfs -o size=1m tmpfs "$work/small" 2>/dev/null; then
    mounted=yes
    head -c 700000 /dev/zero >"$work/small/ballast"
    "$bin" train "${options[@]}" --out "$work/small/run" 2>"$work/log"
    status=$?
    [ "$status" -eq 4 ] || fail "exit code $status on a full disk, expected 4: $(cat "$work/log")"
    grep -qi 'space' "$work/log" || fail "the message does not say that the disk is full: $(cat "$work/log")"
    rm "$work/small/ballast"
    mount -o remount,size=16m "$work/small"
    "$bin" train "${options[@]}" --out "$work/small/run" --auto-resume || fail "going on after a full disk failed with $?"
    cmp "$work/small/run/adapter_model.safetensors" "$work/whole/adapter_model.safetensors" || fail "other weights after a full disk"
    echo "kill_resume: a full disk: fine"
else
    echo "kill_resume: mounting is not permitted here; a full disk is tested by run.train through failing writes"
fi
