#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The yardstick: fine-tune (LoRA or full), evaluate or generate with PyTorch + transformers + PEFT on CPU.

  taskset -c 0,1 python peft_lora.py --model DIR --data FILE --threads 2 [--dtype bf16 --mode pure] ...

One run = one setting = one line of JSON on stdout. What is timed is what a user of these libraries gets:
HF's model, HF's loss, PEFT's LoRA layers, torch's fused AdamW; text packed into blocks of --seq tokens
without padding, so every token counts.

--method lora|full   train; eval: forward and perplexity only; generate: greedy decoding, batch 1
--dtype  fp32|bf16   how the (frozen) weights are stored
--mode   for bf16:   pure       all bf16, adapters and their optimizer state too (fast, poor numerics)
                     mixed      bf16 base, fp32 adapters: what PEFT does by default
                     autocast   bf16 base, fp32 adapters, under torch.autocast(bf16): the sound choice
                     autocast32 fp32 weights under torch.autocast(bf16)
--loss   hf          logits of the whole batch in fp32, as transformers computes the loss
         chunked     torch's own linear_cross_entropy (torch >= 2.13): less memory, few people use it
--matmul medium      fp32 tensors, but torch may take oneDNN instead of MKL for the products (on a machine
                     without AMX they stay fp32, and on AMD they are faster)

The first --compile takes minutes of C++ compilation (gcc or clang needed); later runs with the same shapes
find the result in TORCHINDUCTOR_CACHE_DIR. Large tensors come from fresh pages at every step; where page
faults are dear (virtual machines), these keep the memory and buy 5-15 %:
  MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=34359738368 MALLOC_TOP_PAD_=268435456

