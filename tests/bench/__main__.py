"""`python -m tests.bench`: measures the table's rows, writes build/bench/rows.json."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.bench import image
from tests.bench.rows import SCALES, SESSIONS, TARGETS, Row, selected
from tests.bench.runner import Runner, machine
from tests.bench.sides import DEVICE, MITIGATIONS, Side, sides
from tests.devfs.broker import broker
from tests.devfs.conftest import can_mount
from vmmuser.assets import ROOT


def _arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="kvmish bench", description=__doc__)
    parser.add_argument("--rows", default="*", help="names or sessions, shell patterns: a,b*")
    parser.add_argument(
        "--engine", action="append", choices=sorted(SCALES), help="the first one is judged"
    )
    parser.add_argument("--runs", type=int, default=3, help="runs of each side")
    parser.add_argument("--mitigations", choices=list(MITIGATIONS), help="only this setting")
    parser.add_argument("--sides", default="", help="only columns that begin so: native,kvm")
    parser.add_argument("--output", type=Path, default=image.BUILD / "rows.json")
    return parser.parse_args(words)


def main(words: list[str]) -> int:
    """Measure, and write after each setting what there is. Status 1 if there was a failure."""
    options = _arguments(words)
    rows = selected(options.rows)
    if not rows:
        names = ", ".join(SESSIONS)
        sys.stderr.write(f"kvmish bench: no row matches {options.rows}; sessions: {names}\n")
        return 2
    image.programs()
    engines = options.engine or list(SCALES)
    columns = sides(engines, has_file=can_mount())
    if options.sides:
        columns = [s for s in columns if s.column.startswith(tuple(options.sides.split(",")))]
    with ExitStack() as stack:
        if any(side.kind == "file" for side in columns):
            stack.enter_context(broker(DEVICE))
        return _measure(options, rows, engines, columns)


def _measure(
    options: argparse.Namespace, rows: list[Row], engines: list[str], columns: list[Side]
) -> int:
    runner = Runner(rows, columns, lambda text: print(f"bench: {text}", flush=True))
    settings = [options.mitigations] if options.mitigations else list(MITIGATIONS)
    before = machine()
    for number in range(options.runs):
        print(f"bench: run {number + 1} of {options.runs}", flush=True)
        for setting in settings:
            runner.round(number, setting, only_judged=setting != settings[0])
            _write(options.output, runner, number + 1, engines, before)
    runner.compare_checksums()
    _write(options.output, runner, options.runs, engines, before)
    failed = any(
        cell.failures or cell.wrong
        for settings in runner.cells.values()
        for cells in settings.values()
        for cell in cells.values()
    )
    return int(failed)


def _write(
    path: Path, runner: Runner, runs: int, engines: list[str], before: dict[str, Any]
) -> None:
    results = {
        "version": 1,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "--short=12", "HEAD"),
        "changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "qemu": _output("qemu-system-x86_64", "--version").partition("\n")[0],
        "machine": before,
        "load_after": machine()["load"],
        "runs": runs,
        "engines": engines,
        "scales": SCALES,
        "columns": [side.column for side in runner.sides],
        "rows": [
            asdict(row)
            | {"unit": row.unit}
            | {
                "cells": {
                    setting: {column: cell.json() for column, cell in cells.items()}
                    for setting, cells in runner.cells[row.name].items()
                }
            }
            for row in runner.rows
        ],
        "targets": [asdict(target) for target in TARGETS],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".new")
    scratch.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    scratch.replace(path)


def _git(*words: str) -> str:
    return _output("git", *words)


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
