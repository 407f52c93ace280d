"""Short training runs, for make_training.py: the loop, its optimizers, and what each run is compared with before it is written."""

import copy
import json
import math

import numpy as np
import torch
from safetensors.torch import save_file

import muon
from make_models import HERE, load, log_softmax, make_prompts, rounded
from training_batches import IGNORE, cross_entropy_sum, logits, run_batches

STEPS = 50
SCHEDULE = {"peak": 1e-2, "warmup_steps": 10, "steps": STEPS, "minimum_ratio": 0.1}
CLIP_NORM = 1.0
ADAMW = {"betas": [0.9, 0.95], "epsilon": 1e-8, "weight_decay": 0.1}
LORA = {"rank": 4, "alpha": 8, "targets": ["q_proj", "v_proj"]}
MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
MAX_NOISE = 2e-4  # of a loss in float64; a fifth of the tolerance (1e-3) that these goldens are compared with
MIN_EFFECT = 3e-3  # of whatever a run is there to test


def learning_rate(step):
    """Of steps 0, 1, ...: a linear warm-up whose last step has the peak, then a cosine whose last step has the minimum."""
    peak, warmup, steps, ratio = (SCHEDULE[key] for key in ("peak", "warmup_steps", "steps", "minimum_ratio"))
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step + 1 - warmup) / (steps - warmup)
    return peak * (ratio + (1 - ratio) * 0.5 * (1 + math.cos(math.pi * progress)))


def is_decayed(name, parameter):
    """Matrices, an output head of its own among them; neither norms nor biases nor the embedding, tied or not."""
    return parameter.ndim == 2 and "embed_tokens" not in name


def adamw(named, decay_of=is_decayed, betas=ADAMW["betas"]):
    groups = [{"params": [p for n, p in named if decay_of(n, p) == decayed], "weight_decay": ADAMW["weight_decay"] * decayed}
              for decayed in (True, False)]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=0.0, betas=tuple(betas), eps=ADAMW["epsilon"])


def with_muon(named, make_muon=muon.Muon):
    is_hidden = lambda name: any(f".{matrix}." in name for matrix in MATRICES) and name.endswith(".weight")
    return [make_muon([p for n, p in named if is_hidden(n)]), adamw([(n, p) for n, p in named if not is_hidden(n)])]


