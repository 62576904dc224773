"""Who ends when: clients, workers, hands and broker, killed or asked to; and nothing is left."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest

from tests.devfs.broker import KVMISH, SECONDS, Broker, broker, ended, mounted

Need = Callable[[bool, str], None]


@contextmanager
def running(client: Path, file: Path) -> Iterator[subprocess.Popen[str]]:
    """A client with two vCPUs in KVM_RUN."""
    one = subprocess.Popen(
        [str(client), str(file), "forever"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert one.stdout is not None
        assert one.stdout.readline() == "running\n"
        yield one
    finally:
        one.kill()
        one.communicate(timeout=SECONDS)


def ask(client: subprocess.Popen[str]) -> str:
    """Is the guest counting, and what becomes of a new vCPU?"""
    assert client.stdin is not None
    assert client.stdout is not None
    client.stdin.write("\n")
    client.stdin.flush()
    return client.stdout.readline().strip()


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


CAP_SYS_PTRACE = 1 << 19
KVM_CREATE_VM, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY = 0xAE01, 0xAE03, 3


def test_what_a_worker_keeps(device: Broker, client: Path) -> None:
    """Nobody, one capability, a filter, no files, a root that is empty and gone."""
    with running(client, device.file) as one:
        machine = device.machine(one.pid)
        for thread in Path(f"/proc/{machine}/task").iterdir():
            status = _status(int(thread.name))
            assert status["Uid"].split() == ["65534"] * 4
            assert status["Gid"].split() == ["65534"] * 4
            assert status["Groups"] == ""
            assert int(status["CapPrm"], 16) == int(status["CapEff"], 16) == CAP_SYS_PTRACE
            assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
            assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        assert os.readlink(f"/proc/{machine}/root").endswith(" (deleted)")
        files = [os.readlink(fd) for fd in Path(f"/proc/{machine}/fd").iterdir()]
        known = ("/dev/null", "pipe:", "socket:", "/dev/fuse", "/memfd:kvm-vcpu", "/proc/", "/")
        assert [name for name in files if not name.startswith(known[:-1]) and name != "/"] == []
        sockets = [name for name in files if name.startswith("socket:")]
        assert len(sockets) == 2  # its hand, and the thread that opens
        (opener,) = [
            thread
            for thread in Path(f"/proc/{machine}/task").iterdir()
            if (thread / "comm").read_text() == "kvmish-open\n"
        ]
        assert sorted(os.readlink(fd)[:8] for fd in (opener / "fd").iterdir()) == ["/", "socket:["]
        limits = Path(f"/proc/{machine}/limits").read_text()
        assert re.search(r"Max core file size +0 +0", limits)
        assert re.search(r"Max realtime priority +0 +0", limits)
        environment = Path(f"/proc/{machine}/environ").read_bytes().split(b"\0")
        meant = (b"KVMISH_", b"GLIBC_TUNABLES=glibc.pthread.rseq=0")
        assert all(entry.startswith(meant) for entry in environment if entry)


@pytest.fixture
def open_to_all(client: Path) -> Iterator[Path]:
    """Make a place with the client that any user gets at: any other pytest closes pytest's own."""
    with TemporaryDirectory(prefix="kvmish-test-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        shutil.copy(client, directory / "client")
        yield directory


def test_calls_start_no_threads(device: Broker) -> None:
    """One after the other, however long a reader takes to come back from the last one."""
    kvm = os.open(device.file, os.O_RDWR | os.O_CLOEXEC)
    vm = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
    try:
        threads = Path(f"/proc/{device.machine(os.getpid())}/task")
        before = {thread.name for thread in threads.iterdir()}
        for _ in range(5000):
            assert fcntl.ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY) == 1
        after = {thread.name for thread in threads.iterdir()}
        assert before <= after
        assert len(after - before) <= 1  # the one that watches
    finally:
        os.close(vm)
        os.close(kvm)


def test_a_machine_without_a_processor(device: Broker) -> None:
    """The file that waits for its first vCPU does not keep it."""
    kvm = os.open(device.file, os.O_RDWR | os.O_CLOEXEC)
    vm = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
    machine = device.machine(os.getpid())
    os.close(vm)
    os.close(kvm)
    assert ended(machine)


