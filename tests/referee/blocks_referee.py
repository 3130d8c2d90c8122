#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""GGUF's coded blocks: decoded values against gguf-py and llama.cpp, coded ones against llama.cpp's own library.

  blocks_referee.py [--only NAME] [--speed]

Decoding and the plain encoders must agree bit for bit; the searching ones (Q4_K, Q6_K) may not have a larger error than
llama.cpp's on any of the weights tried. Needs numpy, gguf, safetensors and the Node package @node-llama-cpp/linux-x64."""
import argparse, ctypes, glob, os, subprocess, sys, time, traceback

import numpy as np
from gguf import GGMLQuantizationType as Q
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize
from safetensors import safe_open

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--only")
ap.add_argument("--verbose", action="store_true")
ap.add_argument("--speed", action="store_true", help="numbers a second of one thread, ours and llama.cpp's")
args = ap.parse_args()
root = os.environ.get("STEELYARD_ROOT", ".")
tool = os.path.join(os.environ.get("STEELYARD_BUILD", "build"), "referee", "block_tool")
node = os.environ.get("STEELYARD_NODE", "node")
smollm2 = os.environ.get("STEELYARD_SMOLLM2")
library = glob.glob(os.path.join(node, "node_modules/@node-llama-cpp/linux-x64/bins/linux-x64/libggml-base.so*"))
ggml = ctypes.CDLL(library[0])
failed = 0


class Wrong(Exception):
    pass


def run(what, kind, data):
    r = subprocess.run([tool, what, kind], input=data, capture_output=True)
    if r.returncode != 0:
        raise Wrong(f"block_tool {what} {kind}: exit {r.returncode}")
    return r.stdout


def theirs(kind, x):
    """llama.cpp's reference quantiser."""
    x = np.ascontiguousarray(x, np.float32)
    length, size = GGML_QUANT_SIZES[Q[kind]]
    out = ctypes.create_string_buffer(x.size // length * size)
    getattr(ggml, f"quantize_row_{kind.lower().replace('_k', '_K')}_ref")(
        x.ctypes.data_as(ctypes.c_void_p), out, ctypes.c_int64(x.size))
    return out.raw


def ggml_decode(kind, raw, n):
    out = np.empty(n, np.float32)
    getattr(ggml, f"dequantize_row_{kind.lower().replace('_k', '_K')}")(raw, out.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(n))
    return out


def same(a, b, what):
    """Equal bits; NaN is NaN, whatever its sign."""
    a, b = a.view(np.uint32), b.view(np.uint32)
    nan = np.isnan(a.view(np.float32)) & np.isnan(b.view(np.float32))
    bad = (a != b) & ~nan
    if a.size == 0 or bad.any():
        i = int(np.argmax(bad))
        raise Wrong(f"{what}: {int(bad.sum())} of {a.size} numbers differ, the first at {i}: {a.view(np.float32)[i]!r} and {b.view(np.float32)[i]!r}")


HALVES = {"Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0], "TQ1_0": [52],
          "TQ2_0": [64], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "MXFP4": [], "Q8_K": []}


def decoding():
    rng = np.random.default_rng(1)
    for kind, halves in HALVES.items():
        length, size = GGML_QUANT_SIZES[Q[kind]]
        raw = rng.integers(0, 256, (6000, size), dtype=np.uint8)  # any bits: also NaN, infinities, subnormals as scales
        for i, h in enumerate([0x0000, 0x8000, 0x7C00, 0xFC00, 0x7E00, 0x0001, 0x83FF, 0x7BFF, 0xFBFF, 0x0400]):
            for at in halves:
                raw[i * 20:i * 20 + 20, at:at + 2] = [h & 255, h >> 8]
        if kind == "MXFP4":
            raw[:256, 0] = np.arange(256)
        if kind == "Q8_K":
            scales = np.array([0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 3e38, -3e38], np.float32)
            raw[:8, :4] = scales.view(np.uint8).reshape(8, 4)
        got = np.frombuffer(run("decode", kind, raw.tobytes()), np.float32)
        with np.errstate(all="ignore"):
            want = dequantize(raw, Q[kind]).ravel() if kind != "Q8_K" else None
        if want is not None:
            same(got, want, f"{kind} against gguf-py")
        same(got, ggml_decode(kind, raw.tobytes(), got.size), f"{kind} against llama.cpp")


def inputs():
    rng = np.random.default_rng(2)
    rows = [rng.standard_normal((2000, 256)), rng.standard_t(2, (1000, 256)), rng.uniform(-1, 1, (1000, 256)) ** 5,
            rng.standard_normal((500, 256)) * 10.0 ** rng.uniform(-44, 37, (500, 1)),     # also where scales leave f16, or are subnormal
            np.abs(rng.standard_normal((300, 256))), rng.integers(-3, 4, (500, 256)) / 4, np.zeros((4, 256)),
            np.full((4, 256), -0.0), np.full((4, 256), 2.5), np.full((4, 256), -7e-6)]
    spikes = np.zeros((256, 256))
    spikes[np.arange(256), np.arange(256)] = rng.standard_normal(256) * 100
    x = np.concatenate(rows + [spikes]).astype(np.float32)
    ties = (np.arange(-128, 128, dtype=np.float32) / 2)[None].repeat(8, 0)              # halves of codes, exactly
    return np.concatenate([x, ties * 0.25, -ties]).ravel()


def encoding():
    x = inputs()
    for kind in ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]:
        got, want = np.frombuffer(run("encode", kind, x.tobytes()), np.uint8), np.frombuffer(theirs(kind, x), np.uint8)
        size = GGML_QUANT_SIZES[Q[kind]][1]
        bad = (got.reshape(-1, size) != want.reshape(-1, size)).any(axis=1)
        if got.size == 0 or bad.any():
            i = int(np.argmax(bad))
            raise Wrong(f"{kind}: {int(bad.sum())} of {bad.size} blocks differ, the first of {x[i * 32:i * 32 + 32]}")


