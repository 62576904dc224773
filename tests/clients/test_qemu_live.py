"""What people do to a running QEMU: migrate it, save and load it, debug it, serve it files."""

from __future__ import annotations

import hashlib
import http.server
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests import qemu
from tests.clients.live import LIMIT_S, Qemu, running
from tests.vmm.harness import PROMPT, Console

pytestmark = pytest.mark.timeout(4 * LIMIT_S)

Need = Callable[[object, str], None]

# One with all of the interrupt controllers in KVM, one with half, one with none.
QUICK = [("q35", "-cpu", "host", "-smp", "2"), ("pc,kernel-irqchip=off",)]
LONG = [
    ("pc", "-cpu", "max"),
    ("pc", "-cpu", "host", "-smp", "4"),
    ("pc,kernel-irqchip=split", "-cpu", "host", "-smp", "2"),
    ("q35,kernel-irqchip=split", "-cpu", "max", "-smp", "4"),
]


def _id(machine: tuple[str, ...]) -> str:
    return " ".join(machine)


@pytest.fixture(autouse=True)
def _qemu_is_here(need: Need) -> None:
    need(shutil.which("qemu-system-x86_64"), "qemu-system-x86")


def _uptime(guest: Qemu) -> float:
    return float(guest.console.run("cat /proc/uptime").split()[0])


def _leave_something(guest: Qemu) -> None:
    """In a variable of the shell, in a file, and in a process that goes on."""
    guest.console.run("secret=4711; echo $((secret * 2)) >/tmp/file")
    guest.console.run("{ cat </dev/zero >/dev/null & }")


def _find_it(guest: Qemu) -> None:
    guest.console.type(b"\n")
    guest.console.expect(PROMPT)
    assert guest.console.run("echo $secret; cat /tmp/file") == "4711\n9422"
    assert guest.console.run("ls -d /proc/$!") != ""
    assert guest.console.run("kill $!; dmesg -r | grep '^<[0-3]>'") == ""


def _migrates(tmp_path: Path, prefix: list[str], machine: tuple[str, ...]) -> None:
    if "kernel-irqchip=off" in machine[0] and not qemu.has_userspace_apic():
        pytest.skip("this QEMU has no APIC of its own for KVM")
    image = tmp_path / "state"
    with running(tmp_path, prefix, *machine) as source:
        source.boot()
        _leave_something(source)
        before = _uptime(source)
        source.save(f"exec:cat >{image}")
    assert image.stat().st_size > 1 << 20
    with running(tmp_path, prefix, *machine, "-incoming", f"exec:cat {image}") as target:
        while target.ask("query-status")["status"] == "inmigrate":
            pass
        target.ask("cont")
        _find_it(target)
        assert before <= _uptime(target) < before + LIMIT_S
        target.power_off()


@pytest.mark.parametrize("machine", QUICK, ids=_id)
def test_migrates_to_a_file_and_back(
    tmp_path: Path, prefix: list[str], machine: tuple[str, ...]
) -> None:
    _migrates(tmp_path, prefix, machine)


@pytest.mark.full
@pytest.mark.parametrize("machine", LONG, ids=_id)
def test_more_machines_migrate(tmp_path: Path, prefix: list[str], machine: tuple[str, ...]) -> None:
    _migrates(tmp_path, prefix, machine)


def test_a_snapshot_is_taken_and_loaded(tmp_path: Path, prefix: list[str], need: Need) -> None:
    """savevm, loadvm: in the same QEMU, twice, and in another one."""
    need(shutil.which("qemu-img"), "qemu-utils")
    disk = tmp_path / "disk.qcow2"
    create = ["qemu-img", "create", "-q", "-f", "qcow2", str(disk), "64M"]
    subprocess.run(create, check=True)
    machine = ("pc", "-cpu", "host", "-smp", "2", "-drive", f"file={disk},if=virtio")
    with running(tmp_path, prefix, *machine) as guest:
        guest.boot()
        _leave_something(guest)
        guest.console.run("echo before >/dev/vda; sync")
        assert guest.say("savevm one") == ""
        for _ in range(2):
            assert guest.console.run("secret=0; echo later! >/dev/vda; sync; rm /tmp/file") == ""
            assert guest.say("loadvm one") == ""
            guest.console.type(b"\n")
            guest.console.expect(PROMPT)
            assert guest.console.run("echo $secret; head -n 1 /dev/vda") == "4711\nbefore"
        guest.ask("quit")
        assert guest.process.wait(LIMIT_S) == 0
    with running(tmp_path, prefix, *machine, "-loadvm", "one") as guest:
        guest.ask("cont")
        _find_it(guest)
        guest.power_off()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


