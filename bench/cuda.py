"""Finds what a CUDA run needs on this machine: the GPUs, and, in a given Python, the CUDA plugin of JAX and NVIDIA's libraries.
Must not know what is run with them."""

import json
import os
import subprocess
from pathlib import Path


def gpus():
    """Name, memory and driver version of each GPU, by nvidia-smi; empty where there is none."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    if done.returncode != 0:
        return []
    return [dict(zip(("name", "memory", "driver"), (field.strip() for field in line.split(",")))) for line in done.stdout.splitlines() if line.strip()]


def search_path(python):
    done = subprocess.run([python, "-c", "import json, sys; print(json.dumps(sys.path))"], capture_output=True, text=True, check=True)
    return [Path(folder) for folder in json.loads(done.stdout) if folder]


def find(python):
    """{"plugin": path or None, "library_folders": [...], "cuda_data": folder with bin/ptxas and libdevice, or None}"""
    folders = search_path(python)
    plugins = [folder / "jax_plugins" / name / "xla_cuda_plugin.so" for name in ("xla_cuda13", "xla_cuda12") for folder in folders]
    named = os.environ.get("FUNGIBLE_CUDA_PLUGIN")
    plugin = Path(named) if named else next((file for file in plugins if file.exists()), None)
    libraries = sorted({library.parent for folder in folders for library in folder.glob("nvidia/*/lib/lib*.so*")})
    toolkits = [toolkit for folder in folders for toolkit in (folder / "nvidia/cu13", folder / "nvidia/cuda_nvcc")] + [Path("/usr/local/cuda")]
    data = next((toolkit for toolkit in toolkits if (toolkit / "bin/ptxas").exists()), None)
    return {"plugin": plugin and str(plugin), "library_folders": [str(folder) for folder in libraries], "cuda_data": data and str(data)}


def environment(found):
    """Variables for our binary. They must be set before the plugin's library is loaded, since it reads them then."""
    variables = {}
    if found["plugin"]:
        variables["FUNGIBLE_CUDA_PLUGIN"] = found["plugin"]
    if found["library_folders"]:
        variables["LD_LIBRARY_PATH"] = ":".join(found["library_folders"] + [path for path in [os.environ.get("LD_LIBRARY_PATH")] if path])
    if found["cuda_data"] and "xla_gpu_cuda_data_dir" not in os.environ.get("XLA_FLAGS", ""):
        variables["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_cuda_data_dir={found['cuda_data']}".strip()
    return variables
