# SPDX-License-Identifier: Apache-2.0
# Broken files of every format: exit code 3, one message that names the file, the place in
# it, and what was expected; nothing is left behind.
. "$(dirname "$0")/lib.sh"
model=models/tiny

# broken FILE COMMAND...: exit 3, one message with FILE's name and a place or a name in it
broken() {
    local file=$1; shift
    run "$@"; expect 3; one_message; has err "$(basename "$file")"
    checks=$((checks + 1))
    grep -qE 'byte [0-9]+|:[0-9]+(:[0-9]+)?: |tensors? |token |key |missing|there is no|architecture|expected|not ' <<<"$err" || complain "$said: no place: $err"
}
placed() { # after broken: an offset or a line
    checks=$((checks + 1))
    grep -qE 'byte [0-9]+|:[0-9]+: |:[0-9]+:[0-9]+: |line [0-9]+' <<<"$err" || complain "$said: neither offset nor line: $err"
}

# -- safetensors -----------------------------------------------------------------------
st=$model/model.safetensors size=$(wc -c <"$st")
for n in 0 3 8 9 100 5000 $((size - 1)); do
    head -c "$n" "$st" >"$tmp/cut.safetensors"
    broken "$tmp/cut.safetensors" inspect "$tmp/cut.safetensors"; placed
done
{ cat "$st"; printf x; } >"$tmp/long.safetensors"; broken long.safetensors inspect "$tmp/long.safetensors"; placed
header() { # TEXT DATA...: a file with that header
    local text=$1 n
    n=${#text}
    printf "\\x$(printf %02x $((n % 256)))\\x$(printf %02x $((n / 256)))\0\0\0\0\0\0%s" "$text"
    printf '%s' "$2"
}
while IFS= read -r text; do
    header "$text" 12345678 >"$tmp/lies.safetensors"
    broken lies.safetensors diff "$tmp/lies.safetensors" "$st"; placed
done <<'EOF'
{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}
{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}
{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}
{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}
{"a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}}
{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8]}}
{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}
{"a":{"dtype":"F32","shape":"2","data_offsets":[0,8]}}
{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}
{"a":{"shape":[2],"data_offsets":[0,8]}}
{"a":[1]}
{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]
[1,2,3]
EOF
printf '\377\377\377\377\377\377\377\177{}' >"$tmp/huge.safetensors"; broken huge.safetensors inspect "$tmp/huge.safetensors"; placed

# -- GGUF --------------------------------------------------------------------------------
run convert $model "$tmp/m.gguf" --dtype q8_0 --quiet; expect 0
size=$(wc -c <"$tmp/m.gguf")
for n in 0 3 7 12 23 30 60 200 1000 30000 $((size / 2)) $((size - 40)); do
    head -c "$n" "$tmp/m.gguf" >"$tmp/cut.gguf"
    broken cut.gguf inspect "$tmp/cut.gguf"
    [ "$n" -lt 4 ] || placed
done
# poke OFFSET BYTES: the file with other bytes there
poke() { cp "$tmp/m.gguf" "$tmp/poked.gguf"; printf "$2" | dd of="$tmp/poked.gguf" bs=1 seek="$1" conv=notrunc status=none; }
poke 0 'GGML'; run inspect "$tmp/poked.gguf"; expect 3; one_message
poke 4 '\7'; broken poked.gguf inspect "$tmp/poked.gguf"; placed
poke 4 '\0\0\0\3'; broken poked.gguf convert "$tmp/poked.gguf" "$tmp/no"; placed
poke 8 '\377\377\377\377\377\377\377\377'; broken poked.gguf eval --model "$tmp/poked.gguf" --data $model/kjv-heldout.jsonl; placed
poke 16 '\377\377\377\377\377\377\377\177'; broken poked.gguf inspect "$tmp/poked.gguf"; placed
poke 24 '\377\377\377\377\377\377\377\377'; broken poked.gguf inspect "$tmp/poked.gguf"; placed
poke 32 '\377'; broken poked.gguf inspect "$tmp/poked.gguf"; placed
at=$(grep -abo 'token_embd.weight' "$tmp/m.gguf" | head -n 1 | cut -d: -f1)
poke $((at + 17)) '\11'; broken poked.gguf inspect "$tmp/poked.gguf"; placed                     # 9 dimensions
poke $((at + 21)) '\1'; broken poked.gguf inspect "$tmp/poked.gguf"; placed                      # rows that are no blocks
poke $((at + 28)) '\177'; broken poked.gguf inspect "$tmp/poked.gguf"; placed                    # a product beyond 2^63
poke $((at + 37)) '\20'; broken poked.gguf inspect "$tmp/poked.gguf"; has err IQ2_XXS; has err token_embd.weight
poke $((at + 41)) '\40'; broken poked.gguf inspect "$tmp/poked.gguf"; placed                     # data elsewhere
run convert $model "$tmp/parts.gguf" --split-max-size 1M --quiet; expect 0
rm "$tmp"/parts-00002-of-*; run inspect "$tmp"/parts-00001-of-*; expect 3; one_message; has err "-00002-of-"

