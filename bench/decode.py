#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Generating text, ours and theirs: see bench/decode, which installs the peers and calls this.

generate: 128 tokens after a short text, batch 1, greedy. prompt: one text of about 512 tokens. A figure is the median over
--repeat runs in turn. Limits are measured in this very run: reading, for generating (weights plus the average length of
the cache), and a plain bf16 (f32) product of 2048 x 1536 x 576, for prompts.
"""
import argparse, datetime, json, os, platform, statistics, subprocess, sys

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--bin", default="build/steelyard")
ap.add_argument("--limits", default="build/bench/bench.limits")
ap.add_argument("--python", default=sys.executable)
ap.add_argument("--llama", required=True, help="folder with llama-bench and llama-quantize")
ap.add_argument("--model", required=True)
ap.add_argument("--cache", required=True, help="where GGUF files are made")
ap.add_argument("--data", default="models/tiny/kjv-heldout.jsonl")
ap.add_argument("--cores", default="0,1")
ap.add_argument("--repeat", type=int, default=3)
ap.add_argument("--rows", default="")
ap.add_argument("--out", default="")
a = ap.parse_args()
threads = len(a.cores.split(","))
peer = os.path.join(os.path.dirname(os.path.abspath(__file__)), "peers", "peft_lora.py")
text = "".join(json.loads(l)["text"] for l in open(a.data))[:1950]
config = json.load(open(os.path.join(a.model, "config.json")))


def run(*c, json_out=True):
    env = dict(os.environ, OMP_NUM_THREADS=str(threads), HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    r = subprocess.run(["taskset", "-c", a.cores, *map(str, c)], capture_output=True, text=True, env=env)
    if r.returncode:
        raise SystemExit(f"{' '.join(map(str, c))}\nexit {r.returncode}\n{r.stderr[-2000:]}")
    return r.stdout


def ours(model, dtype, prompt, new):
    r = json.loads(run(a.bin, "generate", "--model", model, "--prompt", prompt, "--max-new", new, "--ignore-eos", "on", "--dtype", dtype,
                       "--threads", threads, "--json", "--quiet").splitlines()[-1])
    return dict(generate=r["tokens_per_second"], prompt=r["prompt_tokens_per_second"], prompt_tokens=r["prompt_tokens"], bytes=r["peak_bytes"])


def transformers(dtype):
    r = json.loads([l for l in run(a.python, peer, "--model", a.model, "--data", a.data, "--method", "generate", "--dtype", dtype, "--steps", 3,
                                   "--threads", threads).splitlines() if l.startswith("{")][-1])
    return dict(generate=r["tokens_per_s"])


def llama(path):
    r = json.loads(run(os.path.join(a.llama, "llama-bench"), "-m", path, "-t", threads, "-p", 512, "-n", 128, "-r", 1, "-o", "json"))
    return {"prompt" if x["n_prompt"] else "generate": x["avg_ts"] for x in r}


def gguf(kind):
    path = os.path.join(a.cache, f"smollm2-{kind}.gguf")
    if not os.path.exists(path):
        base = path if kind == "f32" else gguf("f32")
        if kind == "f32":
            run(a.bin, "convert", a.model, path, "--dtype", "f32", "--quiet")
        else:
            subprocess.run([os.path.join(a.llama, "llama-quantize"), base, path, kind.upper(), str(threads)], check=True, capture_output=True)
    return path


def weight_bytes(path):
    if os.path.isdir(path):
        return sum(os.path.getsize(os.path.join(path, f)) for f in os.listdir(path) if f.endswith(".safetensors"))
    return os.path.getsize(path)


def limit():
    return json.loads(run(a.limits, threads))


h, layers, kv = config["hidden_size"], config["num_hidden_layers"], config["num_key_value_heads"] * config["head_dim"]
matrices = layers * (2 * h * h + 2 * h * kv + 3 * h * config["intermediate_size"])
flops = 2 * matrices + 4 * 256 * h * layers  # of a prompt's token: causal attention counted half
rows = {"bf16": (a.model, "bf16", lambda: transformers("bf16")), "f32": (a.model, "f32", lambda: transformers("fp32"))}
for kind in ("f32", "q8_0", "q4_0", "q4_1"):
    rows["gguf-" + kind] = (None, "f32" if kind == "f32" else "bf16", None)
cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.processor())
result = dict(date=datetime.date.today().isoformat(), cpu=cpu, cores=a.cores, repeat=a.repeat, ours=run(a.bin, "--version", ).strip(), rows={})
print(f"{cpu}, cores {a.cores}, {a.repeat} runs each, medians\n")
print("| model | work | ours tok/s | theirs tok/s | ratio | share of the limit | ours MiB |\n|---|---|---|---|---|---|---|", flush=True)
for name in [r for r in a.rows.split(",") if r] or rows:
    path, dtype, other = rows[name]
    if path is None:
        path = gguf(name[5:])
        other = lambda: llama(path)
    got = []
    for _ in range(a.repeat):
        got.append(dict(limit=limit(), short=ours(path, dtype, "Hello", 128), long=ours(path, dtype, text, 1), theirs=other()))
    mid = lambda f: statistics.median(f(g) for g in got)
    size = weight_bytes(path)
    if os.path.isdir(path) and dtype == "f32":
        size *= 2  # stored as bf16
    size += 64 * layers * 2 * kv * (4 if dtype == "f32" else 2)  # half of 128 tokens of cache
    for work in ("generate", "prompt"):
        run_of = "short" if work == "generate" else "long"
        mine = mid(lambda g: g[run_of][work])
        them = mid(lambda g: g["theirs"].get(work, float("nan")))
        share = mid(lambda g: g[run_of][work] * (size / g["limit"]["read"] if work == "generate" else flops / g["limit"][dtype]))
        result["rows"][f"{name}-{work}"] = dict(ours=mine, theirs=them, ratio=mine / them, share=share, runs=got)
        print(f"| {name} | {work} | {mine:.1f} | {them:.1f} | {mine / them:.2f} | {100 * share:.0f} % | {mid(lambda g: g[run_of]['bytes']) / 2**20:.0f} |", flush=True)
    if a.out:
        with open(a.out, "w") as f:
            json.dump(result, f, indent=1)
