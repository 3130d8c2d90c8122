/* SPDX-License-Identifier: Apache-2.0 */
/* Built-in chat templates: what the common formats look like without tools, for models
 * that come without a template of their own. Data; the interpreter renders them like
 * any other. A model's own template is always preferred. */
#include "text.h"

#define EACH(body) "{%- for m in messages %}" body "{%- endfor %}"
#define PROMPT(text) "{%- if add_generation_prompt %}{{ '" text "' }}{%- endif %}"
/* The system message goes before the words of the first user. */
#define FOLD_SYSTEM(open, close)                                                                         \
    "{%- set s = namespace(text='') %}" EACH("{%- if m.role == 'system' %}{%- set s.text = '" open "' + m.content + '" close "' %}" \
    "{%- elif m.role == 'user' %}"
#define FOLDED "{%- set words = s.text + m.content %}{%- set s.text = '' %}"
#define BOS "{{ bos_token if bos_token is defined else '' }}"
#define EOS "(eos_token if eos_token is defined else '')"

static const struct { const char *name, *title, *text; } named[] = {
    {"chatml", "<|im_start|>ROLE ... <|im_end|>: Qwen, SmolLM, Yi, many fine-tunes",
     EACH("{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}") PROMPT("<|im_start|>assistant\\n")},
    {"llama-2", "[INST] <<SYS>> ... [/INST]: Llama 2 Chat",
     FOLD_SYSTEM("<<SYS>>\\n", "\\n<</SYS>>\\n\\n") FOLDED BOS "{{ '[INST] ' + words | trim + ' [/INST]' }}"
     "{%- else %}{{ ' ' + m.content | trim + ' ' + " EOS " }}{%- endif %}")},
    {"llama-3", "<|start_header_id|>ROLE<|end_header_id|> ... <|eot_id|>: Llama 3",
     BOS EACH("{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' }}")
     PROMPT("<|start_header_id|>assistant<|end_header_id|>\\n\\n")},
    {"mistral-v1", "' [INST] ... [/INST]': Mistral 7B v0.1, Mixtral",
     BOS FOLD_SYSTEM("", "\\n\\n") FOLDED "{{ ' [INST] ' + words + ' [/INST]' }}"
     "{%- else %}{{ ' ' + m.content + " EOS " }}{%- endif %}")},
    {"mistral-v3", "'[INST] ...[/INST]': Mistral 7B v0.3, Small, Large",
     BOS FOLD_SYSTEM("", "\\n\\n") FOLDED "{{ '[INST] ' + words + '[/INST]' }}"
     "{%- else %}{{ ' ' + m.content | trim + " EOS " }}{%- endif %}")},
    {"mistral-tekken", "'[INST]...[/INST]' without spaces: Mistral Nemo, Ministral",
     BOS FOLD_SYSTEM("", "\\n\\n") FOLDED "{{ '[INST]' + words + '[/INST]' }}"
     "{%- else %}{{ m.content + " EOS " }}{%- endif %}")},
    {"gemma", "<start_of_turn>ROLE ... <end_of_turn>: Gemma 1 to 3",
     BOS FOLD_SYSTEM("", "\\n\\n") FOLDED "{{ '<start_of_turn>user\\n' + words | trim + '<end_of_turn>\\n' }}"
     "{%- else %}{{ '<start_of_turn>model\\n' + m.content | trim + '<end_of_turn>\\n' }}{%- endif %}") PROMPT("<start_of_turn>model\\n")},
    {"phi-3", "<|ROLE|> ... <|end|>: Phi-3", EACH("{{ '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' }}") PROMPT("<|assistant|>\\n")},
    {"zephyr", "<|ROLE|> ... </s>: Zephyr, TinyLlama",
     EACH("{{ '<|' + m.role + '|>\\n' + m.content + " EOS " + '\\n' }}") PROMPT("<|assistant|>\\n")},
    {"deepseek", "<｜User｜>...<｜Assistant｜>: DeepSeek V2.5, V3, R1",
     BOS EACH("{%- if m.role == 'system' %}{{ m.content }}{%- elif m.role == 'user' %}{{ '<｜User｜>' + m.content }}"
     "{%- else %}{{ '<｜Assistant｜>' + m.content + " EOS " }}{%- endif %}") PROMPT("<｜Assistant｜>")},
    {"alpaca", "### Instruction: ... ### Response: ...",
     EACH("{%- if m.role == 'system' %}{{ m.content + '\\n\\n' }}{%- elif m.role == 'user' %}{{ '### Instruction:\\n' + m.content + '\\n\\n' }}"
     "{%- else %}{{ '### Response:\\n' + m.content + " EOS " + '\\n\\n' }}{%- endif %}") PROMPT("### Response:\\n")},
    {"vicuna", "USER: ... ASSISTANT: ...",
     EACH("{%- if m.role == 'system' %}{{ m.content + ' ' }}{%- elif m.role == 'user' %}{{ 'USER: ' + m.content + ' ' }}"
     "{%- else %}{{ 'ASSISTANT: ' + m.content + " EOS " }}{%- endif %}") PROMPT("ASSISTANT:")},
};

const char *sy_chat_named(const char *name)
{
    for (int i = 0; i < SYI_COUNT(named); i++)
        if (strcmp(named[i].name, name) == 0) return named[i].text;
    return NULL;
}

const char *sy_chat_name(int i, const char **title)
{
    if (i < 0 || i >= SYI_COUNT(named)) return NULL;
    if (title != NULL) *title = named[i].title;
    return named[i].name;
}
