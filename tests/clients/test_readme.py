"""What the README says under "Run your QEMU on it", pasted into a shell."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable

import pytest

from tests.boot.terminal import ROOT, Terminal

LIMIT_S = 120

pytestmark = pytest.mark.timeout(LIMIT_S + 60)


def test_run_your_qemu_on_it(need: Callable[[object, str], None]) -> None:
    need(shutil.which("qemu-system-x86_64"), "qemu-system-x86")
    section = (ROOT / "README.md").read_text().split("## Run your QEMU on it\n")[1]
    lines = re.findall(r"^    (.*)$", section.split("\n## ")[0], re.MULTILINE)
    assert len(lines) == 3
    assert lines[0] == "make build assets"  # it was, before any test
    terminal = Terminal(command=["/bin/sh", "-ec", "\n".join(lines[1:])])
    terminal.expect(b"(guest) / # ", LIMIT_S)
    terminal.type(b"dmesg | grep -o 'Hypervisor detected.*'\r")
    terminal.expect(b"\nHypervisor detected: KVM", LIMIT_S)
    terminal.type(b"\x01x")
    assert terminal.wait(LIMIT_S) == 0
