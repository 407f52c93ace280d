"""Make the tiny random checkpoints under models/ and what `transformers` says about them.

    python3 -m venv /tmp/goldens && /tmp/goldens/bin/pip install -r requirements.txt
    /tmp/goldens/bin/python make_models.py            # all of them, in place
    /tmp/goldens/bin/python make_models.py --check    # compare with what is committed, write nothing

Each folder is a checkpoint as Hugging Face lays it out, plus `expected.json`:

    token_ids   the prompts, as token ids
    log_probs   per prompt: natural log of the probability of token i given the tokens before it, for i >= 1
    top         per prompt and position: the five likeliest next tokens (after the last prompt token too)
    greedy      24 tokens generated greedily from one prompt by recomputing the whole text at each step (so no
                cache can be at fault), with each step's distance between the two best log-probabilities
    noise       the largest change of any log-probability when the weights, activations and matrix products are
                float64 instead (norms and rotary angles stay float32 in `transformers`): how far the
                reference itself can be trusted

Weights and activations are float32 (half-precision checkpoints are widened first), attention is the eager
implementation, which applies the mask it is given, and log-softmax is taken in float64 of the float32 logits.

A golden that cannot fail is worth nothing, so each case names a change of its configuration or weights that must move the
log-probabilities (`matters`); the script stops if it does not.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import zlib
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import numpy as np
import safetensors
import tokenizers
import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

import tiny_tokenizer

HERE = Path(__file__).resolve().parent
TOP = 5
GREEDY_TOKENS = 24
MAX_NOISE = 1e-5  # a tenth of the tolerance (1e-4) that these goldens are compared with
MIN_EFFECT = 0.05  # a feature that moves no log-probability by this much is not tested by its golden

LLAMA = dict(
    architectures=["LlamaForCausalLM"], model_type="llama", hidden_act="silu", hidden_size=32, intermediate_size=64,
    num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=256, max_position_embeddings=128,
    rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=False, attention_bias=False, mlp_bias=False,
    bos_token_id=1, eos_token_id=2, torch_dtype="float32",
)
MISTRAL = {**LLAMA, "architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": None}
for key in ("attention_bias", "mlp_bias"):
    del MISTRAL[key]
QWEN2 = {**MISTRAL, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "rms_norm_eps": 1e-6,
         "use_sliding_window": False, "sliding_window": 12, "max_window_layers": 2}
QWEN3 = {**QWEN2, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": False,
         "head_dim": 12, "sliding_window": None, "tie_word_embeddings": True}
# With rotary theta 500 and 8-wide heads the wavelengths are 6, 30, 141 and 664 positions: below, inside and above the
# band (8 to 32) between which llama3 scaling blends, so all three branches of the formula are taken.
LLAMA3_ROPE = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                   original_max_position_embeddings=32)


def new_spelling(config):
    """The same configuration as transformers 5 writes it: `rope_parameters` and `dtype`."""
    config = dict(config)
    config["rope_parameters"] = {"rope_theta": config.pop("rope_theta"), **(config.pop("rope_scaling", None) or {"rope_type": "default"})}
    config["dtype"] = config.pop("torch_dtype")
    return config


LLAMA3 = {**LLAMA, "rope_theta": 500.0, "rope_scaling": LLAMA3_ROPE}
MHA = {**LLAMA, "num_key_value_heads": 4, "rms_norm_eps": 0.05}

# name -> config, and what must matter: a change to the config, or the suffix of weights to neutralize
CASES = {
    "llama": dict(config=LLAMA, matters={"rope_theta": 100.0}),
    "llama_tied": dict(config={**LLAMA, "tie_word_embeddings": True}, matters={"rms_norm_eps": 0.5}),
    "llama_mha": dict(config=MHA, matters={"rms_norm_eps": 1e-5}),
    "llama_head_dim": dict(config={**LLAMA, "head_dim": 16}, matters={"rope_theta": 100.0}),
    "llama_biases": dict(config={**LLAMA, "attention_bias": True, "mlp_bias": True}, matters=".bias"),
    "llama_rope_linear": dict(config={**LLAMA, "rope_scaling": {"type": "linear", "factor": 4.0}}, matters={"rope_scaling": None}),
    "llama_rope_llama3": dict(config=new_spelling(LLAMA3), matters={"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
    "llama_rope_llama3_old_spelling": dict(config=LLAMA3, weights_of="llama_rope_llama3", matters={"rope_scaling": None}),
    "llama_bf16": dict(config={**LLAMA, "torch_dtype": "bfloat16"}, matters={"rope_theta": 100.0}),
    "llama_f16": dict(config=new_spelling({**LLAMA, "torch_dtype": "float16"}), matters={"rms_norm_eps": 0.5}),
    "llama_sharded": dict(config={**LLAMA, "num_hidden_layers": 3}, shard_bytes=40_000, matters={"rope_theta": 100.0}),
    "llama_8_kv_heads": dict(config={**LLAMA, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 8},
                             matters={"rope_theta": 100.0}),
    "smollm2": dict(config={**LLAMA, "hidden_size": 36, "intermediate_size": 96, "num_attention_heads": 9, "num_key_value_heads": 3,
                            "vocab_size": 384, "rope_theta": 100000.0, "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2},
                    matters={"rope_theta": 100.0}, tokenizer=True),
    "mistral": dict(config=MISTRAL, matters={"sliding_window": 12}),
    "mistral_window": dict(config={**MISTRAL, "sliding_window": 12}, matters={"sliding_window": None}),
    # As the published Qwen2.5 configurations: a window is named, but switched off.
    "qwen2": dict(config=QWEN2, matters=".bias"),
    "qwen2_window_in_upper_layers": dict(config={**QWEN2, "use_sliding_window": True, "max_window_layers": 1, "num_hidden_layers": 3},
                                         matters={"use_sliding_window": False}),
    "qwen3": dict(config=QWEN3, matters="_norm.weight"),
}


def make_weights(model, seed_name):
    """Random everything, biases and norm weights included, wide enough that the next-token distribution is far from
    uniform. Seeded per tensor name, so neither the order nor the number of tensors changes a tensor's values."""
    weights = {}
    for name, parameter in model.state_dict().items():
        shape = tuple(parameter.shape)
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        random = np.random.default_rng([zlib.crc32(seed_name.encode()), zlib.crc32(name.encode())])
        if name.endswith("norm.weight"):
            value = random.uniform(0.5, 1.5, shape)
        elif name.endswith(".bias"):
            value = random.normal(0.0, 0.4, shape)
        elif name.endswith("embed_tokens.weight"):
            value = random.normal(0.0, 0.3, shape)
        elif name.endswith("lm_head.weight"):
            value = random.normal(0.0, 1.5 / shape[1] ** 0.5, shape)
        else:
            # Sharper attention than real models start with, so that positions matter, yet not so sharp that rounding is
            # amplified: the reference's own noise must stay far below the tolerance it is used with.
            gain = 1.1 if name.endswith(("q_proj.weight", "k_proj.weight")) else 0.8
            value = random.normal(0.0, gain / shape[1] ** 0.5, shape)
        weights[name] = torch.from_numpy(value.astype(np.float32))
    return weights


