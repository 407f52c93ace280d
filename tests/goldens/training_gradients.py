"""Gradients of whole models and of attention alone, for make_training.py."""

import json

import numpy as np
import torch
from safetensors.torch import save_file

from make_models import HERE, load
from training_batches import allowed, cross_entropy_sum, gradient_batches, logits

CASES = [("llama", "plain"), ("llama", "packed"), ("qwen3", "plain"), ("qwen3", "packed"), ("qwen2", "plain"), ("mistral_window", "packed")]
MAX_NOISE = 5e-6  # a twentieth of the tolerance (1e-4 of the norm) that these goldens are compared with
MIN_EFFECT = 1e-2  # and what a thing named in a case must move them by


def write(folder):
    batches = gradient_batches()
    out = {"batches": {name: {key: value.tolist() for key, value in batch.items()} for name, batch in batches.items()}, "cases": []}
    (folder / "gradients").mkdir()
    for model_name, batch_name in CASES:
        loss, targets, gradients = differentiate(load_for_gradients(model_name, torch.float64), batches[batch_name])
        noise = distance(differentiate(load_for_gradients(model_name, torch.float32), batches[batch_name])[2], gradients)
        other = distance(by_another_way(model_name, batch_name, batches[batch_name]), gradients)
        assert noise < MAX_NOISE and other < 2 * MAX_NOISE, f"{model_name} {batch_name}: {noise} {other}"
        assert_matters(model_name, batch_name, batches[batch_name], gradients)
        norm = sum(float(gradient.square().sum()) for gradient in gradients.values()) ** 0.5
        smallest = min(float(gradient.norm()) for gradient in gradients.values())
        assert smallest > 1e-3 * norm, f"{model_name} {batch_name}: a gradient of norm {smallest} is hardly a reference"
        file = f"gradients/{model_name}_{batch_name}.safetensors"
        save_file({name: gradient.float() for name, gradient in gradients.items()}, folder / file)
        out["cases"].append({"model": model_name, "batch": batch_name, "file": file, "loss": loss, "targets": targets,
                             "gradient_norm": norm, "noise": float(f"{noise:.2g}")})
        print(f"{file:48} loss {loss:.4f}  norm {norm:.3f}  smallest {smallest:.4f}  noise {noise:.1e}  another way {other:.1e}")
    return out


def load_for_gradients(name, dtype):
    return load(HERE / "models" / name, dtype)


def window_of(model):
    return model.config.sliding_window if model.config.model_type == "mistral" else None


def differentiate(model, batch, **changed):
    """Loss, number of targets and the gradient of every parameter; a tied matrix has one, the sum of both uses."""
    given = {} if (batch["segments"] == 1).all() else {"segments": batch["segments"], "positions": batch["positions"], "window": window_of(model)}
    total, targets = cross_entropy_sum(logits(model, batch["tokens"], **{**given, **changed}), batch["targets"])
    loss = total / targets
    loss.backward()
    return loss.item(), targets, {name: parameter.grad for name, parameter in model.named_parameters()}


def by_another_way(model_name, batch_name, batch):
    """The same gradients without what is under test: of `plain` by our own mask instead of that of `transformers`; of `packed` by
    giving the model every document alone, with no mask of ours at all."""
    model = load_for_gradients(model_name, torch.float64)
    targets = int((batch["targets"] >= 0).sum())
    if batch_name == "plain":
        total, _ = cross_entropy_sum(logits(model, batch["tokens"], batch["segments"], batch["positions"]), batch["targets"])
        (total / targets).backward()
    else:
        for row in range(len(batch["tokens"])):
            for segment in range(1, batch["segments"][row].max() + 1):
                mine = batch["segments"][row] == segment
                total, _ = cross_entropy_sum(logits(model, batch["tokens"][row][mine][None]), batch["targets"][row][mine])
                (total / targets).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def assert_matters(model_name, batch_name, batch, gradients):
    """Documents that see each other, or further than the window, must move the gradients far more than the tolerance."""
    if batch_name != "packed":
        return
    model = load_for_gradients(model_name, torch.float64)
    changes = {"segments": {"segments": np.ones_like(batch["segments"])}} | ({"window": {"window": None}} if window_of(model) else {})
    for what, changed in changes.items():
        model.zero_grad()
        effect = distance(differentiate(model, batch, **changed)[2], gradients)
        assert effect > MIN_EFFECT, f"{model_name} {batch_name}: {what} changes the gradients by {effect:.1e} only"


def distance(left, right):
    """The largest difference of a tensor, relative to its norm."""
    assert left.keys() == right.keys()
    return max(float((left[name].double() - right[name]).norm() / right[name].norm()) for name in right)


