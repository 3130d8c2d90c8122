# SPDX-License-Identifier: Apache-2.0
# compare: two methods, every file there and self-contained, nothing trained twice, what is cut
# short goes on, wrong files are refused with words that help.
. "$(dirname "$0")/lib.sh"
spec=tests/data/compare.yaml

run compare $spec --out "$tmp/c" --dry-run --json --quiet; expect 0
check "runs are planned: two seeds each, and two rates to choose from" [ "$(value runs)" = 6 ]
check "nothing is written by a dry run" [ ! -e "$tmp/c" ]

run compare $spec --out "$tmp/c" --json --quiet --threads 2; expect 0
has out '"summary"'; has out '"MiSS"'
check "equal parameters" grep -q '"trained_parameters":{"mean":20736' <<<"$(tr -d ' \n' <"$tmp/c/compare.json")"
page="$tmp/c/report.html"
check "the page is one file" bash -c "! grep -qE '(src|href)=|url\(|@import|https?://' '$page'"
check "with pictures" [ "$(grep -o '<svg' "$page" | wc -l)" = 5 ]
check "and a table of both" [ "$(grep -o '<tr><td' "$page" | wc -l)" = 2 ]
check "closed tags" [ "$(grep -o '<figure>' "$page" | wc -l)" = "$(grep -o '</figure>' "$page" | wc -l)" ]
check "no number that is none" bash -c "! grep -qiE '\b(nan|inf)\b' '$page'"

# again: nothing is trained, the same contents
cp "$tmp/c/compare.json" "$tmp/first.json"
before=$(find "$tmp/c/runs" -type f | xargs md5sum | md5sum)
run compare $spec --out "$tmp/c" --quiet --threads 2; expect 0
check "nothing is trained twice" [ "$before" = "$(find "$tmp/c/runs" -type f | xargs md5sum | md5sum)" ]
check "the same result" cmp -s "$tmp/first.json" "$tmp/c/compare.json"

# one result lost: only that run is measured again, from its finished training
rm "$tmp/c/runs/lora/lr0.002-seed2/result.json"
run compare $spec --out "$tmp/c" --quiet --threads 2; expect 0
check "the lost result is back" [ -s "$tmp/c/runs/lora/lr0.002-seed2/result.json" ]

wrong() { printf '%s\n' "$@" >"$tmp/wrong.yaml"; run compare "$tmp/wrong.yaml" --out "$tmp/w" --quiet; expect 2; one_message; }
wrong 'model: models/tiny' 'data: models/tiny/devil.jsonl' 'methods: [lora]'; has err '"eval-data" is needed'
wrong 'model: models/tiny' 'data: a' 'eval-data: a' 'methds: [lora]'; has err 'did you mean "methods"'
wrong 'model: models/tiny' 'data: a' 'eval-data: a' 'methods: [lora, lora]'; has err 'two methods are called "lora"'
wrong 'model: models/tiny' 'data: a' 'eval-data: a' 'methods: [lorra]'; has err 'did you mean "lora"'
wrong 'model: models/tiny' 'data: a' 'eval-data: a' 'match: parameters' 'methods: [lora]'; has err 'needs a budget'
wrong 'model: models/tiny' 'data: a' 'eval-data: a' 'methods: [{adapter: lora, setings: {rank: 2}}]'; has err 'did you mean "settings"'
sed 's/adapter: miss/adapter: miss, settings: {dropout: 0.1}/' $spec >"$tmp/other.yaml"
run compare "$tmp/other.yaml" --out "$tmp/c" --quiet; expect 2; has err "other settings"
finish
