"""Renders docs/performance.md from the JSON of `make bench`, so that no figure is typed by hand.

Run as `python -m tools.performance build/bench/results.json`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "performance.md"
COLUMNS = ("native", "host's /dev/kvm", "tcg", "kvmish")
HEADINGS = {"tcg": "QEMU TCG"}

INTRODUCTION = """\
# Performance

Rendered by `tools/performance.py` from one run of `make bench`; edit neither the figures nor this
sentence. Best of the rounds, by the host's clock. In ratios below 1, kvmish is the faster one.

- Date: {date}
- Processor: {processor}, {count} processors
- Kernel: {release}
- Commit: {commit}
"""


def tables(results: dict[str, Any]) -> dict[tuple[str, str], dict[str, dict[str, float]]]:
    """Return (title, unit) -> row -> column -> value, best first where a case ran twice."""
    found: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for benchmark in results["benchmarks"]:
        info = benchmark["extra_info"]
        if "table" not in info:
            continue
        rows = info.get("rows") or {info["row"]: info["value"]}
        table = found.setdefault((info["table"], info["unit"]), {})
        for row, value in rows.items():
            table.setdefault(row, {})[info["column"]] = value
    return found


def render(results: dict[str, Any]) -> str:
    """Return the page."""
    machine, commit = results["machine_info"], results.get("commit_info") or {}
    dirty = " and uncommitted changes" if commit.get("dirty") else ""
    lines = [
        INTRODUCTION.format(
            date=results["datetime"][:10],
            processor=machine.get("cpu", {}).get("brand_raw", "unknown"),
            count=machine.get("cpu", {}).get("count", "?"),
            release=machine.get("release", "unknown"),
            commit=f"{commit.get('id', 'unknown')[:12]}{dirty}",
        )
    ]
    for (title, unit), rows in tables(results).items():
        columns = [name for name in COLUMNS if any(name in row for row in rows.values())]
        compare = "tcg" in columns and "kvmish" in columns
        heads = [f"{HEADINGS.get(name, name)} ({unit})" for name in columns]
        heads += ["kvmish / TCG"] * compare
        lines += [f"## {title}", "", "| | " + " | ".join(heads) + " |"]
        lines.append("|---" * (len(heads) + 1) + "|")
        for row, values in rows.items():
            cells = [_number(values.get(name)) for name in columns]
            if compare:
                both = "tcg" in values and "kvmish" in values
                cells.append(f"{values['kvmish'] / values['tcg']:.2f}" if both else "-")
            lines.append(f"| {row} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def main(arguments: list[str]) -> int:
    """Read the JSON, write the page, say where it is."""
    results = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    PAGE.write_text(render(results), encoding="utf-8")
    sys.stdout.write(f"kvmish: wrote {PAGE.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
