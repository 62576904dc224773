"""Daemons for the tests: one without guests, and one with a guest that all tests of a run share."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator

import pytest

from tests.libvirt.daemon import PROMPT, Daemon
from vmmuser.assets import CLOUD

DISK_MARK = b"the-disk-of-the-house\n"


@pytest.fixture(scope="session")
def virsh_is_there(need: Callable[[bool, str], None]) -> None:
    need(shutil.which("virsh") is not None, "virsh (libvirt-clients)")
    need(CLOUD.ready(), "Debian's kernel (make assets)")


@pytest.fixture
def daemon(virsh_is_there: None) -> Iterator[Daemon]:
    """A daemon of the test's own."""
    daemon = Daemon()
    yield daemon
    daemon.close()


@pytest.fixture(scope="module")
def quiet_daemon(virsh_is_there: None) -> Iterator[Daemon]:
    """A daemon that the tests of a file share; they leave no domains behind."""
    daemon = Daemon("--frame-timeout", "1")
    yield daemon
    daemon.close()


@pytest.fixture(scope="session")
def house(virsh_is_there: None) -> Iterator[Daemon]:
    """A daemon with the domain `demo`, which has a disk and a virtio console, at its shell."""
    daemon = Daemon()
    assert daemon.virtish("define", "--demo").returncode == 0
    disk = daemon.directory / "disk.img"
    disk.write_bytes(DISK_MARK.ljust(1 << 20, b"\0"))
    more = f"<disk type='file'><source file='{disk}'/><target dev='vda' bus='virtio'/></disk>"
    more += "<console type='pty'><target type='virtio'/></console>"
    xml = daemon.ok("dumpxml", "demo").replace("</devices>", more + "</devices>")
    daemon.ok("define", daemon.file("demo.xml", xml))
    daemon.ok("start", "demo")
    with contextlib.closing(daemon.console("demo")) as console:
        console.expect(PROMPT, 90)
        console.type(b"\x1d")
        console.wait()
    yield daemon
    daemon.close()
