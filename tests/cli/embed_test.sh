# SPDX-License-Identifier: Apache-2.0
# examples/embed.c as a stranger would build it: an installed prefix, pkg-config, the
# compiler, nothing of the source tree.
. "$(dirname "$0")/lib.sh"
prefix=$tmp/prefix
cmake --install "$build" --prefix "$prefix" >"$tmp/.out" 2>&1 || { cat "$tmp/.out"; complain "cmake --install"; finish; exit 1; }
pc=$(find "$prefix" -name steelyard.pc)
check "steelyard.pc is installed" [ -n "$pc" ]
check "the man page is installed" [ -n "$(find "$prefix" -name steelyard-train.1)" ]
check "the completion is installed" [ -n "$(find "$prefix" -path '*bash-completion/completions/steelyard')" ]
check "the installed command runs" "$prefix/bin/steelyard" --version
# sanitized libraries need the flags that they were built with
flags=$(sed -n 's/^SY_SANITIZE:BOOL=ON$/-fsanitize=address,undefined/p' "$build/CMakeCache.txt")
cc=$(sed -n 's/^CMAKE_C_COMPILER:[A-Z]*=//p' "$build/CMakeCache.txt")
# every header stands on its own, in C and with warnings
for h in "$prefix"/include/steelyard/*.h; do
    check "$(basename "$h") compiles alone" "$cc" -std=c11 -Wall -Wextra -Wstrict-prototypes -Werror -I"$prefix/include" -fsyntax-only -x c "$h"
done
# the prefix moved: say so to pkg-config
# shellcheck disable=SC2086,SC2046
"$cc" -std=c11 -Wall -Wextra -Werror $flags examples/embed.c -o "$tmp/embed" \
    $(PKG_CONFIG_PATH=$(dirname "$pc") pkg-config --define-variable=prefix="$prefix" --define-variable=libdir="$(dirname "$(dirname "$pc")")" \
        --define-variable=includedir="$prefix/include" --cflags --libs steelyard) 2>"$tmp/.err" || { cat "$tmp/.err"; complain "embed.c does not build"; finish; exit 1; }
head -n 40 models/tiny/devil.jsonl >"$tmp/data.jsonl"
said=embed
"$tmp/embed" models/tiny "$tmp/data.jsonl" "$tmp/run" >"$tmp/.out" 2>"$tmp/.err"; code=$? out=$(cat "$tmp/.out") err=$(cat "$tmp/.err")
expect 0; has out 'report: {'; has out 'step 10: loss'
check "it wrote an adapter" [ -s "$tmp/run/adapter_model.safetensors" ]
first=$(sed -n 's/^step 1: loss //p' <<<"$out") last=$(sed -n 's/^step 10: loss //p' <<<"$out")
check "the loss fell from $first to $last" awk -v a="$first" -v b="$last" 'BEGIN { exit !(b < a) }'
"$tmp/embed" "$tmp/nothing" "$tmp/data.jsonl" "$tmp/run2" >"$tmp/.out" 2>"$tmp/.err"; code=$? err=$(cat "$tmp/.err")
expect 3; has err "$tmp/nothing"
finish
