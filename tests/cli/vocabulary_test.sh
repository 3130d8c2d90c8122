# SPDX-License-Identifier: Apache-2.0
# Vocabularies between tokenizer.json and GGUF: SentencePiece's scores and BERT's
# WordPiece come back with the same tokens; what GGUF cannot say is refused.
. "$(dirname "$0")/lib.sh"

# folder NAME: a copy of models/tiny with the tokenizer.json of standard input
folder() {
    mkdir "$tmp/$1"
    cp models/tiny/config.json models/tiny/model.safetensors "$tmp/$1/"
    cat >"$tmp/$1/tokenizer.json"
    printf '{"unk_token": "<unk>"}\n' >"$tmp/$1/tokenizer_config.json"
}
pieces() { "$bin" tokenize --model "$1" --text "$2" --json 2>/dev/null; }
# there_and_back NAME: the pieces of some texts, through GGUF
there_and_back() {
    run convert "$tmp/$1" "$tmp/$1.gguf" --quiet; expect 0
    run convert "$tmp/$1.gguf" "$tmp/$1-back" --quiet; expect 0
    local text a
    for text in "abc ab" "cab  bac" "aabb cabab" "é b<x>c" "zz ab" "" "<s> ab" "ABC ab,c"; do
        a=$(pieces "$tmp/$1" "$text")
        check "$1: '$text' in GGUF" [ "$a" = "$(pieces "$tmp/$1.gguf" "$text")" ]
        check "$1: '$text' there and back" [ "$a" = "$(pieces "$tmp/$1-back" "$text")" ]
    done
}

bytes=$(for i in $(seq 0 255); do printf '"<0x%02X>": %d, ' "$i" $((3 + i)); done)
vocabulary="\"<unk>\": 0, \"<s>\": 1, \"</s>\": 2, $bytes \"▁\": 259, \"a\": 260, \"b\": 261, \"c\": 262, \"ab\": 263, \"▁ab\": 264, \"bc\": 265, \"abc\": 266, \"▁a\": 267, \"▁▁\": 268"
added='[{"id": 0, "content": "<unk>", "special": true}, {"id": 1, "content": "<s>", "special": true}, {"id": 300, "content": "<x>", "special": false, "normalized": false}]'
model="\"model\": {\"type\": \"BPE\", \"unk_token\": \"<unk>\", \"fuse_unk\": true, \"byte_fallback\": true, \"vocab\": {$vocabulary},
    \"merges\": [[\"a\", \"b\"], [\"▁\", \"ab\"], [\"▁a\", \"b\"], [\"b\", \"c\"], [\"ab\", \"c\"], [\"a\", \"bc\"], [\"▁\", \"a\"], [\"▁\", \"▁\"]]}"
folder llama <<E2
{"normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
 "pre_tokenizer": null, "added_tokens": $added, $model,
 "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]}}
E2
folder gemma <<E2
{"normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}, "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious"},
 "added_tokens": $added, $model}
E2
folder bert <<'E2'
{"normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true}, "pre_tokenizer": {"type": "BertPreTokenizer"},
 "added_tokens": [{"id": 0, "content": "<unk>", "special": true}, {"id": 9, "content": "<x>", "special": false, "normalized": false}],
 "model": {"type": "WordPiece", "unk_token": "<unk>", "continuing_subword_prefix": "##", "vocab": {"<unk>": 0, "[unused]": 1, "ab": 2, "##c": 3, "c": 4, "##ab": 5, "e": 6, "##": 7, ",": 8}}}
E2
for name in llama gemma bert; do there_and_back $name; done
check "a space stands before the first word" [ "$(pieces "$tmp/llama.gguf" ab)" != "$(pieces "$tmp/gemma.gguf" ab)" ]

sed 's/"lowercase": true/"lowercase": false/' "$tmp/bert/tokenizer.json" | folder cased
run convert "$tmp/cased" "$tmp/never.gguf"; expect 3; one_message; has err "WordPiece"
folder unigram <<<'{"model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0], ["a", -1]]}}'
run convert "$tmp/unigram" "$tmp/never.gguf"; expect 3; one_message; has err "Unigram"
check "nothing is left" [ ! -e "$tmp/never.gguf" ]
# BOS of the tokenizer is what a template prints, in data as in answers; each of several ends
# that generation_config.json lists ends an answer
mkdir "$tmp/ends"; cp models/tiny/*.json models/tiny/model.safetensors "$tmp/ends"
printf '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}\n' >"$tmp/talk.jsonl"
printf '%s' '{% for m in messages %}{{ m.content + "<|im_end|>" }}{% endfor %}' >"$tmp/without.jinja"
{ printf '{{ bos_token }}'; cat "$tmp/without.jinja"; } >"$tmp/with.jinja"
tokens_of() { run eval --model "$tmp/ends" --data "$tmp/talk.jsonl" --chat-template "$1" --json --quiet; expect 0; value tokens; }
check "bos_token in a template is a token of the data" [ $(($(tokens_of "$tmp/without.jinja") + 1)) = "$(tokens_of "$tmp/with.jinja")" ]
run generate --model models/tiny --prompt "And it came to pass" --max-new 3 --temperature 0 --json --quiet; expect 0
third=$(sed -n 's/.*"token_ids": *\[[0-9]*, *[0-9]*, *\([0-9]*\)\].*/\1/p' <<<"$out")
printf '{"eos_token_id": [0, %s]}\n' "$third" >"$tmp/ends/generation_config.json"
run generate --model "$tmp/ends" --prompt "And it came to pass" --max-new 9 --temperature 0 --json --quiet; expect 0
check "the second of two ends ends an answer too" grep -q '"ended": *true' <<<"$out"
finish
