#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Merging, ours and mergekit's: see bench/merge, which installs mergekit and calls this.

Both tools get the same recipe file and write a new folder; a figure is the wall time of the whole command, the median
over the repetitions, in turn. "copy" is the limit: a plain program reads every input once and writes one output, with
fsync. Memory is what the system counts: of ours and of mergekit the most anonymous memory (mapped files not counted),
looked at every few milliseconds. "start" is mergekit's start alone (imports, --help).
"""
import argparse, datetime, json, os, pathlib, platform, shutil, statistics, subprocess, sys, threading, time

here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, here)
import targets

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--bin", default="build/steelyard")
ap.add_argument("--model", required=True)
ap.add_argument("--work", required=True, help="folder for variants, the large models and outputs")
ap.add_argument("--cores", default="0,1")
ap.add_argument("--repeat", type=int, default=3)
ap.add_argument("--sizes", default="small,large")
ap.add_argument("--methods", default="")
ap.add_argument("--parties", default="", help="of these only: ours, mergekit, copy")
ap.add_argument("--out", default="", help="result file; rows that are in it already are kept")
a = ap.parse_args()
threads = len(a.cores.split(","))
work = pathlib.Path(a.work)
mergekit = str(pathlib.Path(sys.executable).parent / "mergekit-yaml")

three = lambda extra="": "".join(f"  - {{model: @{m}@, parameters: {{weight: {w}{extra}}}}}\n" for m, w in (("A", 0.5), ("B", 0.3), ("C", 0.2)))
RECIPES = {  # method: recipe, number of models that are read
    "linear": ("models:\n" + three() + "parameters: {normalize: true}\n", "ABC"),
    "slerp": ("base_model: @A@\nslices:\n  - sources:\n      - {model: @A@, layer_range: [0, @LAYERS@]}\n      - {model: @B@, layer_range: [0, @LAYERS@]}\nparameters:\n"
              "  t:\n    - {filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}\n    - {filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]}\n    - {value: 0.5}\n", "AB"),
    "task_arithmetic": ("base_model: @BASE@\nmodels:\n" + three() + "parameters: {lambda: 1.0, normalize: false}\n", "xABC"),
    "ties": ("base_model: @BASE@\nmodels:\n" + three(", density: 0.5") + "parameters: {normalize: true, int8_mask: true}\n", "xABC"),
    "dare_ties": ("base_model: @BASE@\nmodels:\n" + three(", density: 0.53") + "parameters: {int8_mask: true}\n", "xABC"),
    "della": ("base_model: @BASE@\nmodels:\n" + three(", density: 0.5, epsilon: 0.1") + "parameters: {lambda: 1.0, normalize: true}\n", "xABC"),
}
LARGE = ["linear", "slerp", "task_arithmetic", "ties"]
ELEMENTWISE = ["linear", "slerp", "task_arithmetic"]


def noisy(src, dst, seed):
    """A copy with noise of a tenth of the spread of every matrix."""
    import torch
    from safetensors.torch import load_file, save_file
    dst.mkdir(parents=True, exist_ok=True)
    for f in sorted(src.iterdir()):
        if f.suffix != ".safetensors":
            if f.is_file():
                shutil.copy(f, dst / f.name)
            continue
        g = torch.Generator().manual_seed(seed)
        t = {k: (v.float() + 0.1 * v.float().std() * torch.randn(v.shape, generator=g)).to(v.dtype) if v.dim() == 2 else v for k, v in load_file(f).items()}
        save_file(t, dst / f.name, metadata={"format": "pt"})
        seed += 1000


def large(out, hidden=2048, inter=5632, layers=22, heads=32, kv=4, vocab=32000, shards=3):
    """A Llama of 1.1 billion random numbers, in shards."""
    import torch
    from safetensors.torch import save_file
    out.mkdir(parents=True, exist_ok=True)
    hd, shapes = hidden // heads, [("model.embed_tokens", (vocab, hidden))]
    for i in range(layers):
        shapes += [(f"model.layers.{i}.{n}", s) for n, s in (
            ("input_layernorm", (hidden,)), ("self_attn.q_proj", (hidden, hidden)), ("self_attn.k_proj", (kv * hd, hidden)), ("self_attn.v_proj", (kv * hd, hidden)),
            ("self_attn.o_proj", (hidden, hidden)), ("post_attention_layernorm", (hidden,)), ("mlp.gate_proj", (inter, hidden)), ("mlp.up_proj", (inter, hidden)),
            ("mlp.down_proj", (hidden, inter)))]
    shapes += [("model.norm", (hidden,)), ("lm_head", (vocab, hidden))]
    g, where, each = torch.Generator().manual_seed(0), {}, -(-len(shapes) // shards)
    for s in range(shards):
        name, part = f"model-{s + 1:05d}-of-{shards:05d}.safetensors", {}
        for n, shape in shapes[s * each : (s + 1) * each]:
            part[n + ".weight"] = (torch.ones(shape) if len(shape) == 1 else 0.02 * torch.randn(shape, generator=g)).bfloat16()
            where[n + ".weight"] = name
        save_file(part, out / name, metadata={"format": "pt"})
    (out / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    (out / "config.json").write_text(json.dumps(dict(
        architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=hidden, intermediate_size=inter, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv, vocab_size=vocab, max_position_embeddings=2048, rms_norm_eps=1e-5, hidden_act="silu", tie_word_embeddings=False, torch_dtype="bfloat16")))


def models(size):
    at = {m: work / size / m for m in ("BASE", "A", "B", "C")}
    if size == "small":
        at["BASE"] = pathlib.Path(a.model)
    elif not (at["BASE"] / "config.json").exists():
        large(at["BASE"])
    for i, m in enumerate("ABC"):
        if not (work / size / f"{m}.made").exists():
            noisy(at["BASE"], at[m], i + 1)
            (work / size / f"{m}.made").touch()
    return at


def anonymous(pid, peak, stop):
    """The most anonymous memory of a process and of those it started."""
    while not stop.is_set():
        total = 0
        try:
            for p in [pid] + [int(x) for t in os.listdir(f"/proc/{pid}/task") for x in open(f"/proc/{pid}/task/{t}/children").read().split()]:
                total += next(int(l.split()[1]) for l in open(f"/proc/{p}/status") if l.startswith("RssAnon")) * 1024
        except (OSError, StopIteration, ValueError):
            pass
        peak[0] = max(peak[0], total)
        stop.wait(0.004)


def timed(*c):
    env = dict(os.environ, OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads), HF_HUB_OFFLINE="1")
    peak, stop, began = [0], threading.Event(), time.perf_counter()
    p = subprocess.Popen([str(x) for x in c], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)
    os.sched_setaffinity(p.pid, {int(x) for x in a.cores.split(",")})
    watch = threading.Thread(target=anonymous, args=(p.pid, peak, stop))
    watch.start()
    out, err = p.communicate()
    seconds = time.perf_counter() - began
    stop.set()
    watch.join()
    if p.returncode:
        raise SystemExit(f"{' '.join(map(str, c))}\nexit {p.returncode}\n{err.decode()[-2000:]}")
    return dict(seconds=seconds, anonymous=peak[0] / 2**20), out.decode()


COPY = """
import os, sys
out, first, rest = sys.argv[1], sys.argv[2], sys.argv[3:]
buffer = bytearray(1 << 24)
os.makedirs(out)
for folder in [first] + rest:
    for name in sorted(f for f in os.listdir(folder) if f.endswith(".safetensors")):
        with open(os.path.join(folder, name), "rb", buffering=0) as r:
            w = os.open(os.path.join(out, name), os.O_WRONLY | os.O_CREAT) if folder == first else -1
            while n := r.readinto(buffer):
                if w >= 0: os.write(w, memoryview(buffer)[:n])
            if w >= 0: os.fsync(w); os.close(w)
