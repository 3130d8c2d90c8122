#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prompts and completions whose lengths spread as those of instruction data do: python3 bench/lengths.py TEXT.jsonl OUT.jsonl [N]

The words come from TEXT in order; how many a record takes is drawn from two log-normal distributions (prompts: median
60 words, completions: median 45, both with a long tail, 330 together at most) by a generator of its own, so that the
file is the same everywhere.
"""
import json, math, sys

words = [w for line in open(sys.argv[1], encoding="utf-8") for w in json.loads(line)["text"].split()]
state = 12345


def uniform():
    global state
    state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
    return ((state >> 11) + 0.5) / 2**53


def length(median, sigma, least, most):
    normal = math.sqrt(-2 * math.log(uniform())) * math.cos(2 * math.pi * uniform())
    return max(least, min(most, round(median * math.exp(sigma * normal))))


at = 0
with open(sys.argv[2], "w", encoding="utf-8") as out:
    for i in range(int(sys.argv[3]) if len(sys.argv) > 3 else 400):
        n = length(60, 0.9, 5, 200), length(45, 0.9, 3, 130)
        texts = [" ".join(words[(at + k) % len(words)] for k in range(a, b)) for a, b in ((0, n[0]), (n[0], sum(n)))]
        at += sum(n)
        out.write(json.dumps({"prompt": texts[0] + "\n", "completion": texts[1]}) + "\n")
