"""What servers are given: the GGUF file's weights as a float32 checkpoint in transformers' form, and prompts of an exact length.

usage: serve_inputs.py checkpoint MODEL.gguf FOLDER
       serve_inputs.py prompts FOLDER TOKENS COUNT SEED TARGET.jsonl

The checkpoint names no token that ends an answer, since `transformers serve` refuses requests that ask to ignore it."""

import json
import os
import random
import sys

from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaForCausalLM


def checkpoint(source, target):
    import torch

    folder, file = os.path.split(os.path.abspath(source))
    read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    # A model read from a GGUF file refuses to be saved; one of the same weights does not.
    configuration = read.config
    del configuration.quantization_config
    configuration.eos_token_id = None
    plain = LlamaForCausalLM(configuration)
    plain.load_state_dict(read.state_dict())
    plain.generation_config = GenerationConfig(do_sample=False, bos_token_id=configuration.bos_token_id, pad_token_id=configuration.pad_token_id)
    partial = target + ".partial"
    plain.save_pretrained(partial)
    AutoTokenizer.from_pretrained(folder, gguf_file=file).save_pretrained(partial)
    os.replace(partial, target)


def prompts(folder, tokens, count, seed, target):
    """Random words of one token each, every prompt with another beginning: nothing that a server computed for one serves another."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pieces = [piece[1:] for piece in tokenizer.get_vocab() if piece.startswith("\u0120")]
    words = sorted(word for word in pieces if word.isascii() and word.isalpha() and word.islower() and len(word) > 2)
    generator = random.Random(int(seed))
    with open(target, "w") as file:
        for _ in range(int(count)):
            drawn = " " + " ".join(generator.choices(words, k=int(tokens)))
            length = len(tokenizer(drawn)["input_ids"])
            if length != int(tokens):
                raise SystemExit(f"a prompt meant to have {tokens} tokens has {length}")
            file.write(json.dumps({"prompt": drawn}) + "\n")


if __name__ == "__main__":
    {"checkpoint": checkpoint, "prompts": prompts}[sys.argv[1]](*sys.argv[2:])
