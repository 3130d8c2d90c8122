# SPDX-License-Identifier: Apache-2.0
"""The targets that benchmarks are held against, and how a result file answers them.

A result file has rows, a row has parties (ours, the peers, ourselves in another setting), a party has one record of
measures for each repetition. A target names a row, a measure, one or two parties and a bound; its value is made of
medians over the repetitions. bench/run and bench/table use the same list.
"""
import statistics

# (row, what is asked, measure, party, other party or None, "at least" or "at most", bound)
TARGETS = []
for row, eager in (("lora-4x512", 1.7), ("lora-8x256", 1.7)):
    TARGETS += [(row, "tokens/s against PEFT, eager", "rate", "ours", "peft", "at least", eager),
                (row, "tokens/s against PEFT, compiled", "rate", "ours", "compiled", "at least", 1.4),
                (row, "share of the limit", "share", "ours", None, "at least", 0.75)]
TARGETS += [
    ("memory-4x512", "peak memory against PEFT's lowest, compiled", "bytes", "ours", "lean", "at most", 0.35),
    ("memory-4x512", "peak memory with --recompute against PEFT's lowest, compiled", "bytes", "recompute", "lean", "at most", 0.20),
    ("memory-4x512", "time with --recompute against without", "time", "recompute", "ours", "at most", 1.25),
    ("lora-4x512", "seconds to the first step's beginning", "start", "ours", None, "at most", 0.3),
    ("lora-4x512", "the same against PEFT", "start", "ours", "peft", "at most", 1 / 15),
    ("lora-1x2048", "tokens/s against PEFT, eager", "rate", "ours", "peft", "at least", 1.6),
    ("lora-1x512", "tokens/s against PEFT, eager", "rate", "ours", "peft", "at least", 1.7),
    ("lora-pairs", "trained tokens/s against padded batches of 8", "rate", "ours", "peft", "at least", 3),
    ("lora-4x512-f32", "tokens/s against PEFT in f32", "rate", "ours", "peft", "at least", 1.4),
    ("full-4x512", "tokens/s against PyTorch, pure bf16", "rate", "ours", "pytorch", "at least", 1.3),
    ("eval-4x512", "tokens/s against transformers", "rate", "ours", "transformers", "at least", 1.4),
    ("eval-4x512", "share of the limit", "share", "ours", None, "at least", 0.8),
    ("scaling", "tokens/s with 2 threads against 1", "rate", "two", "one", "at least", 1.9),
    ("scaling", "tokens/s with 4 threads against 1", "rate", "four", "one", "at least", 3.5),
]
# The plan beside what the operating system measured, wherever there is a plan.
TARGETS += [(row, "planned over measured peak, apart", "apart", party, None, "at most", 0.05)
            for row, party in (("lora-4x512", "ours"), ("memory-4x512", "recompute"), ("lora-4x512-f32", "ours"), ("full-4x512", "ours"))]
# Decoding: rows of bench/decode.
for name in ("bf16", "f32"):
    TARGETS += [(f"{name}-generate", "tokens/s against transformers", "rate", "ours", "theirs", "at least", 3),
                (f"{name}-generate", "share of the bandwidth limit", "share", "ours", None, "at least", 0.8),
                (f"{name}-prompt", "share of the compute limit", "share", "ours", None, "at least", 0.75)]
for name in ("f32", "q8_0", "q4_0", "q4_1"):
    TARGETS += [(f"gguf-{name}-generate", "tokens/s against llama-bench", "rate", "ours", "theirs", "at least", 1.0),
                (f"gguf-{name}-prompt", "tokens/s against llama-bench", "rate", "ours", "theirs", "at least", 1.2)]
# Merging: rows of bench/merge.
TARGETS += [(f"merge-small-{m}", "times faster than mergekit, whole commands", "seconds", "mergekit", "ours", "at least", bound)
            for m, bound in (("linear", 10), ("slerp", 10), ("task_arithmetic", 10), ("ties", 20), ("dare_ties", 12), ("della", 12))]
TARGETS += [("merge-large-ties", "times faster than mergekit, whole commands", "seconds", "mergekit", "ours", "at least", 15)]
for m in ("linear", "slerp", "task_arithmetic"):
    TARGETS += [(f"merge-large-{m}", "time over that of reading the inputs and writing the output", "seconds", "ours", "copy", "at most", 1.2),
                (f"merge-large-{m}", "memory beyond mapped pages, MiB", "anonymous", "ours", None, "at most", 300)]


def parties(row):
    """Of a row of either benchmark: {party: [{measure: value}]}; bench/decode keeps its runs in another shape."""
    if "parties" in row:
        return row["parties"]
    return {"ours": [dict(rate=row["ours"], share=row["share"])], "theirs": [dict(rate=row["theirs"])]}


def median(records, measure):
    values = [r[measure] for r in records if r.get(measure) == r.get(measure) and r.get(measure) is not None]
    return statistics.median(values) if values else None


def judge(row_name, row):
    """[(what, value, bound as text, met)] of the targets that this row can answer."""
    out, have = [], parties(row)
    for name, what, measure, party, other, side, bound in TARGETS:
        if name != row_name or party not in have or (other and other not in have):
            continue
        if measure == "apart":
            plan, peak = median(have[party], "plan"), median(have[party], "bytes")
            value = abs(plan / peak - 1) if plan and peak else None
        else:
            m = "rate" if measure == "time" else measure
            a, b = median(have[party], m), median(have[other], m) if other else 1
            value = None if a is None or not b else b / a if measure == "time" else a / b
        if value is None:
            continue
        met = value >= bound if side == "at least" else value <= bound
        out.append((what if party in ("ours", "two", "four") or "--" in what else f"{what} ({party})", value, ("≥ " if side == "at least" else "≤ ") + f"{bound:.3g}", met))
    return out
