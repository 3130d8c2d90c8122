#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What `steelyard train` and `eval` do and write, against torch, transformers and the formats' definitions.

  run_referee.py [--bin build/steelyard] [--build build] [--only NAME]

On a tiny random model: learning rates of every schedule, a whole training curve with clipping, warm-up and
accumulation on the very rows that the command reads, evaluation of prompts with completions, trainer_state.json,
the event file, the picture. Prints a line a check, `ok` or `FAIL`; the exit code is 1 if any failed.
"""
import argparse, json, math, os, shutil, struct, subprocess, sys, tempfile, traceback, xml.dom.minidom

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerState, get_scheduler

transformers.utils.logging.disable_progress_bar()
ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--bin", default=os.environ.get("STEELYARD_BIN", "build/steelyard"))
ap.add_argument("--build", default=os.environ.get("STEELYARD_BUILD", "build"))
ap.add_argument("--only")
args = ap.parse_args()
tmp = tempfile.mkdtemp(prefix="run-referee-")
failed = 0
SEQ = 32


def path(name):
    return os.path.join(tmp, name)


def steelyard(*a):
    r = subprocess.run([args.bin, *map(str, a), "--json", "--quiet"], capture_output=True, text=True)
    assert r.returncode == 0, f"steelyard {' '.join(map(str, a))}: exit {r.returncode}: {r.stderr.strip()[-600:]}"
    return json.loads(r.stdout)


def check(name):
    def run(fn):
        global failed
        if args.only and args.only not in name:
            return fn
        try:
            print(f"ok {name}: {fn()}", flush=True)
        except Exception as e:
            failed += 1
            print(f"FAIL {name}: {e if isinstance(e, AssertionError) else traceback.format_exc()}", flush=True)
        return fn
    return run


def lines(run):
    with open(os.path.join(path(run), "metrics.jsonl"), encoding="utf-8") as f:
        return [json.loads(line) for line in f]


subprocess.run([os.path.join(args.build, "tests", "test.run.train"), "make", tmp], check=True)
tokenizer = PreTrainedTokenizerFast(tokenizer_file=path("model/tokenizer.json"))
EOS = tokenizer.convert_tokens_to_ids("<|endoftext|>")
base = ["--model", path("model"), "--dtype", "f32", "--seq", SEQ, "--pack", "off"]


def documents(file):
    with open(path(file), encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def windows(docs):
    """Rows of the command without packing and shuffling: each document ended, cut into windows; one token is none."""
    rows = []
    for d in docs:
        ids = tokenizer(d["text"], add_special_tokens=False).input_ids + [EOS]
        rows += [w for w in (ids[i:i + SEQ] for i in range(0, len(ids), SEQ)) if len(w) > 1]
    return rows


def nll(model, row, first=1):
    """Sum of the losses of tokens first.. of a row, and how many."""
    ids = torch.tensor([row])
    logits = model(input_ids=ids, use_cache=False).logits[0, :-1].double()
    each = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
    return each[first - 1:].sum(), len(row) - first


def load():
    return AutoModelForCausalLM.from_pretrained(path("model"), dtype=torch.float32)


def scheduler(kind, lr, warmup, total):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    s = get_scheduler(kind if kind != "constant" else "constant_with_warmup", optimizer, warmup, total)
    rates = []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        s.step()
    return rates


@check("learning rates: constant, linear, cosine with and without warm-up")
def _():
    worst = 0
    for kind in ("constant", "linear", "cosine"):
        for warmup in (0, 3):
            out = f"schedule-{kind}-{warmup}"
            steelyard("train", *base, "--data", path("data.jsonl"), "--out", path(out), "--steps", 11, "--lr", 1e-3, "--schedule", kind,
                      "--warmup-steps", warmup, "--batch", 1)
            ours = [x["learning_rate"] for x in lines(out) if "learning_rate" in x]
            theirs = scheduler(kind, 1e-3, warmup, 11)
            assert len(ours) == 11
            worst = max(worst, max(abs(a - b) for a, b in zip(ours, theirs)))
    assert worst < 1e-11, f"largest difference {worst}"
    return f"largest difference {worst:.1e}"


@check("a curve of full fine-tuning: rows, clipping, warm-up, accumulation, decay")
def _():
    steps, batch, accumulation, lr, decay, clip = 12, 2, 3, 3e-3, 0.1, 0.5
    steelyard("train", *base, "--data", path("data.jsonl"), "--eval-data", path("eval.jsonl"), "--out", path("full"), "--adapter", "full",
              "--steps", steps, "--batch", batch, "--accumulation", accumulation, "--lr", lr, "--warmup-steps", 2, "--schedule", "cosine",
              "--clip", clip, "--weight-decay", decay, "--shuffle", "off", "--save-steps", 4)
    model, rows = load(), windows(documents("data.jsonl"))
    # As the command does it: decay on matrices only.
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}], lr=lr)
    rates, at, worst, norms = scheduler("cosine", lr, 2, steps), 0, 0, 0
    ours = [x for x in lines("full") if "loss" in x]
    assert len(ours) == steps
    for k in range(steps):
        total, count = 0, 0
        for _ in range(batch * accumulation):
            s, n = nll(model, rows[at % len(rows)])
            total, count, at = total + s, count + n, at + 1
        loss = total / count
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip).item()
        for g in optimizer.param_groups:
            g["lr"] = rates[k]
        optimizer.step()
        worst = max(worst, abs(ours[k]["loss"] / loss.item() - 1))
        norms = max(norms, abs(ours[k]["grad_norm"] / norm - 1))
    assert worst < 1e-4 and norms < 1e-3, f"loss {worst:.1e}, gradient norm {norms:.1e} relative"
    with torch.no_grad():
        parts = [nll(model, r) for r in windows(documents("eval.jsonl"))]
    theirs = (sum(s for s, _ in parts) / sum(n for _, n in parts)).item()
    mine = [x["eval_loss"] for x in lines("full") if "eval_loss" in x][-1]
    assert abs(mine / theirs - 1) < 1e-4, f"evaluation {mine} and {theirs}"
    return f"loss {worst:.1e}, gradient norm {norms:.1e}, evaluation {abs(mine / theirs - 1):.1e} relative"


@check("evaluation of prompts with completions: the completions alone, packed or not")
def _():
    pairs = [{"prompt": f"Question {i}: what is it?\n", "completion": "It is " + "a thing " * (i % 3) + "indeed."} for i in range(9)]
    with open(path("pairs.jsonl"), "w", encoding="utf-8") as f:
        f.writelines(json.dumps(p) + "\n" for p in pairs)
    model, total, count = load(), 0, 0
    for p in pairs:
        prompt = tokenizer(p["prompt"], add_special_tokens=False).input_ids
        row = prompt + tokenizer(p["completion"], add_special_tokens=False).input_ids + [EOS]
        with torch.no_grad():
            s, n = nll(model, row[:64], len(prompt))
        total, count = total + s.item(), count + n
    found = [steelyard("eval", "--model", path("model"), "--data", path("pairs.jsonl"), "--seq", 64, "--dtype", "f32", "--pack", pack)
             for pack in ("off", "on")]
    for r in found:
        assert r["predicted_tokens"] == count, f"{r['predicted_tokens']} predicted tokens, expected {count}"
        assert abs(r["loss"] / (total / count) - 1) < 1e-5, f"{r['loss']} and {total / count}"
    return f"{count} tokens, relative difference {abs(found[1]['loss'] / (total / count) - 1):.1e}"


def crc32c(data):
    crc = 0xffffffff
    for b in data:
        crc ^= b
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff


def masked(data):
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xa282ead8) & 0xffffffff


def varint(b, i):
    v = shift = 0
    while True:
        v |= (b[i] & 127) << shift
        shift, i = shift + 7, i + 1
        if b[i - 1] < 128:
            return v, i


def fields(b):
    """Fields of a protobuf message: {number: value}."""
    out, i = {}, 0
    while i < len(b):
        key, i = varint(b, i)
        if key & 7 == 0:
            v, i = varint(b, i)
        elif key & 7 == 1:
            v, i = struct.unpack_from("<d", b, i)[0], i + 8
        elif key & 7 == 5:
            v, i = struct.unpack_from("<f", b, i)[0], i + 4
        else:
            n, i = varint(b, i)
            v, i = b[i:i + n], i + n
        out[key >> 3] = v
    return out


@check("the event file: every checksum, the same numbers as metrics.jsonl")
def _():
    name = [n for n in os.listdir(path("full")) if n.startswith("events.out.tfevents.")]
    assert len(name) == 1
    with open(os.path.join(path("full"), name[0]), "rb") as f:
        data = f.read()
    at, scalars = 0, {}
    while at < len(data):
        n = struct.unpack_from("<Q", data, at)[0]
        assert struct.unpack_from("<I", data, at + 8)[0] == masked(data[at:at + 8]), f"length's checksum at {at}"
        body = data[at + 12:at + 12 + n]
        assert struct.unpack_from("<I", data, at + 12 + n)[0] == masked(body), f"checksum at {at}"
        e = fields(body)
        if 5 in e:
            v = fields(fields(e[5])[1])
            scalars[(v[1].decode(), e.get(2, 0))] = v[2]
        else:
            assert e[3] == b"brain.Event:2" and at == 0
        at += 16 + n
    for x in lines("full"):
        for key, value in x.items():
            tag = "eval/" + key[5:] if key.startswith("eval_") else "train/" + key
            if (tag, x["step"]) in scalars:
                assert math.isclose(scalars[(tag, x["step"])], value, rel_tol=1e-6), f"{tag} at {x['step']}"
    losses = [k for k in scalars if k[0] == "train/loss"]
    assert len(losses) == 12 and ("eval/loss", 12) in scalars
    return f"{len(scalars)} scalars"


@check("trainer_state.json opens in transformers; loss.svg is XML")
def _():
    state = TrainerState.load_from_json(os.path.join(path("full"), "trainer_state.json"))
    assert state.global_step == 12 and state.max_steps == 12
    logged = [x["loss"] for x in state.log_history if "loss" in x]
    assert logged == [x["loss"] for x in lines("full") if "loss" in x] and len(logged) == 12
    assert TrainerState.load_from_json(os.path.join(path("full"), "checkpoint-8", "trainer_state.json")).global_step == 8
    svg = xml.dom.minidom.parse(os.path.join(path("full"), "loss.svg")).documentElement
    assert svg.tagName == "svg" and len(svg.getElementsByTagName("path")) >= 4
    return f"{len(state.log_history)} lines of history"


shutil.rmtree(tmp)
sys.exit(1 if failed else 0)