def write_checkpoint(folder, weights, shard_bytes):
    """One `model.safetensors`, or shards of at most `shard_bytes` bytes with their index."""
    metadata = {"format": "pt"}
    if not shard_bytes:
        save_file(weights, folder / "model.safetensors", metadata=metadata)
        return
    shards, size = [{}], 0
    for name in sorted(weights):
        bytes_here = weights[name].numel() * weights[name].element_size()
        if shards[-1] and size + bytes_here > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = weights[name]
        size += bytes_here
    weight_map = {}
    for index, shard in enumerate(shards):
        file = f"model-{index + 1:05}-of-{len(shards):05}.safetensors"
        save_file(shard, folder / file, metadata=metadata)
        weight_map.update({name: file for name in shard})
    total = sum(w.numel() * w.element_size() for w in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def load(folder, dtype=torch.float32):
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=dtype, local_files_only=True)
    return model.eval()


@torch.no_grad()
def log_softmax(model, ids):
    logits = model(torch.tensor([ids]), use_cache=False).logits[0]
    return torch.log_softmax(logits.double(), -1)


def rounded(values):
    return [round(float(value), 7) for value in values]


def make_prompts(name, vocabulary_size):
    random = np.random.default_rng([zlib.crc32(name.encode()), 1])
    return [random.integers(3, vocabulary_size, length).tolist() for length in (2, 9, 48)]


def expected(model, double_model, prompts):
    out = {"token_ids": prompts, "log_probs": [], "top": []}
    noise = 0.0
    for ids in prompts:
        table = log_softmax(model, ids)
        noise = max(noise, float((table - log_softmax(double_model, ids)).abs().max()))
        out["log_probs"].append(rounded(table[i, ids[i + 1]] for i in range(len(ids) - 1)))
        best = table.topk(TOP, -1)
        out["top"].append([{"ids": i.tolist(), "log_probs": rounded(v)} for i, v in zip(best.indices, best.values)])
    ids, margins = list(prompts[1]), []
    for _ in range(GREEDY_TOKENS):
        best = log_softmax(model, ids)[-1].topk(2)
        ids.append(int(best.indices[0]))
        margins.append(best.values[0] - best.values[1])
    out["greedy"] = {"prompt": prompts[1], "token_ids": ids[len(prompts[1]):], "margins": rounded(margins)}
    out["noise"] = float(f"{noise:.2g}")
    return out


