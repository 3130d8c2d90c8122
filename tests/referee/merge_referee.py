#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Merging against mergekit: the same recipes through both tools.

  merge_referee.py [--tool build/steelyard] [--model HF_FOLDER] [--only NAME] [--report]

On small random Llamas with f32 tensors, and with --report on f32 variants of a real model. Deterministic methods must
agree to the rounding of mergekit's own f32 arithmetic: differences are counted in units in the last place of the
largest number that goes into an element (base, models, result). Random methods must agree in law. Prints a line a
check, `ok` or `FAIL`; the exit code is 1 if any failed.
"""
import argparse, json, os, pathlib, shutil, subprocess, sys, tempfile, traceback, warnings

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
import yaml
from safetensors.torch import load_file, save_file

transformers.utils.logging.disable_progress_bar()
warnings.filterwarnings("ignore")

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--tool", default=os.path.join(os.environ.get("STEELYARD_BUILD", "build"), "steelyard"))
ap.add_argument("--model", default=os.environ.get("STEELYARD_SMOLLM2"))
ap.add_argument("--only")
ap.add_argument("--report", action="store_true", help="all methods on f32 variants of --model too (minutes)")
ap.add_argument("--tmp", default=None)
args = ap.parse_args()
torch.set_num_threads(2)
try:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import MergeOptions, run_merge
except ImportError as e:
    print(f"FAIL mergekit: {e}; pip install mergekit==0.1.5")
    sys.exit(1)
tmp = pathlib.Path(args.tmp or tempfile.mkdtemp(prefix="merge-referee-"))
failed = 0


class Wrong(Exception):
    pass


def need(condition, text):
    if not condition:
        raise Wrong(text)


def small_models(dtype=torch.float32):
    """A base and three models fine-tuned from it, in name only."""
    torch.manual_seed(1)
    c = transformers.LlamaConfig(vocab_size=160, hidden_size=64, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4,
                                 num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=False)
    m = transformers.LlamaForCausalLM(c)
    for p in m.parameters():
        p.data = torch.randn_like(p) * 0.05 + (p.dim() == 1)
    m.to(dtype).save_pretrained(tmp / "base")
    variants(tmp / "base", tmp, dtype)


def variants(base, out, dtype):
    w = {k: v.float() for k, v in load_file(base / "model.safetensors").items()}
    for i, name in enumerate("ABC"):
        g = torch.Generator().manual_seed(i + 1)
        (out / name).mkdir(parents=True, exist_ok=True)
        for f in base.iterdir():
            if f.suffix != ".safetensors":
                shutil.copy(f, out / name / f.name)
        new = {k: (v + 0.1 * v.std().nan_to_num(0.1).clamp(min=0.01) * torch.randn(v.shape, generator=g)).to(dtype) for k, v in w.items()}
        save_file(new, out / name / "model.safetensors", metadata={"format": "pt"})


def both(recipe, where, name, theirs_too=True):
    """The two results as dictionaries of tensors (f32; f64 where the recipe asks for it)."""
    text = yaml.safe_dump(recipe)
    for k in ("base", "A", "B", "C"):
        text = text.replace(f"@{k}@", str(where / k))
    path = tmp / f"{name}.yaml"
    path.write_text(text)
    ours, theirs = tmp / "ours", tmp / "theirs"
    shutil.rmtree(ours, ignore_errors=True)
    shutil.rmtree(theirs, ignore_errors=True)
    if theirs_too != "only":
        r = subprocess.run([args.tool, "merge", str(path), "--out", str(ours), "--quiet"], capture_output=True, text=True)
        need(r.returncode == 0, f"steelyard: exit {r.returncode}: {r.stderr.strip()}")
    torch.manual_seed(3)
    if theirs_too:
        run_merge(MergeConfiguration.model_validate(yaml.safe_load(text)), str(theirs), MergeOptions(copy_tokenizer=False, quiet=True, write_model_card=False))
    read = lambda d: {k: v if v.dtype == torch.float64 else v.float() for f in sorted(d.glob("*.safetensors")) for k, v in load_file(f).items()}
    return read(ours), read(theirs)


def models(**of):
    """models: entries with per-model parameters given as lists."""
    return [{"model": f"@{k}@", **({"parameters": {p: v[i] for p, v in of.items()}} if of else {})} for i, k in enumerate("ABC")]


W = [0.5, 0.3, 0.4]
GTA = dict(base_model="@base@")
EXACT = {  # name: recipe; limit in ulp of the largest number involved
    "linear": ({"merge_method": "linear", "models": models(weight=W)}, 2),
    "linear unnormalised": ({"merge_method": "linear", "models": models(weight=[1, -0.5, 0.25]), "parameters": {"normalize": False}}, 4),
    "slerp": ({"merge_method": "slerp", "base_model": "@A@", "models": [{"model": "@A@"}, {"model": "@B@"}],
               "parameters": {"t": [{"filter": "self_attn", "value": [0, 0.5, 0.3, 0.7, 1]}, {"filter": "mlp", "value": [1, 0.5, 0]}, {"value": 0.5}]}}, 8),
    "nuslerp": ({"merge_method": "nuslerp", "models": models(weight=[0.3, 0.7, 0])[:2]}, 8),
    "nuslerp with a base": ({"merge_method": "nuslerp", **GTA, "models": models(weight=[0.3, 0.7, 0])[:2]}, 8),
    "nuslerp by rows": ({"merge_method": "nuslerp", "models": models(weight=[0.3, 0.7, 0])[:2], "parameters": {"nuslerp_flatten": False}}, 64),
    "nuslerp by columns": ({"merge_method": "nuslerp", "models": models(weight=[0.3, 0.7, 0])[:2], "parameters": {"nuslerp_flatten": False, "nuslerp_row_wise": True}}, 64),
    "multislerp": ({"merge_method": "multislerp", "models": models(weight=W)}, 16),
    "multislerp with a base": ({"merge_method": "multislerp", **GTA, "models": models(weight=W)}, 16),
    "karcher": ({"merge_method": "karcher", "models": models()}, 4000),
    "task_arithmetic": ({"merge_method": "task_arithmetic", **GTA, "models": models(weight=[0.5, [0, 1], -0.3]), "parameters": {"lambda": 0.8}}, 4),
    "task_arithmetic normalised": ({"merge_method": "task_arithmetic", **GTA, "models": models(weight=W), "parameters": {"normalize": True}}, 4),
    "ties": ({"merge_method": "ties", **GTA, "models": models(weight=W, density=[0.5, 0.3, [0.2, 0.9]])}, 4),
    "ties not normalised": ({"merge_method": "ties", **GTA, "models": models(weight=[1, -1, 2], density=[0.7, 0.7, 0.7]), "parameters": {"normalize": False, "lambda": 0.3}}, 4),
    "ties rescaled": ({"merge_method": "ties", **GTA, "models": models(weight=W, density=[0.4] * 3), "parameters": {"rescale": True}}, 16),
    "breadcrumbs": ({"merge_method": "breadcrumbs", **GTA, "models": models(weight=W, density=[0.5, 0.9, 0.995], gamma=[0.01, 0.05, 0.02])}, 4),
    "breadcrumbs_ties": ({"merge_method": "breadcrumbs_ties", **GTA, "models": models(weight=W, density=[0.5, 0.9, 0.7])}, 4),
    "model_stock": ({"merge_method": "model_stock", **GTA, "models": models()}, 8),
    "model_stock by rows": ({"merge_method": "model_stock", **GTA, "models": models(), "parameters": {"filter_wise": True}}, 8),
    "nearswap": ({"merge_method": "nearswap", **GTA, "models": models()[:1], "parameters": {"t": 0.002}}, 4),
    "sce": ({"merge_method": "sce", **GTA, "models": models()}, 8),
    "sce selected": ({"merge_method": "sce", **GTA, "models": models(), "parameters": {"select_topk": 0.3}}, 8),
    "ram": ({"merge_method": "ram", **GTA, "models": models(), "parameters": {"epsilon": 0.004}}, 4),
    "ramplus_tl": ({"merge_method": "ramplus_tl", **GTA, "models": models(), "parameters": {"epsilon": 0.004, "r": 0.5, "alpha": 0.9}}, 4),
    "arcee_fusion": ({"merge_method": "arcee_fusion", **GTA, "models": models()[:1]}, 1),
    "passthrough": ({"merge_method": "passthrough", "slices": [{"sources": [{"model": "@A@", "layer_range": [0, 3]}]}, {"sources": [{"model": "@B@", "layer_range": [1, 4]}]}]}, 0),
    "slices": ({"merge_method": "linear", "slices": [
        {"sources": [{"model": "@A@", "layer_range": [0, 2], "parameters": {"weight": [0, 1]}}, {"model": "@B@", "layer_range": [1, 3], "parameters": {"weight": 0.5}}]},
        {"sources": [{"model": "@C@", "layer_range": [3, 4]}], "parameters": {"weight": 1}}]}, 2),
}


def ulps(a, b, scale):
    step = torch.clamp(scale, min=2.0 ** -126).log2().floor().exp2() * 2.0 ** -23
    return (a.double() - b.double()).abs() / step.double()


# What selections in f32 may legitimately decide otherwise: equal magnitudes at the limit (which of them are kept is open), and
# sums that cancel to within their rounding (the elected sign is open). A share of elements, and only in methods that select.
SELECT = {"ties": 1e-3, "breadcrumbs": 1e-3, "sce": 2e-3, "ram": 1e-5, "arcee": 2e-3}


def exact(name, where):
    recipe, limit = EXACT[name]
    recipe = {**recipe, "dtype": "float32"}
    ours, theirs = both(recipe, where, name.replace(" ", "_"))
    need(set(ours) == set(theirs), f"tensors differ: {sorted(set(ours) ^ set(theirs))[:4]}")
    inputs = [load_file(where / k / "model.safetensors") for k in ("base", "A", "B", "C")]
    worst, odd, count = 0.0, 0, 0
    for k, a in ours.items():
        b = theirs[k]
        need(a.shape == b.shape, f"{k}: {tuple(a.shape)} and {tuple(b.shape)}")
        scale = torch.maximum(a.abs(), b.abs())
        if "slices" not in recipe:
            for x in inputs:
                scale = torch.maximum(scale, x[k].float().abs())
        u = ulps(a, b, scale)
        share = next((v for m, v in SELECT.items() if m in recipe["merge_method"]), 0)
        far = u > limit
        odd, count = odd + int(far.sum()), count + far.numel()
        worst = max(worst, float(u[~far].max()) if (~far).any() else 0)
        need(far.double().mean() <= share, f"{k}: {int(far.sum())} of {far.numel()} elements differ by more than {limit} ulp; the largest by {float(u.max()):.1f}")
    return f"largest difference {worst:.2f} ulp, identical {100 * sum(float((ours[k] == theirs[k]).double().sum()) for k in ours) / count:.2f} %" + \
        (f", {odd} of {count} elements selected otherwise" if odd else "")


def law(name, where):
    """Keep rates and means of the random methods, theirs and ours."""
    density, epsilon = 0.4, 0.2
    recipe = {"merge_method": name, **GTA, "models": [{"model": "@A@", "parameters": {"weight": 1.0, "density": density, **({"epsilon": epsilon} if "della" in name else {})}}],
              "parameters": {"rescale": True, "normalize": False}, "dtype": "float32"}
    ours, theirs = both(recipe, where, name)
    base, a = load_file(where / "base" / "model.safetensors"), load_file(where / "A" / "model.safetensors")
    n = kept_o = kept_t = 0
    sums = [0.0, 0.0, 0.0]
    ranks = torch.zeros(2, 4)
    for k in base:
        d = (a[k].float() - base[k].float()).double()
        do, dt = (ours[k] - base[k].float()).double(), (theirs[k] - base[k].float()).double()
        live = d.abs() > 1e-6
        n += int(live.sum())
        kept_o += int((do[live] != 0).sum())
        kept_t += int((dt[live] != 0).sum())
        if d.abs().sum() > 0:
            need(abs(float(do.abs().sum() / d.abs().sum()) - 1) < 1e-3, f"{k}: the L1 norm changed by {float(do.abs().sum() / d.abs().sum()) - 1:.2g}")
        sums = [s + float(x.sum()) for s, x in zip(sums, (d, do, dt))]
        if d.dim() == 2:
            order = d.abs().argsort(1).argsort(1) * 4 // d.shape[1]
            for q in range(4):
                ranks[0, q] += float((do[order == q] != 0).double().mean())
                ranks[1, q] += float((dt[order == q] != 0).double().mean())
    sigma = (density * (1 - density) / n) ** 0.5
    need(abs(kept_o / n - density) < 3 * sigma, f"kept {kept_o / n:.5f}, expected {density} +- {sigma:.5f}")
    if "della" in name:
        matrices = sum(x.dim() == 2 for x in base.values())
        need((ranks[0] - ranks[1]).abs().max() / matrices < 0.02, f"kept by quarter of ranks: {ranks[0] / matrices} and {ranks[1] / matrices}")
    return f"kept {kept_o / n:.4f} (mergekit {kept_t / n:.4f}, expected {density} +- {sigma:.4f}), sums {sums[1]:.3f} and {sums[2]:.3f} of {sums[0]:.3f}"


def half_models(where):
    """The same models with every number rounded to bf16."""
    out = where / "half"
    for k in ("base", "A", "B", "C"):
        if (out / k / "model.safetensors").exists():
            continue
        (out / k).mkdir(parents=True, exist_ok=True)
        for f in (where / k).iterdir():
            if f.suffix != ".safetensors":
                shutil.copy(f, out / k / f.name)
        save_file({n: v.bfloat16() for n, v in load_file(where / k / "model.safetensors").items()}, out / k / "model.safetensors", metadata={"format": "pt"})
    return out


def bf16(name, where):
    """bf16 in, bf16 out. mergekit in f64 on the same inputs, rounded, is what ours must be; mergekit in bf16 (its usual way) is
    compared with the same. What differs must be explained: a number that ties at a model's limit, a sum that cancels."""
    recipe, _ = EXACT[name]
    half = half_models(where)
    label = name.replace(" ", "_")
    ours, usual = both({**recipe, "dtype": "bfloat16"}, half, label)
    _, wide = both({**recipe, "dtype": "float64"}, half, label, "only")
    inputs = {k: {n: v.double() for n, v in load_file(half / k / "model.safetensors").items()} for k in ("base", "A", "B", "C")}
    same = same_usual = count = unexplained = explained = 0
    worst = worst_usual = 0.0
    for k, w in wide.items():
        want = w.bfloat16().float()
        step = torch.clamp(torch.maximum(want.abs(), ours[k].abs()), min=2.0**-126).log2().floor().exp2() * 2.0**-7
        large = torch.zeros_like(want)
        for x in inputs.values():
            if "slices" not in recipe:
                large = torch.maximum(large, x[k].abs().float())
        noise = large * 2.0**-21  # a result that is the rounding of f64 or f32 after its terms cancel
        far = torch.where((ours[k] - want).abs() <= noise, 0.0, ((ours[k] - want).abs() / step).double())
        far_usual = torch.where((usual[k] - want).abs() <= noise, 0.0, ((usual[k] - want).abs() / torch.maximum(step, large * 2.0**-7)).double())
        odd = far > 1.01 if any(m in recipe["merge_method"] for m in SELECT) else far < 0
        if bool(odd.any()):
            ok = torch.zeros_like(odd)
            deltas = {}
            for m in recipe["models"]:
                n = m["model"].strip("@")
                d = deltas[n] = inputs[n][k] - inputs["base"][k]
                p = m.get("parameters", {})
                density = p.get("density", 1)
                limits = []
                if isinstance(density, float) and density < 1 and "breadcrumbs" not in recipe["merge_method"]:
                    limits = [max(1, int(density * d.numel()))]
                elif isinstance(density, float) and density < 1:
                    keep, top = int(density * d.numel()), int(p.get("gamma", 0.01) * d.numel())
                    bottom = max(0, d.numel() - keep - top)
                    limits = [d.numel() - bottom, d.numel() - bottom - keep]
                order = d.abs().flatten().float().sort(descending=True).values
                for at in limits:
                    if 0 < at <= d.numel():
                        ok |= d.abs().float() == order[at - 1]
                    if 0 <= at < d.numel():
                        ok |= d.abs().float() == order[at]
                if isinstance(density, list):
                    ok |= True  # the limit changes from layer to layer; checked on the other recipes
            terms = [float(w if not isinstance(w, list) else 1) * deltas[m["model"].strip("@")] for m in recipe["models"] for w in [m.get("parameters", {}).get("weight", 1)]]
            for chosen in range(1, 2 ** len(terms)):  # what is left after trimming may be any of them
                some = [x for i, x in enumerate(terms) if chosen >> i & 1]
                ok |= sum(some).abs() < 1e-6 * sum(x.abs() for x in some)
            if "sce" in recipe["merge_method"]:
                v = torch.stack(list(deltas.values())).var(0, unbiased=False)
                # A share of the numbers whose variance is not 0; of three equal differences it may be 0 or a rounding.
                order = v.flatten().sort(descending=True).values
                ends = [order[max(1, int(int(c.sum()) * 0.3)) - 1] for c in (v != 0, v > 1e-24)]
                ok |= (v >= min(ends) * (1 - 1e-6)) & (v <= max(ends) * (1 + 1e-6))
            if "arcee" in recipe["merge_method"]:
                ok |= True
            explained, unexplained = explained + int((odd & ok).sum()), unexplained + int((odd & ~ok).sum())
        same, same_usual, count = same + int((far == 0).sum()), same_usual + int((far_usual == 0).sum()), count + far.numel()
        worst, worst_usual = max(worst, float(far[~odd].max()) if (~odd).any() else 0), max(worst_usual, float(far_usual.max()))
    share = 1 - same / count
    open_ = UNEXPLAINED.get(name, 0)  # a share that nobody has explained yet
    need(unexplained <= open_ * count, f"{unexplained} of {count} elements differ from mergekit in f64 without being ties or cancelled sums")
    need(worst <= 1.01, f"ours differs from mergekit in f64 by {worst:.2f} steps of bf16")
    need((same + explained) / count > 1 - LIMIT_BF16.get(name, 1e-3), f"only {100 * same / count:.3f} % equal mergekit in f64, rounded")
    return (f"ours equals mergekit in f64, rounded, in {100 * same / count:.4f} % (others: one step of bf16" + (f", or {explained} ties and cancelled sums" if explained else "") +
            (f", and {unexplained} NOT explained" if unexplained else "") +
            f"); mergekit in bf16 in {100 * same_usual / count:.2f} %, up to {worst_usual:.0f} steps (of the largest number involved) off")


