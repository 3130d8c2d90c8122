# SPDX-License-Identifier: Apache-2.0
"""Small tokenizers that between them use every model and component beyond
byte-level BPE: for the referee and for the golden file of the C test."""
import base64, json, struct

from tokenizers import AddedToken, Tokenizer, decoders as D, models, normalizers as N, pre_tokenizers as P, processors as R

WORDS = list(dict.fromkeys(["[UNK]", "the", "quick", "x", "##x", "a", "##b", "##1", "é", "##é", "中", "Hello", "hello", "world", "##s", "e", "##e", "\u0301", "##\u0301"] + list("bcdfghijklmnopqrs")
                           + ["##" + c for c in "acdfghijklmnopqrstuvwyz.,'"] + list(".,!?'")))
PIECES = [("<unk>", 0.0)] + [(w, -1.0 - 0.37 * i) for i, w in enumerate(list("▁abcdefghijklmnopqrstuvwxyz .") + ["▁the", "th", "he", "qu", "ick", "ab", "abc", "▁▁", "éa", "中文", "\n", "fi"])]


def charsmap(pairs):
    """SentencePiece's precompiled map: a double array over UTF-8, then the texts."""
    texts, tree = b"", {}
    for key, value in pairs.items():
        node = tree
        for b in key.encode():
            node = node.setdefault(b, {})
        node[0] = len(texts)
        texts += value.encode() + b"\0"
    units, used = {0: 0}, {0}

    def place(at, node):
        base = next(b for b in range(1, 1 << 20) if all(b ^ label not in used for label in node))
        used.update(base ^ label for label in node)
        units[at] |= (at ^ base) << 10 | (0 in node) << 8
        for label, child in node.items():
            units[base ^ label] = child | 1 << 31 if label == 0 else label
        for label, child in node.items():
            if label != 0:
                place(base ^ label, child)
    place(0, tree)
    size = max(units) // 256 * 256 + 256  # whole blocks: readers do not look for the end
    array = struct.pack(f"<{size}I", *[units.get(i, 0) for i in range(size)])
    return base64.b64encode(struct.pack("<I", len(array)) + array + texts).decode()


def build(model, normalizer=None, pre=None, post=None, decoder=None, added=()):
    t = Tokenizer(model)
    for name, part in [("normalizer", normalizer), ("pre_tokenizer", pre), ("post_processor", post), ("decoder", decoder)]:
        if part is not None:
            setattr(t, name, part)
    t.add_special_tokens(list(added))
    return t


def pieces():
    return models.WordPiece({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]")


def words():
    return models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]")


def unigram(bytes_too):
    return models.Unigram(PIECES + [("<0x%02X>" % b, -20.0) for b in range(256)] if bytes_too else PIECES, 0, bytes_too)


def mapped(bytes_too):
    """T5's pipeline; the map goes in by way of the file, as there is no call for it."""
    t = build(unigram(bytes_too), None, P.Metaspace(), None, D.Metaspace())
    j = json.loads(t.to_str())
    pairs = {"ﬁ": "fi", "Å": "A", "\u00a0": " ", "\u3000": " ", "\r": " ", "\t": " ", "\x01": "", "e\u0301": "é", "①": "1", "㎏": "kg", "\u0308": "", "Å\u0301": "!", "\u200b": " "}
    j["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Precompiled", "precompiled_charsmap": charsmap(pairs)},
                                                           {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}]}
    return Tokenizer.from_str(json.dumps(j))


def variants():
    """Name, tokenizer, what is compared."""
    yield "BERT, uncased", build(pieces(), N.BertNormalizer(), P.BertPreTokenizer(), R.BertProcessing(("x", 3), ("a", 5)), D.WordPiece()), "ids offsets text"
    yield "BERT, cased, [MASK]", build(pieces(), N.BertNormalizer(lowercase=False), P.BertPreTokenizer(), None, D.WordPiece(cleanup=False),
                                       [AddedToken("[MASK]", lstrip=True)]), "ids offsets text"
    yield "StripAccents", build(pieces(), N.Sequence([N.NFKD(), N.StripAccents(), N.Lowercase()]), P.Whitespace()), "ids offsets text"
    yield "Nmt, UnicodeScripts", build(pieces(), N.Nmt(), P.UnicodeScripts()), "ids offsets text"
    yield "FixedLength, CTC", build(pieces(), None, P.FixedLength(3), None, D.CTC("[UNK]", "x")), "ids offsets text"
    yield "CTC, not cleaned up", build(pieces(), None, P.Whitespace(), None, D.CTC("[UNK]", "x", False)), "ids offsets text"
    yield "WordLevel behind ByteLevel, Roberta", build(words(), None, P.Sequence([P.ByteLevel(add_prefix_space=True), P.Digits()]),
                                                       R.RobertaProcessing(("x", 3), ("a", 5)), D.ByteLevel()), "ids offsets text"
    for bytes_too in (False, True):
        name = ", byte fallback" if bytes_too else ""
        yield "Unigram, Metaspace" + name, build(unigram(bytes_too), None, P.Metaspace(), None, D.Metaspace()), "ids offsets text"
        yield "Unigram, ByteLevel as normalizer" + name, build(unigram(bytes_too), N.ByteLevel(), None, None, D.ByteLevel()), "ids offsets text"
        yield "Unigram, Precompiled" + name, mapped(bytes_too), "ids text"
