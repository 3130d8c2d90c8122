# SPDX-License-Identifier: Apache-2.0
# convert and inspect: there and back again gives the same bytes; what cannot be done is
# said before anything is written.
. "$(dirname "$0")/lib.sh"
model=models/tiny

run convert $model "$tmp/tiny.gguf" --quiet; expect 0
run convert "$tmp/tiny.gguf" "$tmp/back" --quiet; expect 0
check "folder -> GGUF -> folder keeps every weight" cmp -s $model/model.safetensors "$tmp/back/model.safetensors"
ids() { "$bin" tokenize --model "$1" --data models/tiny/devil-heldout.jsonl | md5sum; }
check "... and the tokens" [ "$(ids $model)" = "$(ids "$tmp/back")" ]
check "a GGUF tokenizes like the folder" [ "$(ids $model)" = "$(ids "$tmp/tiny.gguf")" ]

run convert $model "$tmp/f32" --dtype f32 --shard-size 1M --json; expect 0
check "38 tensors" [ "$(value tensors)" = 38 ]
check "shards and their index" [ -s "$tmp/f32/model.safetensors.index.json" ]
run convert "$tmp/f32" "$tmp/again" --dtype bf16 --quiet; expect 0
check "bf16 -> f32 in shards -> bf16 keeps every weight" cmp -s $model/model.safetensors "$tmp/again/model.safetensors"
run convert $model "$tmp/q8.gguf" --dtype q8_0 --json; expect 0; q8=$(value bytes)
check "Q8_0 is about half of bf16" [ "$q8" -gt 1900000 -a "$q8" -lt 2300000 ]
run convert "$tmp/q8.gguf" "$tmp/q8" --quiet; expect 0
run inspect "$tmp/q8" --json; check "decoded blocks become f32, without loss" grep -q '"F32":{"tensors":38' <<<"$out"

# inspect
run inspect $model --json; expect 0
check "parameters" [ "$(value parameters)" = 1967808 ]
has out '"architecture":"llama"'; has out '"name":"model.embed_tokens.weight"'
run inspect $model; expect 0; has out "model.layers.{0..3}.mlp.up_proj.weight"; has out "[512, 192]"
run inspect $model --all; expect 0; has out "model.layers.3.mlp.up_proj.weight"
run inspect "$tmp/q8.gguf"; expect 0; has out "Q8_0"
run inspect $model/model.safetensors; expect 0; has out "safetensors file"
run inspect $model/config.json; expect 3; one_message; has err "config.json"

# an adapter, both ways
mkdir "$tmp/data"; head -n 20 models/tiny/devil.jsonl >"$tmp/data/d.jsonl"
run train --model $model --data "$tmp/data/d.jsonl" --steps 2 --batch 2 --seq 64 --rank 4 --out "$tmp/run" --quiet; expect 0
run inspect "$tmp/run"; expect 0; has out "run folder"; has out "lora_A"
run convert "$tmp/run" "$tmp/lora.gguf" --base $model --quiet; expect 0
run inspect "$tmp/lora.gguf"; expect 0; has out "adapter (LoRA GGUF)"
run convert "$tmp/lora.gguf" "$tmp/lora" --quiet; expect 0
loss() { run eval --model $model --adapter "$1" --data "$tmp/data/d.jsonl" --seq 64 --dtype f32 --json --quiet; value loss; }
one=$(loss "$tmp/run") two=$(loss "$tmp/lora")
check "adapter -> LoRA GGUF -> adapter: loss $one and $two" awk -v a="$one" -v b="$two" 'BEGIN { d = a - b; exit !(a > 0 && d * d < 1e-10) }'

# refused, with nothing left behind
run convert $model "$tmp/back"; expect 2; one_message; has err "$tmp/back"
run convert $model "$tmp/no" --dtype q8_0; expect 2; one_message; has err ".gguf"
run convert $model "$tmp/no" --base $model; expect 2; one_message; has err "--base"
run convert "$tmp/lora.gguf" "$tmp/no.gguf"; expect 2; one_message
run convert "$tmp/run" "$tmp/no"; expect 2; one_message; has err ".gguf"
run convert "$tmp/run" "$tmp/no.gguf" --base "$tmp/nothing"; expect 3; one_message; has err "$tmp/nothing"

