#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The verb compress: killed and repeated it writes the same bytes, with any number of threads;
# what it writes is read; bad input ends with a message and leaves nothing under the final name.
. "$(dirname "$0")/../cli/lib.sh"
options=(--model models/tiny --calib models/tiny/devil.jsonl --samples 8 --seq 64 --eval-samples 2 --quiet)
rescomp=(--method rescomp --bits 3 --group 64)

run compress "${options[@]}" "${rescomp[@]}" --threads 1 --out "$tmp/whole"
expect 0
check "the journal is gone" [ ! -e "$tmp/whole.unfinished" ]
RANDOM=5 kills=0
for i in 1 2 3 4 5 6; do
    [ -e "$tmp/again/report.json" ] && break
    "$bin" compress "${options[@]}" "${rescomp[@]}" --threads $((i % 3 + 1)) --out "$tmp/again" >/dev/null 2>&1 &
    pid=$!
    sleep "0.$((RANDOM % 5 + 2))"
    kill -9 $pid 2>/dev/null && kills=$((kills + 1))
    wait $pid 2>/dev/null
done
[ -e "$tmp/again/report.json" ] || { run compress "${options[@]}" "${rescomp[@]}" --threads 2 --out "$tmp/again"; expect 0; }
check "same bytes after $kills kills" cmp "$tmp/whole/model.safetensors" "$tmp/again/model.safetensors"

# What was written is read, trained on, and not compressed again.
run eval --model "$tmp/whole" --data models/tiny/devil-heldout.jsonl --seq 64 --max-documents 2 --json
expect 0
check "a loss" is_number "$(value loss)"
run train --model "$tmp/whole" --data models/tiny/devil.jsonl --steps 2 --batch 2 --seq 64 --out "$tmp/adapter" --quiet
expect 0
run compress --model "$tmp/whole" --method rtn --out "$tmp/twice" --quiet
expect 3
has err "compressed already"

# Exports, and what they cannot hold.
for form in gptq awq dense; do
    run compress --model models/tiny --method rtn --bits 4 --group 64 --export $form --out "$tmp/$form" --quiet
    expect 0
done
run eval --model "$tmp/dense" --data models/tiny/devil-heldout.jsonl --seq 64 --max-documents 2 --json
expect 0
run compress --model models/tiny --method rtn --bits 4 --group 64 --out "$tmp/small.gguf" --quiet
expect 0
run eval --model "$tmp/small.gguf" --data models/tiny/devil-heldout.jsonl --seq 64 --max-documents 2 --json
expect 0
run compress --model models/tiny --method rtn --bits 3 --group 64 --export awq --out "$tmp/no" --quiet
expect 2
has err "4 bits only"
run compress --model models/tiny --method rtn --bits 4 --group 128 --export gptq --out "$tmp/no2" --quiet
expect 2
has err "--group 64"
check "nothing under the name" [ ! -e "$tmp/no" ]

# Usage.
run compress --model models/tiny --method rescomp --out "$tmp/no3" --quiet
expect 2
has err "--calib"
run compress --model models/tiny --method rtn --group 100 --out "$tmp/no4" --quiet
expect 2
run compress --model models/tiny --method lora --out "$tmp/no5" --quiet
expect 2
echo '{"text": "too short"}' >"$tmp/short.jsonl"
run compress --model models/tiny --method rescomp --calib "$tmp/short.jsonl" --eval-samples 0 --out "$tmp/no6" --quiet
expect 3
has err "too few to calibrate on"
finish
