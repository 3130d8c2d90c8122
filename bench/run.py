#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""One table of Steelyard against its peers: see bench/run, which installs them and calls this.

Every party of a row does the same work: the same folder, the same text in blocks of the same length, the same rank and
targets. The parties run in turn, `--repeat` times; a figure is the median over runs of the median over steps (the first
left out). What a row was asked for (bench/targets.py) is printed under it, met or missed. Limits are measured in the run
itself: a plain bf16 (f32) product of 2048 x 1536 x 576 on the same cores.
"""
import argparse, datetime, json, os, platform, shutil, statistics, subprocess, sys, tempfile

here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, here)
import targets

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--bin", default="build/steelyard")
ap.add_argument("--limits", default="build/bench/bench.limits")
ap.add_argument("--python", default=sys.executable)
ap.add_argument("--model", required=True)
ap.add_argument("--data", default="models/tiny/kjv-heldout.jsonl", help="JSON lines with text: one long text for rows without padding, and the words of the row of prompts and completions")
ap.add_argument("--cores", default="0,1")
ap.add_argument("--repeat", type=int, default=3)
ap.add_argument("--steps", type=int, default=4)
ap.add_argument("--peer-steps", type=int, default=0, help="of the peers, which take longer (default: as --steps)")
ap.add_argument("--once", default="", help="parties that run in the first repetition only (compiled ones take minutes to begin)")
ap.add_argument("--rows", default="", help="of these only (a comma between)")
ap.add_argument("--parties", default="", help="of these only: ours, peft, compiled, ...")
ap.add_argument("--out", default="")
a = ap.parse_args()
threads = len(a.cores.split(","))
peer = os.path.join(here, "peers", "peft_lora.py")
tmp = tempfile.mkdtemp(prefix="steelyard-bench-")
text, pairs = os.path.join(tmp, "text.txt"), os.path.join(tmp, "pairs.jsonl")
with open(text, "w") as f:
    f.write("\n".join(json.loads(l)["text"] for l in open(a.data)))
subprocess.run([sys.executable, os.path.join(here, "lengths.py"), a.data, pairs], check=True)
config = json.load(open(os.path.join(a.model, "config.json")))


# What the peers' own notes advise for speed: large tensors are taken from memory that was kept, not from fresh pages.
KEEP = dict(MALLOC_MMAP_MAX_="0", MALLOC_TRIM_THRESHOLD_="34359738368", MALLOC_TOP_PAD_="268435456")


def command(*c, cores=0, **more):
    some = ",".join(a.cores.split(",")[: cores or threads])
    env = dict(os.environ, OMP_NUM_THREADS=str(cores or threads), **more)
    env.pop("OMP_WAIT_POLICY", None)  # as OpenMP comes, for all parties
    r = subprocess.run(["taskset", "-c", some, *map(str, c)], capture_output=True, text=True, env=env)
    if r.returncode:
        raise SystemExit(f"{' '.join(map(str, c))}\nexit {r.returncode}\n{r.stderr[-2000:]}")
    return json.loads([l for l in r.stdout.splitlines() if l.startswith("{")][-1])


def theirs(data=text, steps=0, keep=True, **o):
    """keep False: their smallest memory instead of their best speed."""
    flags = []
    for k, v in o.items():
        flags += [f"--{k.replace('_', '-')}"] + ([] if v is True else [v])
    r = command(a.python, peer, "--model", a.model, "--data", data, "--threads", threads, "--steps", steps or a.peer_steps or a.steps, "--warmup", 1, *flags, **(KEEP if keep else {}))
    return dict(rate=r["tokens_per_s"], bytes=r["peak_rss_mib"] * 2**20, start=r.get("startup_s", 0) - r.get("first_step_s", 0))


def train(batch, seq, data=text, cores=0, **o):
    out = os.path.join(tmp, "run")
    shutil.rmtree(out, ignore_errors=True)
    flags = [x for k, v in o.items() for x in (f"--{k.replace('_', '-')}", v)]
    r = command(a.bin, "train", "--model", a.model, "--data", data, "--out", out, "--batch", batch, "--seq", seq, "--steps", a.steps, "--profile", os.path.join(tmp, "trace.json"),
                "--threads", cores or threads, "--log-steps", 1, "--schedule", "constant", "--clip", 0, "--save-steps", 0, "--json", "--quiet", *flags, cores=cores)
    steps = [json.loads(l) for l in open(os.path.join(out, "metrics.jsonl"))]
    steps = [s for s in steps if "loss" in s]
    step = statistics.median(b["elapsed_time"] - c["elapsed_time"] for c, b in zip(steps, steps[1:]))
    rate = batch * seq / step
    if data == pairs:  # of the tokens of a row, those that carry loss
        rate *= r["data"]["trained_tokens"] / (r["data"]["rows_per_epoch"] * seq)
    return dict(rate=rate, bytes=r["peak_bytes"], plan=r["plan"]["total"], start=r["start_seconds"], limit_gflops=r["limit_gflops"],
                share=r["counted_gflop"] / r["steps"] / step / r["limit_gflops"])


def evaluate():
    r = command(a.bin, "eval", "--model", a.model, "--data", text, "--threads", threads, "--batch", 4, "--seq", 512, "--json", "--quiet")
    limit = command(a.limits, threads)["bf16"]
    h, layers, heads = config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"]
    dim = config.get("head_dim") or h // heads
    matrices = layers * h * (2 * heads * dim + 2 * config["num_key_value_heads"] * dim + 3 * config["intermediate_size"]) + h * config["vocab_size"]
    flops = 2 * matrices + 4 * 256.5 * heads * dim * layers  # a token; causal attention counted half
    return dict(rate=r["tokens_per_second"], bytes=r["peak_bytes"], limit_gflops=limit * 1e-9, share=flops * r["tokens_per_second"] / limit)


lora = dict(rank=16, alpha=32)
bf16 = dict(dtype="bf16", mode="autocast")
rows = {  # name: (what, {party: how})
    "lora-4x512": ("LoRA r=16 all-linear, bf16, 4x512", dict(
        ours=lambda: train(4, 512, **lora), peft=lambda: theirs(batch=4, seq=512, **bf16),
        compiled=lambda: theirs(batch=4, seq=512, compile=True, **bf16))),
    "memory-4x512": ("LoRA r=16 all-linear, bf16, 4x512, peak memory", dict(
        ours=lambda: train(4, 512, **lora), recompute=lambda: train(4, 512, recompute="on", **lora),
        lean=lambda: theirs(batch=4, seq=512, compile=True, steps=2, keep=False, **bf16))),
    "lora-8x256": ("LoRA r=16 all-linear, bf16, 8x256", dict(
        ours=lambda: train(8, 256, **lora), peft=lambda: theirs(batch=8, seq=256, **bf16), compiled=lambda: theirs(batch=8, seq=256, compile=True, **bf16))),
    "lora-1x2048": ("LoRA r=16 all-linear, bf16, 1x2048", dict(ours=lambda: train(1, 2048, **lora), peft=lambda: theirs(batch=1, seq=2048, **bf16))),
    "lora-1x512": ("LoRA r=16 all-linear, bf16, 1x512", dict(ours=lambda: train(1, 512, **lora), peft=lambda: theirs(batch=1, seq=512, **bf16))),
    "lora-pairs": ("LoRA r=16 on prompts and completions, loss on completions", dict(
        ours=lambda: train(4, 512, data=pairs, **lora), peft=lambda: theirs(data=pairs, steps=6, batch=8, seq=512, padded=True, **bf16))),
    "lora-4x512-f32": ("LoRA r=16 all-linear, f32, 4x512", dict(ours=lambda: train(4, 512, dtype="f32", **lora), peft=lambda: theirs(batch=4, seq=512, dtype="fp32"))),
    "full-4x512": ("full fine-tuning, f32 masters (the peer: pure bf16), 4x512", dict(
        ours=lambda: train(4, 512, adapter="full"), pytorch=lambda: theirs(batch=4, seq=512, dtype="bf16", method="full"))),
    "eval-4x512": ("eval, forward, bf16, 4x512", dict(ours=evaluate, transformers=lambda: theirs(method="eval", batch=4, seq=512, dtype="bf16"))),
    "scaling": ("LoRA r=16 all-linear, bf16, 4x512 by threads", dict(
        one=lambda: train(4, 512, cores=1, **lora), two=lambda: train(4, 512, cores=2, **lora), four=lambda: train(4, 512, cores=4, **lora))),
}


def first_line(*c):
    r = subprocess.run(c, capture_output=True, text=True)
    return r.stdout.strip().splitlines()[0] if r.returncode == 0 and r.stdout.strip() else "unknown"


def versions():
    code = ("import importlib.metadata as m, json, re, torch; v = {p: m.version(p) for p in ('torch', 'transformers', 'peft')}; "
            "d = re.search(r'(?:MKL-DNN|oneDNN) v?([0-9.]+)', torch.__config__.show()); v['oneDNN in torch'] = d.group(1) if d else 'unknown'; print(json.dumps(v))")
    r = subprocess.run([a.python, "-c", code], capture_output=True, text=True, check=True)
    commit = first_line("git", "describe", "--always", "--dirty", "--abbrev=12")
    limits = command(a.limits, threads)
    return dict(steelyard=first_line(a.bin, "--version").split()[-1] + " " + commit, oneDNN=limits["onednn"], path=limits["cpu"], **json.loads(r.stdout))


cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.processor())
result = dict(date=datetime.date.today().isoformat(), cpu=cpu, system=f"{platform.system()} {platform.machine()}", cores=a.cores, repeat=a.repeat, versions=versions(), rows={})
print(f"{cpu}, cores {a.cores}, {a.repeat} runs each, medians; " + ", ".join(f"{k} {v}" for k, v in result["versions"].items()) + "\n")
for name in [r for r in a.rows.split(",") if r] or rows:
    what, who = rows[name]
    who = {p: f for p, f in who.items() if (not a.parties or p in a.parties.split(",")) and {"two": 2, "four": 4}.get(p, 0) <= threads}
    got = {p: [] for p in who}
    for i in range(a.repeat):
        for p, f in who.items():
            if i == 0 or p not in ["lean"] + a.once.split(","):  # of "lean" only the memory counts, and that does not vary
                got[p].append(f())
    result["rows"][name] = dict(what=what, parties=got)
    print(f"{what}")
    for p, records in got.items():
        m = {k: targets.median(records, k) for k in records[0]}
        print(f"    {p:12} {m['rate']:8.1f} tokens/s {m['bytes'] / 2**20:7.0f} MiB" + (f" (planned {m['plan'] / 2**20:.0f})" if "plan" in m else "") +
              (f", {100 * m['share']:.0f} % of {m['limit_gflops']:.0f} GFLOP/s" if "share" in m else "") + (f", started in {m['start']:.2f} s" if m.get("start") else ""))
    for asked, value, bound, met in targets.judge(name, result["rows"][name]):
        print(f"    {'met   ' if met else 'MISSED'}   {asked}: {value:.3f} ({bound})")
    sys.stdout.flush()
    if a.out:
        with open(a.out, "w") as f:
            json.dump(result, f, indent=1)
shutil.rmtree(tmp, ignore_errors=True)
