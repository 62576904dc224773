"""The QEMU machines that tests and benchmarks boot; the same words for TCG and for our KVM."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from vmmuser.assets import CLOUD, Flavour

KVMISH = Path(sys.prefix) / "bin" / "kvmish"

# No defaults, no display, no network: a processor, a chipset and a serial port.
COMMON = "-nodefaults -no-user-config -display none -serial stdio -no-reboot"


@cache
def version() -> int:
    """QEMU's major version, 0 if there is none."""
    if not shutil.which("qemu-system-x86_64"):
        return 0
    told = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, check=True)
    found = re.search(rb"version (\d+)", told.stdout)
    return int(found.group(1)) if found else 0


def has_userspace_apic() -> bool:
    """Whether it runs KVM with kernel-irqchip=off: since 8.0 it refuses."""
    return version() < 8


@dataclass(frozen=True)
class Machine:
    """One QEMU machine with Debian's kernel in it; accel is "tcg" or "kvmish"."""

    accel: str = "tcg"
    machine: str = "pc"
    cpu: str = ""  # QEMU's default
    smp: int = 1
    memory_mb: int = 256
    flavour: Flavour = CLOUD
    append: str = "console=ttyS0 kvmish.selfcheck"
    extra: tuple[str, ...] = ()
    door: tuple[str, ...] = ()  # options of kvmish exec

    def with_accel(self, accel: str) -> Machine:
        """Return the same machine under another accelerator."""
        return replace(self, accel=accel)

    @property
    def name(self) -> str:
        """A short name for reports."""
        return f"{self.machine.partition(',')[0]}-smp{self.smp}-{self.flavour.name}"

    def command(self) -> list[str]:
        """Return the whole command line."""
        accel = "kvm" if self.accel == "kvmish" else "tcg"
        words = ["qemu-system-x86_64", "-accel", accel, "-M", self.machine, *COMMON.split()]
        words += ["-m", str(self.memory_mb), "-smp", str(self.smp), *self.extra]
        words += ["-cpu", self.cpu] if self.cpu else []
        words += ["-kernel", self.flavour.kernel, "-initrd", self.flavour.initrd]
        words += ["-append", self.append]
        return [str(KVMISH), "exec", *self.door, "--", *words] if self.accel == "kvmish" else words
