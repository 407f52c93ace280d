"""Steps of `fungible train` and of yardsticks/*_train.py, each in a process of its own, and what they come to. Must not know on which
machine, nor what the figures are wanted for."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from environment import HERE, say
from systems import Unavailable, last_line

WARM_UP = 2  # steps left out of every measurement
STEP_LIMIT_SECONDS = 900  # without a step for so long, a system is given up


def watched(command, variables=None, timeout_seconds=3600):
    """The last line of a process's standard output, which is JSON, and its peak resident bytes."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        try:
            process = subprocess.Popen([str(word) for word in command], stdout=output, stderr=errors, text=True, env={**os.environ, **(variables or {})})
        except OSError as error:
            raise Unavailable(str(error)) from None
        end = time.monotonic() + timeout_seconds
        while True:
            # Not `wait`, which does not say how much memory was used.
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
            if ended:
                break
            if time.monotonic() > end:
                process.kill()
                os.wait4(process.pid, 0)
                process.returncode = -9
                raise Unavailable(f"no end within {timeout_seconds} s")
            time.sleep(0.05)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0), errors.seek(0)
        if process.returncode != 0:
            raise Unavailable(f"ended with status {process.returncode}: {last_line(errors.read())}")
        return json.loads(output.read().strip().splitlines()[-1]), usage.ru_maxrss * 1024


def ours(binary, config, steps, device, variables=None):
    """Records of so many steps of the run that `config(folder)` describes, and the peak of resident bytes over them; the process is ended
    before it saves, as the yardsticks' loops save nothing."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as errors:
        path = Path(folder) / "run.toml"
        path.write_text(config(Path(folder)))
        command = [str(binary), "train", str(path), "--device", device]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, text=True, env={**os.environ, **(variables or {})})
        try:
            metrics, records, last = Path(folder) / "run" / "metrics.jsonl", [], time.monotonic()
            while len(records) < steps:
                if process.poll() is not None:
                    errors.seek(0)
                    raise Unavailable(f"`fungible train` ended early: {last_line(errors.read())}")
                if time.monotonic() - last > STEP_LIMIT_SECONDS:
                    raise Unavailable(f"`fungible train` made no step for {STEP_LIMIT_SECONDS} s")
                time.sleep(0.02)
                lines = metrics.read_text().splitlines(keepends=True) if metrics.exists() else []
                known, records = len(records), [json.loads(line) for line in lines if line.endswith("\n")]
                last = time.monotonic() if len(records) > known else last
            status = Path(f"/proc/{process.pid}/status").read_text()
        finally:
            process.kill()
            process.wait()
        peak = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024
        return records[:steps], peak


def median_step(seconds):
    return statistics.median(seconds[WARM_UP:])


class Comparison:
    """One shape: our step beside the others', which take turns, in another order each round."""

    def __init__(self, name, batch, sequence):
        self.name, self.batch, self.sequence = name, batch, sequence
        self.rows, self.missing, self.about, self.mfu_by_rate = {}, {}, {}, None

    @property
    def tokens(self):
        return self.batch * self.sequence

    def run(self, rounds, ours, others):
        """`ours()` gives records; `others` maps names to calls that give {"seconds": [...], "about": {...}}."""
        for index in range(rounds):
            names = ["fungible", *others]
            for name in names if index % 2 == 0 else reversed(names):
                if name in self.missing:
                    continue
                say(f"  {self.name}, round {index + 1} of {rounds}: {name}")
                try:
                    if name == "fungible":
                        records = ours()
                        seconds = [record["seconds"] for record in records]
                        mfu, rate = records[-1]["mfu"], records[-1]["tokens"] / records[-1]["seconds"]
                        self.mfu_by_rate = mfu and mfu / rate
                    else:
                        answer = others[name]()
                        seconds, self.about[name] = answer["seconds"], answer["about"]
                    self.rows.setdefault(name, {})[index] = {"seconds": seconds, "step": median_step(seconds)}
                except Unavailable as error:
                    self.missing[name] = str(error)

    def step(self, name):
        return statistics.median(row["step"] for row in self.rows[name].values())

    def ratio(self, other):
        """How many times as fast ours is, by the median over rounds."""
        mine, theirs = self.rows.get("fungible", {}), self.rows.get(other, {})
        both = [theirs[index]["step"] / mine[index]["step"] for index in mine if index in theirs]
        return statistics.median(both) if both else None

    def table(self):
        lines = ["| | ms per step | tokens/s | MFU | ours is |", "| --- | --- | --- | --- | --- |"]
        for name in self.rows:
            rate = self.tokens / self.step(name)
            # The same operations per token for all, by the same peak; without a known peak there is none.
            mfu = f"{self.mfu_by_rate * rate * 100:.1f} %" if self.mfu_by_rate else "-"
            ratio = self.ratio(name) if name != "fungible" else None
            lines.append(f"| {name} | {self.step(name) * 1e3:.1f} | {rate:,.0f} | {mfu} | {f'{ratio:.2f}x' if ratio else '-'} |")
        return "\n".join(lines + [f"- not measured: {name}: {reason}" for name, reason in self.missing.items()])

    def as_json(self):
        return {"batch": self.batch, "sequence": self.sequence, "missing": self.missing, "about": self.about, "mfu_by_tokens_per_second": self.mfu_by_rate,
                "rounds": {name: [rows[index] for index in sorted(rows)] for name, rows in self.rows.items()}}
