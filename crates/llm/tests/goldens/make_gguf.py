"""Writes blocks.gguf and blocks.safetensors: tensors of every supported type, and what they decode to.

    pip install gguf numpy safetensors
    python make_gguf.py

blocks.gguf holds one tensor per storage type, decoded by ggml's own Python package, and query and key projections with
their rows in llama.cpp's order. blocks.safetensors holds the same tensors as float32 in Hugging Face's order. Blocks
that the package cannot write (`_K`) are random bits with ordinary scales: every bit pattern is valid there.
"""

import pathlib

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from safetensors.numpy import save_file

HEADS, KEY_HEADS, HEAD_DIM, HIDDEN = 3, 1, 8, 32
generator = np.random.default_rng(20261123)
here = pathlib.Path(__file__).parent


def random_blocks(kind, rows, blocks):
    """Random bits with the f16 scales replaced by ordinary numbers."""
    _, size = gguf.GGML_QUANT_SIZES[kind]
    data = generator.integers(0, 256, (rows, blocks, size), dtype=np.uint8)
    scale_positions = {Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208]}[kind]
    for position in scale_positions:
        scale = generator.normal(0, 0.01, (rows, blocks, 1)).astype(np.float16)
        data[:, :, position : position + 2] = scale.view(np.uint8)
    return data.reshape(rows, blocks * size)


def permuted(weights, heads):
    """The row order of llama.cpp's converter (`LlamaModel.permute`)."""
    rows = weights.shape[0]
    return weights.reshape(heads, 2, rows // heads // 2, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)


def main():
    writer = gguf.GGUFWriter(here / "blocks.gguf", "llama")
    writer.add_uint32("llama.attention.head_count", HEADS)
    writer.add_uint32("llama.attention.head_count_kv", KEY_HEADS)
    writer.add_uint8("test.u8", 200)
    writer.add_int8("test.i8", -100)
    writer.add_uint16("test.u16", 60000)
    writer.add_int16("test.i16", -30000)
    writer.add_int32("test.i32", -2000000000)
    writer.add_uint64("test.u64", 2**63 + 1)
    writer.add_int64("test.i64", -(2**62))
    writer.add_float32("test.f32", 0.5)
    writer.add_float64("test.f64", 0.1)
    writer.add_bool("test.bool", True)
    writer.add_string("test.string", "grüße")
    writer.add_array("test.strings", ["a", "", "ü"])
    writer.add_array("test.numbers", [-1, 0, 7])

    expected = {}
    for kind in [Type.F32, Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1]:
        values = generator.normal(0, 0.02, (3, 64)).astype(np.float32)
        data = gguf.quantize(values, kind)
        writer.add_tensor(f"type.{kind.name}", data, raw_dtype=kind)
        expected[f"type.{kind.name}"] = gguf.dequantize(data, kind)
    for kind in [Type.Q4_K, Type.Q5_K, Type.Q6_K]:
        data = random_blocks(kind, rows=2, blocks=1)
        writer.add_tensor(f"type.{kind.name}", data, raw_dtype=kind)
        expected[f"type.{kind.name}"] = gguf.dequantize(data, kind)

    for module, name, heads in [("attn_q", "q_proj", HEADS), ("attn_k", "k_proj", KEY_HEADS)]:
        for kind in [Type.F32, Type.Q8_0]:
            layer = 0 if kind == Type.F32 else 1
            weights = generator.normal(0, 0.02, (heads * HEAD_DIM, HIDDEN)).astype(np.float32)
            # Quantizing works row by row, so it commutes with the order of rows.
            data = gguf.quantize(permuted(weights, heads), kind)
            writer.add_tensor(f"blk.{layer}.{module}.weight", data, raw_dtype=kind)
            weights = gguf.dequantize(gguf.quantize(weights, kind), kind)
            expected[f"model.layers.{layer}.self_attn.{name}.weight"] = weights
        bias = generator.normal(0, 0.02, heads * HEAD_DIM).astype(np.float32)
        writer.add_tensor(f"blk.0.{module}.bias", permuted(bias, heads))
        expected[f"model.layers.0.self_attn.{name}.bias"] = bias

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file({name: np.ascontiguousarray(values) for name, values in expected.items()}, here / "blocks.safetensors")


main()