ATTENTION_AXES = {"query": ["batch", "seq", "kv_heads", "group", "head_dim"], "key": ["batch", "kv_seq", "kv_heads", "head_dim"],
                  "sinks": ["kv_heads", "group"], "segments": ["batch", "seq"]}
ATTENTION_CASES = {
    "causal": dict(causal=True),
    "window": dict(causal=True, window=3),
    "segments": dict(causal=True, segments=True),
    "segments_window": dict(causal=True, window=3, segments=True),
    "soft_cap_sinks": dict(causal=True, soft_cap=2.0, sinks=True),
    "not_causal": dict(causal=False),
}


def attention():
    """Attention of small tensors in float64, differentiated by PyTorch."""
    random = torch.Generator().manual_seed(3)

    def draw(*shape):  # multiples of 1/64, so exact in any precision
        return (torch.randn(shape, generator=random, dtype=torch.float64) * 64).round() / 64

    query, key, value = draw(2, 7, 2, 2, 4), draw(2, 7, 2, 4), draw(2, 7, 2, 4)
    cotangent, sinks = draw(2, 7, 2, 2, 4), draw(2, 2)
    segments = torch.tensor([[1, 1, 1, 2, 2, 2, 2], [1, 1, 2, 2, 2, 3, 3]])
    inputs = {"query": query, "key": key, "value": value, "cotangent": cotangent, "sinks": sinks, "segments": segments}
    out = {"axes": {**ATTENTION_AXES, "value": ATTENTION_AXES["key"], "cotangent": ATTENTION_AXES["query"]},
           "shapes": {name: list(tensor.shape) for name, tensor in inputs.items()},
           "scale": 0.5, "inputs": {name: numbers(tensor) for name, tensor in inputs.items()}, "cases": {}}
    for name, case in ATTENTION_CASES.items():
        operands = {key: tensor.clone().requires_grad_() for key, tensor in inputs.items() if key in ("query", "key", "value", "sinks")}
        result = attend(operands, segments if case.get("segments") else torch.ones_like(segments), 0.5, case)
        (result * cotangent).sum().backward()
        gradients = {f"d_{key}": numbers(tensor.grad) for key, tensor in operands.items() if tensor.grad is not None}
        out["cases"][name] = {"causal": case["causal"], "window": case.get("window"), "soft_cap": case.get("soft_cap"),
                              "segments": case.get("segments", False), "sinks": case.get("sinks", False),
                              "result": numbers(result), **gradients}
    check_with_sdpa(inputs, out["cases"]["causal"])
    return out


def attend(operands, segments, scale, case):
    scores = torch.einsum("bqhgd,bkhd->bhgqk", operands["query"], operands["key"]) * scale
    if cap := case.get("soft_cap"):
        scores = cap * torch.tanh(scores / cap)
    if case["causal"]:
        scores = scores.masked_fill(~allowed(segments, case.get("window"))[:, None, None], -torch.inf)
    if case.get("sinks"):
        sinks = operands["sinks"][None, :, :, None, None].expand(*scores.shape[:-1], 1)
        scores = torch.cat([scores, sinks], -1)
    weights = torch.softmax(scores, -1)[..., :operands["key"].shape[1]]
    return torch.einsum("bhgqk,bkhd->bqhgd", weights, operands["value"])


def check_with_sdpa(inputs, case):
    """That the einsum means what PyTorch's own attention means: query head h*group+g shares key head h."""
    query = inputs["query"].flatten(2, 3).transpose(1, 2)
    key, value = (inputs[name].repeat_interleave(2, 2).transpose(1, 2) for name in ("key", "value"))
    result = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=0.5)
    assert torch.allclose(result.transpose(1, 2).flatten(), torch.tensor(case["result"], dtype=torch.float64), rtol=0, atol=1e-9)


def numbers(tensor):
    """Row-major; what is left out beyond ten digits is far below float32's rounding."""
    values = tensor.detach().flatten().tolist()
    return [value if isinstance(value, int) else float(f"{value:.10f}") for value in values]


def dump(value, depth=0):
    """JSON with every list of numbers on one line."""
    if isinstance(value, dict) and value:
        pad = " " * (depth + 1)
        return "{\n" + ",\n".join(f"{pad}{json.dumps(key)}: {dump(item, depth + 1)}" for key, item in value.items()) + "\n" + " " * depth + "}"
    if isinstance(value, list) and value and isinstance(value[0], (dict, list)):
        pad = " " * (depth + 1)
        return "[\n" + ",\n".join(pad + dump(item, depth + 1) for item in value) + "\n" + " " * depth + "]"
    return json.dumps(value, separators=(",", ":")) if isinstance(value, list) else json.dumps(value)
