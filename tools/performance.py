"""Renders docs/performance.md from the JSON of `make bench`, so that no figure is typed by hand.

Run as `python -m tools.performance ROWS.json [RESULTS.json]`: the table's rows (tests/bench) and
the micro-benchmarks (pytest-benchmark). With --print it writes no page.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

from tools.performance_plot import plot
from tools.performance_rows import Results, number

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "performance.md"
PLOT = ROOT / "docs" / "performance.svg"

INTRODUCTION = """\
# Performance

Rendered by `make bench` (`tools/performance.py`) from one run of it; edit neither the figures nor
this sentence. The table of what is run, and of what it must reach, is `tests/bench/rows.py`; the
programs are in `tests/bench/guest`.

- Date: {date}; commit: {commit}
- Processor: {processor}, {count} processors; load average before: {before}, after: {after}
- Host kernel: {release}; {qemu}
- Medians of {runs} runs a side, of short sessions more (`turns` in that table), the sides
  taking turns, by the host's clock at the lines on the console; the guest's clock has to
  agree within 0.5 %, and each checksum with the host's
- "native": the same static binary on the host. "QEMU, kvmish": the same QEMU and machine as under
  TCG, with `-accel kvm` on our preload door (`-cpu max`); "QEMU, file": on the device file. TCG is
  run with its default processor and with `-cpu max`; the better one counts. "x native" is a
  multiple of native time, "x TCG" says how many times faster than TCG
- Exits to QEMU are its own statistics' at power-off: each is an answered port or a piece of MMIO
- Engines, and the part of a row's work that each does (times are scaled to the whole): {engines}
- Mitigations are equal on both sides: off, or the kernel's default
"""

PLOT_TEXT = """\
## By engine and workload

![time by engine and workload, in multiples of native time](performance.svg)
"""


def render(rows: dict[str, Any], micro: dict[str, Any] | None = None) -> str:
    """Return the page."""
    results = Results(rows)
    machine = rows["machine"]
    engines = ", ".join(f"{name}: {rows['scales'][name]:g}" for name in rows["engines"])
    lines = [
        INTRODUCTION.format(
            date=rows["date"][:10],
            commit=rows["commit"] + (" and uncommitted changes" if rows["changes"] else ""),
            processor=machine["processor"],
            count=machine["count"],
            before=machine["load"],
            after=rows["load_after"],
            release=machine["release"],
            qemu=rows["qemu"],
            runs=rows["runs"],
            engines=engines,
        ),
        *results.targets(),
        PLOT_TEXT,
        *results.details(),
        *results.holes(),
    ]
    for (title, unit), samples in _micro_tables(micro or {"benchmarks": []}).items():
        lines += _micro_table(title, unit, samples)
    return "\n".join(lines)


def _micro_tables(
    results: dict[str, Any],
) -> dict[tuple[str, str], dict[str, dict[str, list[float]]]]:
    """Return (title, unit) -> row -> column -> samples."""
    found: dict[tuple[str, str], dict[str, dict[str, list[float]]]] = {}
    for benchmark in results["benchmarks"]:
        info = benchmark["extra_info"]
        found.setdefault((info["table"], info["unit"]), {}).update(info["samples"])
    return found


def _micro_table(title: str, unit: str, rows: dict[str, dict[str, list[float]]]) -> list[str]:
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    heads = [f"{name} ({unit})" for name in columns]
    lines = [f"## {title}", "", "| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for row, samples in rows.items():
        cells = [_spread(samples.get(name)) for name in columns]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _spread(samples: list[float] | None) -> str:
    if not samples:
        return "-"
    return f"{number(median(samples))} ({number(min(samples))} to {number(max(samples))})"


def main(arguments: list[str]) -> int:
    """Read the JSON; print the page, or write it and its plot and say where they are."""
    files = [Path(word) for word in arguments if not word.startswith("--")]
    loaded = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    page = render(*loaded)
    if "--print" in arguments:
        sys.stdout.write(page + "\n")
        return 0
    PAGE.write_text(page, encoding="utf-8")
    PLOT.write_text(plot(Results(loaded[0])), encoding="utf-8")
    sys.stdout.write(f"kvmish: wrote {PAGE.relative_to(ROOT)}, {PLOT.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
