#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Our GGUF files in llama.cpp: F32 exports (model, and base with a LoRA GGUF) give our greedy ids; BF16 and
Q8_0 exports reach our loss per token within 1 % (llama.cpp rounds activations there, so ids may differ).

  llamacpp_referee.py [--bin build/steelyard] [--model FOLDER] [--node FOLDER-OF-node_modules]

Prints a line a check, `ok` or `FAIL`; the exit code is 1 if any failed. Needs Node with node-llama-cpp.
"""
import argparse, json, math, os, shutil, subprocess, sys, tempfile, traceback

root = os.environ.get("STEELYARD_ROOT", os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--bin", default=os.environ.get("STEELYARD_BIN", "build/steelyard"))
ap.add_argument("--model", default=os.environ.get("STEELYARD_SMOLLM2"))
ap.add_argument("--node", default=os.environ.get("STEELYARD_NODE", "."))
args = ap.parse_args()
here = os.path.dirname(os.path.abspath(__file__))
tmp = tempfile.mkdtemp(prefix="llamacpp-referee-")
failed = 0


def steelyard(*a):
    r = subprocess.run([args.bin, *map(str, a)], capture_output=True, text=True)
    assert r.returncode == 0, f"steelyard {' '.join(map(str, a))}: exit {r.returncode}: {r.stderr.strip()[-600:]}"
    return r.stdout


def llamacpp(*a):
    r = subprocess.run(["node", os.path.join(here, "llamacpp.mjs"), "--modules", args.node, *map(str, a)], capture_output=True, text=True)
    lines = [l for l in r.stdout.splitlines() if l.startswith("{")]
    assert r.returncode == 0 and lines, f"llama.cpp: exit {r.returncode}: {(r.stdout + r.stderr).strip()[-800:]}"
    return json.loads(lines[-1])


def check(name):
    def run(fn):
        global failed
        try:
            print(f"ok {name}: {fn()}", flush=True)
        except Exception as e:
            failed += 1
            print(f"FAIL {name}: {e if isinstance(e, AssertionError) else traceback.format_exc()}", flush=True)
        return fn
    return run


with open(os.path.join(root, "models", "tiny", "kjv-heldout.jsonl"), encoding="utf-8") as f:
    docs = [json.loads(line)["text"] for line in f if line.strip()]
text = os.path.join(tmp, "text.txt")
with open(text, "w", encoding="utf-8") as f:
    f.write("\n".join(docs)[:9000])
prompt = "The most important thing to know about the sea is"


def greedy(*more):
    out = json.loads(steelyard("generate", "--model", args.model, "--prompt", prompt, "--max-new", 30, "--temperature", 0, "--dtype", "f32", "--json", "--quiet", *more))
    return out["token_ids"]


def same_ids(mine, theirs):
    n = min(len(mine), len(theirs), 30)
    assert n >= 8 and mine[:n] == theirs[:n], f"ours {mine}, llama.cpp {theirs}"
    return f"{n} greedy ids equal"


gguf = os.path.join(tmp, "f32.gguf")


@check("F32 model")
def _():
    steelyard("convert", args.model, gguf, "--dtype", "f32", "--quiet")
    got = llamacpp("generate", gguf, prompt, 30)
    return same_ids(greedy(), got["ids"])


@check("F32 LoRA on the F32 model")
def _():
    run = os.path.join(tmp, "run")
    steelyard("train", "--model", args.model, "--data", os.path.join(root, "models", "tiny", "devil.jsonl"), "--out", run, "--steps", 12, "--batch", 2,
              "--seq", 128, "--rank", 8, "--alpha", 32, "--lr", 2e-3, "--quiet")
    lora = os.path.join(tmp, "lora.gguf")
    steelyard("convert", run, lora, "--base", args.model, "--dtype", "f32", "--quiet")
    plain, mine = greedy(), greedy("--adapter", run)
    assert plain != mine, "the adapter changes nothing: the check would be empty"
    return same_ids(mine, llamacpp("generate", gguf, prompt, 30, lora)["ids"])


for kind in ("bf16", "q8_0"):
    @check(f"{kind} model: loss per token")
    def _():
        out = os.path.join(tmp, kind + ".gguf")
        steelyard("convert", args.model, out, "--dtype", kind, "--quiet")
        theirs = llamacpp("loss", out, text, 512)
        # the same windows here: each scored from its second token on
        mine = json.loads(steelyard("eval", "--model", args.model, "--data", text, "--seq", 512, "--dtype", "f32", "--json", "--quiet"))
        assert abs(theirs["loss"] / mine["loss"] - 1) < 0.01, f"llama.cpp {theirs['loss']:.4f} over {theirs['tokens']}, ours {mine['loss']:.4f}"
        os.remove(out)
        return f"llama.cpp {theirs['loss']:.4f} over {theirs['tokens']} tokens, ours {mine['loss']:.4f}"

shutil.rmtree(tmp)
sys.exit(failed != 0)
