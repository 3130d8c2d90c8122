# SPDX-License-Identifier: Apache-2.0
"""Compares tokens, offsets and decoded text with Hugging Face tokenizers, and
rendered chats with Jinja as transformers uses it.

usage: text_referee.py BUILD MODEL_FOLDER [--strings N] [--bench]

Needs the packages tokenizers and transformers. Prints a line a comparison and
exits with 1 if one fails."""
import argparse, json, os, random, subprocess, sys, tempfile

from tokenizers import (Tokenizer, AddedToken, Regex, models, trainers, pre_tokenizers, normalizers, processors,
                        decoders)
import tokens as common
import token_variants
from tokens import Ours, compare, random_text, report, round_trip

scratch = tempfile.TemporaryDirectory()


def template_file(model):
    """The chat template as a file: older folders keep it in tokenizer_config.json."""
    path = os.path.join(model, "chat_template.jinja")
    if os.path.exists(path):
        return path
    path = os.path.join(scratch.name, "chat_template.jinja")
    with open(os.path.join(model, "tokenizer_config.json"), encoding="utf-8") as f, open(path, "w", encoding="utf-8") as out:
        out.write(json.load(f)["chat_template"])
    return path


# -- tokenizers ------------------------------------------------------------------
GPT4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN = GPT4.replace(r"\p{N}{1,3}", r"\p{N}")
O200K = "|".join([r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
                  r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
                  r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])


def corpus():
    rng = random.Random(7)
    words = ["the", "and", "of", "to", "Hello", "world", "token", "ization", "don't", "we'll", "123", "42", "naïve", "déjà", "日本語", "中文", "한국어",
             "مرحبا", "def", "return", "    ", "\n", "\t", "!!", "...", "😀", "ﬁ", "Straße", "a_b", "<x>"]
    return [" ".join(rng.choice(words) for _ in range(40)) for _ in range(400)]


def train(pre, norm=None, byte_level=True, vocab=900, **model):
    t = Tokenizer(models.BPE(**model))
    if norm is not None:
        t.normalizer = norm
    t.pre_tokenizer = pre
    t.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=vocab, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if byte_level else [],
        special_tokens=[AddedToken("<|begin|>", special=True), AddedToken("<|end|>", special=True)] + ([AddedToken("<unk>", special=True)] if model.get("unk_token") else []),
        **{k: model[k] for k in ("continuing_subword_prefix", "end_of_word_suffix") if k in model}))
    t.decoder = decoders.ByteLevel() if byte_level else decoders.Fuse()
    return t


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert=invert)


def byte_level(**k):
    return pre_tokenizers.ByteLevel(**{"add_prefix_space": False, "use_regex": True, **k})


def template(t):
    return processors.TemplateProcessing(single="<|begin|> $A <|end|>", pair="$A $B", special_tokens=[
        ("<|begin|>", t.token_to_id("<|begin|>")), ("<|end|>", t.token_to_id("<|end|>"))])


def variants():
    t = train(byte_level(add_prefix_space=True))
    t.post_processor = processors.ByteLevel(trim_offsets=True, add_prefix_space=True)
    yield "gpt2, add_prefix_space, trimmed offsets", t, "ids offsets"
    t = train(pre_tokenizers.Sequence([split(GPT4), byte_level(use_regex=False)]), ignore_merges=True, vocab=1200)
    t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template(t)])
    yield "llama3: regex, ignore_merges, template", t, "ids offsets text"
    t = train(pre_tokenizers.Sequence([split(QWEN), byte_level(use_regex=False)]), norm=normalizers.NFC())
    t.post_processor = processors.ByteLevel(trim_offsets=True)
    t.add_tokens([AddedToken("<tool_call>", normalized=True), AddedToken("ﬁn", normalized=True), AddedToken("e\u0301t", normalized=True)])
    yield "qwen2: NFC, normalized added tokens", t, "ids offsets"
    t = train(pre_tokenizers.Sequence([split(O200K), byte_level(use_regex=False)]), norm=normalizers.NFKC())
    yield "o200k regex, NFKC", t, "ids offsets"
    t = train(byte_level(), norm=normalizers.Sequence([normalizers.NFD(), normalizers.Lowercase()]))
    yield "NFD, lowercase", t, "ids offsets"
    t = train(byte_level(), norm=normalizers.Sequence([normalizers.NFKD(), normalizers.Strip(left=True, right=True), normalizers.Prepend("_"),
                                                       normalizers.Replace(Regex(r"\s+"), " "), normalizers.Replace("a", "bb")]))
    yield "NFKD, strip, prepend, replace", t, "ids offsets"
    t = train(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=False), pre_tokenizers.Punctuation("merged_with_previous"), byte_level()]))
    t.add_tokens([AddedToken("word", single_word=True), AddedToken("<mask>", lstrip=True, rstrip=True), AddedToken("<l>", lstrip=True),
                  AddedToken("<r>", rstrip=True), AddedToken("<m", special=True), AddedToken("é", single_word=True, normalized=False)])
    t.post_processor = processors.ByteLevel(trim_offsets=True)
    yield "added tokens with every flag", t, "ids offsets"
    for behavior in ["removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"]:
        for invert in [False, True]:
            t = train(pre_tokenizers.Sequence([split(r"\d+|[-.,]\s*|\s", behavior, invert), byte_level(use_regex=False)]))
            yield f"Split {behavior}{' inverted' if invert else ''}", t, "ids offsets"
    t = train(pre_tokenizers.Sequence([pre_tokenizers.Split("a", "merged_with_next"), pre_tokenizers.CharDelimiterSplit("."), byte_level(use_regex=False)]))
    yield "Split by a text, by a delimiter", t, "ids offsets"
    t = train(pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("contiguous"), byte_level(use_regex=False)]))
    yield "WhitespaceSplit, Punctuation", t, "ids offsets"
    t = train(pre_tokenizers.Whitespace(), byte_level=False, unk_token="<unk>", fuse_unk=True, end_of_word_suffix="</w>")
    t.decoder = decoders.BPEDecoder()
    yield "words, unk fused, end_of_word_suffix", t, "ids offsets text"
    t = train(pre_tokenizers.Whitespace(), byte_level=False, unk_token="<unk>", continuing_subword_prefix="##")
    yield "words, unk, continuing_subword_prefix", t, "ids offsets"
    t = train(pre_tokenizers.Metaspace(prepend_scheme="first"), byte_level=False, unk_token="<unk>")
    j = json.loads(t.to_str())
    for b in range(256):
        j["model"]["vocab"]["<0x%02X>" % b] = len(j["model"]["vocab"])
    j["model"]["byte_fallback"] = True
    t = Tokenizer.from_str(json.dumps(j))
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    yield "Metaspace first, byte_fallback", t, "ids offsets text"
    t = train(pre_tokenizers.Metaspace(prepend_scheme="always", split=False), byte_level=False, unk_token="<unk>")
    t.decoder = decoders.Metaspace()
    yield "Metaspace always, not split", t, "ids offsets text"


