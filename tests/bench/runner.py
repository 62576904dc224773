"""Runs the table's rows on every side in turn, and keeps each sample, checksum and failure."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import console
from tests.bench import exits, image
from tests.bench.rows import SESSIONS, Row
from tests.bench.sides import Side
from vmmuser.assets import USERLAND_MARK

TIMEOUT_SECONDS = 300
CLOCK_ERROR = 0.005
STAMP_SECONDS = 0.010  # what a busy host may add to a line's way to its stamp
ATTEMPTS = 2
NATIVE = Side("native")


@dataclass
class Cell:
    """What one side has shown of a row under one setting of mitigations."""

    count: int
    samples: list[float] = field(default_factory=list)
    checksums: dict[str, str] = field(default_factory=dict)  # by count, as JSON has it
    failures: list[str] = field(default_factory=list)  # of runs
    wrong: str | None = None  # a checksum that is not the host's

    def json(self) -> dict[str, Any]:
        """Return the fields."""
        return dict(vars(self))


class Watch:
    """Measures a machine's process: from /proc while the guest sleeps, by QMP when it is off."""

    def __init__(self, session: str) -> None:
        self.counts = session == "exits"
        self.exits: float | None = None
        self.begin: tuple[float, float] | None = None
        self.idle_percent: float | None = None
        self.memory_mib: float | None = None

    def __call__(self, pid: int, line: str) -> None:
        """See a line of the console."""
        if self.counts and exits.MARK in line:
            self.exits = exits.read_and_quit()
        elif line.startswith("bench sleep begin"):
            self.memory_mib = memory_beyond_guest(pid)
            self.begin = (time.monotonic(), processor_seconds(pid))
        elif line.startswith("bench sleep end") and self.begin:
            then, used = self.begin
            self.idle_percent = 100 * (processor_seconds(pid) - used) / (time.monotonic() - then)


def processor_seconds(pid: int) -> float:
    """Return what a process has used, its threads that ended included: a vCPU's may be among them
    when the last line is read. The number of its clock is clock_getcpuclockid(3)'s.
    """
    return time.clock_gettime(~pid << 3 | 2)


def memory_beyond_guest(pid: int) -> float:
    """Return the MiB that the process has besides the guest's RAM: its share of each mapping."""
    total, counted = 0, True
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if line.startswith("Pss:"):
            total += int(line.split()[1]) if counted else 0
        elif not line.partition(" ")[0].endswith(":"):
            counted = "kvmish-ram" not in line and "memory-backend" not in line
    return total / 1024


