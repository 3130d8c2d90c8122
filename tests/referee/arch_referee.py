#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Decoder architectures against transformers on small random models: logits, gradients of a loss (by one plain
step of full training), greedy text with the cache, and the folder that full training writes.

  arch_referee.py [--bin build/steelyard] [--only NAME]

Prints a line a check, `ok` or `FAIL`; the exit code is 1 if any failed. Needs torch, transformers, safetensors.
"""
import argparse, json, os, shutil, subprocess, sys, tempfile, traceback

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

transformers.utils.logging.disable_progress_bar()
root = os.environ.get("STEELYARD_ROOT", os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--bin", default=os.environ.get("STEELYARD_BIN", "build/steelyard"))
ap.add_argument("--only")
args = ap.parse_args()
tmp = tempfile.mkdtemp(prefix="arch-referee-")
failed = 0
torch.set_num_threads(2)


def steelyard(*a):
    r = subprocess.run([args.bin, *map(str, a)], capture_output=True, text=True)
    assert r.returncode == 0, f"steelyard {' '.join(map(str, a))}: exit {r.returncode}: {r.stderr.strip()[-600:]}"
    return r.stdout


def check(name):
    def run(fn):
        global failed
        if args.only and args.only not in name:
            return fn
        try:
            print(f"ok {name}: {fn()}", flush=True)
        except Exception as e:
            failed += 1
            print(f"FAIL {name}: {e if isinstance(e, AssertionError) else traceback.format_exc()}", flush=True)
        return fn
    return run


tiny = os.path.join(root, "models", "tiny")
with open(os.path.join(tiny, "kjv-heldout.jsonl"), encoding="utf-8") as f:
    docs = [json.loads(line)["text"] for line in f if line.strip()]
long_text, short_text = os.path.join(tmp, "long.txt"), os.path.join(tmp, "short.txt")
with open(long_text, "w", encoding="utf-8") as f:
    f.write("\n".join(docs)[:6000])
with open(short_text, "w", encoding="utf-8") as f:
    f.write("\n".join(docs)[:200])
vocab = json.load(open(os.path.join(tiny, "tokenizer.json")))
size = max(list(vocab["model"]["vocab"].values()) + [t["id"] for t in vocab["added_tokens"]]) + 1


def small(kind, more):
    folder = os.path.join(tmp, "m%d" % len(os.listdir(tmp)))
    base = dict(hidden_size=64, intermediate_size=160, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, vocab_size=size,
                max_position_embeddings=512, rms_norm_eps=1e-5, bos_token_id=0, eos_token_id=0, pad_token_id=0)
    if kind == "GPT2Config":
        base = dict(n_embd=64, n_layer=3, n_head=4, n_positions=512, vocab_size=size, bos_token_id=0, eos_token_id=0)
    base.update(more)
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(getattr(transformers, kind)(**base)).float()
    with torch.no_grad():  # the usual start leaves norms at 1 and biases at 0, which would hide mistakes
        for name, p in model.named_parameters():
            if p.dim() == 1:
                p.add_(torch.randn_like(p) * 0.2)
            else:
                p.mul_(3)
    model.save_pretrained(folder)
    for f in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(os.path.join(tiny, f), folder)
    return folder


def relative(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm())


def dumped(folder, data, seq):
    dump = os.path.join(tmp, "logits.safetensors")
    steelyard("eval", "--model", folder, "--data", data, "--seq", seq, "--dtype", "f32", "--dump-logits", dump, "--json", "--quiet")
    t = load_file(dump)
    return t["input_ids"].long().view(-1), t["logits"]


def logits(folder, seq=96, bound=1e-4):
    ids, mine = dumped(folder, long_text, seq)
    n = ids.numel() // seq - 1
    ids, mine = ids[: n * seq].view(n, seq), mine[: n * seq].view(n, seq, -1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.inference_mode():
        r = relative(mine, model(input_ids=ids).logits.float())
    assert r <= bound, f"logits differ by {r:.2e} relative (bound {bound:g})"
    return f"logits {r:.1e}"


def gradients(folder, bound=1e-3):
    """One step of SGD with lr 1: the weights' change is the gradient."""
    ids, _ = dumped(folder, short_text, 96)
    out = os.path.join(tmp, "run")
    shutil.rmtree(out, ignore_errors=True)
    steelyard("train", "--model", folder, "--data", short_text, "--out", out, "--adapter", "full", "--train-embeddings", "on", "--optimizer", "sgd", "--lr", 1, "--steps", 1, "--batch", 1,
              "--seq", 96, "--dtype", "f32", "--clip", 0, "--schedule", "constant", "--warmup-ratio", 0, "--quiet")
    before, after = load_file(os.path.join(folder, "model.safetensors")), load_file(os.path.join(out, "model.safetensors"))
    assert set(before) == set(after) and all(before[k].shape == after[k].shape for k in before), "the folder that was written has other tensors"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    model(input_ids=ids[None], labels=ids[None]).loss.backward()
    theirs = {k: p.grad for k, p in model.named_parameters()}
    worst, total, square = "", 0.0, 0.0
    largest = max(float(g.norm()) for g in theirs.values())
    seen = 0
    for k, g in theirs.items():
        name = k if k in before else k.removeprefix(model.base_model_prefix + ".")
        mine = before[name] - after[name]
        off = float((mine.double() - g.double()).norm())
        total, square, seen = total + off ** 2, square + float(g.double().norm()) ** 2, seen + 1
        # f32 weights swallow what is below their last place
        floor = 3e-7 * float(before[name].norm())
        assert off <= bound * float(g.norm()) + floor, f"gradient of {k}: off by {off / float(g.norm()):.2e} relative"
    r = (total / square) ** 0.5
    return f"{seen} gradients {r:.1e}"