startup_s: from the start of the process (by the kernel's clock, so interpreter and imports count) to
the end of the first step. step_s: median without the first --warmup steps. peak_rss_mib: getrusage.
"""
import time
T_IMPORT = time.time()
import argparse, contextlib, json, math, os, resource, statistics, sys

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--model", required=True, help="Hugging Face folder")
ap.add_argument("--data", required=True, help='.txt, or .jsonl with {"text": ...}')
ap.add_argument("--method", choices=["lora", "full", "eval", "generate"], default="lora")
ap.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
ap.add_argument("--mode", choices=["pure", "mixed", "autocast", "autocast32"], default="pure")
ap.add_argument("--matmul", choices=["highest", "medium"], default="highest")
ap.add_argument("--loss", dest="loss_kind", choices=["hf", "chunked"], default="hf")
ap.add_argument("--chunk", type=int, default=0, help="rows per chunk for --loss chunked; 0: torch chooses")
ap.add_argument("--rank", type=int, default=16)
ap.add_argument("--alpha", type=float, default=32)
ap.add_argument("--targets", default="q,k,v,o,gate,up,down", help="of q,k,v,o,gate,up,down")
ap.add_argument("--batch", type=int, default=4)
ap.add_argument("--seq", type=int, default=512)
ap.add_argument("--steps", type=int, default=8, help="train: steps; eval: batches; generate: repetitions")
ap.add_argument("--warmup", type=int, default=3, help="steps left out of the median")
ap.add_argument("--lr", type=float, default=2e-4)
ap.add_argument("--threads", type=int, default=2)
ap.add_argument("--compile", action=argparse.BooleanOptionalAction, default=False)
ap.add_argument("--grad-checkpoint", action="store_true")
ap.add_argument("--padded", action="store_true",
                help="data of prompts and completions, batches padded to their longest record, loss on completions only; tokens_per_s counts trained tokens")
ap.add_argument("--new-tokens", type=int, default=128)
ap.add_argument("--seed", type=int, default=0)
ap.add_argument("--profile", action="store_true", help="after timing, profile 2 steps and report shares")
ap.add_argument("--adapter-out", help="save the trained adapter here")
a = ap.parse_args()
os.environ["OMP_NUM_THREADS"] = str(a.threads)  # before torch starts its thread pool

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as hf_logging

hf_logging.set_verbosity_error()
hf_logging.disable_progress_bar()
torch.set_num_threads(a.threads)
torch.set_float32_matmul_precision(a.matmul)
torch.manual_seed(a.seed)


def process_age():
    """Seconds since this process was started."""
    try:
        ticks = int(open("/proc/self/stat").read().rsplit(")", 1)[1].split()[19])
        return float(open("/proc/uptime").read().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")
    except OSError:  # not Linux
        return time.time() - T_IMPORT


def blocks(tokenizer):
    """The text as a [n, seq] tensor of token ids: documents joined by EOS, no padding, rest dropped."""
    if a.data.endswith(".jsonl"):
        docs = [json.loads(line)["text"] for line in open(a.data, encoding="utf-8") if line.strip()]
    else:
        docs = [open(a.data, encoding="utf-8").read()]
    # Only as much text as the run needs: ~4 characters a token, so 8 are plenty.
    need, text = a.batch * a.seq * a.steps * 8, ""
    for d in docs:
        if len(text) >= need:
            break
        text += d[:need] + tokenizer.eos_token
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt", verbose=False).input_ids[0]
    n = len(ids) // a.seq
    if n < a.batch:
        sys.exit(f"{a.data}: {len(ids)} tokens are too few for a batch of {a.batch} x {a.seq}")
    return ids[: n * a.seq].view(n, a.seq)


def padded_batches(tokenizer):
    """Records in file order, --batch at a time, as DataCollatorForSeq2Seq pads them."""
    rows = []
    for line in open(a.data, encoding="utf-8"):
        r = json.loads(line)
        p = tokenizer(r["prompt"], add_special_tokens=False).input_ids
        c = tokenizer(r["completion"], add_special_tokens=False).input_ids + [tokenizer.eos_token_id]
        rows.append((p, c[: max(1, a.seq - len(p))]))
    pad, batches = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id, []
    for i in range(0, len(rows) - a.batch + 1, a.batch):
        some = rows[i : i + a.batch]
        width = max(len(p) + len(c) for p, c in some)
        ids = torch.tensor([p + c + [pad] * (width - len(p) - len(c)) for p, c in some])
        mask = torch.tensor([[1] * (len(p) + len(c)) + [0] * (width - len(p) - len(c)) for p, c in some])
        labels = torch.tensor([[-100] * len(p) + c + [-100] * (width - len(p) - len(c)) for p, c in some])
        batches.append((ids, mask, labels))
    return batches


autocasting = a.dtype == "bf16" and a.mode.startswith("autocast")
weights = torch.bfloat16 if a.dtype == "bf16" and a.mode != "autocast32" else torch.float32


def cast():
    return torch.autocast("cpu", torch.bfloat16) if autocasting else contextlib.nullcontext()


tokenizer = AutoTokenizer.from_pretrained(a.model)
model = AutoModelForCausalLM.from_pretrained(a.model, dtype=weights)
out = {k: v for k, v in vars(a).items() if k not in ("model", "data", "adapter_out")}
out["torch"] = torch.__version__

if a.method == "generate":
    model.eval()
    chat = [{"role": "user", "content": "Explain in a few sentences why the sky is blue."}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    times = []
    with torch.inference_mode(), cast():
        for i in range(a.steps):
            t = time.perf_counter()
            y = model.generate(**prompt, max_new_tokens=a.new_tokens, min_new_tokens=a.new_tokens, do_sample=False)
            times.append(time.perf_counter() - t)
            if i == 0:
                out["startup_s"] = process_age()
    n = y.shape[1] - prompt.input_ids.shape[1]
    med = statistics.median(times[1:] or times)
    out.update(tokens=n, step_s=med, tokens_per_s=n / med, text=tokenizer.decode(y[0, -n:]))

elif a.method == "eval":
    model.eval()
    data = blocks(tokenizer)
    run = torch.compile(model) if a.compile else model
    times, losses = [], []
    with torch.inference_mode(), cast():
        for i in range(min(a.steps, len(data) // a.batch)):
            x = data[i * a.batch : (i + 1) * a.batch]
            t = time.perf_counter()
            losses.append(run(input_ids=x, labels=x, use_cache=False).loss.item())
            times.append(time.perf_counter() - t)
            if i == 0:
                out["startup_s"] = process_age()
    med = statistics.median(times[a.warmup :] or times)
    out.update(step_s=med, tokens_per_s=a.batch * a.seq / med, tokens=len(losses) * a.batch * a.seq,
               perplexity=math.exp(sum(losses) / len(losses)))

else:
    if a.method == "lora":
        from peft import LoraConfig, get_peft_model
        names = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj",
                 "gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
        config = LoraConfig(r=a.rank, lora_alpha=a.alpha, lora_dropout=0.0, task_type="CAUSAL_LM",
                            target_modules=[names[t] for t in a.targets.split(",")])
        model = get_peft_model(model, config, autocast_adapter_dtype=a.mode != "pure")
    model.train()
    if a.grad_checkpoint:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=a.lr, weight_decay=0.0, fused=True)
    data = padded_batches(tokenizer) if a.padded else blocks(tokenizer)
    if a.compile and a.loss_kind == "chunked":
        sys.exit("--compile is not for --loss chunked: torch runs that op eagerly")
    run = torch.compile(model) if a.compile else model

    def chunked_loss(x):
        base = model.get_base_model() if a.method == "lora" else model
        h = base.model(input_ids=x, use_cache=False).last_hidden_state[:, :-1]
        how = torch.nn.LinearCrossEntropyOptions(**({"batch_chunk_size": a.chunk, "chunking_method": None} if a.chunk else {}))
        return torch.nn.functional.linear_cross_entropy(
            h.reshape(-1, h.shape[-1]), base.lm_head.weight, x[:, 1:].reshape(-1), options=how)

    def step(i):
        if a.padded:
            ids, mask, labels = data[i % len(data)]
            with cast():
                loss = run(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return loss.item()
        x = data[torch.arange(i * a.batch, (i + 1) * a.batch) % len(data)]
        with cast():
            loss = chunked_loss(x) if a.loss_kind == "chunked" else run(input_ids=x, labels=x, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    times, losses = [], []
    for i in range(a.steps):
        t = time.perf_counter()
        losses.append(round(step(i), 5))
        times.append(time.perf_counter() - t)
        if i == 0:
            out["startup_s"] = process_age()
    med = statistics.median(times[a.warmup :] or times)
    out.update(trained_parameters=sum(p.numel() for p in trained), step_s=med, first_step_s=times[0],
               tokens_per_s=a.batch * a.seq / med, step_s_all=[round(t, 3) for t in times], loss=losses)
    if a.padded:
        trained_tokens = sum(int((data[i % len(data)][2][:, 1:] >= 0).sum()) for i in range(a.warmup, a.steps))
        out.update(tokens_per_s=trained_tokens / sum(times[a.warmup :]), trained_tokens=trained_tokens)
    if a.adapter_out:
        model.save_pretrained(a.adapter_out)

out["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

if a.profile and a.method in ("lora", "full"):
    from torch.profiler import ProfilerActivity, profile
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as prof:
        for i in range(2):
            step(a.steps + i)
    vocab, shares, rest = model.config.vocab_size, {}, {}
    for e in prof.key_averages(group_by_input_shape=True):
        n, us = e.key, e.self_cpu_time_total
        has_vocab = any(isinstance(s, (list, tuple)) and vocab in s for s in (e.input_shapes or []))
        small = any(isinstance(s, (list, tuple)) and a.rank in s for s in (e.input_shapes or []))
        if "mm" in n.split("::")[-1] or "linear" in n:
            kind = "gemm lm_head" if has_vocab else "gemm LoRA (rank-r)" if small and a.method == "lora" else "gemm base"
        elif "attention" in n:
            kind = "attention (SDPA)"
        elif has_vocab or "softmax" in n or "nll" in n or "cross_entropy" in n:
            kind = "cross-entropy (elementwise over the vocabulary)"
        elif "adam" in n.lower():
            kind = "optimizer"
        elif n.startswith(("cpp_fused", "Torch-Compiled", "CompiledF", "## Call")):
            kind = "compiled elementwise"
        else:
            kind = "elementwise, copies, casts, norms, rope"
            rest[n] = rest.get(n, 0) + us
        shares[kind] = shares.get(kind, 0) + us
    total = sum(shares.values())
    out["profile_percent"] = {k: round(100 * v / total, 1) for k, v in sorted(shares.items(), key=lambda kv: -kv[1])}
    out["profile_rest_percent"] = {k: round(100 * v / total, 1) for k, v in sorted(rest.items(), key=lambda kv: -kv[1])[:12]}
    print(prof.key_averages(group_by_input_shape=True).table(sort_by="self_cpu_time_total", row_limit=45,
          max_name_column_width=40, max_shapes_column_width=70), file=sys.stderr)

print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in out.items()}))
