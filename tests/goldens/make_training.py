"""Make what PyTorch says about training the tiny models, under training/.

    python3 -m venv /tmp/goldens && /tmp/goldens/bin/pip install -r requirements.txt
    /tmp/goldens/bin/python make_training.py            # in place
    /tmp/goldens/bin/python make_training.py --check    # compare with what is committed, write nothing

The models are those under models/ (see make_models.py), loaded in float32 by `transformers` with its eager attention. Written are

    gradients.json           the batches and, per case, model, batch, loss and the norm of all gradients together
    gradients/*.safetensors  the gradient of every parameter under the parameter's name, computed in float64 (norms' and
                             softmaxes' insides and rotary angles stay float32 in `transformers`), stored in float32
    attention.json           attention alone, small, with given cotangent: result and derivatives, in float64; lists are
                             row-major in the order of `axes`; query head h * group + g reads key head h
    batches.safetensors      int32 `tokens` and `targets`, both [step, row, place]; one document a row, positions 0, 1, 2, ...
    runs.json                losses, norms of gradients before clipping and learning rates of each step of short runs, in float32
    lora/                    the LoRA run's adapter: `initial.safetensors`, and the trained one as PEFT lays it out

The loss is the mean cross entropy over targets other than -100; a target belongs to the place of the token before it. `noise` is
how far the same in float32 and in float64 is apart: for gradients the largest distance of a tensor relative to its norm, for
runs the largest difference of a loss. The script stops if that is too much, if another way to the same numbers does not
lead there, or if a thing that is to be tested (weight decay, clipping, documents that do not see each other, ...) moves
nothing. One thing here cannot be tested so: rotary positions count relative to each other, so restarting them in every packed
document changes nothing but rounding. In runs.json

    decayed            the parameters with weight decay; of the LoRA run, A and B
    loss               what is differentiated: cross entropy plus `z_loss` times the mean squared log-sum-exp
    clip_norm          what the norm of all gradients together is limited to
    moved              norm of each parameter's change over the run
    with_accumulation  the largest difference of a loss when each batch goes through in two halves
    of_torch           the same, between our Muon and torch.optim.Muon as it is and with float32 in place of its bfloat16
    after              of the LoRA run: log-probabilities of tokens given those before, with the trained adapter

Clipping is torch.nn.utils.clip_grad_norm_'s: gradients are multiplied with min(1, clip_norm / (norm + 1e-6)). The learning rate of
step 0, 1, ... is peak * (step + 1) / warmup_steps during warm-up, then peak * (r + (1 - r) * (1 + cos(pi * p)) / 2) with
r = minimum_ratio, p = (step + 1 - warmup_steps) / (steps - warmup_steps). Runs shorter than `steps` stop on the way.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

import peft
import safetensors
import torch
import transformers
from safetensors.torch import load_file

import training_gradients
import training_runs
from make_models import HERE, close

# Losses of another build of PyTorch may be as far away as float64's are.
TOLERANCE = 2e-4


def make(folder):
    folder.mkdir(parents=True)
    versions = {"versions": {module.__name__: module.__version__ for module in (torch, transformers, peft, safetensors)}}
    files = {"gradients": training_gradients.write(folder), "attention": training_gradients.attention(), "runs": training_runs.runs(folder)}
    for name, content in files.items():
        (folder / f"{name}.json").write_text(training_gradients.dump({**content, **versions}) + "\n")
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o644)  # written for the owner only


def same(file, other):
    if not other.exists():
        return False
    if file.suffix == ".json":
        return close(json.loads(file.read_text()), json.loads(other.read_text()), tolerance=TOLERANCE)
    left, right = load_file(file), load_file(other)
    return left.keys() == right.keys() and all(
        left[name].shape == right[name].shape and float((left[name] - right[name]).double().norm()) <= TOLERANCE * float(right[name].double().norm())
        for name in left)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the committed files, write nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # one thread: the order of summation, and so the last digit, is reproducible
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        fresh, committed = Path(scratch) / "training", HERE / "training"
        make(fresh)
        files = sorted(file.relative_to(fresh) for file in fresh.rglob("*") if file.is_file())
        if arguments.check:
            bad = [str(file) for file in files if not same(fresh / file, committed / file)]
            sys.exit("differs: " + ", ".join(bad) if bad else 0)
        shutil.rmtree(committed, ignore_errors=True)
        shutil.copytree(fresh, committed)
    for file in files:
        print(f"{(committed / file).stat().st_size:8} {file}")


if __name__ == "__main__":
    main()