def assert_matters(name, folder, matters, model, prompts):
    """Loads the checkpoint again with the named feature neutralized and demands different answers."""
    with tempfile.TemporaryDirectory() as scratch:
        changed = Path(scratch) / "model"
        shutil.copytree(folder, changed)
        if isinstance(matters, dict):
            config = json.loads((changed / "config.json").read_text())
            config.update(matters)
            (changed / "config.json").write_text(json.dumps(config))
            other = load(changed)
        else:
            other = load(changed)
            hit = 0
            for parameter_name, parameter in other.named_parameters():
                if parameter_name.endswith(matters):
                    parameter.data.fill_(0.0 if matters == ".bias" else 1.0)
                    hit += 1
            assert hit, f"{name}: no weight ends with {matters}"
        effect = max(float((log_softmax(model, ids) - log_softmax(other, ids)).abs().max()) for ids in prompts)
    if effect < MIN_EFFECT:
        sys.exit(f"{name}: {matters} changes log-probabilities by {effect:.2g} only, so this golden would not notice its absence")
    return effect


def dump(value):
    """JSON with one prompt per line: small, and a diff shows which prompt moved."""
    lines = []
    for key, item in value.items():
        if key in ("token_ids", "log_probs", "top"):
            rows = ",\n  ".join(json.dumps(row, separators=(",", ":")) for row in item)
            lines.append(f" {json.dumps(key)}: [\n  {rows}\n ]")
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(item)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def make_case(name, case, root):
    folder = root / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = case["config"]
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    # A copy is handed over: reading a configuration turns its rotary dictionary into another spelling in place.
    skeleton = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
    seed_name = case.get("weights_of", name)
    stored = getattr(torch, config.get("dtype") or config["torch_dtype"])
    weights = {key: value.to(stored) for key, value in make_weights(skeleton, seed_name).items()}
    write_checkpoint(folder, weights, case.get("shard_bytes"))

    model = load(folder)
    for key, value in weights.items():  # nothing was left out, renamed or freshly initialized on the way
        assert torch.equal(model.state_dict()[key], value.float()), f"{name}: {key} did not survive loading"
    prompts = make_prompts(seed_name, config["vocab_size"])
    effect = assert_matters(name, folder, case["matters"], model, prompts)
    result = expected(model, load(folder, torch.float64), prompts)
    if result["noise"] > MAX_NOISE:
        sys.exit(f"{name}: float32 and float64 differ by {result['noise']}: too ill-conditioned a model to be a reference")
    result["versions"] = {m.__name__: m.__version__ for m in (transformers, torch, safetensors, tokenizers)}
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)  # written for the owner only
    (folder / "expected.json").write_text(dump(result))
    if case.get("tokenizer"):
        tiny_tokenizer.write(folder, config["vocab_size"])
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{name:32} {size / 1000:6.0f} kB  noise {result['noise']:.1e}  effect {effect:6.2f}  smallest margin {min(result['greedy']['margins']):.4f}")


def close(left, right, tolerance=2e-5):
    """Whether two JSON values agree, numbers within a tolerance (another build of PyTorch rounds differently)."""
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(close(left[k], right[k], tolerance) for k in left if k not in ("versions", "noise"))
    if isinstance(left, list):
        return len(left) == len(right) and all(close(l, r, tolerance) for l, r in zip(left, right))
    if isinstance(left, float):
        return abs(left - right) < tolerance
    return left == right


def check(committed, fresh):
    bad = []
    for name in CASES:
        for file in sorted((fresh / name).iterdir()):
            other = committed / name / file.name
            same = other.exists() and (close(json.loads(file.read_text()), json.loads(other.read_text())) if file.suffix == ".json"
                                       else file.read_bytes() == other.read_bytes())
            if not same:
                bad.append(f"{name}/{file.name}")
    return bad


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the committed files, write nothing")
    parser.add_argument("names", nargs="*", help="only these cases")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # one thread: the order of summation, and so the last digit, is reproducible
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    committed = HERE / "models"
    if arguments.check:
        with tempfile.TemporaryDirectory() as scratch:
            for name, case in CASES.items():
                make_case(name, case, Path(scratch))
            bad = check(committed, Path(scratch))
        sys.exit("differs: " + ", ".join(bad) if bad else 0)
    for name in arguments.names or CASES:
        make_case(name, CASES[name], committed)


if __name__ == "__main__":
    main()
