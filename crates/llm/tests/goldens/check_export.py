"""Loads exported folders with transformers and PEFT and compares them with what they were made from.

Usage: check_export.py MANIFEST

MANIFEST is a JSON file:
  models      [{original, exported}]          folders; the logits of both must be the same
  gguf        [{file, exported}]              a GGUF file that transformers reads itself, dequantized
  tokenizers  [{folder, cases: [{text, plain, framed}]}]  ids without and with special tokens
  adapters    [{base, adapter, merged}]       folders; base plus adapter must be what was merged

Prints one JSON object with what was compared: the largest absolute differences of logits, and how
many encodings were equal. Exits with an error on the first folder that cannot be loaded.
"""

import json
import pathlib
import sys

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

TOKENS = torch.tensor([[5, 17, 99, 3, 64, 200, 131, 8, 42, 77, 150, 9, 23, 61, 12, 250]])


def logits(model):
    with torch.no_grad():
        return model.eval()(TOKENS).logits.double()


def load(folder, **keywords):
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, **keywords
    )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not report[kind], f"{folder}: {kind} {report[kind]}"
    return model


def difference(one, other):
    return (one - other).abs().max().item()


def check_tokenizer(entry):
    folder = pathlib.Path(entry["folder"])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for case in entry["cases"]:
        text = case["text"]
        for key, special in (("plain", False), ("framed", True)):
            found = tokenizer.encode(text, add_special_tokens=special)
            assert found == case[key], f"{folder}: {text!r} {key}: {found}, not {case[key]}"
    if "chat" in entry:
        found = tokenizer.apply_chat_template(
            [{"role": "user", "content": "Grüße"}], tokenize=False, add_generation_prompt=True
        )
        assert found == entry["chat"], f"{folder}: {found!r}"
    return 2 * len(entry["cases"])


def check_adapter(entry):
    from peft import PeftModel

    plain = logits(load(entry["base"]))
    model = PeftModel.from_pretrained(load(entry["base"]), entry["adapter"])
    adapted = logits(model)
    merged = logits(load(entry["merged"]))
    theirs = logits(model.merge_and_unload())
    return {
        "moved_by": difference(adapted, plain),
        "merged": difference(adapted, merged),
        "merged_by_peft": difference(adapted, theirs),
    }


def main():
    manifest = json.loads(pathlib.Path(sys.argv[1]).read_text())
    result = {"versions": {"transformers": transformers.__version__, "torch": torch.__version__}}
    result["models"] = {
        pathlib.Path(entry["exported"]).name: difference(
            logits(load(entry["original"])), logits(load(entry["exported"]))
        )
        for entry in manifest["models"]
    }
    result["gguf"] = {}
    for entry in manifest["gguf"]:
        file = pathlib.Path(entry["file"])
        original = load(file.parent, gguf_file=file.name)
        result["gguf"][file.name] = difference(logits(original), logits(load(entry["exported"])))
    result["encodings"] = sum(check_tokenizer(entry) for entry in manifest["tokenizers"])
    result["adapters"] = []
    if manifest["adapters"]:
        try:
            import peft
        except ImportError:
            result["no_peft"] = True
        else:
            result["versions"]["peft"] = peft.__version__
            result["adapters"] = [check_adapter(entry) for entry in manifest["adapters"]]
    print(json.dumps(result))


main()
