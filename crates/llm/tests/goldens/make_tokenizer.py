"""Writes tokenizer.json: token ids of awkward texts by two independent implementations.

    pip install sentencepiece llama-cpp-python
    python make_tokenizer.py SmolLM2-135M-Instruct.Q4_1.gguf

`byte_level` holds ids by llama.cpp for the vocabulary of SmolLM2, split by the rules of several families (its GGUF file
is rewritten with another `tokenizer.ggml.pre`). `sentence_piece` holds a small vocabulary, trained on the text below,
and ids by sentencepiece itself.
"""

import importlib.metadata
import io
import json
import pathlib
import sys
import tempfile

import gguf
import llama_cpp
import sentencepiece

TEXTS = [
    "",
    " ",
    "Hello, world!",
    " leading space",
    "trailing space ",
    "two  spaces   three    four",
    "tabs\tand\nnewlines\r\n\r\n\n  mixed \n x",
    "The capital of France is",
    "I'll we've don't CAN'T it's they'RE 'sup",
    "1234567890 3.14159 1,000,000 v2.0 x86_64 ²½ ٣٤",
    "snake_case camelCase SCREAMING_CASE kebab-case path/to/file.rs",
    "fn main() { println!(\"{}\", a[0] + b->c); } // done",
    "Grüße aus Köln, ¿qué tal? Ça va? Žluťoučký kůň",
    "日本語のテキスト。漢字とかな 中文字符",
    "Привет, мир! Ελληνικά עברית العربية हिन्दी ไทย",
    "😀 👩‍👩‍👧 🏳️‍🌈 e\u0301 ﬁ Å",
    "\u00a0nbsp\u2003em\u200bzero\ufeffbom",
    "...!!!???---***$$$ @#%^&*()_+ <tag attr='v'/> ~~ `` ||",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "https://example.com/a?b=c&d=%20#frag",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "text<|endoftext|>more <|im_end|> end",
    "<|im_start",
    "▁underline Ġ looks Ċ special",
    "\x00\x01\x7f control",
    "a\n\nb\n\n\nc\n",
    "    indented code\n        deeper\n\tTab",
    "MiXeD cAsE wOrDs ABCdef DEFghi",
    "don\u2019t \u201cquote\u201d \u2014 dash \u2026",
    "word" * 30,
    "\U0001d4d7\U0001d4ee\U0001d4f5\U0001d4f5\U0001d4f8 𐍈 \U0010ffff",
]

CORPUS = """A small boat crossed the river in the rain. The rain did not stop, and the river rose by the hour.
Three people sat in the boat: one rowed, one bailed the water out, and one told stories about other rivers.
"There was a river once," she said, "that ran uphill on Sundays." Nobody believed her, but nobody stopped her either.
By evening they had counted 27 herons, 3 otters and 1 very old pike. The lamps on the far shore were lit one by one.
Grüße, said the ferryman, who had come from far away and greeted everyone like that, in rain and in sunshine.
"""


def vocabulary_only(path):
    return llama_cpp.Llama(path, vocab_only=True, verbose=False)


def byte_level_ids(path, pre):
    """Ids by llama.cpp for the file's vocabulary under another pre-tokenizer."""
    reader = gguf.GGUFReader(path)
    with tempfile.NamedTemporaryFile(suffix=".gguf") as copy:
        writer = gguf.GGUFWriter(copy.name, "llama")
        for key, field in reader.fields.items():
            if key.startswith("GGUF.") or key == "general.architecture":
                continue
            kind = field.types[0]
            sub_type = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            value = pre if key == "tokenizer.ggml.pre" else field.contents()
            writer.add_key_value(key, value, kind, sub_type=sub_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        model = vocabulary_only(copy.name)
        return [model.tokenize(text.encode(), add_bos=False, special=True) for text in TEXTS]


def sentence_piece():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS.splitlines()),
        model_writer=model,
        model_type="bpe",
        vocab_size=460,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    ids = range(processor.get_piece_size())

    def token_type(id):
        if processor.is_unknown(id):
            return 2
        if processor.is_control(id):
            return 3
        return 6 if processor.is_byte(id) else 1

    texts = [text for text in TEXTS if "\x00" not in text] + CORPUS.splitlines()
    return {
        "tokens": [processor.id_to_piece(id) for id in ids],
        "scores": [processor.get_score(id) for id in ids],
        "types": [token_type(id) for id in ids],
        "cases": [{"text": text, "ids": processor.encode(text)} for text in texts],
    }


def main(path):
    versions = {name: importlib.metadata.version(name) for name in ("llama-cpp-python", "sentencepiece")}
    golden = {
        "made_with": versions,
        "texts": TEXTS,
        "byte_level": {
            pre: byte_level_ids(path, pre) for pre in ("smollm", "gpt-2", "llama-bpe", "qwen2", "tekken", "default")
        },
        "sentence_piece": sentence_piece(),
    }
    output = json.dumps(golden, ensure_ascii=True)
    pathlib.Path(__file__).with_name("tokenizer.json").write_text(output + "\n", encoding="utf-8")


main(sys.argv[1])
