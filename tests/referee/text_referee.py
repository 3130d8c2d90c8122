# SPDX-License-Identifier: Apache-2.0
"""Compares tokens, offsets and decoded text with Hugging Face tokenizers, and
rendered chats with Jinja as transformers uses it.

usage: text_referee.py BUILD MODEL_FOLDER [--strings N] [--bench]

Needs the packages tokenizers and transformers. Prints a line a comparison and
exits with 1 if one fails."""
import argparse, json, os, random, struct, subprocess, sys, tempfile, unicodedata

from tokenizers import (Tokenizer, AddedToken, Regex, models, trainers, pre_tokenizers, normalizers, processors,
                        decoders)

failures = 0
scratch = tempfile.TemporaryDirectory()


def report(name, ok, detail=""):
    global failures
    failures += not ok
    print(("ok   " if ok else "FAIL ") + name + (": " + detail if detail else ""), flush=True)


def template_file(model):
    """The chat template as a file: older folders keep it in tokenizer_config.json."""
    path = os.path.join(model, "chat_template.jinja")
    if os.path.exists(path):
        return path
    path = os.path.join(scratch.name, "chat_template.jinja")
    with open(os.path.join(model, "tokenizer_config.json"), encoding="utf-8") as f, open(path, "w", encoding="utf-8") as out:
        out.write(json.load(f)["chat_template"])
    return path


