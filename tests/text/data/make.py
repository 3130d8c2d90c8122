# SPDX-License-Identifier: Apache-2.0
"""Writes golden.json: small tokenizers with what Hugging Face tokenizers make of
some texts, and chat templates with what Jinja, set up as in transformers, makes
of some conversations. Run when cases are added; needs tokenizers and
transformers."""
import json, os, sys

here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(here, "..", "..", "referee"))
import chat_templates, token_variants
from tokenizers import Tokenizer, AddedToken, Regex, models, trainers, pre_tokenizers, normalizers, processors, decoders
from transformers.utils.chat_template_utils import _cached_compile_jinja_template

CORPUS = ["Hello world, the quick brown fox jumps over the lazy dog. ", "I don't think we'll know; they've said so 123 times, or 4567. ",
          "Was ist das? Ein naïver Versuch über das Café. ", "def f(x):\n    return x + 1\n\n", "こんにちは世界。 ", "user\nassistant\nsystem\n"] * 30
TEXTS = ["", " ", "Hello world", "  Hello   world  ", "don't we'll I'VE", "x = 12345\n\n\ty = 6", "naïve cafe\u0301 ﬁn Å", "世界 こんにちは!", "😀👍🏽", "a\u00a0b\u3000c\r\nd",
         "<|im_start|>user\nHi<|im_end|>\n", "a <|im_end|> b<|im_start|", "The end.<|im_end|>", "the the  the", "12 345 6789", "\u0301x", "zzzzzzzzzz" * 8, "İI"]


def train(pre, normalizer=None):
    t = Tokenizer(models.BPE())
    if normalizer:
        t.normalizer = normalizer
    t.pre_tokenizer = pre
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=380, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                                      special_tokens=[AddedToken(s, special=True) for s in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")]))
    t.decoder = decoders.ByteLevel()
    return t


LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
tokenizers = {}
t = train(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]))
tokenizers["smollm"] = t
t = train(pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]))
j = json.loads(t.to_str())
j["model"]["ignore_merges"] = True
t = Tokenizer.from_str(json.dumps(j))
t.post_processor = processors.TemplateProcessing(single="<|im_start|> $A", pair="$A $B", special_tokens=[("<|im_start|>", 1)])
tokenizers["llama3"] = t
t = train(pre_tokenizers.ByteLevel(add_prefix_space=True), normalizers.NFC())
t.post_processor = processors.ByteLevel(trim_offsets=True)
t.add_tokens([AddedToken("world", single_word=True), AddedToken("<m>", lstrip=True)])
tokenizers["gpt2"] = t
tokenizers.update((name, t) for name, t, what in token_variants.variants())

out = {"tokenizers": [], "chats": []}
for name, t in tokenizers.items():
    cases = []
    for text in TEXTS + ([" <m>x", "worlds world"] if name == "gpt2" else []):
        e = t.encode(text)
        at = [0]
        for c in text:
            at.append(at[-1] + len(c.encode()))
        offsets = {} if "Precompiled" in name else {"offsets": [[at[a], at[b]] for a, b in e.offsets]}
        cases.append({"text": text, "ids": e.ids, **offsets, "decoded": t.decode(e.ids, skip_special_tokens=False)})
    j = json.loads(t.to_str())
    if name == "smollm":  # the older spelling
        j["model"]["merges"] = [" ".join(m) for m in j["model"]["merges"]]
    out["tokenizers"].append({"name": name, "tokenizer": j, "cases": cases})
for name, template in chat_templates.TEMPLATES.items():
    c = _cached_compile_jinja_template(template)
    c.environment.globals.pop("strftime_now", None)
    for i, chat in enumerate(chat_templates.CHATS):
        messages = [{"role": r, "content": s} for r, s in chat]
        try:
            text = c.render(messages=messages, tools=None, documents=None, add_generation_prompt=i % 2 == 0, bos_token="<s>", eos_token="</s>")
        except Exception:
            text = None
        out["chats"].append({"name": name, "template": template, "messages": messages, "add_generation_prompt": i % 2 == 0, "text": text})
with open(os.path.join(here, "golden.json"), "w", encoding="utf-8") as f:
    json.dump(out, f, ensure_ascii=False, separators=(",", ":"))
    f.write("\n")
