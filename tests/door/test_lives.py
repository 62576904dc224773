"""Who ends when, behind the launcher door: programs and what serves them; nothing is left."""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random

import pytest

from tests.devfs.broker import SECONDS, ended
from tests.devfs.test_lives import ask
from tests.door.conftest import Need, launch


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Launched:
    """The processes of one launch: front, door, keeper, program."""

    def __init__(self, command: list[str]) -> None:
        self.front = subprocess.Popen(
            command, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def line(self) -> str:
        assert self.front.stdout is not None
        return self.front.stdout.readline().strip()

    def tell(self) -> None:
        assert self.front.stdin is not None
        self.front.stdin.write("\n")
        self.front.stdin.flush()

    @property
    def door(self) -> int:
        (door,) = _children(self.front.pid)
        return door

    @property
    def keeper(self) -> int:
        (keeper,) = _children(self.door)
        return keeper

    @property
    def program(self) -> int:
        return _children(self.keeper)[0]


@contextmanager
def launched(program: Path | str, *arguments: str) -> Iterator[Launched]:
    """A program that has said something; in the end it and what serves it are gone."""
    one = Launched(launch(program, *arguments))
    pids = []
    try:
        one.said = one.line()  # type: ignore[attr-defined]
        pids = [one.front.pid, one.door, one.keeper, one.program]
        yield one
    finally:
        one.front.kill()
        one.front.communicate(timeout=SECONDS)
    assert [pid for pid in pids if not ended(pid)] == []


def _eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > deadline:
            return False
        os.sched_yield()
    return True


def _holds(door: int) -> set[str]:
    """What of a machine a door has: files of objects, memory that was moved."""
    names = {os.readlink(fd) for fd in Path(f"/proc/{door}/fd").iterdir() if fd.is_symlink()}
    maps = Path(f"/proc/{door}/maps").read_text()
    found = {name for name in names if name.startswith(("/memfd:kvm-", "/memfd:kvmish-ram"))}
    return found | ({"mapped"} if "kvmish-ram" in maps or "kvm-vcpu" in maps else set())


@pytest.mark.parametrize("kind", ["glibc", pytest.param("32-bit", marks=pytest.mark.full)])
def test_descriptors_closed_in_every_order(compiled: Callable[[str], Path], kind: str) -> None:
    with launched(compiled(kind), "/dev/kvm", "orders") as one:
        door = one.door
        one.tell()
        assert one.line() == "after"

        def nothing() -> bool:
            with suppress(FileNotFoundError):  # it is being closed
                return not _holds(door)
            return False

        assert _eventually(nothing), _holds(door)
        threads = Path(f"/proc/{door}/task")
        assert _eventually(lambda: len(list(threads.iterdir())) < 8)
        one.tell()
        assert one.line() == "ok"
        assert one.front.wait(SECONDS) == 0


def test_memory_that_is_no_slot_any_more(client: Path) -> None:
    """The door kept what had been moved, with its contents, until an object was closed."""
    with launched(client, "/dev/kvm", "fresh") as one:
        assert one.said == "here"  # type: ignore[attr-defined]
        files = [os.readlink(fd) for fd in Path(f"/proc/{one.door}/fd").iterdir()]
        assert sum(name.startswith("/memfd:kvmish-ram") for name in files) < 30


def test_program_killed_in_kvm_run(client: Path) -> None:
    with launched(client, "/dev/kvm", "forever") as one:
        os.kill(one.program, signal.SIGKILL)
        assert one.front.wait(SECONDS) == -signal.SIGKILL


def test_what_the_door_gives_up(client: Path) -> None:
    """No right by exec, no core dump; the program's own limits are as they were."""
    with launched(client, "/dev/kvm", "forever") as one:
        limits = [Path(f"/proc/{pid}/limits").read_text() for pid in (one.door, one.program)]
        core = [re.findall(r"Max core file size +(\S+) +(\S+)", text)[0] for text in limits]
        assert core[0] == ("0", "0")
        soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
        assert core[1] == tuple("unlimited" if n == -1 else str(n) for n in (soft, hard))
        for thread in Path(f"/proc/{one.door}/task").iterdir():
            assert "\nNoNewPrivs:\t1\n" in (thread / "status").read_text()


def test_front_killed(client: Path) -> None:
    """Whoever kills the command kills the program: launched() looks whether all are gone."""
    with launched(client, "/dev/kvm", "forever") as one:
        one.front.kill()
        assert one.front.wait(SECONDS) == -signal.SIGKILL


def test_door_killed(client: Path) -> None:
    """Its calls fail, it is told why, and can come to its end."""
    with launched(client, "/dev/kvm", "forever") as one:
        program = one.program
        os.kill(one.door, signal.SIGKILL)
        for _ in range(2):
            assert one.line() == f"KVM_RUN: -1, errno {errno.ENOSYS}"
        assert one.front.stderr is not None
        assert "was ended by a signal (Killed)" in one.front.stderr.readline()
        os.kill(program, signal.SIGTERM)
        assert one.front.wait(SECONDS) == -signal.SIGTERM


STORM = ("threads", "slots", "memory", "crowd", "forever")


def _descendants(pid: int) -> list[int]:
    """All that are there at the moment, from the top."""
    with suppress(FileNotFoundError, ProcessLookupError):
        children = _children(pid)
        return children + [below for child in children for below in _descendants(child)]
    return []


@pytest.mark.parametrize("victim", ["program", "front"])
def test_killed_at_any_instant(client: Path, victim: str) -> None:
    """While its threads are held or its memory is moved, too."""
    random = Random(victim)  # noqa: S311 - the same instants each time, as far as that goes
    for _ in range(30):
        command = launch(client, "/dev/kvm", random.choice(STORM))
        front = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        with suppress(subprocess.TimeoutExpired):
            front.wait(random.random() * 0.15)
        all_of_it = _descendants(front.pid)
        if victim == "program":
            for pid in all_of_it[2:3]:
                os.kill(pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                front.wait(SECONDS if len(all_of_it) > 2 else 0)
        front.kill()
        front.communicate(timeout=SECONDS)
        assert [pid for pid in all_of_it if not ended(pid)] == []


def test_exit_status_and_standard_files() -> None:
    command = launch("sh", "-c", 'read line; echo "got $line"; echo err >&2; exit 7')
    done = subprocess.run(command, input="x\n", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, "got x\n", "err\n")


def test_a_program_that_cannot_be_started(tmp_path: Path) -> None:
    program = tmp_path / "no-program"
    program.write_bytes(b"\x7fELFnothing")
    program.chmod(0o755)
    done = subprocess.run(launch(program), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Exec format error" in done.stderr


HANDLERS = """
import os, signal
signal.signal(signal.SIGHUP, lambda *_: os.write(1, b"hup\\n"))
signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b"term\\n"), os._exit(5)))
os.write(1, b"ready\\n")
while True:
    signal.pause()
"""


def test_signals_are_passed_on() -> None:
    with launched(sys.executable, "-c", HANDLERS) as one:
        one.front.send_signal(signal.SIGHUP)
        assert one.line() == "hup"
        one.front.send_signal(signal.SIGTERM)
        assert one.line() == "term"
        assert one.front.wait(SECONDS) == 5


def test_a_signal_at_any_instant() -> None:
    """One that came before there was a program was lost."""
    random = Random(1)  # noqa: S311 - the same instants each time, as far as that goes
    for _ in range(30):
        front = subprocess.Popen(launch("sleep", "1000"))
        with suppress(subprocess.TimeoutExpired):
            front.wait(random.random() * 0.01)
        front.send_signal(signal.SIGTERM)
        assert front.wait(SECONDS) == -signal.SIGTERM


def test_stopped_and_continued(client: Path) -> None:
    """As a shell does with jobs, KVM_RUN or not."""
    with launched(client, "/dev/kvm", "forever") as one:
        os.kill(one.program, signal.SIGSTOP)
        _, status = os.waitpid(one.front.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        os.kill(one.front.pid, signal.SIGCONT)
        answer = ask(one.front)
        for _ in range(2):
            assert answer == f"KVM_RUN: -1, errno {errno.EINTR}"  # or it could not have stopped
            answer = one.line()
        assert answer == "standing 0"


def test_the_command_stops_and_goes_on_with_the_program(client: Path) -> None:
    """Whoever tells the program to; as often as it is told."""
    with launched(client, "/dev/kvm", "forever") as one:
        for sent in (one.program, one.front.pid):
            os.kill(one.program, signal.SIGSTOP)
            _, status = os.waitpid(one.front.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status)
            os.kill(sent, signal.SIGCONT)
            _, status = os.waitpid(one.front.pid, os.WCONTINUED)
            assert os.WIFCONTINUED(status)
        for _ in range(20):
            os.kill(one.program, signal.SIGSTOP)
            os.kill(one.program, signal.SIGCONT)
        one.front.terminate()
        assert one.front.wait(SECONDS) == -signal.SIGTERM


def test_a_child_that_stays_behind(client: Path) -> None:
    """A daemon keeps its machine when the program that started it has ended."""
    script = f'(exec "{client}" /dev/kvm forever <&3 >/dev/null 2>&1 3<&-) 3<&0 & echo $!'
    read, write = os.pipe()
    with os.fdopen(write, "wb"):
        done = subprocess.run(
            launch("sh", "-c", script), stdin=read, capture_output=True, text=True, check=False,
            timeout=SECONDS,
        )  # fmt: skip
        os.close(read)
        assert done.returncode == 0
        daemon = int(done.stdout)
        keeper = int(Path(f"/proc/{daemon}/stat").read_text().rpartition(")")[2].split()[1])
        assert Path(f"/proc/{keeper}/comm").read_text() == "kvmish-keeper\n"
        running = Path(f"/proc/{daemon}/task")
        assert _eventually(lambda: len(list(running.iterdir())) == 3)  # it has its two vCPUs
        os.kill(daemon, signal.SIGKILL)
    assert ended(keeper)


def test_traced_from_the_start(client: Path, need: Need) -> None:
    """Memory of a memfd needs no ptrace of ours. Other memory does: refused, and it is said why."""
    need(shutil.which("strace"), "strace")
    strace = ["strace", "-f", "-o", "/dev/null", str(client), "/dev/kvm"]
    done = subprocess.run(
        launch(*strace, "unchanged"), capture_output=True, text=True, check=False, timeout=SECONDS
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")
    done = subprocess.run(
        launch(*strace, "slots"), capture_output=True, text=True, check=False, timeout=SECONDS
    )
    assert done.returncode == 1
    assert "a debugger has it" in done.stderr


def test_a_tracer_that_comes_later(client: Path, need: Need) -> None:
    need(shutil.which("strace"), "strace")
    with launched(client, "/dev/kvm", "forever") as one:
        command = ["strace", "-f", "-o", "/dev/null", "-p", str(one.program)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as tracer:
            for _ in range(2):
                assert one.line() == f"KVM_RUN: -1, errno {errno.EINTR}"
            tracer.terminate()