class Runner:
    """The results so far: cells[row][mitigations][column]."""

    def __init__(self, rows: list[Row], sides: list[Side], say: Callable[[str], None]) -> None:
        self.rows, self.sides, self.say = rows, sides, say
        self.cells: dict[str, dict[str, dict[str, Cell]]] = {row.name: {} for row in rows}
        self.sessions = [name for name in SESSIONS if self._rows(name)]

    def round(self, number: int, mitigations: str, only_judged: bool = False) -> None:
        """Run every session on every side; odd rounds go through the sides backwards."""
        asked = [side for side in self.sides if side.judged or not only_judged]
        for session in self.sessions:
            sides = [side for side in asked if side.runs(session)]
            sides = sides if number % 2 == 0 else sides[::-1]
            for turn in range(SESSIONS[session].turns):
                for side in sides:
                    if turn < side.turns(session):
                        self.run(side, session, mitigations)

    def run(self, side: Side, session: str, mitigations: str) -> None:
        """Run a session; what it does not deliver is noted as a failure of its rows."""
        rows = self._rows(session)
        cells = {row.name: self._cell(row, side, mitigations) for row in rows}
        for _attempt in range(ATTEMPTS):
            start, failures, clock = time.monotonic(), {}, None
            try:
                watch = Watch(session)
                command = side.command(session, rows, mitigations)
                environment = side.environment(session)
                # a whole boot's bytes are not worth it: each would displace who wrote it
                with nullcontext() if SESSIONS[session].plain else _read_at_once():
                    transcript = console.run(command, TIMEOUT_SECONDS, environment, watch=watch)
                clock = clock_failure(transcript)
                values, failures = _take(rows, transcript, watch, clock)
            except (image.ImageError, OSError) as error:
                failures = {row.name: str(error) for row in rows}
            note = "".join(f"; {text}" for text in sorted(set(failures.values())))
            seconds = time.monotonic() - start
            self.say(f"{session}, {side.column}, mitigations {mitigations}: {seconds:.1f} s{note}")
            # a busy host may be late with a stamp; QEMU's own machines hang now and then under TCG
            if not failures or not (clock or side.kind == "tcg"):
                break
        for row in rows:
            cell = cells[row.name]
            if row.name in failures:
                cell.failures.append(failures[row.name])
            else:
                cell.samples.append(values[row.name])
                if row.measure == "time":
                    self._note_checksum(row, cell.count, cell, transcript)
        if side.kind == "native":
            self._checksums_at_other_scales(session, rows, mitigations)

    def compare_checksums(self) -> None:
        """Fail each cell that has computed something else than the host."""
        for row in self.rows:
            for cells in self.cells[row.name].values():
                expected = cells["native"].checksums if "native" in cells else {}
                for cell in cells.values():
                    for count, checksum in cell.checksums.items():
                        if expected.get(count, checksum) != checksum:
                            cell.wrong = f"checksum {checksum}, the host's is {expected[count]}"

    def _rows(self, session: str) -> list[Row]:
        return [row for row in self.rows if row.session == session]

    def _cell(self, row: Row, side: Side, mitigations: str) -> Cell:
        columns = self.cells[row.name].setdefault(mitigations, {})
        return columns.setdefault(side.column, Cell(row.count_for(side.scale)))

    def _checksums_at_other_scales(self, session: str, rows: list[Row], mitigations: str) -> None:
        """The host computes once what the engines with a smaller scale compute."""
        for scale in {side.scale for side in self.sides} - {1.0}:
            smaller = [row for row in rows if row.measure == "time" and row.scaled]
            native = {row.name: self.cells[row.name][mitigations]["native"] for row in smaller}
            missing = [
                row
                for row in smaller
                if str(row.count_for(scale)) not in native[row.name].checksums
            ]
            if not missing:
                continue
            words = ",".join(f"{row.name}:{row.count_for(scale)}" for row in missing)
            environment = NATIVE.environment(session)
            transcript = console.run(["sh", str(image.SCRIPT), words], TIMEOUT_SECONDS, environment)
            for row in missing:
                self._note_checksum(row, row.count_for(scale), native[row.name], transcript)

    @staticmethod
    def _note_checksum(row: Row, count: int, cell: Cell, transcript: console.Transcript) -> None:
        for checksum in transcript.values(f"bench {row.name} end "):
            before = cell.checksums.setdefault(str(count), checksum)
            if before != checksum:
                cell.wrong = f"checksum {checksum}, before it was {before}"


@contextmanager
def _read_at_once() -> Iterator[None]:
    """Stamp lines when they come, if the system lets us: a pipe's reader may be left to wait behind
    who has written, for milliseconds of a row of ten.
    """
    before, param = os.sched_getscheduler(0), os.sched_getparam(0)
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, before, param)


def _take(
    rows: list[Row], transcript: console.Transcript, watch: Watch, clock: str | None
) -> tuple[dict[str, float], dict[str, str]]:
    """Return the figures of a transcript, and for the other rows what was wrong."""
    if clock:
        return {}, {row.name: clock for row in rows}
    values, failures = {}, {}
    for row in rows:
        value = _value(row, transcript, watch)
        if value is None:
            end = " ".join(transcript.tail(3).split())
            failures[row.name] = f"no result; {end[:300]}"
        else:
            values[row.name] = value
    return values, failures


def _value(row: Row, transcript: console.Transcript, watch: Watch) -> float | None:
    if row.measure == "idle":
        return watch.idle_percent
    if row.measure == "memory":
        return watch.memory_mib
    if row.measure == "exits":
        return watch.exits
    if row.measure == "userland":
        return transcript.at(USERLAND_MARK) if transcript.has(USERLAND_MARK) else None
    if row.measure == "first":
        return transcript.at(image.FIRST_MARK) if transcript.has(image.FIRST_MARK) else None
    begin, end = f"bench {row.name} begin", f"bench {row.name} end "
    if not (transcript.has(begin) and transcript.has(end)):
        return None
    return transcript.at(end) - transcript.at(begin)


def clock_failure(transcript: console.Transcript) -> str | None:
    """Compare the guest's clock with the host's between the first and the last line of it."""
    mark = "bench clock "
    stamps = [(at, line) for at, line in transcript.lines if mark in line]
    if len(stamps) < 2:
        return None
    host = stamps[-1][0] - stamps[0][0]
    guest = float(stamps[-1][1].split()[-1]) - float(stamps[0][1].split()[-1])
    if abs(guest - host) <= CLOCK_ERROR * host + STAMP_SECONDS:
        return None
    return f"the guest's clock counted {guest:.3f} s where the host's counted {host:.3f} s"


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "processor": model,
        "count": os.cpu_count(),
        "release": os.uname().release,
        "load": round(os.getloadavg()[0], 1),
    }