# -- model folders -------------------------------------------------------------------------
folder() { rm -rf "$tmp/f"; cp -r $model "$tmp/f"; }
folder; printf '{"model_type": "llama",' >"$tmp/f/config.json"; broken config.json eval --model "$tmp/f" --data $model/kjv-heldout.jsonl; placed
folder; printf '[]' >"$tmp/f/config.json"; broken config.json inspect "$tmp/f"
folder; sed -i 's/"llama"/"martian"/;s/LlamaForCausalLM/MartianForCausalLM/' "$tmp/f/config.json"; broken f convert "$tmp/f" "$tmp/no.gguf"; has err martian
folder; sed -i 's/"hidden_size": *[0-9]*/"hidden_size": 12345/' "$tmp/f/config.json"; broken f eval --model "$tmp/f" --data $model/kjv-heldout.jsonl
folder; sed -i 's/"num_hidden_layers": *[0-9]*/"num_hidden_layers": 4611686018427387904/' "$tmp/f/config.json"; broken f eval --model "$tmp/f" --data $model/kjv-heldout.jsonl
folder; rm "$tmp/f/model.safetensors"; printf '{"weight_map":{"a":"gone.safetensors"}}' >"$tmp/f/model.safetensors.index.json"; broken gone.safetensors inspect "$tmp/f"
folder; rm "$tmp/f/model.safetensors"; printf '{"weight_map":{"a":"../../etc/passwd"}}' >"$tmp/f/model.safetensors.index.json"; broken model.safetensors.index.json inspect "$tmp/f"
folder; rm "$tmp/f/model.safetensors"; : >"$tmp/f/pytorch_model.bin"; broken f eval --model "$tmp/f" --data $model/kjv-heldout.jsonl; has err pickle

# -- tokenizer.json --------------------------------------------------------------------------
for text in '{' '{"model":{"type":"BPE"}}' '{"model":{"type":"Martian","vocab":{}}}' '[1]' '{"model":{"type":"BPE","vocab":{"a":-1},"merges":[]}}' \
    '{"pre_tokenizer":{"type":"Nonsense"},"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}' '{"model":{"type":"BPE","vocab":{"a":0},"merges":["a b"]}}'; do
    folder; printf '%s' "$text" >"$tmp/f/tokenizer.json"
    broken tokenizer.json tokenize --model "$tmp/f" --data $model/kjv-heldout.jsonl
done

# -- data ---------------------------------------------------------------------------------------
for text in '{"text": "fine"}\n{"text": ' '{"text": "fine"}\n{"txt": "x"}' '{"text": 7}' '\n\n[1, 2' '{"messages": [{"role": "user"}]}'; do
    printf "$text" >"$tmp/d.jsonl"
    broken d.jsonl eval --model $model --data "$tmp/d.jsonl"; placed
done
printf '\37\213\10\0garbage' >"$tmp/d.jsonl.gz"; broken d.jsonl.gz eval --model $model --data "$tmp/d.jsonl.gz"

# -- adapters --------------------------------------------------------------------------------------
adapter() { rm -rf "$tmp/a"; cp -r $model/devil-lora "$tmp/a"; }
adapter; printf '{' >"$tmp/a/adapter_config.json"; broken adapter_config.json eval --model $model --adapter "$tmp/a" --data $model/kjv-heldout.jsonl; placed
adapter; printf '{"r": 4}' >"$tmp/a/adapter_config.json"; broken adapter_config.json inspect "$tmp/a"; has err peft_type
adapter; rm "$tmp/a/adapter_model.safetensors"; broken a diff $model "$tmp/a"
adapter; head -c 3000 $model/devil-lora/adapter_model.safetensors >"$tmp/a/adapter_model.safetensors"; broken adapter_model.safetensors fold --model $model --adapter "$tmp/a" --out "$tmp/no"; placed
adapter; sed -i 's/"q_proj"/"k_proj"/' "$tmp/a/adapter_config.json"; broken a eval --model $model --adapter "$tmp/a" --data $model/kjv-heldout.jsonl

check "nothing is left behind" [ ! -e "$tmp/no" ]
finish