run convert $model "$tmp/dry" --dry-run; expect 0
check "--dry-run writes nothing" [ ! -e "$tmp/dry" ]
check "nothing is left of what was refused" [ ! -e "$tmp/no.gguf" ]
head -c 100000 $model/model.safetensors >"$tmp/cut.safetensors"
run inspect "$tmp/cut.safetensors"; expect 3; one_message; has err "cut.safetensors"
head -c 100000 "$tmp/tiny.gguf" >"$tmp/cut.gguf"
run convert "$tmp/cut.gguf" "$tmp/no2"; expect 3; one_message; has err "cut.gguf"
check "no folder of a bad GGUF" [ ! -e "$tmp/no2" ]

# every architecture that GGUF has: random weights there and back are the same bytes, and
# the GGUF evaluates like the folder
sizes='"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 128, "vocab_size": 2048'
gemma='"num_key_value_heads": 2, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8, "rms_norm_eps": 1e-6, "tie_word_embeddings": true'
grouped='"num_key_value_heads": 2, "rms_norm_eps": 1e-6'
mkdir "$tmp/start"; cp $model/tokenizer.json $model/tokenizer_config.json "$tmp/start"
while IFS='|' read -r arch class values; do
    printf '{"model_type": "%s", "architectures": ["%s"], %s}\n' "$arch" "$class" "$values" >"$tmp/start/config.json"
    run convert "$tmp/start/config.json" "$tmp/$arch" --quiet; expect 0
    run convert "$tmp/$arch" "$tmp/$arch.gguf" --quiet; expect 0
    run convert "$tmp/$arch.gguf" "$tmp/$arch-back" --quiet; expect 0
    check "$arch -> GGUF -> folder keeps every weight" cmp -s "$tmp/$arch/model.safetensors" "$tmp/$arch-back/model.safetensors"
    [ "$arch" = bert ] && continue # no language model
    for m in "$arch" "$arch.gguf" "$arch-back"; do
        run eval --model "$tmp/$m" --data "$tmp/data/d.jsonl" --seq 64 --dtype f32 --json --quiet; expect 0; value loss
    done >"$tmp/losses"
    check "$arch: the three have one loss, $(head -n 1 "$tmp/losses")" [ "$(sort -u "$tmp/losses" | wc -l)" = 1 -a -s "$tmp/losses" ]
done <<END
gpt2|GPT2LMHeadModel|"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128, "vocab_size": 2048
gemma2|Gemma2ForCausalLM|$sizes, $gemma, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 4.0
gemma3_text|Gemma3ForCausalLM|$sizes, $gemma, "sliding_window_pattern": 2
phi3|Phi3ForCausalLM|$sizes, $grouped, "original_max_position_embeddings": 32, "rope_scaling": {"type": "longrope", "short_factor": [1, 1.5, 2, 2.5], "long_factor": [2, 3, 4, 5]}
smollm3|SmolLM3ForCausalLM|$sizes, $grouped, "no_rope_layer_interval": 4
olmo2|Olmo2ForCausalLM|$sizes, $grouped
bert|BertForSequenceClassification|$sizes, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "id2label": {"0": "no", "1": "yes"}
END
check "the names of classes come back" grep -q '"1": *"yes"' "$tmp/bert-back/config.json"
run convert "$tmp/gemma2" "$tmp/odd" --quiet; expect 0
sed -i 's/"query_pre_attn_scalar": *16/"query_pre_attn_scalar": 20/' "$tmp/odd/config.json"
run convert "$tmp/odd" "$tmp/odd.gguf"; expect 3; one_message; has err "query_pre_attn_scalar"
check "nothing is left of what GGUF cannot say" [ ! -e "$tmp/odd.gguf" ]
finish
