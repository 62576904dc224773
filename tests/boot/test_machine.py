"""Whole machines with guests of a few instructions, through the command line; no kernel needed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import pytest

from tests.boot import guests
from tests.boot.tiny import kernel, pvh_kernel

ROOT = Path(__file__).resolve().parent.parent.parent
# Another device may be named for a try by hand; the suite itself uses the door in the process.
DOOR = os.environ.get("KVMISH_TEST_DOOR", "direct")
LIMIT_S = 60
Done = subprocess.CompletedProcess[str]


@pytest.fixture(autouse=True)
def _core(need: Callable[[bool, str], None]) -> None:
    need(DOOR != "direct" or find_spec("kvm_core._kvm") is not None, "the core (make ext)")


def run(command: list[str], stdout: int | IO[bytes] = subprocess.PIPE) -> Done:
    return subprocess.run(
        command,
        cwd=ROOT, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE,
        text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip


class Boot:
    """Runs `kvmish boot` on a guest of ours, without a terminal."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.report_file = directory / "report.json"

    def command(self, body: str, *options: str) -> list[str]:
        image = self.directory / "kernel"
        image.write_bytes(kernel(body))
        run = "import sys; from kvmish.start import main; sys.exit(main())"
        base = [sys.executable, "-c", run, "boot", "--kvm", DOOR, "--kernel", str(image)]
        return [*base, "--report", str(self.report_file), *options]

    def __call__(self, body: str, *options: str) -> tuple[Done, dict[str, Any]]:
        done = run(self.command(body, *options))
        text = self.report_file.read_text() if self.report_file.exists() else ""
        return done, json.loads(text or "{}")


@pytest.fixture
def boot(tmp_path: Path) -> Boot:
    return Boot(tmp_path)


def test_hello_and_power_off(boot: Boot) -> None:
    done, report = boot('say "hello\\n"\n jmp off')
    assert done.returncode == 0, done.stderr
    assert done.stdout == "hello\n"
    assert "the guest powered off" in done.stderr
    assert (report["outcome"], report["door"]) == ("off", DOOR)
    assert 0 < report["seconds_to_first_instruction"] <= report["seconds_to_kernel"]
    assert report["seconds_to_userland"] is None


def test_pvh_entry(boot: Boot) -> None:
    image = boot.directory / "pvh"
    image.write_bytes(pvh_kernel())
    done, _ = boot("jmp off", "--kernel", str(image), "--append", "from the command line")
    assert done.returncode == 0, done.stderr
    assert "from the command line" in done.stdout


def test_output_is_coalesced(boot: Boot) -> None:
    """Neither the data port nor the polled status costs an exit to Python."""
    done, report = boot(guests.FLOOD % {"count": 5000})
    assert done.stdout == "x" * 5000
    assert report["ports"].get("0x3f8", 0) <= 100
    assert report["ports"].get("0x3fd", 0) <= 100


def test_last_words_of_a_guest_that_never_exits_again(boot: Boot) -> None:
    """A prompt is short of a line, and behind it the guest waits for a key that it polls for."""
    command = boot.command(guests.PROMPT)
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as p:
        assert p.stdout is not None
        assert p.stdout.read(len("prompt> ")) == b"prompt> "
        p.terminate()


def test_driver_that_sleeps_until_the_transmitter_is_empty(boot: Boot) -> None:
    """Held-back characters must not keep the THRE interrupt back."""
    done, _ = boot(guests.THRE_DRIVER)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "abcdefgh" * 8 + "done\n"


def test_triple_fault(boot: Boot) -> None:
    done, report = boot(guests.TRIPLE_FAULT)
    assert done.returncode == 1
    assert "triple fault" in done.stderr
    assert report["outcome"] == "crash"


@pytest.mark.parametrize("how", ["keyboard", "register"])
def test_reset_without_a_terminal_ends(boot: Boot, how: str) -> None:
    done, report = boot(guests.RESET[how])
    assert done.returncode == 1
    assert report["outcome"] == "reset"


@pytest.mark.parametrize("place", ["nothing", "device"])
def test_jump_out_of_memory_ends_the_machine(boot: Boot, place: str) -> None:
    done, report = boot(guests.JUMP[place])
    assert done.returncode == 1
    assert report["outcome"] in ("crash", "error")
    assert "Traceback" not in done.stderr


def test_accesses_to_nothing_go_on(boot: Boot) -> None:
    done, _ = boot(guests.NOTHING_THERE)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "ffffffffffffffff\n" * 2


def test_stores_to_nothing_go_on(boot: Boot) -> None:
    """This board has no ROM: what a PC has there is absent, and a store goes nowhere."""
    done, report = boot(guests.STORES_TO_NOTHING, "-m", "64")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [f"{n:016x}" for n in (0, 0xFFFFFFFFFF667788, 0x667788)]
    assert report["outcome"] == "off"
    assert "Traceback" not in done.stderr


