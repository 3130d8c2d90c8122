# SPDX-License-Identifier: Apache-2.0
# inspect: what it says of models, parts of a model, adapters, runs finished and not, and
# single files.
. "$(dirname "$0")/lib.sh"
model=models/tiny
said_all() { for text in "$@"; do has out "$text"; done; } # of the last run

run inspect $model --json; expect 0
said_all '"kind":"model (Hugging Face folder)"' '"architecture":"llama"' '"parameters":1967808' '"embedding":393216' '"blocks":1574400' \
    '"bits_per_parameter":16' '"vocabulary":2048' '"merges":1789' '"pre_tokenizer":"ByteLevel"' '"special_tokens":3' '"chat_template_bytes":196' \
    '"num_hidden_layers":4' '"types":{"BF16":{"tensors":38,"bytes":3935616}}' '"format":"pt"'
run inspect $model; expect 0; said_all "bits_per_parameter" "38 tensors, 1967808 parameters"

# coded, in parts, from any of them
run convert $model "$tmp/m.gguf" --dtype q4_0 --split-max-size 600K --json; expect 0
files=$(value files); check "several files" [ "$files" -gt 1 ]
for part in "$tmp"/m-*.gguf; do
    run inspect "$part" --json; expect 0
    said_all '"kind":"model (GGUF)"' '"tensor_count":38' '"parameters":1967808' '"Q4_0":' '"Q8_0":' '"vocabulary":2048' '"general.architecture":"llama"'
done
check "about 4.5 bits a number" [ "$(sed -n 's/.*"bits_per_parameter":\([0-9]*\).*/\1/p' <<<"$out")" = 5 ]

# shards with an index; a part of them alone
run convert $model "$tmp/shards" --shard-size 1M --quiet; expect 0
run inspect "$tmp/shards" --json; expect 0; said_all '"tensor_count":38' 'model-00002-of-' '"model.safetensors.index.json":'
run inspect "$tmp"/shards/model-00001-of-*.safetensors; expect 0; said_all "safetensors file"

# adapters
run inspect $model/devil-lora --json; expect 0
said_all '"kind":"adapter folder (PEFT)"' '"peft_type":"LORA"' '"modules":8' '"lowest_rank":2' '"stored_numbers":5120' '"lora_A.weight":8' '"base_model_name_or_path":"models/tiny"'
run convert $model/devil-lora "$tmp/l.gguf" --base $model --quiet; expect 0
run inspect "$tmp/l.gguf" --json; expect 0; said_all '"kind":"adapter (LoRA GGUF)"' '"modules":8' '"highest_rank":2' '"adapter.lora.alpha":4'

# runs
run train --model $model --data $model/devil.jsonl --steps 3 --batch 2 --seq 64 --save-steps 2 --out "$tmp/run" --quiet; expect 0
run inspect "$tmp/run" --json; expect 0
said_all '"kind":"run folder"' '"complete":true' '"checkpoints":[2,3]' '"optimizer":"adamw"' '"result":{"steps":3' '"modules":28' '"trained_parameters":108544' '"hash":'
rm -r "$tmp/run/checkpoint-3" "$tmp/run/receipt.json" "$tmp/run/adapter_config.json" "$tmp/run/adapter_model.safetensors"
run inspect "$tmp/run" --json; expect 0
said_all '"kind":"newest checkpoint of a run folder"' '"complete":false' '"checkpoints":[2]' '"newest_checkpoint":{"step":2' '"modules":28'
run inspect "$tmp/run/checkpoint-2/state.safetensors"; expect 0; said_all "exp_avg"
rm -r "$tmp/run/checkpoint-2"
run inspect "$tmp/run"; expect 0; said_all "without a checkpoint yet"

# a folder that is something else, and files that are
mkdir "$tmp/empty"; run inspect "$tmp/empty"; expect 3; one_message; has err "no weights"
run inspect $model/README.md; expect 3; one_message; has err "README.md"
run inspect $model --dry-run --json; expect 0
finish
