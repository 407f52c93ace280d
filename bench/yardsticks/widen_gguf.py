"""Copies a GGUF file with every tensor widened to float32, so that llama.cpp can be measured on the same bytes as a float32 system.

usage: widen_gguf.py SOURCE.gguf TARGET.gguf"""

import os
import sys

import gguf
import numpy as np


def main(source, target):
    reader = gguf.GGUFReader(source)
    partial = target + ".partial"
    writer = gguf.GGUFWriter(partial, reader.fields["general.architecture"].contents())
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
    os.replace(partial, target)


if __name__ == "__main__":
    main(*sys.argv[1:])