# -- chats ---------------------------------------------------------------------
class Chat:
    def __init__(self, helper):
        self.p = subprocess.Popen([helper, "chat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, template, messages, generate, **tokens):
        self.p.stdin.write(json.dumps({"template": template, "messages": messages, "add_generation_prompt": generate, **tokens}) + "\n")
        self.p.stdin.flush()
        line = self.p.stdout.readline()
        if not line:
            raise RuntimeError("the helper ended")
        return json.loads(line)


def chats(helper, model):
    from transformers.utils import chat_template_utils
    import jinja2
    import chat_templates as c
    ours = Chat(helper)
    templates = dict(c.TEMPLATES)
    with open(template_file(model), encoding="utf-8") as f:
        templates["the model's own"] = f.read()
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}

    def both(template, messages, generate):
        """None if equal, else what differs."""
        mine = ours(template, messages, generate, **tokens)
        try:
            compiled = chat_template_utils._cached_compile_jinja_template(template)
            compiled.environment.globals.pop("strftime_now", None)  # templates are not given the time
            theirs = compiled.render(messages=messages, tools=None, documents=None, add_generation_prompt=generate, **tokens)
        except (jinja2.exceptions.TemplateError, TypeError, ZeroDivisionError, ValueError, OverflowError, SyntaxError) as e:
            return None if "error" in mine else f"{mine['text'][:80]!r} where Jinja says {e!r}"
        if "error" in mine:
            return f"{mine['error']} where Jinja gives {theirs[:80]!r}"
        if mine["text"] != theirs:
            return f"{mine['text'][:200]!r} for {theirs[:200]!r}"

    for name, template in templates.items():
        wrong = [w for chat in c.CHATS for generate in (False, True)
                 if (w := both(template, [{"role": r, "content": t} for r, t in chat], generate))]
        report(f"chat template: {name}", not wrong, wrong[0] if wrong else f"{2 * len(c.CHATS)} renderings")
    wrong = [(s, w) for s in c.SNIPPETS if (w := both(s, [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}], True))]
    for s, w in wrong:
        print("    ", repr(s[:70]), w)
    report("chat template: constructs", not wrong, f"{len(c.SNIPPETS)} snippets, {len(wrong)} differ")