def weights():
    """Matrices whose rows are whole blocks of 256."""
    folders = [("models/tiny", os.path.join(root, "models/tiny"))] + ([("SmolLM2", smollm2)] if smollm2 and os.path.isdir(smollm2) else [])
    for label, folder in folders:
        left = 40
        with safe_open(os.path.join(folder, "model.safetensors"), "pt") as f:
            for name in f.keys():
                t = f.get_tensor(name)
                if t.ndim == 2 and t.numel() % 256 == 0 and left > 0:
                    left -= 1
                    yield f"{label} {name}", t.float().numpy().ravel()[:1 << 20]
    rng = np.random.default_rng(3)
    yield "normal numbers", rng.standard_normal(1 << 18).astype(np.float32) * 0.02
    yield "heavy tails", rng.standard_t(3, 1 << 18).astype(np.float32) * 0.02
    yield "of one sign", np.abs(rng.standard_normal(1 << 18)).astype(np.float32)


def searching():
    for kind in ["Q4_K", "Q6_K"]:
        ratios = []
        for name, x in weights():
            x = x[:x.size // 256 * 256]
            back = lambda raw: ggml_decode(kind, raw, x.size).astype(np.float64)
            ours, their = back(run("encode", kind, x.tobytes())) - x, back(theirs(kind, x)) - x
            a, b = float(np.sqrt((ours ** 2).mean())), float(np.sqrt((their ** 2).mean()))
            if not a <= b:
                raise Wrong(f"{kind}: {name}: error {a:.6g}, llama.cpp's {b:.6g}")
            ratios.append(a / b if b > 0 else 1)
            if args.verbose:
                print(f"   {kind} {name}: {ratios[-1]:.4f}")
        print(f"   {kind}: {len(ratios)} tensors, error over llama.cpp's: mean {np.mean(ratios):.4f}, largest {max(ratios):.4f}")
        x = inputs()  # nothing odd comes out of odd numbers
        got = ggml_decode(kind, run("encode", kind, x.tobytes()), x.size)
        top = np.abs(x).reshape(-1, 256).max(axis=1)
        fits = (top < 60000) & (top > 1)  # where f16 scales are normal numbers
        error = np.abs(got - x).reshape(-1, 256).max(axis=1) / np.maximum(top, 1e-30)
        if not np.isfinite(got).all() or (error[fits] > (0.12 if kind == "Q4_K" else 0.03)).any():
            raise Wrong(f"{kind}: a number is off by {error[fits].max():.3g} of the block's largest")


def speed():
    x = np.random.default_rng(4).standard_normal(1 << 24).astype(np.float32)
    for kind in ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q6_K"]:
        ours = float(run("time", kind, x.tobytes()))
        t = time.time()
        theirs(kind, x)
        print(f"   {kind}: {ours / 1e6:.0f} million numbers a second, llama.cpp {x.size / (time.time() - t) / 1e6:.0f}")


for check in [decoding, encoding, searching] + ([speed] if args.speed else []):
    if args.only and check.__name__ != args.only:
        continue
    try:
        check()
        print(f"ok blocks {check.__name__}")
    except Exception as e:
        failed += 1
        print(f"FAIL blocks {check.__name__}: {e if isinstance(e, Wrong) else traceback.format_exc()}")
sys.exit(failed > 0)
