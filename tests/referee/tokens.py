# SPDX-License-Identifier: Apache-2.0
"""What the referees of tokenizers share: a report, our side behind a pipe, strings
that are hard on tokenizers, and the comparison of one file with Hugging Face's."""
import random, struct, subprocess, unicodedata

failures = 0


def report(name, ok, detail=""):
    global failures
    failures += not ok
    print(("ok   " if ok else "FAIL ") + name + (": " + detail if detail else ""), flush=True)


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


def byte_offsets(text, offsets):
    at = [0]
    for c in text:
        at.append(at[-1] + len(c.encode()))
    return [(at[a], at[b]) for a, b in offsets]


def compare(name, t, ours, what, count, seed):
    compare_all(name, t, ours, what, texts(count, [a.content for a in t.get_added_tokens_decoder().values()], seed))


def compare_all(name, t, ours, what, strings):
    bad, n = 0, 0
    for text in strings:
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
