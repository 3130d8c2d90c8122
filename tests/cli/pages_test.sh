# SPDX-License-Identifier: Apache-2.0
# Pages made from rows: man pages are well-formed, the completion works in bash, and the
# reference under docs/ is what the command would write now.
. "$(dirname "$0")/lib.sh"

bash tools/manual "$bin" "$tmp/manual" || complain "tools/manual failed"
for v in $("$bin" help | sed -n '/^verbs:/,/^$/s/^  \([a-z]*\) .*/\1/p'); do
    page=$tmp/manual/man1/steelyard-$v.1
    check "$page exists" [ -s "$page" ]
    # only requests that are meant; a line of text never begins with a dot
    check "$page: unknown requests" [ -z "$(grep -E '^\.' "$page" | grep -vE '^\.(TH|SH|PP|IP|TP|B|BR|nf|fi)( |$)')" ]
    check "$page: bare hyphens" [ -z "$(grep -vE '^\.TH' "$page" | sed 's/\\-//g' | grep -e '--')" ]
done
if command -v man >/dev/null; then
    rendered=$(man -l "$tmp/manual/man1/steelyard-train.1" 2>"$tmp/.err" | col -b)
    check "man renders the page" grep -q -- '--model' <<<"$rendered"
fi

completion=$tmp/manual/completion/steelyard
check "the completion is bash" bash -n "$completion"
# complete WORD...: what bash would offer for the last word
complete() {
    bash -c '. "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _steelyard; printf "%s\n" "${COMPREPLY[@]}"' _ "$completion" "$@"
}
offers() { # WORD WORD...: the last argument must be among the offers for the rest
    checks=$((checks + 1))
    local offered; offered=$(complete "${@:1:$#-1}")
    grep -qx -- "${!#}" <<<"$offered" || { complain "completion of \"${*:1:$#-1}\" does not offer ${!#}"; head -n 5 <<<"$offered"; }
}
offers steelyard tra train
offers steelyard train --mod --model
offers steelyard train --adapter lo lora
offers steelyard train --adapter lora --rank --rank
offers steelyard train --dtype b bf16
offers steelyard help lo lora
offers steelyard convert models/tiny --dty --dtype
offers steelyard inspect models/ti models/tiny
check "no options of an optimizer that is not in use" [ -z "$(complete steelyard inspect --rank)" ]

bash tools/manual --reference "$bin" "$tmp/reference" || complain "tools/manual --reference failed"
check "docs/reference is stale: run tools/manual --reference build/steelyard docs" \
    diff -r -q "$tmp/reference/reference" docs/reference
check "docs/cli.md is stale: run tools/manual --reference build/steelyard docs" diff -q "$tmp/reference/cli.md" docs/cli.md
finish