class Ours:
    def __init__(self, helper, path):
        self.p = subprocess.Popen([helper, "tokenize", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __call__(self, data, special=True, add=True):
        self.p.stdin.write(struct.pack("<II", special + 2 * add, len(data)) + data)
        self.p.stdin.flush()
        head = self.p.stdout.read(4)
        if len(head) < 4:
            raise RuntimeError("the helper ended")
        n, = struct.unpack("<I", head)
        rows = list(struct.iter_unpack("<iqq", self.p.stdout.read(20 * n)))
        n, = struct.unpack("<I", self.p.stdout.read(4))
        return [r[0] for r in rows], [(r[1], r[2]) for r in rows], self.p.stdout.read(n)


# -- texts ---------------------------------------------------------------------
# Characters that the Unicode tables of all libraries here agree on.
def settled(c):
    return unicodedata.ucd_3_2_0.category(c) not in ("Cn", "Cs")


POOLS = [
    "abcdefghijklmnopqrstuvwxyz" * 3 + "ABCDEFGHIJKLMNOP", "0123456789", " ", " \t\n\r\x0b\x0c", "\r\n", ".,;:!?'\"-_()[]{}<>|/\\@#$%^&*+=~`",
    "éèüßñçøåÅİıſK", "\u0301\u0308\u0327\u0323\u0345\u0307", "漢字仮名交じり文日本語中文", "한국어가각\u1100\u1161\u11a8", "العربيةمرحبا", "हिन्दी\u093f\u094d", "ไทยภาษา",
    "\u200b\u200c\u200d\ufeff\u00ad\u2060", "\u00a0\u1680\u2003\u2028\u2029\u3000\u0085\u180e", "😀👍🏽👨\u200d👩\u200d👧🇫🇷", "½²³٣४Ⅷ①", "ﬁﬀ℃™Ⓐ㎏ﷺ", "\x00\x01\x7f",
    "'s't're've'm'll'd'S'RE", "𝕳𝖊𝖑𝖑𝖔", "ẹ̀ạ̈",
]


def random_text(rng, specials):
    out = []
    for _ in range(rng.randint(1, 12)):
        k = rng.random()
        if k < 0.1 and specials:
            s = rng.choice(specials)
            out.append(s if rng.random() < 0.7 else s[:rng.randint(1, len(s))])
        elif k < 0.2:
            out.append(rng.choice(["the", " quick", " brown fox", "Hello", " world", "def f(x):\n    return x", "don't", "I'LL",
                                   "3.14159", "https://a.b/c?d=e", "1,234", "   ", "\n\n\n", "\t\t", "a" * rng.randint(1, 90)]))
        elif k < 0.25:
            c = chr(rng.randrange(0x20, 0x30000))
            if settled(c):
                out.append(c * rng.randint(1, 3))
        else:
            pool = rng.choice(POOLS)
            out.append("".join(rng.choice(pool) for _ in range(rng.randint(1, 8))))
        if rng.random() < 0.4:
            out.append(" ")
    return "".join(out)


NASTY = ["", " ", "  ", "\n", "\r\n", "\t", "a", "\x00", "é", "e\u0301", "\u0301", "a" * 5000, " " * 5000, "\n" * 3000, "ab" * 4000, "😀" * 500,
         "\u0301" * 300, "1" * 2000, "<" * 500, "<|im_start|" * 50, "'" * 100, "a b " * 500, "word" + " " * 50 + "word", " \u3000 x", "İ" * 20, "ǆ ǅ Ǆ",
         "x\u0323\u0307\u0301y", "\u1100\u1161\u11a8\u11a8", "가\u11a8", "q\u0307\u0323", "Å\u0301", "\ufb01n", "ẛ̣", "क़", "a\u0315\u0300\u05ae\u0062"]


def texts(count, specials, seed):
    rng = random.Random(seed)
    yield from NASTY
    for s in specials:
        yield from (s, s + s, " " + s + " ", "a" + s + "b", "a  " + s + "\n b", s[:-1], "\u3000" + s + "\u3000x", s + "é", "_" + s + "_")
    for _ in range(count):
        yield random_text(rng, specials)


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


def byte_offsets(text, offsets):
    at = [0]
    for c in text:
        at.append(at[-1] + len(c.encode()))
    return [(at[a], at[b]) for a, b in offsets]


def compare(name, t, ours, what, count, seed):
    specials = [a.content for a in t.get_added_tokens_decoder().values()]
    bad, n = 0, 0
    for text in texts(count, specials, seed):
        special, add = n % 3 != 0, n % 2 == 0
        t.encode_special_tokens = not special
        theirs = t.encode(text, add_special_tokens=add)
        ids, offsets, back = ours(text.encode(), special, add)
        wrong = []
        if ids != theirs.ids:
            wrong.append(f"ids {ids[:20]} for {theirs.ids[:20]}")
        elif "offsets" in what and offsets != byte_offsets(text, theirs.offsets):
            k = next(i for i, (a, b) in enumerate(zip(offsets, byte_offsets(text, theirs.offsets))) if a != b)
            wrong.append(f"offsets of token {k} ({theirs.tokens[k]!r}): {offsets[k]} for {byte_offsets(text, theirs.offsets)[k]}")
        if "text" in what:
            expected = t.decode(theirs.ids, skip_special_tokens=False)
            if back.decode("utf-8", "replace") != expected:
                wrong.append(f"text {back[:60]!r} for {expected[:60]!r}")
        if wrong:
            bad += 1
            if bad <= 3:
                print("    ", repr(text[:80]), special, add, "; ".join(wrong))
        n += 1
    report(name, bad == 0, f"{n} texts, {bad} differ")


def round_trip(name, t, ours, count):
    """Any bytes at all that the vocabulary has: they must come back."""
    rng, bad = random.Random(3), 0
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    have = [b for b in range(256) if t.token_to_id(chr(b) if b in printable else chr(256 + others.index(b))) is not None]
    for _ in range(count):
        data = bytes(rng.choice([rng.choice(have), rng.choice(b"ab 1\n\xc3\xa9\xf0\x9f\x98\x80\xed\xa0\x80")]) for _ in range(rng.randint(0, 60)))
        bad += ours(data, True, False)[2] != data
    report(name, bad == 0, f"{count} strings of random bytes, {bad} differ")


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
        return failures > 0
    with tempfile.TemporaryDirectory() as d:
        t = Tokenizer.from_file(path)
        if not a.only or a.only in "model":
            ours = Ours(helper, path)
            compare("the model's tokenizer.json", t, ours, "ids offsets text", 2 * a.strings, 1)
            round_trip("the model's tokenizer.json: round trip", t, ours, a.strings)
        for i, (name, t, what) in enumerate(variants()):
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
    return failures > 0


sys.exit(main())
