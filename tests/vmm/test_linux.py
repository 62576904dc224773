"""Debian's kernel in a process of its own, by the real QMP clients."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
import time
import tty
from typing import Any

import pytest

from tests.vmm.conftest import Linux
from tests.vmm.harness import PROMPT, Console
from vmmuser.qmp.commands import COMMANDS
from vmmuser.qmp.types import check

pytestmark = pytest.mark.timeout(120)


def test_queries_return_what_they_declare(linux: Linux) -> None:
    names = [entry["name"] for entry in linux.vm.qmp.cmd("query-commands")]  # type: ignore[index]
    queries = [name for name in names if name.startswith("query-")]
    assert len(queries) >= 14
    for name in queries:
        if name != "query-qmp-schema":  # a union, which only its own test knows
            check(COMMANDS[name].returns, linux.vm.qmp.cmd(name))


def test_queries_tell_of_this_machine(linux: Linux) -> None:
    qmp: Any = linux.vm.qmp
    assert qmp.cmd("query-status") == {"running": True, "status": "running"}
    assert qmp.cmd("query-name") == {"name": "test"}
    assert qmp.cmd("query-kvm") == {"enabled": True, "present": True}
    cpus = qmp.cmd("query-cpus-fast")
    assert [cpu["cpu-index"] for cpu in cpus] == [0, 1]
    tasks = f"/proc/{linux.vm.process.pid}/task"
    for cpu in cpus:
        with open(f"{tasks}/{cpu['thread-id']}/comm", encoding="ascii") as comm:
            assert comm.read()
    serial, virtio = qmp.cmd("query-chardev")
    filename = f"unix:{linux.vm.serial_path},server=on"
    assert serial == {"label": "serial0", "filename": filename, "frontend-open": True}
    assert virtio["filename"].startswith("pty:/dev/pts/")
    (block,) = qmp.cmd("query-block")
    assert (block["device"], block["inserted"]["ro"]) == ("data", False)
    assert block["inserted"]["image"]["virtual-size"] == 6000 + (1 << 20)


def test_disk_and_its_counters(linux: Linux) -> None:
    before: Any = linux.vm.qmp.cmd("query-blockstats")
    assert linux.console.run("head -c 6 /dev/vda; echo; cat /sys/block/vda/serial") == "kvmish\nS1"
    linux.console.run("dd if=/dev/zero of=/dev/vda bs=4096 seek=100 count=10 2>/dev/null; sync")
    after: Any = linux.vm.qmp.cmd("query-blockstats")
    assert after[0]["stats"]["wr_bytes"] - before[0]["stats"]["wr_bytes"] >= 40960
    assert after[0]["stats"]["rd_operations"] > 0


def test_qmp_shell(linux: Linux) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "qemu.qmp.qmp_shell", str(linux.vm.qmp_path)],
        input="query-status\nstop\nquery-status\ncont\nno-such\nstop x=1\n",
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert "Connected to QEMU 0.1.0" in done.stdout
    assert '"status": "running"' in done.stdout
    assert '"status": "paused"' in done.stdout
    assert "The command no-such has not been found" in done.stdout
    assert "Parameter 'x' is unexpected" in done.stdout
    assert linux.vm.status() == "running"


def test_stop_stops_the_guest_and_its_clock(linux: Linux) -> None:
    qmp, console = linux.vm.qmp, linux.console
    assert console.run("cat /sys/devices/system/clocksource/clocksource0/current_clocksource") == (
        "kvm-clock"
    )
    before = float(console.run("cut -d ' ' -f 1 /proc/uptime"))
    began = time.monotonic()
    qmp.cmd("stop")
    linux.vm.event("STOP")
    assert linux.vm.status() == "paused"
    console.type(b"echo ho''la\n")
    with pytest.raises(asyncio.TimeoutError):
        qmp.pull_event(wait=1.5)
    with pytest.raises(AssertionError):
        console.expect(b"hola", 0.01)
    qmp.cmd("cont")
    linux.vm.event("RESUME")
    console.expect(b"hola")
    console.expect(PROMPT)
    after = float(console.run("cut -d ' ' -f 1 /proc/uptime"))
    passed = time.monotonic() - began
    assert passed > 1.5
    assert after - before < passed - 1.2
    assert "lockup" not in console.run("dmesg | tail -n 3")


def test_many_stops_lose_nothing(linux: Linux) -> None:
    console = linux.console
    console.type(b"for i in $(seq 300); do echo $i; done | md5sum; echo fin''ished\n")
    for _ in range(50):
        linux.vm.qmp.cmd("stop")
        linux.vm.qmp.cmd("cont")
    printed = console.expect(b"finished", 30)
    console.expect(PROMPT)
    expected = hashlib.md5("".join(f"{i}\n" for i in range(1, 301)).encode()).hexdigest()  # noqa: S324
    assert expected.encode() in printed


def test_virtio_console(linux: Linux) -> None:
    chardevs: Any = linux.vm.qmp.cmd("query-chardev")
    fd = os.open(chardevs[1]["filename"].removeprefix("pty:"), os.O_RDWR | os.O_NOCTTY)
    tty.setraw(fd)
    hvc = Console(fd)
    linux.console.run("echo to the host >/dev/hvc0")
    hvc.expect(b"to the host\r\n")
    linux.console.type(b"read line </dev/hvc0; echo got $line\n")
    linux.console.expect(b"got $line\r\n")
    hvc.type(b"from the host\n")
    linux.console.expect(b"got from the host\r\n")
    linux.console.expect(PROMPT)
    hvc.close()


def test_console_survives_its_readers(linux: Linux) -> None:
    linux.console.type(b"echo gone; usleep 300000; echo still''here\n")
    linux.console.expect(b"gone\r\n")
    for number in range(3):
        linux.console.close()
        linux.console = Console.unix(linux.vm.serial_path)
        if number == 0:
            linux.console.expect(b"stillhere")
            linux.console.expect(PROMPT)
        assert linux.console.run(f"echo reader {number}") == f"reader {number}"


def test_output_without_a_reader_does_not_hold_the_guest(linux: Linux) -> None:
    linux.console.type(b"seq 30000; echo e''nd >/tmp/end\n")
    linux.console.expect(b"100\r\n")
    linux.console.close()
    linux.console = Console.unix(linux.vm.serial_path)
    linux.console.expect(b"30000\r\n")
    linux.console.expect(PROMPT)
    assert linux.console.run("cat /tmp/end") == "end"
    assert len(linux.console.text) < 300_000


def test_reboot_by_the_guest(linux: Linux) -> None:
    linux.console.type(b"reboot -f\n")
    assert linux.vm.event("RESET") == {"guest": True, "reason": "guest-reset"}
    linux.console.expect(b"kvmish: userland")
    linux.console.expect(PROMPT)
    assert linux.console.run("nproc") == "2"
    assert linux.vm.status() == "running"


def test_panic_is_told_and_reset_helps(linux: Linux) -> None:
    linux.console.type(b"echo c >/proc/sysrq-trigger\n")
    assert linux.vm.event("GUEST_PANICKED") == {"action": "pause"}
    linux.vm.event("STOP")
    assert linux.vm.status() == "guest-panicked"
    linux.console.expect(b"Kernel panic")
    linux.vm.qmp.cmd("system_reset")
    assert linux.vm.event("RESET") == {"guest": False, "reason": "host-qmp-system-reset"}
    assert linux.vm.status() == "prelaunch"
    linux.vm.qmp.cmd("cont")
    linux.console.expect(PROMPT)
    assert linux.console.run("nproc") == "2"


def test_power_button(linux: Linux) -> None:
    linux.console.run("true")
    linux.vm.qmp.cmd("system_powerdown")
    linux.vm.event("POWERDOWN")
    assert linux.vm.event("SHUTDOWN") == {"guest": True, "reason": "guest-shutdown"}
    assert linux.vm.wait() == 0
    assert linux.vm.leftovers() == {"disk.img"}