# Iterations that stop elsewhere (karcher ends when its step is small).
UNEXPLAINED = {"sce selected": 2e-4}
# mergekit rounds ramplus_tl's factor to f32 in any type: halves of a step of bf16 then fall to the other side.
LIMIT_BF16 = {"karcher": 0.05, "ramplus_tl": 5e-3} | {n: 0.03 for n in EXACT if n.startswith(("ties", "breadcrumbs"))}  # 2.4 % of the elements tie


def bf16_ties(where):
    """On bf16 inputs many magnitudes tie: counts and limits must agree, and the rest."""
    density = 0.5
    out = half_models(where)
    recipe = {"merge_method": "ties", **GTA, "models": [{"model": "@A@", "parameters": {"weight": 1.0, "density": density}}], "dtype": "float32"}
    ours, theirs = both(recipe, out, "ties_bf16")
    base, a = load_file(out / "base" / "model.safetensors"), load_file(out / "A" / "model.safetensors")
    ties = total = different = 0
    for k in base:
        d = (a[k].float() - base[k].float())
        ko, kt = ours[k] != base[k].float(), theirs[k] != base[k].float()
        keep = max(1, int(density * d.numel()))
        limit = d.abs().flatten().kthvalue(d.numel() - keep + 1).values
        at = d.abs() == limit
        need(int(ko.sum()) == int(kt.sum()), f"{k}: kept {int(ko.sum())} and {int(kt.sum())}")
        need(bool(((ko != kt) & ~at).sum() == 0), f"{k}: {int(((ko != kt) & ~at).sum())} elements away from the limit were kept otherwise")
        ties, total, different = ties + int(at.sum()), total + d.numel(), different + int((ko != kt).sum())
    return f"{100 * ties / total:.2f} % of the elements tie at the limit, {different} of {total} are kept otherwise, all of them ties"


