"""Renders docs/performance.md from the JSON of `make bench`, so that no figure is typed by hand.

Run as `python -m tools.performance build/bench/results.json`; with --print it writes no page.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "performance.md"
COLUMNS = ("native", "host's /dev/kvm", "fusepy and C, empty", "tcg", "kvmish")
HEADINGS = {"tcg": "QEMU TCG"}

INTRODUCTION = """\
# Performance

Rendered by `make bench` (`tools/performance.py`) from one run of it; edit neither the figures nor
this sentence. Medians of {rounds} runs a side, the sides taking turns, by the host's clock, from
the start of the process; the least and the most stand in parentheses. In ratios below 1, kvmish is
the faster one.

- Date: {date}
- Processor: {processor}, {count} processors; load average at the end: {load}
- Host kernel: {release}
- Commit: {commit}
"""


def tables(results: dict[str, Any]) -> dict[tuple[str, str], dict[str, dict[str, list[float]]]]:
    """Return (title, unit) -> row -> column -> samples."""
    found: dict[tuple[str, str], dict[str, dict[str, list[float]]]] = {}
    for benchmark in results["benchmarks"]:
        info = benchmark["extra_info"]
        found.setdefault((info["table"], info["unit"]), {}).update(info["samples"])
    return found


def render(results: dict[str, Any], load: str = "unknown") -> str:
    """Return the page."""
    machine, commit = results["machine_info"], results.get("commit_info") or {}
    dirty = " and uncommitted changes" if commit.get("dirty") else ""
    lines = [
        INTRODUCTION.format(
            rounds=max((b["stats"]["rounds"] for b in results["benchmarks"]), default=0),
            date=results["datetime"][:10],
            processor=machine.get("cpu", {}).get("brand_raw", "unknown"),
            count=machine.get("cpu", {}).get("count", "?"),
            load=load,
            release=machine.get("release", "unknown"),
            commit=f"{(commit.get('id') or 'unknown')[:12]}{dirty}",
        )
    ]
    for (title, unit), rows in tables(results).items():
        lines += _table(title, unit, rows)
    return "\n".join(lines)


def _table(title: str, unit: str, rows: dict[str, dict[str, list[float]]]) -> list[str]:
    columns = [name for name in COLUMNS if any(name in row for row in rows.values())]
    compare = "tcg" in columns and "kvmish" in columns
    heads = [f"{HEADINGS.get(name, name)} ({unit})" for name in columns]
    heads += ["kvmish / TCG"] * compare
    lines = [f"## {title}", "", "| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for row, samples in rows.items():
        cells = [_cell(samples.get(name)) for name in columns]
        if compare:
            both = "tcg" in samples and "kvmish" in samples
            ratio = median(samples["kvmish"]) / median(samples["tcg"]) if both else None
            cells.append(_number(ratio))
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _cell(samples: list[float] | None) -> str:
    if not samples:
        return "-"
    if len(samples) == 1:
        return _number(samples[0])
    return f"{_number(median(samples))} ({_number(min(samples))} to {_number(max(samples))})"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def main(arguments: list[str]) -> int:
    """Read the JSON; print the page, or write it and say where it is."""
    results = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    page = render(results, f"{os.getloadavg()[0]:.1f}")
    if "--print" in arguments:
        sys.stdout.write(page + "\n")
        return 0
    PAGE.write_text(page, encoding="utf-8")
    sys.stdout.write(f"kvmish: wrote {PAGE.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
