# SPDX-License-Identifier: Apache-2.0
# The contract of the command line: exit codes, one message that helps, --json also when
# it fails, help for everything, settings from YAML.
. "$(dirname "$0")/lib.sh"

run; expect 0; has out "usage: steelyard VERB"
run --version; expect 0; has out "steelyard "
run --help; expect 0; has out "verbs:"
run help; expect 0; has out "verbs:"

# unknown things, with a hint
run trian; expect 2; one_message; has err 'did you mean "train"?'
run frobnicate; expect 2; one_message; has err "steelyard help"
run inspect models/tiny --al; expect 2; one_message; has err "--al"
run tokenize --modle models/tiny; expect 2; one_message; has err 'did you mean "--model"'
run help lorra; expect 2; one_message; has err 'did you mean "lora"'
run methods adaptor; expect 2; one_message; has err 'did you mean "adapter"'
run train --model models/tiny --data x --out y --adapter lorra; expect 2; one_message; has err 'did you mean "lora"'
run train models/tiny; expect 2; one_message; has err "--model"
run inspect models/tiny another; expect 2; one_message; has err "one too many"
run inspect -a; expect 3
run tokenize -m models/tiny; expect 2; one_message; has err "two dashes"
run tokenize --model; expect 2; one_message; has err "needs a value"
run tokenize --model models/tiny --special=maybe --text x; expect 2; one_message; has err "--special"
run tokenize --model models/tiny --threads 1000 --text x; expect 2; one_message; has err "256"
run tokenize --text x; expect 2; one_message; has err "model"

# files that are not there
run inspect "$tmp/nothing"; expect 3; one_message; has err "$tmp/nothing"
run tokenize --model "$tmp/nothing" --text x; expect 3; one_message; has err "$tmp/nothing"
run tokenize --model models/tiny --data "$tmp/nothing"; expect 3; one_message; has err "$tmp/nothing"
run convert "$tmp/nothing" "$tmp/out"; expect 3; one_message

# --json: one object on standard output, in failure too, before and after parsing
for wrong in "trian --json" "inspect $tmp/nothing --json" "inspect --json=on" "tokenize --modle x --json"; do
    # shellcheck disable=SC2086
    run $wrong
    check "$said: one line on standard output" [ "$(wc -l <"$tmp/.out")" = 1 ]
    has out '"error":{"code":"SY_E_'
    has out '"message":"'
    check "$said: exit code in the object" [ "$(value exit)" = "$code" ]
done
run methods --json; expect 0; has out '"methods":['; has out '"name":"lora"'
check "methods --json: nothing on standard error" [ -z "$err" ]

# every verb and every method has a page; no page is empty
verbs=$("$bin" help | sed -n '/^verbs:/,/^$/s/^  \([a-z]*\) .*/\1/p')
check "the overview lists the verbs" [ "$(wc -w <<<"$verbs")" -ge 9 ]
for v in $verbs; do
    run "$v" --help; expect 0; has out "usage: steelyard $v"; has out "--json"; has out "example:"
    page=$out
    run help "$v"; check "steelyard $v --help and steelyard help $v are the same page" [ "$page" = "$out" ]
done
for m in $("$bin" methods --json | grep -o '"name":"[^"]*"' | cut -d'"' -f4); do
    run help "$m"; expect 0; has out "$m: "; has out "Kind: "
done
run help train --json; expect 0; has out '"options":[{'

# YAML below flags; bad YAML is named with its line
printf 'model: models/tiny\ntext: In the beginning\nadd_special: false\n' >"$tmp/run.yaml"
run tokenize "$tmp/run.yaml"; expect 0; ids=$out
run tokenize "$tmp/run.yaml" --text "And"; expect 0; check "flags win over YAML" [ "$ids" != "$out" ]
run tokenize --config "$tmp/run.yaml"; check "--config reads the same" [ "$ids" = "$out" ]
printf 'model: models/tiny\nmodle: models/tiny\n' >"$tmp/bad.yaml"
run tokenize "$tmp/bad.yaml"; expect 2; one_message; has err "bad.yaml:2"; has err 'model'
printf 'model: models/tiny\nprompt: And\nmax_new: 4\njson: true\n' >"$tmp/json.yaml"
run generate "$tmp/json.yaml"; expect 0
check "json: true in YAML gives the report alone" [ "$(wc -l <"$tmp/.out")" = 1 -a "${out:0:1}" = "{" ]
printf 'model: [unclosed\n' >"$tmp/bad.yaml"
run tokenize "$tmp/bad.yaml"; expect 2; one_message; has err "bad.yaml"

# a full disk under standard output is an error, not silence
"$bin" methods >/dev/full 2>"$tmp/.err"; code=$? err=$(cat "$tmp/.err") said="steelyard methods >/dev/full"
expect 4; has err "standard output"
finish
