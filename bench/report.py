"""Rounds to medians, medians to a table, both to files. Must not know how anything was measured."""

import datetime
import json
import os
import statistics
from pathlib import Path


class Rounds:
    """tokens/s by system, work and round; a ratio is formed within a round, and the median taken over rounds, because the
    machine's own speed drifts between rounds by more than most differences."""

    def __init__(self):
        self.rates = {}    # (system, work name) -> {round: tokens per second}
        self.missing = {}  # (system, work name) -> reason

    def add(self, system, work, round_index, seconds):
        self.put(system, work, round_index, work.tokens_per_second(statistics.median(seconds)))

    def put(self, system, work, round_index, value):
        self.rates.setdefault((system, work.name), {})[round_index] = value

    def fail(self, system, work, reason):
        self.missing[system, work.name] = str(reason)

    def by_round(self, system, work):
        return self.rates.get((system, work.name), {})

    def median(self, system, work):
        rates = self.rates.get((system, work.name))
        return statistics.median(rates.values()) if rates else None

    def ratio(self, system, other, work):
        ours, theirs = self.rates.get((system, work.name), {}), self.rates.get((other, work.name), {})
        both = [ours[i] / theirs[i] for i in ours if i in theirs]
        return statistics.median(both) if both else None

    def spread(self, system, work):
        rates = self.rates.get((system, work.name))
        return (min(rates.values()), max(rates.values())) if rates else None

    def as_json(self):
        rows = [{"system": system, "work": work, "tokens_per_second": [round(rates[i], 3) for i in sorted(rates)]}
                for (system, work), rates in self.rates.items()]
        return rows + [{"system": system, "work": work, "missing": reason} for (system, work), reason in self.missing.items()]


def number(value):
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(rounds, systems, works, ours):
    """Markdown: one row per work, tokens/s with the spread over rounds, and our ratio to each of the others."""
    head = ["tokens/s, median (lowest to highest)"] + [f"{name}" for name in systems]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for work in works:
        cells = [work.name]
        for name in systems:
            middle, spread = rounds.median(name, work), rounds.spread(name, work)
            if middle is None:
                cells.append("-")
                continue
            ratio = rounds.ratio(ours, name, work) if name != ours else None
            times = f"; ours is {ratio:.2f}x" if ratio is not None else ""
            cells.append(f"{number(middle)} ({number(spread[0])} to {number(spread[1])}{times})")
        lines.append("| " + " | ".join(cells) + " |")
    notes = sorted({f"{system}: {reason}" for (system, _), reason in rounds.missing.items()})
    return "\n".join(lines + ([""] + [f"- not measured: {note}" for note in notes] if notes else []))


def write(name, document, text, folder=None):
    """Writes NAME.json and NAME.md beside each other and returns their paths; a later run of a day replaces an earlier one."""
    folder = Path(folder or os.environ.get("OUT") or Path(__file__).resolve().parent / "results")
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{datetime.date.today():%Y-%m-%d}-{name}"
    (folder / f"{stem}.json").write_text(json.dumps(document, indent=1) + "\n")
    (folder / f"{stem}.md").write_text(text.rstrip() + "\n")
    return folder / f"{stem}.json", folder / f"{stem}.md"
