# SPDX-License-Identifier: Apache-2.0
# What the tests of the command share: run it, look at exit code, output and errors.
set -uo pipefail
bin=${STEELYARD_BIN:?} root=${STEELYARD_ROOT:?} build=${STEELYARD_BUILD:?}
cd "$root" || exit 2
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
failures=0 checks=0
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=1}

complain() { echo "FAILED: $*"; failures=$((failures + 1)); }

# run ARGUMENT...: sets code, out, err
run() {
    "$bin" "$@" >"$tmp/.out" 2>"$tmp/.err" </dev/null
    code=$? out=$(cat "$tmp/.out") err=$(cat "$tmp/.err") said="steelyard $*"
}
# expect CODE: the exit code of the last run
expect() {
    checks=$((checks + 1))
    [ "$code" = "$1" ] || { complain "$said: exit code $code, expected $1"; sed 's/^/    /' "$tmp/.err" | tail -n 15; }
}
# has TEXT WHERE PATTERN (a fixed string)
has() {
    checks=$((checks + 1))
    case $1 in out) text=$out ;; err) text=$err ;; esac
    grep -qF -- "$2" <<<"$text" || { complain "$said: $1 lacks \"$2\""; sed 's/^/    /' <<<"$text" | head -n 8; }
}
# exactly one message, as "steelyard: ...": what went wrong is said once
one_message() {
    checks=$((checks + 1))
    [ "$(grep -c '^steelyard: ' <<<"$err")" = 1 ] || { complain "$said: not one message"; sed 's/^/    /' <<<"$err" | head; }
}
# The value of a key in a flat JSON report.
value() { sed -n "s/.*\"$1\": *\(\"\([^\"]*\)\"\|\([-+0-9.e]*\|true\|false\)\).*/\2\3/p" <<<"$out"; }
is_number() { [[ $1 =~ ^-?[0-9]+(\.[0-9]+)?(e[-+]?[0-9]+)?$ ]]; }
check() { checks=$((checks + 1)); "${@:2}" || complain "$1"; }
finish() { echo "$checks checks, $failures failed"; [ $failures = 0 ] && [ $checks -gt 0 ]; }