def train(model, batches, steps=STEPS, optimizers=adamw, accumulation=1, z_loss=0.0, clip_norm=CLIP_NORM, mean_of_means=False, always_scale=False):
    """One dictionary of lists, an entry for each step. `loss` is what is differentiated: the sum of the cross entropies over the
    number of targets of the whole step, plus `z_loss` times the mean of the squared log-sum-exp over the same targets."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    optimizers = optimizers(named)
    optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
    out = {"loss": [], "cross_entropy": [], "gradient_norm": [], "learning_rate": []}
    for step in range(steps):
        tokens, targets = (np.split(batches[key][step], accumulation) for key in ("tokens", "targets"))
        counted = sum(int((part != IGNORE).sum()) for part in targets)
        loss = entropy = 0.0
        for part_tokens, part_targets in zip(tokens, targets):
            scores = logits(model, part_tokens)
            total, count = cross_entropy_sum(scores, part_targets)
            divisor = accumulation * count if mean_of_means else counted
            squares = scores.logsumexp(-1).square()[torch.tensor(part_targets) != IGNORE].sum()
            objective = (total + z_loss * squares) / divisor
            objective.backward()
            loss, entropy = loss + objective.item(), entropy + total.item() / divisor
        norm = torch.nn.utils.clip_grad_norm_([p for _, p in named], clip_norm)
        for _, parameter in named if always_scale and norm < clip_norm else ():
            parameter.grad *= clip_norm / norm
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step)
            optimizer.step()
            optimizer.zero_grad()
        for key, value in zip(out, (loss, entropy, norm.item(), learning_rate(step))):
            out[key].append(value)
    return out


def model_of(name, dtype=torch.float32):
    return load(HERE / "models" / name, dtype)


def apart(left, right):
    """The largest difference of a loss."""
    return max(abs(l - r) for l, r in zip(left["loss"], right["loss"], strict=True))


def full_runs():
    """Name -> (model, optimizer, what else `train` is told, changes that must show in the losses)."""
    decay_everything = dict(optimizers=lambda named: adamw(named, lambda name, parameter: True))
    decay_nothing = dict(optimizers=lambda named: adamw(named, lambda name, parameter: False))
    head_not_decayed = dict(optimizers=lambda named: adamw(named, lambda name, parameter: is_decayed(name, parameter) and name != "lm_head.weight"))
    other_betas = dict(optimizers=lambda named: adamw(named, betas=(0.9, 0.999)))
    no_clipping = dict(clip_norm=1e9)
    return {
        "adamw": ("llama", "adamw", {}, {"weight_decay": decay_nothing, "exclusions": decay_everything, "head": head_not_decayed,
                                         "betas": other_betas, "clipping": no_clipping, "targets": dict(accumulation=2, mean_of_means=True)}),
        # Here about half of the steps have a norm below the limit, which must leave the gradients as they are.
        "adamw_tied": ("qwen3", "adamw", {"clip_norm": 2.0}, {"clipping": dict(always_scale=True), "weight_decay": decay_nothing, "exclusions": decay_everything, "betas": other_betas}),
        "muon": ("llama", "muon", {"optimizers": with_muon}, {
            "adamw": dict(optimizers=adamw),
            "nesterov": dict(optimizers=lambda named: with_muon(named, lambda p: muon.Muon(p, nesterov=False))),
            "weight_decay": dict(optimizers=lambda named: with_muon(named, lambda p: muon.Muon(p, weight_decay=0.0))),
            "coefficients": dict(optimizers=lambda named: with_muon(named, lambda p: muon.Muon(p, coefficients=(2.0, -1.5, 0.5))))}),
        "z_loss": ("llama", "adamw", {"steps": 10, "z_loss": 1e-4}, {"z_loss": dict(z_loss=0.0)}),
        "z_loss_strong": ("llama", "adamw", {"steps": 10, "z_loss": 1e-2}, {"z_loss": dict(z_loss=0.0)}),
    }


def runs(folder):
    batches = run_batches(STEPS)
    save_file({key: torch.from_numpy(value) for key, value in batches.items()}, folder / "batches.safetensors")
    out = {}
    for name, (model_name, optimizer, options, changes) in full_runs().items():
        model = model_of(model_name)
        before = copy.deepcopy(model)
        result = train(model, batches, **options)
        noise = apart(result, train(model_of(model_name, torch.float64), batches, **options))
        effects = {what: apart(result, train(model_of(model_name), batches, **{**options, **change})) for what, change in changes.items()}
        report(name, result, noise, effects, options.get("clip_norm", CLIP_NORM))
        out[name] = {"model": model_name, "optimizer": optimizer, "z_loss": options.get("z_loss", 0.0), "clip_norm": options.get("clip_norm", CLIP_NORM),
                     "decayed": [n for n, p in model.named_parameters() if is_decayed(n, p)], **shortened(result),
                     "moved": moved(before, model), "noise": float(f"{noise:.2g}")}
    out["adamw"]["with_accumulation"] = with_accumulation(batches, out["adamw"])
    out["muon"]["of_torch"] = compare_with_torch(batches, out["muon"])
    out["lora"] = lora_run(batches, folder)
    return {"schedule": SCHEDULE, "adamw": ADAMW,
            "muon": {"momentum": muon.MOMENTUM, "coefficients": list(muon.COEFFICIENTS), "iterations": muon.ITERATIONS,
                     "rms": muon.RMS, "weight_decay": ADAMW["weight_decay"], "matrices": list(MATRICES)},
            "batches": "batches.safetensors", "runs": out}


def report(name, result, noise, effects, clip_norm=CLIP_NORM):
    clipped = sum(norm > clip_norm for norm in result["gradient_norm"])
    print(f"{name:14} loss {result['loss'][0]:.4f} -> {result['loss'][-1]:.4f}  clipped {clipped} of {len(result['loss'])}  noise {noise:.1e}  "
          + "  ".join(f"{what} {effect:.1e}" for what, effect in effects.items()))
    assert noise < MAX_NOISE, f"{name}: float32 and float64 part by {noise}"
    for what, effect in effects.items():
        assert effect > MIN_EFFECT, f"{name}: {what} changes the losses by {effect:.2g} only, so this golden would not notice its absence"


def shortened(result):
    return {key: [float(f"{value:.9g}") for value in values] for key, values in result.items()}


def moved(before, after):
    """How far every parameter went, as the norm of the difference."""
    return {name: float(f"{(new.double() - old.double()).norm().item():.6g}")
            for (name, new), (_, old) in zip(after.named_parameters(), before.named_parameters(), strict=True)}


def with_accumulation(batches, whole):
    """Halves of a batch, each divided by the targets of the whole: the same run. How far its losses are from it."""
    difference = apart(train(model_of("llama"), batches, accumulation=2), whole)
    print(f"{'':14} accumulation of two halves: losses within {difference:.1e}")
    assert difference < 1e-5, difference
    return {"accumulation": 2, "difference": float(f"{difference:.2g}")}


def compare_with_torch(batches, ours):
    """torch.optim.Muon in the same loop: as it is (Newton-Schulz in bfloat16), and with float32 in its place."""
    out = {}
    for name, in_float32 in (("as_it_is", False), ("in_float32", True)):
        with muon.with_torch_in_float32(in_float32):
            theirs = train(model_of("llama"), batches, optimizers=lambda named: with_muon(named, muon.of_torch))
        out[name] = float(f"{apart(theirs, ours):.2g}")
    print(f"{'':14} torch.optim.Muon: losses within {out['in_float32']:.1e}, with its own bfloat16 {out['as_it_is']:.1e}")
    assert out["in_float32"] < 1e-4, out
    return out


def lora_run(batches, folder, steps=20):
    """PEFT's LoRA on q_proj and v_proj. Only the adapter's matrices learn, and both are decayed."""
    from peft import get_peft_model_state_dict

    (folder / "lora").mkdir()
    model = with_adapter("llama", torch.float32)
    save_file({k: v.clone() for k, v in get_peft_model_state_dict(model).items()}, folder / "lora" / "initial.safetensors")
    result = train(model, batches, steps=steps)
    noise = apart(result, train(with_adapter("llama", torch.float64), batches, steps=steps))
    effects = {"alpha": apart(result, train(with_adapter("llama", torch.float32, alpha=4), batches, steps=steps)),
               "weights of the base": apart(result, train(model_of("llama"), batches, steps=steps))}
    report("lora", result, noise, effects)
    write_adapter(model, folder / "lora")
    prompts = make_prompts("lora", 256)
    after = [[table[i, ids[i + 1]] for i in range(len(ids) - 1)] for ids in prompts for table in [log_softmax(model, ids)]]
    merged = model.merge_and_unload()
    difference = max(float((log_softmax(merged, ids)[range(len(ids) - 1), ids[1:]] - torch.stack(row)).abs().max()) for ids, row in zip(prompts, after))
    base = model_of("llama")
    effect = max(float((log_softmax(base, ids)[range(len(ids) - 1), ids[1:]] - torch.stack(row)).abs().max()) for ids, row in zip(prompts, after))
    assert difference < 1e-5 and effect > 0.05, f"merged differs by {difference}, the base by {effect}"
    return {"model": "llama", "optimizer": "adamw", **LORA, "dropout": 0.0, "z_loss": 0.0, "clip_norm": CLIP_NORM, **shortened(result),
            "after": {"token_ids": prompts, "log_probs": [rounded(row) for row in after]}, "noise": float(f"{noise:.2g}")}


def with_adapter(name, dtype, alpha=LORA["alpha"]):
    """A from a distribution like PEFT's own, drawn here so that it does not depend on PEFT's version; B zero."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=LORA["rank"], lora_alpha=alpha, target_modules=list(LORA["targets"]), lora_dropout=0.0, bias="none", task_type="CAUSAL_LM")
    model = get_peft_model(model_of(name, dtype), config, autocast_adapter_dtype=False).eval()
    random = np.random.default_rng(5)
    for parameter_name, parameter in model.named_parameters():
        if "lora_A" in parameter_name:
            bound = 1 / parameter.shape[1] ** 0.5
            parameter.data = torch.from_numpy(random.uniform(-bound, bound, parameter.shape).astype(np.float32)).to(dtype)
        assert "lora_B" not in parameter_name or not parameter.any()
    return model


def write_adapter(model, folder):
    """As PEFT writes it, without its model card and without the path of this machine. PEFT keeps the targets in a set, whose order
    is another in every process."""
    model.peft_config["default"].base_model_name_or_path = "llama"
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["target_modules"].sort()
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)
