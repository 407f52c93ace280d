"""A byte-level BPE tokenizer of a few hundred tokens, trained on text of our own, with a chat template, and `chat.json`:
what `tokenizers` and `transformers` make of awkward strings, conversations and templates. Used by make_models.py.

`chat.json` holds

    encodings      text -> ids (special tokens in the text are recognized), and the text decoded again with special tokens kept
    conversations  messages -> what the folder's chat template renders, and its ids
    templates      small templates of our own, each using a construct found in published ones -> what is rendered, or
                   the message of the error that the template itself raises
"""

import json

import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

from awkward_text import AWKWARD

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

TEXT = """
The river rises in the hills above the town and runs past the mill, the school and the old stone bridge. In the spring
the water is high and the miller opens the gates; in the summer it is low and the children walk across on the stones.
When it rains for a week, the people of the lower street carry their things upstairs and wait. "It's only water," the
miller's daughter says, "and it won't stay." She's right: it doesn't. They're used to it, they've seen it before, and
I'd say that we'll see it again.

A program is a list of steps. To add the numbers from 1 to 100, start with zero, then add 1, then 2, then 3, and so on.
In 1786 a boy found a shorter way: 1 + 100 = 101, 2 + 99 = 101, and there are 50 such pairs, so the answer is 5050.
def total(numbers):
    result = 0
    for number in numbers:
        result += number
    return result
"""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a tiny model.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + (message['content'] | trim) + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

CONVERSATIONS = [
    dict(messages=[{"role": "user", "content": "How high is the water?"}], add_generation_prompt=True),
    dict(messages=[{"role": "user", "content": "  spaces around\n"}], add_generation_prompt=False),
    dict(messages=[{"role": "system", "content": "Answer in one word."}, {"role": "user", "content": "Is 5050 even?"},
                   {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "And <|im_end|> 101?"}], add_generation_prompt=True),
    dict(messages=[{"role": "user", "content": "naïve café 東京 🙂"}], add_generation_prompt=True),
]

USER = [{"role": "user", "content": "Rain?"}]
TURNS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " Rain? "}, {"role": "assistant", "content": "Yes: 3 < 4 & 'wet'."},
         {"role": "user", "content": "Why?"}]

# Constructs seen in published templates, in templates of our own.
TEMPLATES = {
    "blocks are trimmed": dict(messages=TURNS, template="{%- if messages[0].role == 'system' %}\n    {{- messages[0].content + '\\n' }}\n{%- endif %}\n{% for m in messages %}\n  {% if m.role != 'system' %}\n[{{ m.role }}] {{ m.content }}\n  {% endif %}\n{% endfor %}\nend"),
    "slices and set": dict(messages=TURNS, template="{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set rest = messages[1:] %}{% else %}{% set system = none %}{% set rest = messages %}{% endif %}{{ system }}/{{ rest | length }}/{{ messages[-1].content }}"),
    "namespace": dict(messages=TURNS, template="{% set ns = namespace(last=-1, found=false) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% set ns.found = true %}{% endif %}{% endfor %}{{ ns.last }} {{ ns.found }}"),
    "reversed with loop fields": dict(messages=TURNS, template="{% for m in messages[::-1] %}{{ loop.index }}{% if loop.last %}.{% else %},{% endif %}{{ m.role }}{% endfor %}"),
    "string methods": dict(messages=TURNS, template="{% for m in messages %}{{ m.content.strip().upper() if m.content.startswith(' ') else m.content.split(':')[0].rstrip('.') }}|{% endfor %}"),
    "tojson": dict(messages=TURNS, template="{{ messages[2] | tojson }}{{ {'a': [1, 2.5, true, none]} | tojson(indent=2) }}"),
    "special tokens": dict(messages=USER, template="{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"),
    "defaults and tests": dict(messages=USER, template="{{ tools is defined and tools is not none }} {{ date | default('no date') }} {{ messages[0].content is string }} {{ 'tool_calls' in messages[0] }} {{ messages is iterable and messages is not mapping }}"),
    "break and continue": dict(messages=TURNS, template="{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{{ m.role }}{% if m.role == 'assistant' %}{% break %}{% endif %}{% endfor %}"),
    "macro": dict(messages=TURNS, template="{% macro turn(m) %}<{{ m.role }}>{{ m.content | trim }}</{{ m.role }}>{% endmacro %}{% for m in messages %}{{ turn(m) }}{% endfor %}"),
    "generation block": dict(messages=TURNS, template="{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"),
    "select and join": dict(messages=TURNS, template="{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | map('trim') | join(' + ') }}"),
    "no escaping": dict(messages=TURNS, template="{{ messages[2].content }}"),
    "raises": dict(messages=TURNS, template="{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate user/assistant') }}{% endif %}{% endfor %}"),
}


def train(vocabulary_size):
    tokenizer = Tokenizer(models.BPE())
    # As SmolLM2: every digit is its own token, then GPT-2's splitting into words.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary_size, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    assert tokenizer.get_vocab_size() == vocabulary_size
    return tokenizer


def chat_goldens(tokenizer):
    out = {"encodings": [], "conversations": [], "templates": []}
    for text in AWKWARD:
        ids = tokenizer.encode(text, add_special_tokens=False)
        out["encodings"].append({"text": text, "ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)})
    for conversation in CONVERSATIONS:
        rendered = tokenizer.apply_chat_template(conversation["messages"], tokenize=False, add_generation_prompt=conversation["add_generation_prompt"])
        out["conversations"].append({**conversation, "rendered": rendered, "ids": tokenizer.encode(rendered, add_special_tokens=False)})
    for name, case in TEMPLATES.items():
        try:
            result = {"rendered": tokenizer.apply_chat_template(case["messages"], chat_template=case["template"], tokenize=False)}
        except Exception as error:
            if name != "raises":
                raise
            result = {"error": str(error)}
        out["templates"].append({"name": name, **case, **result})
    out["versions"] = {"transformers": transformers.__version__}
    return out


def write(folder, vocabulary_size):
    tokenizer = train(vocabulary_size)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>",
        "pad_token": "<|im_end|>", "add_prefix_space": False, "clean_up_tokenization_spaces": False, "model_max_length": 128,
        "added_tokens_decoder": {str(i): {"content": token, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
                                 for i, token in enumerate(SPECIAL)},
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    goldens = chat_goldens(AutoTokenizer.from_pretrained(folder))
    (folder / "chat.json").write_text(json.dumps(goldens, indent=1, ensure_ascii=False) + "\n")
