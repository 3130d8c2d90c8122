#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Perplexities of a model compressed with every method, and the orders that the methods' papers require, held or not.

  bench/compress --model SMOLLM2 --results DIR [--bits 4,3,2] [--rows PATTERN] [--out PAGE.md]

A row is one `steelyard compress`; its report is kept in DIR and not made again, so that a run can be stopped and go on, and rows
can be added one by one (times then come from different moments: only those of one quiet run can be compared). Calibration and
held-out text are different verses of the King James Bible's held-out part (models/tiny). QuantLRM's pair is made by our own `train`:
the model fine-tuned on other verses is what rtn, awq and quantlrm of the last rows compress.
"""
import argparse, json, math, os, re, subprocess, sys, tempfile

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--bin", default="build/steelyard")
ap.add_argument("--model", required=True)
ap.add_argument("--results", required=True)
ap.add_argument("--samples", type=int, default=16, help="calibration windows")
ap.add_argument("--eval-samples", type=int, default=16, help="held-out windows")
ap.add_argument("--seq", type=int, default=512)
ap.add_argument("--group", type=int, default=64)
ap.add_argument("--bits", default="4,3,2")
ap.add_argument("--rows", default=".")
ap.add_argument("--threads", default="2")
ap.add_argument("--out", default="")
ap.add_argument("--table-only", action="store_true", help="compress nothing, print what is there")
a = ap.parse_args()
os.makedirs(a.results, exist_ok=True)
root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
lines = open(os.path.join(root, "models/tiny/kjv-heldout.jsonl")).read().splitlines(True)
text = {"calib": lines[:26], "heldout": lines[26:], "tune": open(os.path.join(root, "models/tiny/devil.jsonl")).read().splitlines(True)}
for name, part in text.items():
    with open(os.path.join(a.results, name + ".jsonl"), "w") as f:
        f.writelines(part)
path = lambda name: os.path.join(a.results, name)
tuned = path("tuned")

rows = []  # (key, label, model, options)
for b in a.bits.split(","):
    grid = ["--bits", b, "--group", str(a.group)]
    rows += [(f"rtn-{b}", f"rtn, {b} bits", a.model, ["--method", "rtn", *grid])]
    for v in ("gptq", "gptaq", "rescomp", "exact"):
        rows += [(f"{v}-{b}", f"{v}, {b} bits", a.model, ["--method", "rescomp", "--variant", v, "--sym", "off", *grid])]
    for key, options in (("plain", ["--dsq", "off", "--dac", "off"]), ("dsq", ["--dac", "off"]), ("dac", ["--dsq", "off"]), ("both", [])):
        if b != "4" or key == "both":
            rows += [(f"d2quant-{key}-{b}", f"d2quant ({key}), {b} bits", a.model, ["--method", "d2quant", *grid, *options])]
    rows += [(f"awq-{b}", f"awq, {b} bits", a.model, ["--method", "awq", *grid])]
    for mode in ("acc", "lat", "rowwise"):
        rows += [(f"shiftaddllm-{mode}-{b}", f"shiftaddllm {mode}, {b} bits", a.model, ["--method", "shiftaddllm", "--mode", mode, "--bits", b])]
    rows += [(f"tuned-rtn-{b}", f"fine-tuned: rtn, {b} bits", tuned, ["--method", "rtn", *grid]),
             (f"tuned-awq-{b}", f"fine-tuned: awq, {b} bits", tuned, ["--method", "awq", *grid]),
             (f"tuned-quantlrm-{b}", f"fine-tuned: quantlrm, {b} bits", tuned, ["--method", "quantlrm", "--parent", a.model, *grid])]
rows += [("shiftaddllm-mixed", "shiftaddllm lat, mixed 2.2 bits", a.model, ["--method", "shiftaddllm", "--mixed", "2.2"])]
for r in ("0.2", "0.3", "0.5"):
    rows += [(f"rocket-{r}", f"rocket, {r} removed", a.model, ["--method", "rocket", "--target", r]),
             (f"uniform-{r}", f"rocket, one rate for all, {r} removed", a.model, ["--method", "rocket", "--target", r, "--alloc", "uniform"]),
             (f"svd-{r}", f"low rank (SVD-LLM), {r} removed", a.model, ["--method", "rocket", "--target", r, "--alloc", "uniform", "--ks", "1"])]


def run(*c):
    r = subprocess.run([a.bin, *c], capture_output=True, text=True)
    if r.returncode:
        raise RuntimeError(r.stderr.strip().splitlines()[-1] if r.stderr.strip() else f"exit {r.returncode}")
    return r.stdout


def make_tuned():
    if not os.path.exists(os.path.join(tuned, "config.json")):
        run("train", "--model", a.model, "--data", path("tune.jsonl"), "--rank", "16", "--lr", "1e-3", "--batch", "4", "--seq", "128", "--steps", "60",
            "--out", path("tuned-run"), "--threads", a.threads, "--quiet")
        run("fold", "--model", a.model, "--adapter", path("tuned-run"), "--out", tuned, "--quiet")


settings = dict(samples=a.samples, eval_samples=a.eval_samples, seq=a.seq, group=a.group)
found = {}
for key, label, model, options in rows:
    kept = path(key + ".json")
    if os.path.exists(kept):
        found[key] = json.load(open(kept))
        if found[key]["settings"] != settings:
            sys.exit(f"{kept} comes from other settings: {found[key]['settings']}; give another --results")
        continue
    if a.table_only or not re.search(a.rows, key):
        continue
    try:
        if model == tuned:
            make_tuned()
        with tempfile.TemporaryDirectory(dir=a.results) as tmp:
            # Instructions of the devil's dictionary are what the fine-tuned model was tuned on; both are judged on the Bible.
            out = run("compress", "--model", model, "--calib", path("calib.jsonl"), "--eval-data", path("heldout.jsonl"), "--samples", str(a.samples),
                      "--eval-samples", str(a.eval_samples), "--seq", str(a.seq), "--out", os.path.join(tmp, "out"), "--threads", a.threads, "--json", *options)
        r = json.loads(out)
        found[key] = dict(settings=settings, options=options, **{k: r[k] for k in ("bits_per_weight", "perplexity_before", "perplexity_after", "seconds", "peak_bytes")})
        with open(kept, "w") as f:
            json.dump(found[key], f)
    except RuntimeError as e:
        print(f"{key}: {e}", file=sys.stderr)
    if key in found:
        print(f"{label}: {found[key]['perplexity_after']:.3f}, {found[key]['seconds']:.0f} s, {found[key]['peak_bytes'] >> 20} MiB", file=sys.stderr, flush=True)

page = [f"{a.samples} x {a.seq} tokens of calibration, {a.eval_samples} x {a.seq} of held-out text, groups of {a.group}.", "",
        "| method | bits a weight | perplexity before | after | seconds | peak MiB |", "|---|---|---|---|---|---|"]
for key, label, _, _ in rows:
    r = found.get(key)
    page.append(f"| {label} | {r['bits_per_weight']:.2f} | {r['perplexity_before']:.3f} | {r['perplexity_after']:.3f} | {r['seconds']:.0f} | {r['peak_bytes'] >> 20} |"
                if r else f"| {label} | | | not run | | |")
page += ["", "| required by the sheets | left | right | held |", "|---|---|---|---|"]
ppl = lambda k: found[k]["perplexity_after"] if k in found else math.nan
excess = lambda k: math.log(ppl(k)) - math.log(found[k]["perplexity_before"]) if k in found else math.nan


def order(what, left, right):
    held = "not run" if math.isnan(left) or math.isnan(right) else "yes" if left < right or left == right else "**no**"
    page.append(f"| {what} | {left:.3f} | {right:.3f} | {held} |")


for b in a.bits.split(","):
    order(f"{b} bits: gptq's loss over bf16's < 0.8 of rtn's", excess(f"gptq-{b}"), 0.8 * excess(f"rtn-{b}"))
    order(f"{b} bits: gptaq <= gptq (expected)", ppl(f"gptaq-{b}"), ppl(f"gptq-{b}"))
    order(f"{b} bits: rescomp <= 1.005 gptaq", ppl(f"rescomp-{b}"), 1.005 * ppl(f"gptaq-{b}"))
    if b != "4":
        order(f"{b} bits: d2quant's both < its own gptaq", ppl(f"d2quant-both-{b}"), ppl(f"d2quant-plain-{b}"))
        for part in ("dsq", "dac"):
            order(f"{b} bits: d2quant's {part} < its own gptaq (expected)", ppl(f"d2quant-{part}-{b}"), ppl(f"d2quant-plain-{b}"))
    order(f"{b} bits: awq < rtn (expected)", ppl(f"awq-{b}"), ppl(f"rtn-{b}"))
    order(f"{b} bits: quantlrm < rtn on the fine-tuned model", ppl(f"tuned-quantlrm-{b}"), ppl(f"tuned-rtn-{b}"))
    order(f"{b} bits: shiftaddllm lat < rowwise", ppl(f"shiftaddllm-lat-{b}"), ppl(f"shiftaddllm-rowwise-{b}"))
    order(f"{b} bits: shiftaddllm acc <= lat (expected)", ppl(f"shiftaddllm-acc-{b}"), ppl(f"shiftaddllm-lat-{b}"))
for r in ("0.2", "0.3", "0.5"):
    order(f"{r} removed: rocket < one rate for all", ppl(f"rocket-{r}"), ppl(f"uniform-{r}"))
    order(f"{r} removed: one rate for all < low rank", ppl(f"uniform-{r}"), ppl(f"svd-{r}"))
    order(f"{r} removed: rocket's loss over bf16's <= 0.6 of low rank's", excess(f"rocket-{r}"), 0.6 * excess(f"svd-{r}"))
print("\n".join(page))
if a.out:
    with open(a.out, "w") as f:
        f.write("\n".join(page) + "\n")
