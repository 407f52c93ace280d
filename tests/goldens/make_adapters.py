"""Make the LoRA adapters under adapters/ and what PEFT and `transformers` say with them, written to adapters/expected.json.

    /tmp/goldens/bin/python make_adapters.py            # see make_models.py for the environment
    /tmp/goldens/bin/python make_adapters.py --check    # compare with what is committed, write nothing

Each folder is an adapter as PEFT saves it. Their numbers are random and large, so that each adapter writes another text than its
base and than the others; the script stops if one does not.

    base       the checkpoint under models/ that an adapter is for
    prompts    as token ids
    greedy     per adapter ("" is the base alone) and prompt: 24 tokens generated greedily, by recomputing the whole text at each
               step; `margins` is the distance between the two best log-probabilities there, `log_probs` the best one

`plain` adapts every matrix, with alpha / rank for a scale; `stabilized` some of them, with ranks that differ and alpha / sqrt(rank).
`smollm2` is for that base, whose tokenizer lets it be asked over HTTP.
"""

import argparse
import json
import os
import sys
import tempfile
import zlib
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import numpy as np
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model

from make_models import HERE, close, load, log_softmax, rounded

MATRICES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS = {
    "plain": ("llama_8_kv_heads", dict(r=4, lora_alpha=8, target_modules=MATRICES)),
    "stabilized": ("llama_8_kv_heads", dict(r=6, lora_alpha=3, use_rslora=True, rank_pattern={"down_proj": 3},
                                            target_modules=["q_proj", "o_proj", "down_proj"])),
    "smollm2": ("smollm2", dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "up_proj"])),
}
TOKENS = 24


def make(name, base, settings, folder):
    random = np.random.default_rng([zlib.crc32(name.encode()), 7])
    model = get_peft_model(load(HERE / "models" / base), LoraConfig(bias="none", task_type="CAUSAL_LM", **settings), autocast_adapter_dtype=False)
    for parameter_name, parameter in model.named_parameters():
        if "lora_" in parameter_name:
            parameter.data = torch.tensor(random.normal(0, 0.3, parameter.shape), dtype=torch.float32)
    model.peft_config["default"].base_model_name_or_path = base
    model.save_pretrained(folder)
    (folder / "README.md").unlink()
    (folder / "adapter_model.safetensors").chmod(0o644)
    config = json.loads((folder / "adapter_config.json").read_text())
    # Sets of names have no order of their own.
    config["target_modules"] = sorted(config["target_modules"])
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def model_with(base, adapter):
    model = load(HERE / "models" / base)
    return model if adapter is None else PeftModel.from_pretrained(model, adapter).eval()


def greedy(model, prompt):
    ids, out = list(prompt), {"token_ids": [], "log_probs": [], "margins": []}
    for _ in range(TOKENS):
        best = log_softmax(model, ids)[-1].topk(2)
        ids.append(int(best.indices[0]))
        out["token_ids"].append(ids[-1])
        out["log_probs"].append(float(best.values[0]))
        out["margins"].append(float(best.values[0] - best.values[1]))
    return {"token_ids": out["token_ids"], "log_probs": rounded(out["log_probs"]), "margins": rounded(out["margins"])}


def make_all(root):
    random = np.random.default_rng(11)
    prompts = [random.integers(3, 250, length).tolist() for length in (1, 7, 9, 24, 33)]
    out = {}
    for name, (base, settings) in ADAPTERS.items():
        make(name, base, settings, root / name)
        own = out.setdefault(base, {"base": base, "prompts": prompts, "greedy": {"": [greedy(model_with(base, None), p) for p in prompts]}})
        own["greedy"][name] = [greedy(model_with(base, root / name), prompt) for prompt in prompts]
        for place in range(len(prompts)):
            texts = [tuple(greedy[place]["token_ids"]) for greedy in own["greedy"].values()]
            assert len(set(texts)) == len(texts), f"{name} writes what another writes"
    (root / "expected.json").write_text(dump(out.values()))


def dump(cases):
    """JSON with one text per line."""
    line = lambda item: json.dumps(item, separators=(",", ":"))
    blocks = []
    for case in cases:
        greedy = [f"  {line(name)}: [\n   " + ",\n   ".join(map(line, texts)) + "\n  ]" for name, texts in case["greedy"].items()]
        blocks.append(f' {{"base": {line(case["base"])},\n  "prompts": {line(case["prompts"])},\n  "greedy": {{\n' + ",\n".join(greedy) + "\n  }}")
    return "[\n" + ",\n".join(blocks) + "\n]\n"


def check(committed, fresh):
    bad = []
    for file in sorted(path for path in fresh.rglob("*") if path.is_file()):
        other = committed / file.relative_to(fresh)
        same = other.exists() and (close(json.loads(file.read_text()), json.loads(other.read_text())) if file.suffix == ".json"
                                   else file.read_bytes() == other.read_bytes())
        if not same:
            bad.append(str(file.relative_to(fresh)))
    return bad


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the committed files, write nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    committed = HERE / "adapters"
    if arguments.check:
        with tempfile.TemporaryDirectory() as scratch:
            make_all(Path(scratch))
            bad = check(committed, Path(scratch))
        sys.exit("differs: " + ", ".join(bad) if bad else 0)
    committed.mkdir(exist_ok=True)
    make_all(committed)


if __name__ == "__main__":
    main()
