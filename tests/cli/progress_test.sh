# SPDX-License-Identifier: Apache-2.0
# Progress: plain lines where nobody watches, one line with a bar on a terminal, nothing
# with --quiet; results only on standard output; Ctrl-C ends with 130.
. "$(dirname "$0")/lib.sh"
head -n 60 models/tiny/devil.jsonl >"$tmp/data.jsonl"
train=(train --model models/tiny --data "$tmp/data.jsonl" --batch 2 --seq 64 --rank 4)

run "${train[@]}" --steps 6 --out "$tmp/a"; expect 0
check "plain lines end with the last step" grep -qE '^train step 6/6 .*loss [0-9.]+' <<<"$err"
check "no control characters in a log" [ -z "$(tr -d '\n\t -~' <<<"$err" | LC_ALL=C grep -a '[[:cntrl:]]')" ]
run "${train[@]}" --steps 6 --out "$tmp/b" --quiet; expect 0
check "--quiet is quiet" [ -z "$err$out" ]
run "${train[@]}" --steps 6 --out "$tmp/c" --json --quiet; expect 0
for key in steps loss eval_loss tokens tokens_per_second peak_bytes seconds trained_parameters; do has out "\"$key\":"; done

# on a real terminal, where one can be had (cli.screen looks at the line without one)
if script -qec true "$tmp/typescript" >/dev/null 2>&1 </dev/null; then
    script -qec "stty cols 100; $bin ${train[*]} --steps 6 --out $tmp/d" "$tmp/typescript" >/dev/null 2>&1 </dev/null
    code=$? said="train on a terminal"; expect 0
    check "a live line with a bar" grep -qaE 'train [0-9]+/6 \[=* *>? *\].*loss' "$tmp/typescript"
    check "the line is drawn anew" grep -qa $'\r' "$tmp/typescript"
else
    echo "no pseudo-terminals here (is /dev/pts mounted?): cli.screen alone looks at the live line"
fi

# a signal: what was done is saved, 130
"$bin" "${train[@]}" --steps 100000 --out "$tmp/e" >"$tmp/.out" 2>"$tmp/.err" &
pid=$!
for _ in $(seq 100); do sleep 0.1; [ -s "$tmp/e/metrics.jsonl" ] && break; done
sleep 0.5
kill -INT $pid; wait $pid; code=$? err=$(cat "$tmp/.err") said="interrupted train"
expect 130; has err "steelyard: "
check "a checkpoint was left" [ -n "$(find "$tmp/e" -name '*.safetensors')" ]
finish
