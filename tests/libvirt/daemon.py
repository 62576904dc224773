"""A libvirtishd for tests, the clients that speak to it, and the domains that it runs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from libvirtish.rpc.client import Connection
from tests.boot.terminal import Terminal
from vmmuser.assets import CLOUD

LIMIT_S = 30
BIN = Path(sys.executable).parent
PROMPT = b"(guest) / #"

DOMAIN = """\
<domain type='kvm'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>{memory}</memory>
  <os>
    <type arch='x86_64'>hvm</type>
    <kernel>{kernel}</kernel>
    <initrd>{initrd}</initrd>
    <cmdline>console=ttyS0</cmdline>
  </os>
  <devices><serial type='pty'/></devices>
</domain>
"""


def domain_xml(name: str, number: int = 1, memory: int = 128) -> str:
    """A small domain; the number makes its UUID."""
    return DOMAIN.format(
        name=name,
        uuid=f"00000000-0000-4000-8000-{number:012x}",
        memory=memory,
        kernel=CLOUD.kernel,
        initrd=CLOUD.initrd,
    )


def until(condition: Callable[[], object], what: str, limit_s: float = LIMIT_S) -> None:
    """Wait for a condition of another process."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit_s} s: {what}"
        time.sleep(0.01)


class Daemon:
    """A daemon with a directory of its own, which may be killed and started again."""

    def __init__(self, *options: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="kvmish-"))  # short: it holds a socket
        self.socket, self.state = self.directory / "sock", self.directory / "state"
        self.uri = f"qemu:///system?socket={self.socket}"
        self.options = options
        self.log: list[str] = []
        self.start()

    # -- its life -----------------------------------------------------------------------------

    def start(self) -> None:
        self.process = subprocess.Popen(
            [BIN / "libvirtishd", "--socket", self.socket, "--state", self.state, *self.options],
            stderr=subprocess.PIPE,
            text=True,
        )
        begun = len(self.log)
        self._reader = threading.Thread(target=self._read, args=(self.process,), daemon=True)
        self._reader.start()
        until(
            lambda: self.logged("listening", begun) or self.process.poll() is not None, "listening"
        )
        assert self.process.poll() is None, self.log

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            self.log.append(line.rstrip("\n"))

    def logged(self, text: str, since: int = 0) -> bool:
        return any(text in line for line in self.log[since:])

    def expect_log(self, text: str, since: int = 0) -> None:
        until(lambda: self.logged(text, since), f"{text!r} in the log")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(LIMIT_S)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(LIMIT_S)
        self._reader.join(LIMIT_S)
        return status

    def vmm_pid(self, name: str) -> int:
        return int((self.state / "run" / name / "process").read_text().split()[0])

    def close(self) -> None:
        """End it and every domain."""
        if self.process.poll() is None:
            self.stop()
        for path in self.state.glob("run/*/process"):
            pid = int(path.read_text().split()[0])
            if Path(f"/proc/{pid}/cmdline").exists():
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.directory)

    # -- its clients --------------------------------------------------------------------------

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(word) for word in command],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
            stdin=subprocess.DEVNULL,
            env=os.environ | {"LIBVIRT_DEFAULT_URI": self.uri, "LC_ALL": "C"},
        )

    def virsh(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return self.run("virsh", *words)

    def virtish(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return self.run(BIN / "virtish", *words)

    def ok(self, *words: str | Path) -> str:
        """The output of a virsh command that must succeed."""
        done = self.virsh(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout.rstrip("\n")

    def refused(self, *words: str | Path) -> str:
        """The errors of a virsh command that must fail."""
        done = self.virsh(*words)
        assert done.returncode == 1, done.stdout
        return done.stderr

    def console(self, name: str, *options: str, program: str = "virsh") -> Terminal:
        path = shutil.which(program) or BIN / program
        return Terminal(command=[str(path), "-c", self.uri, "console", name, *options])

    def connect(self) -> Connection:
        return Connection(str(self.socket), self.uri)

    def file(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.write_text(text)
        return path

    def define(self, name: str, number: int = 1) -> None:
        self.ok("define", self.file(f"{name}.xml", domain_xml(name, number)))