def loads(where):
    """The merged folder opens in transformers and continues a text as the mean of logits would not: it just works."""
    recipe = {"merge_method": "ties", **GTA, "models": models(weight=W, density=[0.5] * 3), "dtype": "bfloat16"}
    both(recipe, where, "opens")
    m = transformers.AutoModelForCausalLM.from_pretrained(tmp / "ours")
    need(m.dtype == torch.bfloat16, f"dtype is {m.dtype}")
    ids = m.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=8, do_sample=False)
    need(ids.shape == (1, 11), f"generated {tuple(ids.shape)}")
    return f"opens and generates {ids[0, 3:].tolist()}"


def check(name, f, *a):
    global failed
    if args.only and args.only not in name:
        return
    try:
        print(f"ok {name}: {f(*a)}", flush=True)
    except Exception as e:
        failed += 1
        print(f"FAIL {name}: {e}", flush=True)
        if not isinstance(e, Wrong):
            traceback.print_exc()


small_models()
for n in EXACT:
    check(n, exact, n, tmp)
for n in ("dare_linear", "dare_ties", "della_linear", "della"):
    check(n, law, n, tmp)
for n in EXACT:
    check(n + " on bf16", bf16, n, tmp)
check("ties on bf16: what is kept", bf16_ties, tmp)
check("opens in transformers", loads, tmp)
if args.report and args.model:
    real = tmp / "real"
    (real / "base").mkdir(parents=True, exist_ok=True)
    for f in pathlib.Path(args.model).iterdir():
        if f.suffix != ".safetensors":
            shutil.copy(f, real / "base" / f.name)
    save_file({k: v.float() for k, v in load_file(pathlib.Path(args.model) / "model.safetensors").items()}, real / "base" / "model.safetensors", metadata={"format": "pt"})
    variants(real / "base", real, torch.float32)
    for n in EXACT:
        check("real: " + n, exact, n, real)
    for n in EXACT:
        check("real: " + n + " on bf16", bf16, n, real)
    check("real: ties on bf16: what is kept", bf16_ties, real)
shutil.rmtree(tmp, ignore_errors=True)
sys.exit(1 if failed else 0)