"""


def run(party, recipe, dst, at, reads):
    shutil.rmtree(dst, ignore_errors=True)
    if party == "ours":
        r, out = timed(a.bin, "merge", recipe, "--out", dst, "--threads", threads, "--quiet", "--json")
        r["held"] = json.loads(out)["held_bytes"] / 2**20
    elif party == "mergekit":
        more = [] if (at["A"] / "tokenizer.json").exists() else ["--no-copy-tokenizer"]
        r, _ = timed(mergekit, recipe, dst, "--quiet", "-j", threads, "--random-seed", 1, *more)
    else:
        r, _ = timed(sys.executable, "-c", COPY, dst, *[at[m] if m != "x" else at["BASE"] for m in reversed(reads)])
    shutil.rmtree(dst, ignore_errors=True)
    return r


def row_text(name, row):
    p = {k: {m: targets.median(v, m) for m in ("seconds", "anonymous")} for k, v in row["parties"].items()}
    cell = lambda k, m, f="{:.2f}": f.format(p[k][m]) if k in p and p[k][m] is not None else "–"
    ratio = p["mergekit"]["seconds"] / p["ours"]["seconds"] if "mergekit" in p and "ours" in p else None
    start = targets.median(row["parties"].get("start", []), "seconds")
    less = f"{(p['mergekit']['seconds'] - start) / p['ours']['seconds']:.1f}×" if ratio and start else "–"
    return (f"| {row['what']} | {cell('mergekit', 'seconds')} | {cell('ours', 'seconds')} | {f'{ratio:.1f}×' if ratio else '–'} | {less} | {cell('copy', 'seconds')} | "
            f"{cell('ours', 'anonymous', '{:.0f}')} | {cell('mergekit', 'anonymous', '{:.0f}')} |")


result = json.load(open(a.out)) if a.out and os.path.exists(a.out) else {"rows": {}}
version = subprocess.run([a.bin, "--version"], capture_output=True, text=True).stdout.strip()
commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=here).stdout.strip()
import importlib.metadata as meta
result |= dict(date=str(datetime.date.today()), cpu=platform.processor() or platform.machine(), cores=a.cores, repeat=a.repeat,
               versions={"steelyard": f"{version} {commit}", **{m: meta.version(m) for m in ("mergekit", "torch", "safetensors")}})
for line in open("/proc/cpuinfo"):
    if line.startswith("model name"):
        result["cpu"] = line.split(":")[1].strip()
for size in a.sizes.split(","):
    at = models(size)
    layers = json.load(open(at["BASE"] / "config.json"))["num_hidden_layers"]
    for method, (text, reads) in RECIPES.items():
        if (a.methods and method not in a.methods.split(",")) or (size == "large" and method not in LARGE):
            continue
        text = f"merge_method: {method}\n{text}dtype: bfloat16\n".replace("@LAYERS@", str(layers))
        for m in at:
            text = text.replace(f"@{m}@", str(at[m].resolve()))
        recipe = work / f"{size}-{method}.yaml"
        recipe.write_text(text)
        label = "three variants of SmolLM2-135M" if size == "small" else "1.1B numbers in three shards"
        name = f"merge-{size}-{method}"
        row = result["rows"].setdefault(name, {"what": f"merge, {method}, {label}", "parties": {}})
        for k in range(a.repeat):
            for party in ("ours", "mergekit", "copy"):
                if a.parties and party not in a.parties.split(","):
                    continue
                if party == "copy" and not (size == "large" and method in ELEMENTWISE):
                    continue
                if party == "mergekit" and size == "large" and (method != "ties" or k > 0):
                    continue
                row["parties"].setdefault(party, []).append(run(party, recipe, work / "out", at, reads))
            if size == "small" and (not a.parties or "mergekit" in a.parties.split(",")):
                row["parties"].setdefault("start", []).append(timed(mergekit, "--help")[0])
        if a.out:
            json.dump(result, open(a.out, "w"), indent=1)
        print(row_text(name, row), flush=True)

print("\n| work | mergekit, s | steelyard, s | times faster | without mergekit's start | copy, s | anonymous memory, MiB | mergekit's |\n|---|---|---|---|---|---|---|---|")
for name, row in result["rows"].items():
    print(row_text(name, row))
print("\n| work | asked | wanted | measured | |\n|---|---|---|---|---|")
for name, row in result["rows"].items():
    for what, value, bound, met in targets.judge(name, row):
        print(f"| {row['what']} | {what} | {bound} | {value:.3g} | {'met' if met else '**missed**'} |")
