"""The figures of one run of the benchmarks' table: medians, ratios, targets and holes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import geometric_mean, median
from typing import Any

HEADINGS = {
    "native": "native",
    "tcg/default": "TCG",
    "tcg/max": "TCG max",
    "kvm": "QEMU, kvmish {}",
    "boot": "kvmish boot {}",
    "file": "QEMU, file, {}",
}
SETTINGS = {"off": "mitigations off", "default": "mitigations by default"}


@dataclass(frozen=True)
class Verdict:
    """A target under one setting: the value reached (None: a hole), and whether that is enough."""

    value: float | None
    met: bool | None  # None: only reported, or a hole
    text: str


class Results:
    """Rows as `python -m tests.bench` writes them. The first engine is the one that is judged."""

    def __init__(self, results: dict[str, Any]) -> None:
        """Take the JSON."""
        self.results = results
        self.rows: dict[str, dict[str, Any]] = {row["name"]: row for row in results["rows"]}
        self.engine: str = results["engines"][0]

    @property
    def settings(self) -> list[str]:
        """The settings of mitigations that were measured."""
        rows = self.rows.values()
        return [name for name in SETTINGS if any(name in row["cells"] for row in rows)]

    def value(self, row: str, setting: str, column: str) -> float | None:
        """Return the median for the row's whole work; None if there is none, or it is wrong."""
        cell = self._cell(row, setting, column)
        if not cell or not cell["samples"] or cell["wrong"]:
            return None
        samples: list[float] = cell["samples"]
        whole: int = self.rows[row]["count"]
        part: int = cell["count"]
        return median(samples) * whole / part

    def tcg(self, row: str, setting: str) -> float | None:
        """Return the better of QEMU TCG's processors."""
        columns = ("tcg/default", "tcg/max")
        values = [self.value(row, setting, column) for column in columns]
        return min((value for value in values if value is not None), default=None)

    def ratio(self, row: str, setting: str, column: str, against: str) -> float | None:
        """Return the multiple of native time ("native") or how often faster than TCG ("tcg")."""
        ours = self.value(row, setting, column)
        native = against == "native"
        other = self.value(row, setting, "native") if native else self.tcg(row, setting)
        if not ours or not other:
            return None
        return ours / other if native else other / ours

    def verdict(self, target: dict[str, Any], setting: str) -> Verdict:
        """Judge a target. A row that is missing or has failed makes it a hole."""
        column = target["column"]
        column = column if column == "native" else f"{column}/{self.engine}"
        against, rows, limit = target["against"], target["rows"], target["limit"]
        values: list[float | None]
        if against == "limit":
            values = [self.value(rows[0], setting, column)]
        elif against == "throughput":
            two, one = (self.value(row, setting, column) for row in rows)
            values = [2 * one / two if one and two else None]
        else:
            values = [self.ratio(row, setting, column, against) for row in rows]
        found = [value for value in values if value is not None]
        if len(found) < len(values):
            return Verdict(None, None, "hole")
        reached = found[0] if len(found) == 1 else geometric_mean(found)
        failed = sum(self._failed(row, setting, column) for row in rows)
        if limit is None:
            return Verdict(reached, None, number(reached) + _runs_failed(failed))
        met = reached <= limit if against in ("native", "limit") else reached >= limit
        word = "met" if met else "**missed**"
        return Verdict(reached, met, f"{number(reached)} {word}{_runs_failed(failed)}")

    def targets(self) -> list[str]:
        """Return the table of targets."""
        settings = self.settings
        heads = ["workload", "measured as", "target", *(SETTINGS[name] for name in settings)]
        lines = [f"## Targets (engine: {self.engine})", "", *_head(heads)]
        words = {"native": "x native", "tcg": "x TCG", "limit": "value", "throughput": "of one"}
        for target in self.results["targets"]:
            if not any(row in self.rows for row in target["rows"]):
                continue
            sign = "at most" if target["against"] in ("native", "limit") else "at least"
            limit = "reported" if target["limit"] is None else f"{sign} {target['limit']:g}"
            cells = [self.verdict(target, setting).text for setting in settings]
            lines.append(_line([target["what"], words[target["against"]], limit, *cells]))
        return [*lines, ""]

    def details(self) -> list[str]:
        """Return a table for each session and setting, with every column that was run."""
        lines: list[str] = []
        for setting in self.settings:
            lines += [f"## Every row, {SETTINGS[setting]}", ""]
            columns = [
                column
                for column in self.results["columns"]
                if any(self._cell(row, setting, column) for row in self.rows)
            ]
            heads = ["row", "", "unit", *(heading(column) for column in columns)]
            lines += _head([*heads, "x native", "x TCG"])
            for name, row in self.rows.items():
                cells = [self._text(name, setting, column) for column in columns]
                cells += [self._best_ratio(name, setting, kind) for kind in ("native", "tcg")]
                lines.append(_line([name, row["what"], row["unit"], *cells]))
            lines.append("")
        return lines

    def holes(self) -> list[str]:
        """Return what failed, and why."""
        return ["## Holes", "", *(list(self._failures()) or ["None."]), ""]

    def _failures(self) -> Iterator[str]:
        for name, row in self.rows.items():
            for setting, cells in row["cells"].items():
                for column, cell in cells.items():
                    where = f"- {name}, {heading(column)}, {SETTINGS[setting]}"
                    if cell["wrong"]:
                        yield f"{where}: {cell['wrong']}"
                    if cell["failures"]:
                        count = _runs_failed(len(cell["failures"])).strip(" ()")
                        text = " ".join(cell["failures"][0].replace("|", "/").split())[:200]
                        yield f"{where}: {count}: {text}"

    def _failed(self, row: str, setting: str, column: str) -> int:
        cell = self._cell(row, setting, column)
        return len(cell["failures"]) if cell else 0

    def _best_ratio(self, row: str, setting: str, against: str) -> str:
        """Under QEMU if it was run there, else by kvmish boot."""
        for kind in ("kvm", "boot"):
            ratio = self.ratio(row, setting, f"{kind}/{self.engine}", against)
            if ratio is not None and self.rows[row]["measure"] in ("time", "userland"):
                return number(ratio)
        return "-"

    def _text(self, row: str, setting: str, column: str) -> str:
        cell = self._cell(row, setting, column)
        if cell is None:
            return "-"
        value = self.value(row, setting, column)
        if value is None:
            return "hole"
        return number(value) + _runs_failed(self._failed(row, setting, column))

    def _cell(self, row: str, setting: str, column: str) -> dict[str, Any] | None:
        cells: dict[str, Any] = self.rows.get(row, {}).get("cells", {}).get(setting, {})
        cell: dict[str, Any] | None = cells.get(column)
        return cell


def heading(column: str) -> str:
    """Return a column's name for a reader."""
    kind, _, option = column.partition("/")
    return HEADINGS.get(column) or HEADINGS[kind].format(option)


def _runs_failed(count: int) -> str:
    """Return a remark for runs that gave no figure; the median is that of the others."""
    return f" ({count} run{'s' * (count > 1)} failed)" if count else ""


def number(value: float) -> str:
    """Three digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _head(cells: list[str]) -> list[str]:
    return [_line(cells), "|---" * len(cells) + "|"]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
