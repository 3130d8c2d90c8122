#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The same work by two binaries in turn: see bench/compare, which builds them and calls this."""
import argparse, json, os, shutil, statistics, subprocess, sys, tempfile

ap = argparse.ArgumentParser(description=__doc__)
ap.add_argument("old")
ap.add_argument("new")
ap.add_argument("--names", nargs=2, required=True)
ap.add_argument("--cores", default="0,1")
ap.add_argument("--repeat", type=int, default=5)
ap.add_argument("--slack", type=float, default=0.05)
ap.add_argument("--model", default="models/tiny")
ap.add_argument("--data", default="models/tiny/kjv-heldout.jsonl")
ap.add_argument("--work", default="generate,eval,train")
a = ap.parse_args()
threads = len(a.cores.split(","))
tmp = tempfile.mkdtemp()
works = {
    "generate": (["generate", "--model", a.model, "--prompt", "In the beginning", "--max-new", 128, "--ignore-eos", "on"], "tokens_per_second"),
    "eval": (["eval", "--model", a.model, "--data", a.data, "--seq", 256, "--max-documents", 16], "tokens_per_second"),
    "train": (["train", "--model", a.model, "--data", a.data, "--batch", 4, "--seq", 256, "--steps", 6, "--save-steps", 0, "--out", os.path.join(tmp, "run")], "tokens_per_second"),
}


def once(binary, work):
    shutil.rmtree(os.path.join(tmp, "run"), ignore_errors=True)
    r = subprocess.run(["taskset", "-c", a.cores, binary, *map(str, works[work][0]), "--threads", str(threads), "--json", "--quiet"], capture_output=True, text=True)
    if r.returncode:
        raise SystemExit(f"{binary} {work}: exit {r.returncode}\n{r.stderr[-1000:]}")
    j = json.loads(r.stdout.splitlines()[-1])
    return j[works[work][1]], j["peak_bytes"]


slower = []
print(f"| work | {a.names[0]} tok/s | {a.names[1]} tok/s | ratio | {a.names[0]} MiB | {a.names[1]} MiB |\n|---|---|---|---|---|---|")
for work in a.work.split(","):
    runs = [(once(a.old, work), once(a.new, work)) for _ in range(a.repeat)]
    m = [[statistics.median(r[i][k] for r in runs) for k in range(2)] for i in range(2)]
    ratio = m[1][0] / m[0][0]
    if ratio < 1 - a.slack:
        slower.append(work)
    print(f"| {work} | {m[0][0]:.1f} | {m[1][0]:.1f} | {ratio:.3f} | {m[0][1] / 2**20:.0f} | {m[1][1] / 2**20:.0f} |", flush=True)
shutil.rmtree(tmp, ignore_errors=True)
sys.exit(f"slower than {a.names[0]}: {', '.join(slower)}" if slower else 0)