def test_stores_to_read_only_registers_go_on(boot: Boot) -> None:
    done, _ = boot(guests.STORES_TO_READ_ONLY_REGISTERS)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{0x74726976:016x}\n"


@pytest.mark.parametrize("how", [(), ("--lockstep",)], ids=["alone", "lockstep"])
def test_device_writes_where_the_guest_writes(boot: Boot, how: tuple[str, ...]) -> None:
    """Lockstep puts back what a stretch wrote: what a device wrote beside it must not be lost."""
    if how and DOOR != "direct":
        pytest.skip("lockstep is the core's, in this process")
    done, _ = boot(guests.SHARED_PAGE % {"count": 200}, *how)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{200:016x}\n"


def test_hostile_queue_needs_a_reset(boot: Boot) -> None:
    done, _ = boot(guests.HOSTILE_QUEUE)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "000000000000004f\n"
    assert done.stderr.count("needs a reset") == 1


@pytest.mark.parametrize("count", [2, 4])
def test_every_processor_starts(boot: Boot, count: int) -> None:
    done, _ = boot(guests.START_PROCESSORS % {"count": count}, "--smp", str(count))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{count - 1:016x}\n"


def test_clock_shows_the_hosts_date(boot: Boot) -> None:
    before = int(time.strftime("%Y%m%d%H%M", time.gmtime()))
    done, _ = boot(guests.DATE)
    after = int(time.strftime("%Y%m%d%H%M", time.gmtime()))
    assert before <= int(done.stdout) <= after


def test_memory_beyond_four_gigabytes(boot: Boot) -> None:
    done, _ = boot(guests.HIGH_MEMORY, "-m", "4G")
    assert done.stdout == "1122334455667788\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_end_it(boot: Boot, number: signal.Signals) -> None:
    with subprocess.Popen(
        boot.command('say "up\\n"\n 5: jmp 5b'),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.send_signal(number)
        assert process.wait(LIMIT_S) == 128 + number
    assert json.loads(boot.report_file.read_text())["outcome"] == "quit"


def test_reader_that_goes_away(boot: Boot) -> None:
    with subprocess.Popen(
        boot.command(guests.FLOOD % {"count": 3000}),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(LIMIT_S) == 0


@pytest.mark.parametrize(
    ("closed", "shown"),
    [("<&-", "up\n"), (">&-", ""), ("2>&-", "up\n"), ("<&- >&- 2>&-", "")],
)
def test_standard_files_that_are_closed(boot: Boot, closed: str, shown: str) -> None:
    command = boot.command('say "up\\n"\n jmp off')
    done = run(["sh", "-c", f'exec "$@" {closed}', "sh", *command])
    assert done.returncode == 0, done.stderr
    assert done.stdout == shown


def test_full_disk_under_the_console(boot: Boot) -> None:
    """The guest goes on, and a line says that its words are lost."""
    with open("/dev/full", "wb") as full:
        done = run(boot.command('say "up\\n"\n jmp off'), full)
    assert done.returncode == 0
    assert done.stderr.count("standard output: No space left on device") == 1


def test_full_disk_under_the_report(boot: Boot) -> None:
    done, _ = boot("jmp off", "--report", "/dev/full")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("kvmish: --report /dev/full: No space left")


def test_command_line_that_is_no_utf8(boot: Boot) -> None:
    """The kernel gets its bytes as they are. boot_params.cmd_line_ptr: 0x228."""
    body = """
    mov esi, [r15 + 0x228]
5:  lodsb
    test al, al
    jz off
    call putc
    jmp 5b
    """
    command = [word.encode() for word in boot.command(body)]
    done = subprocess.run(
        [*command, b"--append", b"a=\xff\xfe"],
        cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(b" a=\xff\xfe")


def test_reader_that_does_not_read(boot: Boot) -> None:
    """The guest waits, the monitor does not grow, and a signal still ends it."""
    with subprocess.Popen(
        boot.command(guests.FLOOD % {"count": 100_000_000}),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"x"
        before = resident_kib(process.pid)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        assert resident_kib(process.pid) - before < 20_000
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT_S) == 128 + signal.SIGTERM


def test_flood_of_exits_does_not_grow(boot: Boot) -> None:
    with subprocess.Popen(
        boot.command(guests.FLOOD_OF_EXITS),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"up\n"
        before = resident_kib(process.pid)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2)
        assert resident_kib(process.pid) - before < 5_000
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT_S) == 128 + signal.SIGTERM
        assert len(process.stderr.read()) < 4096
    assert sum(json.loads(boot.report_file.read_text())["exits"].values()) > 1000


def resident_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0])


def test_instructions_are_counted(boot: Boot) -> None:
    done, report = boot("mov ecx, 1000000\n 5: dec ecx\n jnz 5b\n jmp off")
    assert done.returncode == 0
    if report["engine"] in ("translate", "emulate"):
        assert 2_000_000 <= report["instructions"] < 2_010_000
        assert report["mips"] > 0
