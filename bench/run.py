#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""One table of Steelyard against its peers: see bench/run, which installs them and calls this.

Every row does the same work in both: the same folder, the same text in blocks of the same length, the same rank and
targets. Ours and theirs run in turn, `--repeat` times; a figure is the median over runs of the median over steps (the
first steps left out). Ratios above 1 are ours being better (faster, or smaller).
"""
import argparse, datetime, json, os, platform, shutil, statistics, subprocess, sys, tempfile

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--bin", default="build/steelyard")
ap.add_argument("--python", default=sys.executable)
ap.add_argument("--model", required=True)
ap.add_argument("--data", default="models/tiny/kjv-heldout.jsonl", help="JSON lines with text: one long text for rows without padding, and the words of the row of prompts and completions")
ap.add_argument("--cores", default="0,1")
ap.add_argument("--repeat", type=int, default=3)
ap.add_argument("--steps", type=int, default=6)
ap.add_argument("--rows", default="")
ap.add_argument("--out", default="")
a = ap.parse_args()
threads = len(a.cores.split(","))
peer = os.path.join(os.path.dirname(os.path.abspath(__file__)), "peers", "peft_lora.py")
tmp = tempfile.mkdtemp(prefix="steelyard-bench-")
text, pairs = os.path.join(tmp, "text.txt"), os.path.join(tmp, "pairs.jsonl")
with open(text, "w") as f:
    f.write("\n".join(json.loads(l)["text"] for l in open(a.data)))
subprocess.run([sys.executable, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lengths.py"), a.data, pairs], check=True)


def command(*c, cores=0):
    some = ",".join(a.cores.split(",")[: cores or threads])
    env = dict(os.environ, OMP_NUM_THREADS=str(cores or threads))
    r = subprocess.run(["taskset", "-c", some, *map(str, c)], capture_output=True, text=True, env=env)
    if r.returncode:
        raise SystemExit(f"{' '.join(map(str, c))}\nexit {r.returncode}\n{r.stderr[-2000:]}")
    return json.loads([l for l in r.stdout.splitlines() if l.startswith("{")][-1])


def theirs(data=text, steps=0, **o):
    flags = []
    for k, v in o.items():
        flags += [f"--{k.replace('_', '-')}"] + ([] if v is True else [v])
    r = command(a.python, peer, "--model", a.model, "--data", data, "--threads", threads, "--steps", steps or a.steps, "--warmup", 2, *flags)
    return dict(rate=r["tokens_per_s"], bytes=r["peak_rss_mib"] * 2**20, start=r.get("startup_s", 0) - r.get("first_step_s", 0))


def train(batch, seq, data=text, cores=0, **o):
    out = os.path.join(tmp, "run")
    shutil.rmtree(out, ignore_errors=True)
    flags = [x for k, v in o.items() for x in (f"--{k.replace('_', '-')}", v)]
    r = command(a.bin, "train", "--model", a.model, "--data", data, "--out", out, "--batch", batch, "--seq", seq, "--steps", a.steps,
                "--threads", cores or threads, "--log-steps", 1, "--schedule", "constant", "--clip", 0, "--save-steps", 0, "--json", "--quiet", *flags, cores=cores)
    steps = [json.loads(l) for l in open(os.path.join(out, "metrics.jsonl"))]
    steps = [s for s in steps if "loss" in s]
    times = [b["elapsed_time"] - c["elapsed_time"] for c, b in zip(steps, steps[1:])][1:]
    rate = batch * seq / statistics.median(times)
    if data == pairs: # of the tokens of a row, those that carry loss
        rate *= r["data"]["trained_tokens"] / (r["data"]["rows_per_epoch"] * seq)
    return dict(rate=rate, bytes=r["peak_bytes"], start=r.get("start_seconds", 0))


def evaluate(**o):
    r = command(a.bin, "eval", "--model", a.model, "--data", a.data, "--threads", threads, "--batch", 4, "--seq", 512, "--max-documents", 16, "--json", "--quiet",
                *[x for k, v in o.items() for x in (f"--{k}", v)])
    return dict(rate=r["tokens_per_second"], bytes=r["peak_bytes"])


def generate(dtype):
    r = command(a.bin, "generate", "--model", a.model, "--prompt", "Explain in a few sentences why the sky is blue.", "--chat", "--max-new", 128, "--temperature", 0,
                "--dtype", dtype, "--threads", threads, "--json", "--quiet")
    return dict(rate=r["tokens_per_second"], bytes=r.get("peak_bytes", 0))


lora = dict(rank=16, alpha=32)
bf16 = dict(dtype="bf16", mode="autocast")
rows = {  # name: (what, ours, theirs)
    "lora-4x512": ("LoRA r16 all-linear 4x512 bf16", lambda: train(4, 512, **lora), lambda: theirs(batch=4, seq=512, **bf16)),
    "lora-8x256": ("LoRA r16 8x256 bf16", lambda: train(8, 256, **lora), lambda: theirs(batch=8, seq=256, **bf16)),
    "lora-1x2048": ("LoRA r16 1x2048 bf16", lambda: train(1, 2048, **lora), lambda: theirs(batch=1, seq=2048, **bf16)),
    "lora-1x512": ("LoRA r16 1x512 bf16", lambda: train(1, 512, **lora), lambda: theirs(batch=1, seq=512, **bf16)),
    "lora-4x512-f32": ("LoRA r16 4x512 f32", lambda: train(4, 512, dtype="f32", **lora), lambda: theirs(batch=4, seq=512, dtype="fp32")),
    "full-4x512": ("full 4x512 bf16, f32 masters; peer pure bf16", lambda: train(4, 512, adapter="full"), lambda: theirs(batch=4, seq=512, dtype="bf16", method="full")),
    "lora-4x512-recompute": ("LoRA 4x512 bf16, recompute", lambda: train(4, 512, recompute="on", **lora), lambda: theirs(batch=4, seq=512, grad_checkpoint=True, **bf16)),
    "lora-pairs": ("LoRA, prompts and completions, trained tokens", lambda: train(4, 512, data=pairs, **lora), lambda: theirs(data=pairs, steps=12, batch=8, seq=512, padded=True, **bf16)),
    "eval-4x512": ("eval 4x512 bf16", lambda: evaluate(), lambda: theirs(method="eval", batch=4, seq=512, dtype="bf16")),
    "generate-bf16": ("generate, batch 1, bf16", lambda: generate("bf16"), lambda: theirs(method="generate", dtype="bf16")),
    "generate-f32": ("generate, batch 1, f32", lambda: generate("f32"), lambda: theirs(method="generate", dtype="fp32")),
    "scaling-2": ("LoRA 4x512 bf16, 2 threads; against 1", lambda: train(4, 512, cores=2, **lora), lambda: train(4, 512, cores=1, **lora)),
    "scaling-4": ("LoRA 4x512 bf16, 4 threads; against 1", lambda: train(4, 512, cores=4, **lora), lambda: train(4, 512, cores=1, **lora)),
    "lora-8x256-compiled": ("LoRA 8x256 bf16; peer compiled", lambda: train(8, 256, **lora), lambda: theirs(batch=8, seq=256, compile=True, **bf16)),
    "lora-4x512-compiled": ("LoRA 4x512 bf16; peer compiled", lambda: train(4, 512, **lora), lambda: theirs(batch=4, seq=512, compile=True, **bf16)),
}
chosen = [r for r in a.rows.split(",") if r] or [r for r in rows if not r.endswith("compiled") and not (r.startswith("scaling") and int(r[-1]) > threads)]
cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.processor())
result = dict(date=datetime.date.today().isoformat(), cpu=cpu, cores=a.cores, repeat=a.repeat, rows={})
print(f"{cpu}, cores {a.cores}, {a.repeat} runs each, medians\n")
print(f"| {'work':45} | ours tok/s | theirs tok/s | ratio | ours MiB | theirs MiB | ratio |\n|{'-' * 47}|---|---|---|---|---|---|", flush=True)
for name in chosen:
    what, ours, other = rows[name]
    mine, peers = [], []
    for _ in range(a.repeat):
        mine.append(ours())
        peers.append(other())
    m = {k: statistics.median(r[k] for r in mine) for k in mine[0]}
    p = {k: statistics.median(r[k] for r in peers) for k in peers[0]}
    result["rows"][name] = dict(what=what, ours=mine, theirs=peers, rate_ratio=m["rate"] / p["rate"], memory_ratio=m["bytes"] / p["bytes"])
    print(f"| {what:45} | {m['rate']:.1f} | {p['rate']:.1f} | {m['rate'] / p['rate']:.2f} | {m['bytes'] / 2**20:.0f} | {p['bytes'] / 2**20:.0f} | {m['bytes'] / p['bytes']:.2f} |", flush=True)
    if a.out:
        with open(a.out, "w") as f:
            json.dump(result, f, indent=1)
shutil.rmtree(tmp, ignore_errors=True)
