"""Writes a checkpoint of a Llama shape with seeded random bf16 weights: config.json and model.safetensors, no tokenizer.
Speed does not depend on the values, and for comparing two devices any well-conditioned weights will do.

usage: random_checkpoint.py CONFIG.json FOLDER"""

import json
import os
import shutil
import sys
import zlib
from pathlib import Path

import numpy as np


def tensors(c):
    """Name, shape and standard deviation of each weight, under Hugging Face's names."""
    e, f, d = c["hidden_size"], c["intermediate_size"], c["head_dim"]
    heads, kv_heads = c["num_attention_heads"] * d, c["num_key_value_heads"] * d
    linear = lambda out, into: ((out, into), 0.8 / into ** 0.5)
    yield "model.embed_tokens.weight", (c["vocab_size"], e), 1.5 / e ** 0.5
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"{at}{name}.weight", (e,), None
        for name, shape in (("q_proj", (heads, e)), ("k_proj", (kv_heads, e)), ("v_proj", (kv_heads, e)), ("o_proj", (e, heads))):
            yield f"{at}self_attn.{name}.weight", *linear(*shape)
        for name, shape in (("gate_proj", (f, e)), ("up_proj", (f, e)), ("down_proj", (e, f))):
            yield f"{at}mlp.{name}.weight", *linear(*shape)
    yield "model.norm.weight", (e,), None
    if not c["tie_word_embeddings"]:
        yield "lm_head.weight", *linear(c["vocab_size"], e)


def values(name, shape, deviation):
    random = np.random.default_rng(zlib.crc32(name.encode()))
    wide = random.uniform(0.8, 1.2, shape).astype(np.float32) if deviation is None else random.standard_normal(shape, np.float32) * np.float32(deviation)
    return (wide.view(np.uint32) >> 16).astype(np.uint16)  # bf16 is the upper half of float32


def main(config_path, folder):
    config, folder = json.loads(Path(config_path).read_text()), Path(folder)
    if (folder / "model.safetensors").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape, _ in tensors(config):
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    partial = folder / "model.safetensors.partial"
    with open(partial, "wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for tensor in tensors(config):
            file.write(values(*tensor).tobytes())
    shutil.copy(config_path, folder / "config.json")
    os.replace(partial, folder / "model.safetensors")


if __name__ == "__main__":
    main(*sys.argv[1:])
