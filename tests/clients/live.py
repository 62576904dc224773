"""A QEMU that lives longer than one run of the guest: console and monitor on sockets."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from qemu.qmp.legacy import QEMUMonitorProtocol

from tests.vmm.harness import PROMPT, Console
from vmmuser.assets import CLOUD

LIMIT_S = 90
_MONITOR = "-nodefaults -no-user-config -display none -no-reboot -S"


class Qemu:
    """One QEMU process with Debian's kernel and the initramfs' shell."""

    def __init__(
        self, directory: Path, prefix: list[str], machine: str, options: Sequence[str]
    ) -> None:
        qmp, serial = directory / "qmp", directory / "serial"
        self.monitor = QEMUMonitorProtocol(str(qmp), server=True)
        words = [*prefix, "qemu-system-x86_64", "-accel", "kvm", "-M", machine, *_MONITOR.split()]
        words += ["-m", "256", "-chardev", f"socket,id=c,path={serial},server=on,wait=off"]
        words += ["-serial", "chardev:c", "-qmp", f"unix:{qmp}"]
        words += ["-kernel", CLOUD.kernel, "-initrd", CLOUD.initrd, *options]
        self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL)
        try:
            self.monitor.accept(LIMIT_S)
            self.console = Console.unix(serial)
        except BaseException:
            self.process.kill()
            raise

    def ask(self, command: str, **arguments: Any) -> Any:
        """One command of the monitor. :raise ExecuteError: it was refused."""
        return self.monitor.cmd(command, **arguments)

    def say(self, command: str) -> str:
        """One command of the human monitor; what it printed."""
        return str(self.ask("human-monitor-command", **{"command-line": command}))

    def boot(self) -> None:
        """Let the guest run until its shell asks."""
        self.ask("cont")
        self.console.expect(PROMPT, LIMIT_S)

    def save(self, to: str) -> None:
        """Migrate to a URI; this QEMU is then over."""
        self.ask("migrate", uri=to)
        while (now := self.ask("query-migrate"))["status"] != "completed":
            assert now["status"] in ("setup", "active", "device"), now
        self.ask("quit")
        assert self.process.wait(LIMIT_S) == 0

    def power_off(self) -> None:
        """By the guest's own command."""
        self.console.type(b"poweroff -f\n")
        assert self.process.wait(LIMIT_S) == 0

    def close(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        self.process.wait()
        with suppress(Exception):  # what its reader thinks of the end
            self.monitor.close()


@contextmanager
def running(
    directory: Path, prefix: list[str], machine: str, *options: str, append: str = ""
) -> Iterator[Qemu]:
    """A QEMU that has not started its guest yet. prefix: what gives it /dev/kvm."""
    line = ("-append", f"console=ttyS0 quiet {append}".strip())
    one = Qemu(directory, prefix, machine, [*options, *line])
    try:
        yield one
    finally:
        one.close()
