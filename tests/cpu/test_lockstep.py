"""A whole Linux boot with the interpreter's fast path in lockstep with its careful path."""

from __future__ import annotations

import subprocess
import threading

import pytest

from tests.conftest import ROOT


@pytest.mark.full
def test_boot_in_lockstep_to_userland() -> None:
    # Further on virtio devices write memory beside the processor, which disturbs lockstep.
    boot = subprocess.Popen(
        [ROOT / ".venv/bin/kvmish", "boot", "--lockstep", "-m", "256"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    alarm = threading.Timer(900, boot.kill)
    alarm.start()
    seen: list[str] = []
    assert boot.stdout is not None
    for line in boot.stdout:
        seen.append(line)
        if "Run /init as init process" in line:
            break
    boot.kill()
    boot.communicate()
    alarm.cancel()
    assert "Run /init as init process" in seen[-1], "".join(seen[-40:])


def test_lockstep_is_for_one_processor() -> None:
    done = subprocess.run(
        [ROOT / ".venv/bin/kvmish", "boot", "--lockstep", "--smp", "2"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert "--smp 1" in done.stdout + done.stderr
