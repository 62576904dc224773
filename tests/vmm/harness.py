"""Starts `kvmish vm`, with the real QMP client of qemu.qmp at its monitor."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qemu.qmp.legacy import QEMUMonitorProtocol

from kvm_core import engines

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 60
# Others may be named for a try by hand; the suite itself uses these.
DOOR = os.environ.get("KVMISH_TEST_DOOR", "direct")
ENGINE = os.environ.get("KVMISH_TEST_ENGINE", engines.ENGINES[0])
PROMPT = b"(guest) / # "
RUN = "import sys; from kvmish.start import main; sys.exit(main())"


class Console:
    """A reader of a console: a socket, or any descriptor."""

    def __init__(self, end: socket.socket | int) -> None:
        self._end = end
        self._fd = end if isinstance(end, int) else end.fileno()
        self.text, self._seen = b"", 0

    @classmethod
    def unix(cls, path: str | Path) -> Console:
        end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        end.connect(str(path))
        return cls(end)

    def expect(self, text: bytes, limit_s: float = LIMIT_S) -> bytes:
        """Read until the text comes; what came before it, since the last time."""
        deadline = time.monotonic() + limit_s
        while (at := self.text.find(text, self._seen)) < 0:
            left = deadline - time.monotonic()
            assert left > 0, f"no {text!r} in {self.text[self._seen :]!r}"
            if select.select([self._fd], [], [], left)[0]:
                data = os.read(self._fd, 65536)
                assert data, f"the console closed before {text!r}: {self.text[self._seen :]!r}"
                self.text += data
        before, self._seen = self.text[self._seen : at], at + len(text)
        return before

    def type(self, text: bytes) -> None:
        os.write(self._fd, text)

    def run(self, command: str) -> str:
        """Have the guest's shell run a command; what it printed."""
        self.type(f"{command}; echo done\n".encode())
        self.expect(b"echo done\r\n")
        printed = self.expect(b"done\r\n")
        self.expect(PROMPT)
        return printed.decode().replace("\r", "").strip()

    def close(self) -> None:
        if isinstance(self._end, int):
            os.close(self._end)
        else:
            self._end.close()


class Vm:
    """One process. Its directory has vm.json, qmp, serial (a unix socket) and err."""

    def __init__(self, directory: Path, **fields: Any) -> None:
        self.directory = directory
        self.qmp_path, self.serial_path = directory / "qmp", directory / "serial"
        self.description: dict[str, Any] = {
            "name": "test",
            "memory_mib": 128,
            "kvm": DOOR,
            "engine": ENGINE,
            "consoles": [{"device": "serial", "backend": "unix", "path": "serial"}],
        } | fields
        self._monitor: QEMUMonitorProtocol | None = None
        (directory / "vm.json").write_text(json.dumps(self.description))
        self._errors = (directory / "err").open("wb+")
        self.process = subprocess.Popen(
            self.command(), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=self._errors,
            stderr=self._errors, start_new_session=True,
        )  # fmt: skip

    def command(self) -> list[str]:
        config = str(self.directory / "vm.json")
        return [sys.executable, "-c", RUN, "vm", "--config", config, "--qmp", str(self.qmp_path)]

    @property
    def errors(self) -> str:
        return (self.directory / "err").read_text(errors="replace")

    def wait_for_socket(self) -> None:
        """Wait until the monitor greets: by then all else is there, too."""
        deadline = time.monotonic() + LIMIT_S
        while True:
            with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
                probe.settimeout(LIMIT_S)
                probe.connect(str(self.qmp_path))  # listens before the machine is there
                if probe.recv(1):
                    return
            assert self.process.poll() is None, self.errors
            assert time.monotonic() < deadline, self.errors
            select.select([], [], [], 0.01)

    @contextlib.contextmanager
    def monitor(self) -> Iterator[QEMUMonitorProtocol]:
        """A client of one's own."""
        self.wait_for_socket()
        client = QEMUMonitorProtocol(str(self.qmp_path))
        client.settimeout(LIMIT_S)
        client.connect()
        try:
            yield client
        finally:
            with contextlib.suppress(Exception):
                client.close()

    @property
    def qmp(self) -> QEMUMonitorProtocol:
        """The client that the test has by default."""
        if self._monitor is None:
            self.wait_for_socket()
            self._monitor = QEMUMonitorProtocol(str(self.qmp_path))
            self._monitor.settimeout(LIMIT_S)
            self._monitor.connect()
        return self._monitor

    def event(self, name: str, limit_s: float = LIMIT_S) -> dict[str, Any]:
        """Wait for an event, whatever comes before it; its data."""
        deadline = time.monotonic() + limit_s
        while True:
            event = self.qmp.pull_event(wait=max(deadline - time.monotonic(), 0.001))
            assert event is not None
            if event["event"] == name:
                return dict(event.get("data", {}))

    def status(self) -> str:
        return str(self.qmp.cmd("query-status")["status"])

    def wait(self, limit_s: float = LIMIT_S) -> int:
        return self.process.wait(limit_s)

    def leftovers(self) -> set[str]:
        """What is in the directory that was not there before."""
        return {path.name for path in self.directory.iterdir()} - {"vm.json", "err", "kernel"}

    def close(self) -> None:
        if self._monitor is not None:
            with contextlib.suppress(Exception):
                self._monitor.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._errors.close()