def _fetches_a_file(guest: Qemu, directory: Path) -> None:
    """By QEMU's user networking, over virtio-net."""
    content = os.urandom(4 << 20)
    (directory / "file").write_bytes(content)
    handler = partial(_Quiet, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        guest.console.run("ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0")
        url = f"http://10.0.2.2:{server.server_port}/file"
        digest = guest.console.run(f"wget -q -O - {url} | sha256sum").split()[0]
        server.shutdown()
    assert digest == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("machine", ["pc", "microvm,acpi=on"])
def test_the_guest_fetches_a_file_from_the_host(
    tmp_path: Path, prefix: list[str], machine: str
) -> None:
    card = "virtio-net-pci" if machine == "pc" else "virtio-net-device"
    network = ("-netdev", "user,id=n", "-device", f"{card},netdev=n")
    with running(tmp_path, prefix, machine, "-cpu", "host", *network) as guest:
        guest.boot()
        _fetches_a_file(guest, tmp_path)
        guest.power_off()


class _Gdb:
    """gdb, driven line by line."""

    def __init__(self, *options: str) -> None:
        command = ["gdb", "-nx", "-q", "-ex", "set pagination off", *options]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert self.process.stdout is not None
        self._out = Console(self.process.stdout.fileno())

    def start(self, command: str) -> None:
        """A command that answers later: see stopped()."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n".encode())
        self.process.stdin.flush()

    def do(self, *commands: str) -> str:
        """Run commands; what they printed."""
        for command in (*commands, "echo done.\\n"):
            self.start(command)
        return self._out.expect(b"done.\n", LIMIT_S).decode()

    def value(self, expression: str) -> int:
        return int(self.do(f'printf "%lu=\\n", {expression}').rpartition("=")[0].split()[-1])


def _steps(gdb: _Gdb) -> None:
    """Where an instruction does not branch, a step ends where gdb says that the next one begins."""
    compared = 0
    for _ in range(8):
        listing = gdb.do("x/2i $pc")
        here, following = (int(at, 16) for at in re.findall("(0x[0-9a-f]+):", listing))
        assert here == gdb.value("$pc")
        gdb.do("stepi")
        if not re.search(r"\t(call|j|ret)", listing.splitlines()[0]):
            assert gdb.value("$pc") == following
            compared += 1
    assert compared


# One with break points by INT3 in guest memory and one by the debug registers.
@pytest.mark.parametrize("kind", ["break", "hbreak"])
def test_gdb_on_a_booted_kernel(tmp_path: Path, prefix: list[str], need: Need, kind: str) -> None:
    need(shutil.which("gdb"), "gdb")
    stub = tmp_path / "gdb"
    options = ("-cpu", "host", "-chardev", f"socket,id=g,path={stub},server=on,wait=off")
    with running(tmp_path, prefix, "pc", *options, "-gdb", "chardev:g", append="nokaslr") as guest:
        guest.boot()
        symbols = guest.console.run("grep -E ' (__x64_sys_sysinfo|jiffies)$' /proc/kallsyms")
        address = {name: int(at, 16) for at, _, name in map(str.split, symbols.splitlines())}
        gdb = _Gdb("-ex", "set architecture i386:x86-64", "-ex", f"target remote {stub}")
        where = address["__x64_sys_sysinfo"]
        first = gdb.value(f"*(unsigned long *){address['jiffies']}")
        gdb.do(f"{kind} *{where}")
        gdb.start("continue")
        guest.console.type(b"free >/tmp/free; echo $?\n")  # calls sysinfo(2)
        assert gdb.value("$pc") == where
        assert gdb.value("$cs & 3") == 0
        assert gdb.value(f"*(unsigned long *){address['jiffies']}") > first
        _steps(gdb)
        stop = gdb.do("delete", f"watch *(unsigned long *){address['jiffies']}", "continue")
        assert "New value" in stop
        gdb.do("delete")
        gdb.start("detach")
        gdb.start("quit")
        assert gdb.process.wait(LIMIT_S) == 0
        guest.console.expect(PROMPT)
        assert "Mem:" in guest.console.run("cat /tmp/free")
        guest.power_off()
