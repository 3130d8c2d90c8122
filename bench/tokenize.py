#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tokenizing 10 MB on one thread, beside Hugging Face tokenizers, in one run.

usage: bench/tokenize.py [--text FILE] [--repeat 2] NAME=tokenizer.json ...

Both sides give ids and offsets of the same text. Theirs may take it whole or in
pieces of 4000 characters, whichever is quicker for it; ours takes it whole. Without
--text, the text is prose, code and documentation from this tree, its lines in
random order. A figure is the best of --repeat runs, taken in turn. Needs the package tokenizers and a build."""
import argparse, glob, json, os, random, subprocess, time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
from tokenizers import Tokenizer  # noqa: E402

root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
a.add_argument("--text")
a.add_argument("--repeat", type=int, default=2)
a.add_argument("--helper", default=os.path.join(root, "build", "referee", "text_helper"))
a.add_argument("files", nargs="+")
a = a.parse_args()


def sample(path, size=10_000_000):
    lines = []
    for name in sorted(glob.glob(os.path.join(root, "models", "tiny", "*.jsonl"))):
        with open(name, encoding="utf-8") as f:
            for record in f:
                lines += [s + "\n" for v in json.loads(record).values() for s in (v if isinstance(v, str) else json.dumps(v)).splitlines()]
    for pattern in ("src/**/*.c", "docs/**/*.md", "tests/**/*.py"):
        for name in sorted(glob.glob(os.path.join(root, pattern), recursive=True)):
            with open(name, encoding="utf-8") as f:
                lines += f.readlines()
    rng, out, n = random.Random(1), [], 0
    while n < size:
        at = rng.randrange(len(lines))
        for line in lines[at:at + 20]:
            out.append(line)
            n += len(line.encode())
    with open(path, "w", encoding="utf-8") as f:
        f.write("".join(out))
    return path


path = a.text or sample("/tmp/steelyard-tokenize.txt")
with open(path, encoding="utf-8") as f:
    text = f.read()
pieces = [text[i:i + 4000] for i in range(0, len(text), 4000)]
size = len(text.encode()) / 1e6
print(f"{size:.1f} MB, one thread, best of {a.repeat}\n\n| tokenizer | ours MB/s | theirs MB/s | ratio | same ids |\n|---|---|---|---|---|", flush=True)
for item in a.files:
    name, file = item.split("=", 1)
    t = Tokenizer.from_file(file)
    t.no_truncation()
    t.no_padding()
    mine, theirs, n = 1e9, 1e9, 0
    for _ in range(a.repeat):
        start = time.perf_counter()
        n = len(t.encode(text, add_special_tokens=False).ids)
        theirs = min(theirs, time.perf_counter() - start)
        start = time.perf_counter()
        for piece in pieces:
            t.encode(piece, add_special_tokens=False)
        theirs = min(theirs, time.perf_counter() - start)
        r = json.loads(subprocess.check_output([a.helper, "bench", file, path, "1"]))
        mine = min(mine, r["seconds"])
    same = "yes" if n == r["tokens"] else f"{r['tokens']} for {n} tokens"
    print(f"| {name} | {size / mine:.1f} | {size / theirs:.1f} | {theirs / mine:.2f} | {same} |", flush=True)
