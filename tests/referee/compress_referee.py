#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What `steelyard compress` writes, unpacked again in numpy from the formats' definitions.

  compress_referee.py [--bin build/steelyard]

The same weights in this program's folder, in GPTQ's and AWQ's layout, dense and as GGUF are the same numbers; the
dense folder opens in transformers. Prints a line a check, `ok`
or `FAIL`; the exit code is 1 if any failed.
"""
import argparse, json, os, shutil, subprocess, sys, tempfile, traceback

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
import numpy as np
from safetensors.numpy import load_file
from safetensors import safe_open

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--bin", default=os.environ.get("STEELYARD_BIN", "build/steelyard"))
ap.add_argument("--build", default=None)
args = ap.parse_args()
tmp = tempfile.mkdtemp(prefix="compress-referee-")
failed = 0
MODEL = "models/tiny"
NAMES = ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.k_proj", "model.layers.1.mlp.up_proj", "model.layers.3.mlp.down_proj"]


def compress(out, *a):
    r = subprocess.run([args.bin, "compress", "--model", MODEL, "--quiet", "--json", "--out", os.path.join(tmp, out), *a], capture_output=True, text=True)
    assert r.returncode == 0, r.stderr[-600:]
    return os.path.join(tmp, out)


def tensors(folder):
    """All but bf16 tensors, which numpy lacks."""
    out = {}
    with safe_open(os.path.join(folder, "model.safetensors"), "np") as f:
        for k in f.keys():
            if f.get_slice(k).get_dtype() != "BF16":
                out[k] = f.get_tensor(k)
    return out


def ours(folder):
    t, out = tensors(folder), {}
    for n in NAMES:
        bits, group, cols, _ = t[n + ".packing"]
        stream = np.unpackbits(t[n + ".codes"], axis=1, bitorder="little")[:, : cols * bits].reshape(-1, cols, bits)
        code = (stream * (1 << np.arange(bits))).sum(-1)
        at = np.arange(cols) // group
        w = t[n + ".scales"].astype(np.float32)[:, at] * (code - t[n + ".zeros"].astype(np.int64)[:, at])
        if n + ".order" in t:
            back = np.empty_like(w)
            back[:, t[n + ".order"]] = w
            w = back
        out[n] = w.astype(np.float32)
    return out


def stream(words, bits, count):
    """words [n, m] int32, packed down the first axis: codes [count, m]."""
    b = np.unpackbits(words.astype("<u4").view(np.uint8).reshape(*words.shape, 4), axis=-1, bitorder="little")  # [n, m, 32]
    b = b.transpose(0, 2, 1).reshape(-1, words.shape[1])[: count * bits].reshape(count, bits, -1)
    return (b * (1 << np.arange(bits))[None, :, None]).sum(1)


def gptq(folder):
    q = json.load(open(os.path.join(folder, "config.json")))["quantization_config"]
    t, out = tensors(folder), {}
    for n in NAMES:
        scales, g = t[n + ".scales"].astype(np.float32), t[n + ".g_idx"]
        code = stream(t[n + ".qweight"], q["bits"], len(g))
        zero = stream(np.ascontiguousarray(t[n + ".qzeros"].T), q["bits"], scales.shape[1]).T + (1 if q["checkpoint_format"] == "gptq" else 0)
        out[n] = (scales[g] * (code - zero[g])).T.astype(np.float32)
    return out


def awq(folder):
    t, out, order = tensors(folder), {}, np.argsort([0, 2, 4, 6, 1, 3, 5, 7])
    for n in NAMES:
        def nibbles(w):
            v = (w.astype("<u4")[..., None] >> (4 * np.arange(8))) & 15
            return v[..., order].reshape(w.shape[0], -1).astype(np.int64)
        scales = t[n + ".scales"].astype(np.float32)
        code, zero = nibbles(t[n + ".qweight"]), nibbles(t[n + ".qzeros"])
        g = np.arange(code.shape[0]) // (code.shape[0] // scales.shape[0])
        out[n] = (scales[g] * (code - zero[g])).T.astype(np.float32)
    return out


def check(name, fn):
    global failed
    try:
        fn()
        print("ok", name, flush=True)
    except Exception as e:
        failed += 1
        print(f"FAIL {name}: {e or traceback.format_exc(limit=2)}", flush=True)


def same(a, b):
    for n in NAMES:
        assert a[n].shape == b[n].shape and np.array_equal(a[n], b[n]), f"{n}: {np.abs(a[n] - b[n]).max()}"


CALIB = ["--calib", "models/tiny/devil.jsonl", "--samples", "4", "--seq", "64", "--eval-samples", "0"]


def exports():
    for bits in ("2", "3", "4", "8"):
        for sym in ("on", "off"):
            how = ["--method", "rtn", "--bits", bits, "--group", "64", "--sym", sym]
            mine = ours(compress(f"o{bits}{sym}", *how))
            same(mine, gptq(compress(f"g{bits}{sym}", *how, "--export", "gptq")))
            if bits == "4":
                same(mine, awq(compress(f"a{sym}", *how, "--export", "awq")))


def act_order():
    how = ["--method", "rescomp", "--variant", "gptq", "--order", "act", "--bits", "4", "--group", "64", *CALIB]
    same(ours(compress("oact", *how)), gptq(compress("gact", *how, "--export", "gptq")))


def dense():
    import torch, transformers
    how = ["--method", "rtn", "--bits", "4", "--group", "64"]
    mine, folder = ours(compress("od", *how)), compress("dd", *how, "--export", "dense")
    m = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    state = m.state_dict()
    for n in NAMES:
        assert torch.equal(state[n + ".weight"], torch.from_numpy(mine[n]).to(torch.bfloat16)), n


def blocks():
    import gguf
    how = ["--method", "rtn", "--bits", "4", "--group", "64", "--sym", "on"]
    mine, file = ours(compress("ob", *how)), compress("b.gguf", *how)
    found = {t.name: t for t in gguf.GGUFReader(file).tensors}
    for n, g in (("model.layers.1.mlp.up_proj", "blk.1.ffn_up.weight"), ("model.layers.3.mlp.down_proj", "blk.3.ffn_down.weight")):
        w = gguf.quants.dequantize(found[g].data, found[g].tensor_type).astype(np.float32)
        assert np.array_equal(w.reshape(mine[n].shape), mine[n]), g


def gptq_columns():
    """GPTQ from its definition, in f64, against the solver on the same Hessian. A row that once rounds a tie the other way
    goes its own way from there: codes are compared up to that place, which must be a tie."""
    tool = os.path.join(args.build or os.environ.get("STEELYARD_BUILD", "build"), "referee", "solve_tool")
    rng = np.random.default_rng(0)
    group, samples = 128, 2048
    for out, n, bits in ((192, 576, 4), (192, 576, 3), (96, 1152, 4)):
        w = (0.02 * rng.standard_normal((out, n))).astype(np.float32)
        x = (rng.standard_normal((samples, n)) * np.arange(1, n + 1) ** -0.5) @ rng.standard_normal((n, n)) / n**0.5 + 0.02 * rng.standard_normal((samples, n))
        h = (2 / samples * x.T @ x).astype(np.float32)
        r = subprocess.run([tool, "gptq", *map(str, (out, n, bits, group, 2, 1))], input=w.tobytes() + h.tobytes(), capture_output=True)
        assert r.returncode == 0, r.stderr[-300:]
        mine = np.frombuffer(r.stdout, np.float32).reshape(out, n).astype(float)
        H = h.astype(float)
        H[np.diag_indices(n)] += 0.01 * np.diag(H).mean()
        U = np.linalg.cholesky(np.linalg.inv(H)).T
        cur, q, near, top = w.astype(float), np.empty((out, n)), np.empty((out, n)), 2**bits - 1
        for j in range(n):
            if j % group == 0:
                lo, hi = np.minimum(cur[:, j:j + group].min(1), 0), np.maximum(cur[:, j:j + group].max(1), 0)
                scale = ((hi - lo) / top).astype(np.float32).astype(np.float16).astype(float)
                zero = np.clip(np.rint(-lo / scale), 0, top)
            v = cur[:, j] / scale + zero
            near[:, j] = np.abs(v - np.floor(v) - 0.5)
            q[:, j] = scale * (np.clip(np.rint(cur[:, j] / scale) + zero, 0, top) - zero)
            cur[:, j:] -= np.outer((cur[:, j] - q[:, j]) / U[j, j], U[j, j:])
        other = np.abs(q - mine) > 1e-6
        for row in np.flatnonzero(other.any(1)):
            first = other[row].argmax()
            assert near[row, first] < 2e-3, f"row {row} differs at column {first}, {near[row, first]:.1e} of a step from a tie"
        error = lambda e: float(((e @ h) * e).sum())
        a, b = error(w - q), error(w - mine)
        print(f"   {out} x {n}, {bits} bits: {100 * (1 - other.mean()):.3f} % of the codes, error {b / a - 1:+.1e}")
        assert other.mean() < 1e-3 and abs(b / a - 1) < 1e-4


check("GPTQ's codes and error are those of the definition", gptq_columns)
check("packed, GPTQ and AWQ layouts hold the same numbers", exports)
check("--order act goes into g_idx", act_order)
check("the dense folder opens in transformers", dense)
check("GGUF blocks hold the same numbers", blocks)
shutil.rmtree(tmp, ignore_errors=True)
sys.exit(1 if failed else 0)
