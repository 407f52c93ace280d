"""The gateways that are compared, each before the same stub servers: how it is installed, configured and started. Whatever goes
wrong is an `Unavailable` with the reason. Must not know what is measured."""

import hashlib
import json
import shutil
import subprocess
import sys

import environment
from environment import HERE, say
from servers import Server
from systems import Unavailable

PORTKEY = "1.15.2"
# What the package asks for of its HTTP server is a range whose newest versions it does not start with.
PORTKEY_SERVER = "1.13.8"

FAST, PACED = "stub", "paced"


class Gateway:
    """A server before stubs. A request for a stub's model carries `headers(model)`."""

    def __init__(self, server, headers):
        self.server, self.headers, self.start, self.stop = server, headers, server.start, server.stop
        self.about = server.about()

    def url(self, model):
        return self.server.url


class Direct:
    """No gateway at all."""

    about = {"version": None, "flags": "the load generator asks the stub"}

    def __init__(self, stubs):
        self.stubs = stubs

    def start(self):
        pass

    def stop(self):
        pass

    def url(self, model):
        return self.stubs[model]

    def headers(self, model):
        return []


def stub(binary, name, *settings):
    """A server without a model. Threads would take the cores from what is measured."""
    command = [binary, "bench", "backend", "--port", "PORT", "--models", name, "--threads", "1", *settings]
    return Server(name, command, None, model=name, ready="/v1/models")


def fungible(binary, folder, stubs):
    """With a tenant, its limits and budget, and every request's record in a database."""
    folder.mkdir()
    config = folder / "gateway.toml"
    pool = lambda name, url: (f'[pools.{name}]\nchips = 1\nprice = "2.50 usd/chip-hour"\ntokens_per_second = 100000\n'
                              f'backends = [{{ url = "{url}", concurrency = 4096 }}]\n[models.{name}]\npools = ["{name}"]\n')
    database = folder / "gateway.db"
    head = f'listen = "127.0.0.1:LISTEN"\ndatabase = "{database}"\n'
    config.write_text(head + "".join(pool(name, url) for name, url in stubs.items()))
    # The port is known when the server starts: a launcher writes it in, and becomes the gateway.
    launch = f'sed -i "s/LISTEN/$1/" "$0/gateway.toml"; cd "$0"; exec "$2" gateway gateway.toml'
    added = subprocess.run([binary, "tenants", "add", "bench", "--database", database, "--rpm", "10M", "--tpm", "1000M", "--concurrency", "10000",
                            "--budget", "1000000usd/month"], capture_output=True, text=True)
    if added.returncode != 0:
        raise Unavailable(f"no tenant could be made: {added.stderr.strip()}")
    key = added.stdout.split()[-1]
    server = Server("fungible gateway", ["bash", "-c", launch, folder, "PORT", binary], version(binary), ready="/ready")
    return Gateway(server, lambda model: [f"authorization: Bearer {key}"])


def version(binary):
    return subprocess.run([binary, "--version"], capture_output=True, text=True).stdout.strip()


def litellm(folder, stubs, workers):
    """LiteLLM's proxy as its documentation advises for production: no database asked for, errors only in the log."""
    requirements = HERE / "requirements-gateways.txt"
    venv = environment.cache_folder() / "bench" / "gateways-venv"
    stamp = venv / f"{hashlib.sha256(requirements.read_bytes()).hexdigest()[:16]}.installed"
    if not stamp.exists():
        say(f"installing {requirements.name} into {venv}")
        try:
            subprocess.run([sys.executable, "-m", "venv", venv], check=True)
            subprocess.run([venv / "bin" / "pip", "install", "--quiet", "--requirement", requirements], check=True)
        except subprocess.CalledProcessError as error:
            raise Unavailable(f"LiteLLM could not be installed: {error}") from None
        stamp.touch()
    folder.mkdir()
    config = folder / "litellm.json"
    entry = lambda name, url: {"model_name": name, "litellm_params": {"model": f"openai/{name}", "api_base": f"{url}/v1", "api_key": "sk-stub"}}
    config.write_text(json.dumps({"model_list": [entry(*stub) for stub in stubs.items()], "litellm_settings": {"callbacks": []}}))
    variables = {"LITELLM_MASTER_KEY": "sk-bench", "LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION", "LITELLM_LOCAL_MODEL_COST_MAP": "True",
                 "LITELLM_TELEMETRY": "False", "NO_DOCS": "True"}
    command = [venv / "bin" / "litellm", "--host", "127.0.0.1", "--port", "PORT", "--config", config, "--num_workers", workers]
    name = f"LiteLLM, {workers} worker{'s' * (workers > 1)}"
    server = Server(name, command, requirements.read_text().strip(), ready="/health/liveliness", environment=variables)
    return Gateway(server, lambda model: ["authorization: Bearer sk-bench"])


def portkey(stubs):
    """Portkey's gateway. Every request's headers tell it where to go."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        raise Unavailable("Portkey's gateway needs node and npm")
    folder = environment.cache_folder() / "bench" / f"portkey-{PORTKEY}"
    program = folder / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    if not program.exists():
        say(f"installing Portkey's gateway into {folder}")
        folder.mkdir(parents=True, exist_ok=True)
        pinned = {"@portkey-ai/gateway": PORTKEY, "@hono/node-server": PORTKEY_SERVER}
        package = {"private": True, "dependencies": pinned, "overrides": {"@hono/node-server": "$@hono/node-server"}}
        (folder / "package.json").write_text(json.dumps(package))
        done = subprocess.run([npm, "install", "--silent", "--no-audit", "--no-fund"], cwd=folder, capture_output=True, text=True)
        if done.returncode != 0 or not program.exists():
            raise Unavailable(f"Portkey's gateway could not be installed: {done.stderr.strip()[-200:]}")
    server = Server("Portkey", [node, program, "--port=PORT", "--headless"], f"@portkey-ai/gateway=={PORTKEY}", ready="/")
    return Gateway(server, lambda model: ["x-portkey-provider: openai", f"x-portkey-custom-host: {stubs[model]}/v1", "authorization: Bearer sk-stub"])
