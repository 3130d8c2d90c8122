#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Forward graphs against transformers: logits of every architecture and rotary scaling on small random
models, then the real one: logits, perplexity, greedy text.

  model_referee.py [--bin build/steelyard] [--model FOLDER] [--only NAME]

Prints a line a check, `ok` or `FAIL`; the exit code is 1 if any failed. Needs torch, transformers, safetensors.
"""
import argparse, json, math, os, shutil, subprocess, sys, tempfile, traceback

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

transformers.utils.logging.disable_progress_bar()
root = os.environ.get("STEELYARD_ROOT", os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--bin", default=os.environ.get("STEELYARD_BIN", "build/steelyard"))
ap.add_argument("--model", default=os.environ.get("STEELYARD_SMOLLM2"))
ap.add_argument("--only")
args = ap.parse_args()
tmp = tempfile.mkdtemp(prefix="model-referee-")
failed = 0


def steelyard(*a):
    r = subprocess.run([args.bin, *map(str, a)], capture_output=True, text=True)
    if r.returncode != 0:
        raise AssertionError(f"steelyard {' '.join(map(str, a))}: exit {r.returncode}: {r.stderr.strip()[-600:]}")
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


text = os.path.join(tmp, "text.txt")
with open(os.path.join(root, "models", "tiny", "kjv-heldout.jsonl"), encoding="utf-8") as f:
    docs = [json.loads(line)["text"] for line in f if line.strip()]
with open(text, "w", encoding="utf-8") as f:
    f.write("\n".join(docs)[:12000])


def ours(folder, seq, dtype="f32", *more):
    """Loss and (ids, logits) [windows, seq, ...] of the whole windows."""
    dump = os.path.join(tmp, "logits.safetensors")
    report = json.loads(steelyard("eval", "--model", folder, "--data", text, "--seq", seq, "--dtype", dtype, "--dump-logits", dump, "--json", "--quiet", *more))
    t = load_file(dump)
    ids, logits = t["input_ids"].long(), t["logits"]
    n = ids.numel() // seq - 1  # the last window may be padded
    return report, ids[: n * seq].view(n, seq), logits[: n * seq].view(n, seq, -1)


def relative(a, b):
    return float((a - b).norm() / b.norm())


def compare(folder, seq=64, rows=6, bound=1e-4):
    _, ids, mine = ours(folder, seq)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        theirs = model(input_ids=ids[:rows]).logits
    r = relative(mine[:rows], theirs)
    assert r <= bound, f"logits differ by {r:.2e} relative (bound {bound:g})"
    return f"{rows} x {seq} logits, relative difference {r:.1e}"


def small(kind, **more):
    """A random model of that architecture with the tokenizer of models/tiny."""
    folder = os.path.join(tmp, "m%d" % len(os.listdir(tmp)))
    tiny = os.path.join(root, "models", "tiny")
    vocab = json.load(open(os.path.join(tiny, "tokenizer.json")))
    size = max(list(vocab["model"]["vocab"].values()) + [t["id"] for t in vocab["added_tokens"]]) + 1
    base = dict(hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, vocab_size=size,
                max_position_embeddings=512, rms_norm_eps=1e-5, bos_token_id=0, eos_token_id=0, pad_token_id=0)
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


rope = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64, rope_theta=10000.0)
cases = {
    "llama": ("LlamaConfig", {}),
    "llama tied": ("LlamaConfig", dict(tie_word_embeddings=True)),
    "llama one head a group": ("LlamaConfig", dict(num_key_value_heads=4)),
    "llama head_dim apart": ("LlamaConfig", dict(head_dim=32)),
    "llama biases": ("LlamaConfig", dict(attention_bias=True, mlp_bias=True)),
    "llama linear scaling": ("LlamaConfig", dict(rope_parameters=dict(rope_type="linear", factor=4.0, rope_theta=10000.0))),
    "llama llama3 scaling": ("LlamaConfig", dict(rope_parameters=rope)),
    "mistral": ("MistralConfig", dict(sliding_window=None, head_dim=16)),
    "qwen2": ("Qwen2Config", dict(tie_word_embeddings=True)),
    "qwen3": ("Qwen3Config", dict(head_dim=32)),
}
for name, (kind, more) in cases.items():
    check(f"logits {name}")(lambda kind=kind, more=more: compare(small(kind, **more)))


@check("logits without the graph's batch: one window at a time")
def _():
    folder = small("LlamaConfig")
    _, ids, a = ours(folder, 48, "f32", "--batch", 1)
    _, _, b = ours(folder, 48, "f32", "--batch", 7)
    r = relative(a, b)
    assert r < 1e-6, f"logits depend on the batch: {r:.1e}"
    return f"{r:.1e}"


if args.model:
    @check("real model: logits")
    def _():
        return compare(args.model, 256, 2)

    @check("real model: perplexity on 8k tokens, f32")
    def _():
        with open(text, "w", encoding="utf-8") as f:
            f.write("\n".join(docs)[:34000])
        report, ids, _ = ours(args.model, 512)
        model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
        total, count = 0.0, 0
        tok = AutoTokenizer.from_pretrained(args.model)
        flat = ids.reshape(-1)
        whole = tok(open(text, encoding="utf-8").read(), add_special_tokens=False).input_ids + [tok.eos_token_id]
        assert whole[: len(flat)] == flat.tolist(), "other tokens than transformers' tokenizer"
        with torch.inference_mode():
            for at in range(0, len(whole), 512):
                row = torch.tensor([whole[at : at + 512]])
                if row.shape[1] < 2:
                    continue
                logits = model(input_ids=row).logits[0, :-1].float()
                total += float(torch.nn.functional.cross_entropy(logits, row[0, 1:], reduction="sum"))
                count += row.shape[1] - 1
        theirs = math.exp(total / count)
        mine = report["perplexity"]
        assert len(whole) >= 8000, f"only {len(whole)} tokens"
        assert abs(mine / theirs - 1) < 1e-3, f"perplexity {mine:.5f}, transformers {theirs:.5f}"
        return f"{mine:.5f} over {len(whole)} tokens, transformers {theirs:.5f}"

    @check("real model: 64 greedy tokens, f32")
    def _():
        prompt = "Water boils at a lower temperature on high mountains because"
        out = json.loads(steelyard("generate", "--model", args.model, "--prompt", prompt, "--max-new", 64, "--temperature", 0, "--dtype", "f32", "--json", "--quiet"))
        tok = AutoTokenizer.from_pretrained(args.model)
        model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
        ids = tok(prompt, return_tensors="pt").input_ids
        with torch.inference_mode():
            theirs = model.generate(ids, max_new_tokens=64, do_sample=False, temperature=None, top_p=None, pad_token_id=0)[0, ids.shape[1]:].tolist()
        if theirs and theirs[-1] == model.config.eos_token_id:
            theirs.pop()
        assert out["token_ids"] == theirs, f"ours {out['token_ids']}, transformers {theirs}"
        return f"{len(theirs)} ids equal: {out['text'][:60]!r}"
else:
    print("FAIL real model: not given (--model or STEELYARD_SMOLLM2)")
    failed += 1

shutil.rmtree(tmp)
sys.exit(failed != 0)