def test_a_client_without_privileges(may_mount: None, open_to_all: Path) -> None:
    """Its machine is a process of its own user; every scenario works for it too."""
    client = open_to_all / "client"
    with broker(open_to_all / "dev", "--mode", "0666") as one:
        user = ["setpriv", "--reuid=1234", "--regid=1235", "--clear-groups"]
        for scenario in ("slots", "memory", "eventfds", "signals"):
            command = [*user, str(client), str(one.file), scenario]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
            assert (done.stdout, done.stderr) == ("ok\n", ""), scenario
        forever = subprocess.Popen(
            [*user, str(client), str(one.file), "forever"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert forever.stdout is not None
        assert forever.stdout.readline() == "running\n"
        machine = one.machine(forever.pid)
        assert _status(machine)["Uid"].split() == ["1234"] * 4
        forever.kill()
        forever.communicate(timeout=SECONDS)
        assert ended(machine)


def test_a_client_that_is_traced(device: Broker, client: Path, need: Need) -> None:
    """Somebody else has it: no object can be made, and the answer is EPERM at once."""
    need(shutil.which("strace") is not None, "strace")
    command = ["strace", "-f", "-o", "/dev/null", str(client), str(device.file), "slots"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 1
    assert "Operation not permitted" in done.stderr


def test_a_tracer_that_comes_later(device: Broker, client: Path, need: Need) -> None:
    """It gets its stop, as by a signal: KVM_RUN does not keep the thread."""
    need(shutil.which("strace") is not None, "strace")
    with running(client, device.file) as one:
        command = ["strace", "-f", "-o", "/dev/null", "-p", str(one.pid)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as tracer:
            assert one.stdout is not None
            for _ in range(2):
                assert one.stdout.readline() == f"KVM_RUN: -1, errno {errno.EINTR}\n"
            tracer.terminate()


def test_client_killed_in_kvm_run(device: Broker, client: Path) -> None:
    with running(client, device.file) as one:
        machine = device.machine(one.pid)
        hand = os.stat(f"/proc/{machine}") and int(
            Path(f"/proc/{machine}/stat").read_text().rpartition(")")[2].split()[1]
        )
        one.kill()
        assert one.wait(SECONDS) == -signal.SIGKILL
    assert ended(machine)
    assert ended(hand)


STORM = ("threads", "slots", "memory", "crowd", "forever")


@pytest.mark.parametrize("victim", ["client", "kvmish-vm", "kvmish-hand"])
def test_killed_at_any_instant(may_mount: None, client: Path, tmp_path: Path, victim: str) -> None:
    """Inside an injection, too: nobody hangs, nothing is left, the next client is served."""
    random = Random(victim)  # noqa: S311 - the same instants each time, as far as that goes
    with broker(tmp_path / "dev") as one:
        for _ in range(30):
            command = [str(client), str(one.file), random.choice(STORM)]
            user = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            with suppress(subprocess.TimeoutExpired):
                user.wait(random.random() * 0.15)
            if victim != "client":
                for pid in one.processes(victim):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            user.kill()
            user.wait(SECONDS)
        subprocess.run([str(client), str(one.file), "slots"], check=True, capture_output=True)


def test_worker_killed(device: Broker, client: Path) -> None:
    """Its client gets errors at once; another's machine goes on."""
    with running(client, device.file) as one, running(client, device.file) as other:
        machine = device.machine(one.pid)
        os.kill(machine, signal.SIGKILL)
        assert one.stdout is not None
        for _ in range(2):
            assert one.stdout.readline().strip() in (
                f"KVM_RUN: -1, errno {errno.ECONNABORTED}",
                f"KVM_RUN: -1, errno {errno.ENOTCONN}",
            )
        assert ended(machine)
        assert ask(one).startswith("standing ")
        assert ask(other) == "counting 0"
        assert one.poll() is None


def test_broker_killed(may_mount: None, client: Path, tmp_path: Path) -> None:
    """Machines go on and can have new vCPUs; workers without a client end."""
    with broker(tmp_path / "dev") as one, running(client, one.file) as user:
        machine = one.machine(user.pid)
        spare = [pid for pid in one.processes("kvmish-vm") if pid != machine]
        assert one.stop(signal.SIGKILL) == -signal.SIGKILL
        assert ask(user) == "counting 0"
        assert all(ended(pid) for pid in spare)
        assert ask(user) == "counting 17"  # EEXIST: the vCPU that the first question made
        command = [str(KVMISH), "devfs", "umount", str(one.directory)]
        if mounted(one.directory):  # what is left of it
            assert subprocess.run([*command, "--lazy"], check=False).returncode == 0
        with broker(one.directory) as successor:
            subprocess.run([str(client), str(successor.file), "slots"], check=True)
    assert ended(machine)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_broker_asked_to_end(may_mount: None, client: Path, tmp_path: Path, number: int) -> None:
    with broker(tmp_path / "dev") as one, running(client, one.file) as user:
        assert one.stop(number) == 0
        assert not one.directory.exists()  # it had made it
        assert ask(user) == "counting 0"


def test_umount_with_a_machine_open(may_mount: None, client: Path, tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    with broker(tmp_path / "dev") as one, running(client, one.file) as user:
        command = [str(KVMISH), "devfs", "umount", str(one.directory)]
        busy = subprocess.run(command, capture_output=True, text=True, check=False)
        assert busy.returncode == 2
        assert "--lazy" in busy.stderr
        assert busy.stderr.count("\n") == 1
        assert mounted(one.directory)
        assert subprocess.run([*command, "--lazy"], check=False).returncode == 0
        assert not mounted(one.directory)
        assert ask(user) == "counting 0"
    assert one.directory.exists()  # it was there before


def test_umount_of_a_path_with_a_blank_by_way_of_a_link(may_mount: None, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("é x")
    (tmp_path / "é x").mkdir()
    with broker(tmp_path / "é x") as one:
        command = [str(KVMISH), "devfs", "umount", str(link)]
        subprocess.run(command, check=True, timeout=SECONDS)
        assert one.process.wait(SECONDS) == 0
    assert not list((tmp_path / "é x").iterdir())


def test_umount(may_mount: None, client: Path, tmp_path: Path) -> None:
    with broker(tmp_path / "dev") as one:
        subprocess.run([str(client), str(one.file), "slots"], check=True, capture_output=True)
        command = [str(KVMISH), "devfs", "umount", str(one.directory)]
        assert subprocess.run(command, check=False).returncode == 0
        assert one.process.wait(SECONDS) == 0


def test_daemon(may_mount: None, client: Path, tmp_path: Path) -> None:
    directory = tmp_path / "dev"
    command = [str(KVMISH), "devfs", "mount", str(directory), "--daemon"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        subprocess.run([str(client), str(directory / "kvm"), "slots"], check=True)
        again = subprocess.run(command, capture_output=True, text=True, check=False)
        assert again.returncode == 2
        assert "mounted already" in again.stderr
    finally:
        subprocess.run([str(KVMISH), "devfs", "umount", str(directory)], check=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mount", "/etc/passwd"), "is not a directory"),
        (("mount", "/etc"), "is not empty"),
        (("mount", "/nonexistent/deep/down"), "No such file or directory"),
        (("mount", "--mode", "0777", "/x"), "'--mode': 0777"),
        (("mount", "--mode", "rw", "/x"), "'--mode': rw"),
        (("mount", "--group", "no-such-group", "/nonexistent"), "no such group"),
        (("umount", "/nonexistent"), "is not mounted by kvmish"),
        (("umount", "/proc"), "is not mounted by kvmish"),
    ],
)
def test_refusals(may_mount: None, arguments: tuple[str, ...], message: str) -> None:
    done = subprocess.run(
        [str(KVMISH), "devfs", *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2, done
    assert message in done.stderr
    assert done.stderr.startswith("kvmish: ")
    assert done.stderr.count("\n") == 1


def test_permissions(may_mount: None, open_to_all: Path) -> None:
    """Who is neither root nor in the group gets EACCES."""
    with broker(open_to_all / "dev", "--mode", "0660", "--group", "daemon") as one:
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        command += ["sh", "-c", 'exec 3<>"$0"', str(one.file)]
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "Permission denied" in refused.stderr
        command[2] = "--regid=daemon"
        allowed = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (allowed.returncode, allowed.stderr) == (0, "")
