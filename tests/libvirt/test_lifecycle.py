"""What becomes of a domain whose guest powers off, resets or faults."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from libvirtish.consoles import open_console
from libvirtish.rpc import types as t
from libvirtish.rpc.client import Connection
from tests.boot.guests import RESET, TRIPLE_FAULT
from tests.boot.tiny import kernel as tiny_kernel
from tests.libvirt.daemon import LIMIT_S, Daemon

DOMAIN = """\
<domain type='qemu'>
  <name>tiny</name>
  <memory unit='MiB'>64</memory>
  <os><type>hvm</type><kernel>{kernel}</kernel></os>
  {action}
  <devices><serial type='null'/></devices>
</domain>
"""
ECHO = """
6:  mov dx, 0x3fd
5:  in al, dx
    test al, 1
    jz 5b
    mov dx, 0x3f8
    in al, dx
    inc al
    call putc
    jmp 6b
"""
POWER_OFF = "    jmp off\n"
STARTED, STOPPED, SHUTDOWN, CRASHED = 2, 5, 6, 8


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """kernel(body): the file of a guest that does that."""
    directory = tmp_path_factory.mktemp("kernels")

    def make(body: str) -> Path:
        path = directory / str(abs(hash(body)))
        if not path.exists():
            path.write_bytes(tiny_kernel(body))
        return path

    return make


@pytest.fixture
def events(quiet_daemon: Daemon) -> Iterator[Callable[[], tuple[str, int, int]]]:
    """The next event of a domain that starts: its kind, what, and the detail."""
    connection: Connection = quiet_daemon.connect()
    for event in (0, 1):
        connection.call("connect_domain_event_callback_register_any", t.RegisterArgs(event, None))

    def following() -> tuple[str, int, int]:
        name, message = connection.next_event(LIMIT_S) or ("nothing", None)
        inner = getattr(message, "message", None)
        kind = name.removeprefix("domain_event_callback_")
        return kind, getattr(inner, "event", -1), getattr(inner, "detail", -1)

    yield following
    connection.close()


def start(daemon: Daemon, kernel: Path, action: str) -> None:
    daemon.ok("create", daemon.file("tiny.xml", DOMAIN.format(kernel=kernel, action=action)))


@pytest.mark.parametrize(
    ("body", "action", "then"),
    [
        (POWER_OFF, "", [("lifecycle", SHUTDOWN, 1), ("lifecycle", STOPPED, 0)]),
        (POWER_OFF, "<on_poweroff>restart</on_poweroff>", [("reboot", -1, -1)] * 2),
        (RESET["register"], "", [("reboot", -1, -1)] * 2),
        (RESET["register"], "<on_reboot>destroy</on_reboot>", [("lifecycle", STOPPED, 0)]),
        (TRIPLE_FAULT, "", [("lifecycle", STOPPED, 2)]),
        (TRIPLE_FAULT, "<on_crash>restart</on_crash>", [("reboot", -1, -1)] * 2),
    ],
    ids=["off", "off-restart", "reset", "reset-destroy", "fault", "fault-restart"],
)
def test_the_end_of_a_guest(
    quiet_daemon: Daemon,
    kernel: Callable[[str], Path],
    events: Callable[[], tuple[str, int, int]],
    body: str,
    action: str,
    then: list[tuple[str, int, int]],
) -> None:
    start(quiet_daemon, kernel(body), action)
    assert events() == ("lifecycle", STARTED, 0)
    assert [events() for _ in then] == then
    if then[-1][0] == "reboot":
        assert quiet_daemon.ok("list", "--name") == "tiny"
        quiet_daemon.ok("destroy", "tiny")
    assert quiet_daemon.ok("list", "--all", "--name") == ""


@pytest.mark.parametrize("backend", ["pty", "unix"])
def test_a_console_on_a_terminal_or_a_socket(
    quiet_daemon: Daemon, kernel: Callable[[str], Path], backend: str
) -> None:
    source = f"<source mode='bind' path='{quiet_daemon.directory}/serial'/>"
    console = f"<serial type='{backend}'>{source if backend == 'unix' else ''}</serial>"
    xml = DOMAIN.format(kernel=kernel(ECHO), action="").replace("<serial type='null'/>", console)
    quiet_daemon.ok("create", quiet_daemon.file("tiny.xml", xml))
    connection = quiet_daemon.connect()
    for _ in range(2):  # it is there for one client after the other
        dom = connection.ask(t.OneDomain, "domain_lookup_by_name", t.OneStr("tiny")).dom
        stream = connection.open_stream("domain_open_console", t.OpenConsoleArgs(dom, None, 0))
        stream.send(b"HAL\r")
        answer = b""
        while len(answer) < 4:
            answer += stream.receive(LIMIT_S) or b""
        assert answer == b"IBM\x0e"
        stream.finish()
        assert stream.receive(LIMIT_S) == b""
    connection.close()
    assert ("tty=" in quiet_daemon.ok("dumpxml", "tiny")) == (backend == "pty")
    quiet_daemon.ok("destroy", "tiny")


def test_a_socket_below_dev_is_not_a_terminal() -> None:
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as directory,
        socket.socket(socket.AF_UNIX) as it,
    ):
        it.bind(f"{directory}/console")
        it.listen()
        os.close(open_console(f"{directory}/console"))


def test_a_domain_without_a_console(quiet_daemon: Daemon, kernel: Callable[[str], Path]) -> None:
    start(quiet_daemon, kernel(ECHO), "")
    terminal = quiet_daemon.console("tiny")
    terminal.expect(b"serial0 is not using a PTY or a socket")
    terminal.close()
    quiet_daemon.ok("destroy", "tiny")


def test_preserved_after_power_off_and_found_again(
    daemon: Daemon, kernel: Callable[[str], Path]
) -> None:
    start(daemon, kernel(POWER_OFF), "<on_poweroff>preserve</on_poweroff>")
    daemon.expect_log("started")
    for _ in range(2):
        state = ""
        for _ in range(100):
            state = daemon.ok("domstate", "tiny", "--reason")
            if state == "paused (shutting down)":
                break
        assert state == "paused (shutting down)"
        daemon.kill()
        daemon.start()
    daemon.ok("destroy", "tiny")


def test_preserved_after_a_triple_fault(daemon: Daemon, kernel: Callable[[str], Path]) -> None:
    start(daemon, kernel(TRIPLE_FAULT), "<on_crash>preserve</on_crash>")
    state = ""
    for _ in range(100):
        state = daemon.ok("domstate", "tiny")
        if state != "running":
            break
    assert state == "crashed"
    daemon.kill()
    daemon.start()
    assert daemon.ok("domstate", "tiny", "--reason") == "crashed (panicked)"
    daemon.ok("destroy", "tiny")
