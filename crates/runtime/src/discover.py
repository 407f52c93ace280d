# Says where this Python keeps PJRT plugins, as one line of JSON. Imports none of them.
import importlib.util
import json
import os


def folders(module):
    try:
        spec = importlib.util.find_spec(module)
    except Exception:
        return []
    return list(spec.submodule_search_locations or []) if spec else []


def version(package):
    try:
        from importlib.metadata import version

        return version(package)
    except Exception:
        return None


found = []
for name, module, file, package in [
    ("tpu", "libtpu", "libtpu.so", "libtpu"),
    ("cuda13", "jax_plugins.xla_cuda13", "xla_cuda_plugin.so", "jax-cuda13-pjrt"),
    ("cuda12", "jax_plugins.xla_cuda12", "xla_cuda_plugin.so", "jax-cuda12-pjrt"),
]:
    for folder in folders(module):
        path = os.path.join(folder, file)
        if os.path.isfile(path):
            found.append({"name": name, "path": path, "version": version(package)})
            break
print(json.dumps({"plugins": found, "nvidia": folders("nvidia")}))
