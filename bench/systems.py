"""The systems that are compared, each behind the same three calls: `start()`, `measure(what)` and `stop()`. A measurement is a list of
seconds, one per step; whatever goes wrong is an `Unavailable` with the reason, which ends up in the table instead of a number."""

import json
import os
import select
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

YARDSTICKS = Path(__file__).resolve().parent / "yardsticks"
ANSWER_LIMIT_SECONDS = 300


class Unavailable(Exception):
    pass


@dataclass(frozen=True)
class Work:
    """`decode`: `size` sequences advance one token per step. `prefill`: one sequence of `size` tokens per step."""
    kind: str
    size: int
    repeats: int

    @property
    def name(self):
        return f"decode, batch {self.size}" if self.kind == "decode" else f"prefill, {self.size} tokens"

    def tokens_per_second(self, seconds_per_step):
        return self.size / seconds_per_step


def last_line(text):
    return next((line for line in reversed(text.splitlines()) if line.strip()), "no message")[:300]


class Yardstick:
    """A program of yardsticks/ that stays loaded between rounds (see yardsticks/protocol.py)."""

    def __init__(self, name, python, script, *arguments, environment=None):
        self.name, self.about = name, {}
        self.command = [str(python), str(YARDSTICKS / script), *map(str, arguments)]
        self.environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **(environment or {})}
        self.process = None

    def start(self):
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, env=self.environment)
        self.about = self._answer()

    def _answer(self):
        # A system that crawls (a type without a kernel, memory swapped out) must not hold up the others for an hour.
        if not select.select([self.process.stdout], [], [], ANSWER_LIMIT_SECONDS)[0]:
            self.process.kill()
            self.process.wait()
            raise Unavailable(f"no answer within {ANSWER_LIMIT_SECONDS} s")
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.errors.seek(0)
            raise Unavailable(f"ended with status {self.process.returncode}: {last_line(self.errors.read())}")
        return json.loads(line)

    def measure(self, work):
        if self.process.poll() is not None:
            raise Unavailable(f"ended with status {self.process.returncode}")
        print(work.kind, work.size, work.repeats, file=self.process.stdin, flush=True)
        answer = self._answer()
        if "error" in answer:
            raise Unavailable(answer["error"])
        return answer["seconds"]

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.stdin.close()
            self.process.wait()


class Fungible:
    """Our binary. A round is one call of `fungible bench model`, which measures all work at once:

        fungible bench model MODEL --batch 1,8 --prefill 512 --device cpu --dtype f32 --json
        {"decode": [{"batch": 1, "seconds": [one per step]}, ...],
         "prefill": [{"tokens": 512, "seconds": [one per repeat]}, ...], "weights_bytes": N}
    """

    name = "fungible"

    def __init__(self, binary, model, works, device="cpu", dtype="f32", environment=None):
        sizes = lambda kind: ",".join(str(work.size) for work in works if work.kind == kind)
        self.command = [str(binary), "bench", "model", str(model), "--batch", sizes("decode"), "--prefill", sizes("prefill"),
                        "--device", device, "--dtype", dtype, "--json"]
        self.environment = environment
        self.about, self.weights_bytes, self.seconds = {}, None, {}

    def start(self):
        """Runs once uncounted, so that plugin, model and compiled programs are in the cache."""
        self.next_round()

    def next_round(self):
        document = run_json(self.command, self.environment)
        self.weights_bytes = document["weights_bytes"]
        self.seconds = {("decode", row["batch"]): row["seconds"] for row in document["decode"]}
        self.seconds.update({("prefill", row["tokens"]): row["seconds"] for row in document["prefill"]})
        self.about = {key: value for key, value in document.items() if key not in ("decode", "prefill")}

    def measure(self, work):
        try:
            return self.seconds[work.kind, work.size]
        except KeyError:
            raise Unavailable(f"`fungible bench model` gave no figure for {work.name}") from None

    def stop(self):
        pass


def run_json(command, environment=None, timeout_seconds=1800):
    """Runs a command that prints one JSON document."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_seconds, env={**os.environ, **(environment or {})})
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(str(error)[:300]) from None
    if done.returncode != 0:
        raise Unavailable(f"`{' '.join(command[1:3])}` ended with status {done.returncode}: {last_line(done.stderr)}")
    try:
        return json.loads(done.stdout)
    except ValueError:
        raise Unavailable(f"`{' '.join(command[1:3])}` printed no JSON: {last_line(done.stdout)}") from None


def watch(command):
    """Runs a command; seconds to its first output and to its end, its peak resident memory, and its output."""
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        try:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
        except OSError as error:
            raise Unavailable(str(error)) from None
        first = os.read(process.stdout.fileno(), 1)
        first_seconds = time.perf_counter() - start
        output = first + process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        if process.returncode != 0:
            errors.seek(0)
            raise Unavailable(f"`{' '.join(command[1:3])}` ended with status {process.returncode}: {last_line(errors.read())}")
    return {"first_output_seconds": first_seconds, "seconds": seconds, "peak_resident_bytes": usage.ru_maxrss * 1024,
            "output": output.decode(errors="replace")}