# -- data sets -------------------------------------------------------------------
def data_sets(helper, model, folder, count):
    """Ids and masks of conversations against transformers' own assistant mask, which
    comes from markers in the template; ours has none. Pairs against tokenizing the
    whole and comparing offsets."""
    from transformers import AutoTokenizer
    t = AutoTokenizer.from_pretrained(model)
    with open(template_file(model), encoding="utf-8") as f:
        template = f.read()
    marked = ("{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
              "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n'}}"
              "{% if message.role == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}"
              "{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}")
    rng, eos = random.Random(9), t.convert_tokens_to_ids("<|im_end|>")

    def rows(records):
        path = os.path.join(folder, "data.jsonl")
        with open(path, "w", encoding="utf-8") as f:
            f.writelines(json.dumps(r, ensure_ascii=rng.random() < 0.5) + "\n" for r in records)
        args = [helper, "dataset", os.path.join(model, "tokenizer.json"), path, "4096", template_file(model), "<|im_end|>"]
        return [json.loads(line) for line in subprocess.run(args, stdout=subprocess.PIPE, check=True).stdout.splitlines()]

    def compare_rows(name, records, expected):
        got, bad = rows(records), 0
        for r, g, (ids, mask) in zip(records, got, expected):
            target = [ids[i + 1] if mask[i + 1] else -1 for i in range(len(ids) - 1)] + [-1]
            if g["ids"] != ids or g["target"] != target:
                bad += 1
                if bad <= 3:
                    print("    ", r, g, ids, target)
        report(name, bad == 0 and len(got) == len(records), f"{len(records)} documents, {bad} differ")

    records, expected = [], []
    for _ in range(count):
        chat = [{"role": "system", "content": random_text(rng, [])}] if rng.random() < 0.5 else []
        for _ in range(rng.randint(1, 3)):
            chat += [{"role": "user", "content": random_text(rng, [])}, {"role": "assistant", "content": random_text(rng, [])}]
        assert t.apply_chat_template(chat, chat_template=marked, tokenize=False) == t.apply_chat_template(chat, chat_template=template, tokenize=False)
        e = t.apply_chat_template(chat, chat_template=marked, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
        # A token that holds the end of the header and the beginning of an answer is
        # the answer's here; transformers leaves that open.
        mask = list(e["assistant_masks"])
        text = t.apply_chat_template(chat, chat_template=template, tokenize=False)
        offsets = t(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        at = 0
        for m in chat:
            if m["role"] != "assistant":
                continue
            at = text.index("<|im_start|>assistant\n" + m["content"] + "<|im_end|>", at) + len("<|im_start|>assistant\n")
            for i, (a, b) in enumerate(offsets):
                if a < at < b:
                    mask[i] = 1
        records.append({"messages": chat})
        expected.append((list(e["input_ids"]), mask))
    compare_rows("data set: conversations", records, expected)
    records, expected = [], []
    for _ in range(count):
        prompt, completion = random_text(rng, []), random_text(rng, []) + "."
        e = t(prompt + completion, add_special_tokens=False, return_offsets_mapping=True)
        records.append({"prompt": prompt, "completion": completion})
        expected.append((e["input_ids"] + [eos], [int(b > len(prompt)) for a, b in e["offset_mapping"]] + [1]))
    compare_rows("data set: prompts and completions", records, expected)


def main():
    a = argparse.ArgumentParser()
    a.add_argument("build", nargs="?", default=os.environ.get("STEELYARD_BUILD", "build"))
    a.add_argument("model", nargs="?", default=os.environ.get("STEELYARD_SMOLLM2", "models/tiny"))
    a.add_argument("--strings", type=int, default=2000)
    a.add_argument("--only")
    a.add_argument("--bench")
    a = a.parse_args()
    helper = os.path.join(a.build, "referee", "text_helper")
    path = os.path.join(a.model, "tokenizer.json")
    if a.bench:
        import time
        t = Tokenizer.from_file(path)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        with open(a.bench, encoding="utf-8") as f:
            text = f.read()
        n = len(t.encode(text).ids)
        pieces = [text[i:i + 4000] for i in range(0, len(text), 4000)]  # it is faster on short texts
        best = 1e9
        for _ in range(3):
            start = time.perf_counter()
            for piece in pieces:
                t.encode(piece)
            best = min(best, time.perf_counter() - start)
        mine = json.loads(subprocess.check_output([helper, "bench", path, a.bench]))
        size = len(text.encode()) / 1e6
        report("as many tokens as tokenizers", mine["tokens"] == n, f"{n}")
        report("at least as fast as tokenizers, one thread", mine["seconds"] <= best, f"{size / mine['seconds']:.1f} MB/s for {size / best:.1f} MB/s")
        return common.failures > 0
    with tempfile.TemporaryDirectory() as d:
        t = Tokenizer.from_file(path)
        if not a.only or a.only in "model":
            ours = Ours(helper, path)
            compare("the model's tokenizer.json", t, ours, "ids offsets text", 2 * a.strings, 1)
            round_trip("the model's tokenizer.json: round trip", t, ours, a.strings)
        for i, (name, t, what) in enumerate([*variants(), *token_variants.variants()]):
            if a.only and a.only not in name:
                continue
            path = os.path.join(d, f"{i}.json")
            t.save(path)
            try:
                ours = Ours(helper, path)
                compare(name, t, ours, what, a.strings // 2, 100 + i)
                if name.startswith(("llama3", "Split isolated")):
                    round_trip(name + ": round trip", t, ours, a.strings)
            except (RuntimeError, BrokenPipeError) as e:
                report(name, False, str(e))
        if not a.only or a.only in "dataset":
            data_sets(helper, a.model, d, a.strings // 4)
    if not a.only or a.only in "chat":
        chats(helper, a.model)
    return common.failures > 0


sys.exit(main())
