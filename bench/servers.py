"""The servers that are compared, each started afresh for every turn, and the load they are given. Whatever goes wrong is an
`Unavailable` with the reason. Must not know how rounds become tables."""

import json
import os
import re
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from systems import Unavailable, last_line

START_LIMIT_SECONDS = 300
STOP_LIMIT_SECONDS = 15
REQUEST_LIMIT_SECONDS = 1800


class Server:
    """A command that serves a model at 127.0.0.1. `PORT` in it is replaced; `model` is the name that requests carry, where the
    server does not list one; `ignores_eos` says that requests may ask for answers of full length; `ready` answers 200 once they are taken."""

    def __init__(self, name, command, version, model=None, ignores_eos=True, ready="/health", environment=None):
        self.name, self.command, self.version = name, [str(part) for part in command], version
        self.model, self.ignores_eos, self.ready = model, ignores_eos, ready
        self.environment = {**os.environ, **(environment or {})}
        self.process = self.url = None

    def about(self):
        return {"version": self.version, "flags": " ".join(without_folder(part) for part in self.command)}

    def start(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = tempfile.TemporaryFile("w+")
        command = [part.replace("PORT", str(port)) for part in self.command]
        try:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, env=self.environment)
        except OSError as error:
            raise Unavailable(str(error)) from None
        give_up = time.monotonic() + START_LIMIT_SECONDS
        while not self.is_ready():
            if self.process.poll() is not None:
                raise Unavailable(f"ended with status {self.process.returncode}: {self.last_words()}")
            if time.monotonic() > give_up:
                self.stop()
                raise Unavailable(f"not ready within {START_LIMIT_SECONDS} s: {self.last_words()}")
            time.sleep(0.1)

    def is_ready(self):
        try:
            with urllib.request.urlopen(self.url + self.ready, timeout=5) as answer:
                return answer.status == 200
        except (OSError, urllib.error.URLError):
            return False

    def last_words(self):
        """The last line that speaks of an error, which others may explain; else the last one."""
        self.log.seek(0)
        text = self.log.read()
        errors = [line for line in text.splitlines() if "error" in line.lower()]
        return last_line(errors[-1] if errors else text)

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_LIMIT_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def load(self, generator, prompts, clients, requests, output):
        """Sends the file's prompts and returns what the load generator says of the one measurement, once all answers had
        exactly the wanted number of tokens."""
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "load.json"
            command = [str(generator), "bench", "serve", self.url, "--dataset", str(prompts), "--output", str(output), "--concurrency",
                       str(clients), "--requests", str(requests), "--warm-up", "0", "--timeout", str(REQUEST_LIMIT_SECONDS), "--json", str(report)]
            command += ["--model", self.model] if self.model else []
            command += ["--ignore-eos"] if self.ignores_eos else []
            done = subprocess.run(command, capture_output=True, text=True)
            if self.process.poll() is not None:
                raise Unavailable(f"ended with status {self.process.returncode}: {self.last_words()}")
            if not report.exists():
                raise Unavailable(f"the load generator ended with status {done.returncode}: {last_line(done.stderr)}")
            measured = json.loads(report.read_text())["levels"][0]
        if measured["failed"] or measured["succeeded"] != requests:
            reasons = "; ".join(measured["failures"]) or "no reason given"
            raise Unavailable(f"{measured['failed']} of {requests} requests failed: {reasons[:300]}")
        if measured["output_tokens"] != requests * output:
            raise Unavailable(f"gave {measured['output_tokens']} tokens instead of {requests * output}")
        return measured


def without_folder(part):
    """What a results file says of a path: its last name, since folders are this machine's affair."""
    return os.path.basename(part) if part.startswith("/") else f"'{part}'" if " " in part else part


def first_line(command, pattern):
    """The first match of a pattern in what a command prints; "unknown" if there is none."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    found = re.search(pattern, done.stdout + done.stderr)
    return found.group(0) if found else "unknown"


def fungible(binary, name, gguf, *flags):
    return Server(name, [binary, "serve", gguf, "--device", "cpu", "--port", "PORT", *flags], first_line([binary, "--version"], r".+"), ready="/ready")


def llama_cpp(binary, name, gguf, threads, sequences, capacity):
    """llama.cpp's own server: continuous batching and an f16 cache are its defaults, a slot per sequence is asked for."""
    flags = ["--threads", threads, "--parallel", sequences, "--ctx-size", sequences * capacity]
    return Server(name, [binary, "--model", gguf, "--host", "127.0.0.1", "--port", "PORT", *flags], first_line([binary, "--version"], r"version: .+"))


def transformers(python, name, checkpoint, threads, sequences, capacity):
    """`transformers serve`. Left to itself its continuous batching takes all free memory for the cache, and clears it first."""
    pages = sequences * -(-capacity // 256)
    flags = ["--continuous-batching", "--cb-num-blocks", pages, "--cb-max-batch-tokens", 512]
    start = "from transformers.cli.transformers import main; main()"
    command = [python, "-c", start, "serve", checkpoint, "--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1", "--port", "PORT", *flags]
    versions = "import torch, transformers; print('transformers', transformers.__version__, 'torch', torch.__version__)"
    return Server(name, command, first_line([python, "-c", versions], r"transformers .+"), str(checkpoint), False,
                  environment={"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"})
