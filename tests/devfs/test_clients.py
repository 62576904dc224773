"""Programs that know only /dev/kvm, on the device file: C, Python, the contract, our monitor."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kvm_core import engines
from tests.devfs.broker import KVMISH, Broker, broker
from tests.devfs.place import at_the_usual_place

ROOT = Path(__file__).resolve().parents[2]
SCENARIOS = [
    "slots", "memory", "aliases", "holes", "later", "clocks", "vdso", "signals", "eventfds",
    "forked", "threads", "crowd", "exits", "kicks", "full-table", "no-files", "hostile", "int80",
    "executed", pytest.param("late", marks=pytest.mark.full),
]  # fmt: skip
KINDS = ["dynamic", pytest.param("32-bit", marks=pytest.mark.full)]

# What a Python program would write, in full.
PYTHON = """
import ctypes, fcntl, mmap, os, struct, sys
kvm = os.open(sys.argv[1], os.O_RDWR | os.O_CLOEXEC)
assert fcntl.ioctl(kvm, 0xAE00, 0) == 12
vm = fcntl.ioctl(kvm, 0xAE01, 0)
assert fcntl.ioctl(vm, 0xAE03, 9) == fcntl.ioctl(kvm, 0xAE03, 9) == os.cpu_count()  # NR_VCPUS
memory = mmap.mmap(-1, 0x10000, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory[0x1000:0x1006] = bytes.fromhex("b02a e610 f4 90")  # mov al, 42; out 0x10, al; hlt
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
fcntl.ioctl(vm, 0x4020AE46, struct.pack("=IIQQQ", 0, 0, 0, 0x10000, address))
vcpu = fcntl.ioctl(vm, 0xAE41, 0)
assert len({kvm, vm, vcpu}) == 3
run = mmap.mmap(vcpu, fcntl.ioctl(kvm, 0xAE04, 0))
sregs = bytearray(312)
fcntl.ioctl(vcpu, 0x8138AE83, sregs)
sregs[0:8] = bytes(8)  # cs.base
sregs[12:14] = bytes(2)  # cs.selector
fcntl.ioctl(vcpu, 0x4138AE84, bytes(sregs))
fcntl.ioctl(vcpu, 0x4090AE82, struct.pack("<18Q", *[0] * 16, 0x1000, 2))
fcntl.ioctl(vcpu, 0xAE80, 0)
(offset,) = struct.unpack_from("<Q", run, 40)
assert struct.unpack_from("<I", run, 8) == (2,) and run[offset] == 42  # KVM_EXIT_IO
fcntl.ioctl(vcpu, 0xAE80, 0)
assert struct.unpack_from("<I", run, 8) == (5,)  # KVM_EXIT_HLT
print("ok")
"""


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_c_program(
    device: Broker, compiled: Callable[[str], Path], kind: str, scenario: str
) -> None:
    def few_descriptors() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))

    done = subprocess.run(
        [str(compiled(kind)), str(device.file), scenario],
        capture_output=True, text=True, check=False, timeout=60, preexec_fn=few_descriptors,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")


def test_the_other_engine(may_mount: None, client: Path, tmp_path: Path) -> None:
    """Not the default one, under the same confinement: programs, and Linux in a few seconds."""
    with broker(tmp_path / "dev", "--engine", engines.ENGINES[1]) as one:
        for scenario in ("slots", "signals", "crowd"):
            command = [str(client), str(one.file), scenario]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
            assert (done.stdout, done.stderr) == ("ok\n", ""), scenario
        _boots(one)


def test_a_client_s_stack_is_its_own(device: Broker, c_program: Callable[[str], Path]) -> None:
    command = [c_program("devfs/stacks.c"), device.file]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_what_comes_with_a_call(c_program: Callable[[str], Path]) -> None:
    """Is read from there, and the rest in the client."""
    program = c_program("devfs/payload.c")
    done = subprocess.run([program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_thread_that_still_holds(may_mount: None, c_program: Callable[[str], Path]) -> None:
    """Another one of ours lets go a moment after it was joined."""
    program = c_program("devfs/holder.c")
    done = subprocess.run([program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_file_that_takes_another_s_place(c_program: Callable[[str], Path]) -> None:
    """It was opened for writing, whatever it was, by the hand, which may open all files."""
    program = c_program("devfs/mapped.c")
    done = subprocess.run([program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_filter_of_system_calls_stays(may_mount: None, c_program: Callable[[str], Path]) -> None:
    """Of a thread that is held, which may make calls before it stops."""
    program = c_program("devfs/filtered.c")
    done = subprocess.run([program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_python_program(device: Broker) -> None:
    command = [sys.executable, "-c", PYTHON, str(device.file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")


CONTRACT = ["tests/abi/test_contract.py", "tests/abi/test_contract_rare.py", "-k", "/dev/kvm"]
OBJECTS = ["tests/unit/test_doors.py"]


NOWHERE_YET = """
import os, sys
from pathlib import Path
from devfs import place
place._DEVICE = Path("/dev/kvm-that-is-not-there")
place.put_in_place(Path(sys.argv[1]))
assert Path("/dev/null").is_char_device() and Path("/dev/.host/null").exists()
os.execv(sys.argv[2], [sys.argv[2], str(place._DEVICE), "slots"])
"""


def test_a_place_where_there_was_none(device: Broker, client: Path) -> None:
    """On a host without /dev/kvm; nothing of it is left there."""
    command = [sys.executable, "-c", NOWHERE_YET, str(device.directory), str(client)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")
    assert not Path("/dev/.host").exists()


@pytest.mark.parametrize("arguments", [CONTRACT, OBJECTS], ids=["contract", "objects"])
def test_the_contract_at_the_usual_place(device: Broker, arguments: list[str]) -> None:
    """In a mount namespace where /dev/kvm is ours."""
    command = at_the_usual_place(device.file)
    command += [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    environment = {**os.environ, "KVMISH_TEST_DOOR": "/dev/kvm", "KVMISH_TEST_FUSE": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


def _boots(device: Broker, *options: str) -> None:
    command = [str(KVMISH), "boot", "--kvm", str(device.file), "-m", "256", *options]
    done = subprocess.run(
        [*command, "--append", "kvmish.selfcheck"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert "selfcheck ok" in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.returncode == 0


def test_our_monitor_boots_linux(device: Broker) -> None:
    _boots(device, "--smp", "2")