def generated(folder, new=40):
    prompt = "And it came to pass in those days, that"
    out = json.loads(steelyard("generate", "--model", folder, "--prompt", prompt, "--max-new", new, "--temperature", 0, "--dtype", "f32", "--ignore-eos", "--json", "--quiet"))

    ids = Tokenizer.from_file(os.path.join(folder, "tokenizer.json")).encode(prompt).ids
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    model.generation_config.eos_token_id = None
    with torch.inference_mode():
        theirs = model.generate(torch.tensor([ids]), max_new_tokens=new, do_sample=False, eos_token_id=None, pad_token_id=0)[0, len(ids):].tolist()
    assert out["token_ids"] == theirs, f"ours {out['token_ids']}, transformers {theirs}"
    return f"{len(theirs)} greedy ids"


def longrope(n):
    return dict(rope_type="longrope", short_factor=[1.0 + 0.05 * i for i in range(n)], long_factor=[2.0 + 0.5 * i for i in range(n)], rope_theta=10000.0)


gemma = dict(head_dim=24, query_pre_attn_scalar=40, sliding_window=24)
cases = {
    "gpt2": ("GPT2Config", {}),
    "gpt2 wide": ("GPT2Config", dict(n_inner=100, activation_function="gelu", tie_word_embeddings=False)),
    "gemma2": ("Gemma2Config", dict(gemma, attn_logit_softcapping=5.0, final_logit_softcapping=4.0)),
    "gemma3": ("Gemma3TextConfig", dict(gemma, num_hidden_layers=7)),
    "gemma3 scaled": ("Gemma3TextConfig", dict(gemma, num_hidden_layers=6, layer_types=["sliding_attention", "full_attention"] * 3, rope_parameters=dict(
        sliding_attention=dict(rope_type="default", rope_theta=10000.0), full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1000000.0)))),
    "phi3": ("Phi3Config", dict(sliding_window=30)),
    "phi3 longrope, short text": ("Phi3Config", dict(original_max_position_embeddings=256, rope_parameters=longrope(8))),
    "phi3 longrope, long text": ("Phi3Config", dict(original_max_position_embeddings=48, rope_parameters=longrope(8))),
    "smollm3": ("SmolLM3Config", dict(no_rope_layer_interval=2)),
    "smollm3 window": ("SmolLM3Config", dict(use_sliding_window=True, sliding_window=20, layer_types=["sliding_attention", "full_attention"] * 2)),
    "olmo2": ("Olmo2Config", {}),
    "mistral window": ("MistralConfig", dict(sliding_window=20, head_dim=16)),
    "qwen3 window": ("Qwen3Config", dict(head_dim=32, use_sliding_window=True, sliding_window=20, max_window_layers=2)),
}
for name, (kind, more) in cases.items():
    @check(name)
    def _(kind=kind, more=more, name=name):
        folder = small(kind, more)
        parts = [logits(folder), gradients(folder)]
        if "short text" not in name and "long text" not in name:  # there the rotation changes in the middle of the text
            parts.append(generated(folder))
        return ", ".join(parts)

shutil.rmtree(tmp)
sys.exit(failed != 0)
