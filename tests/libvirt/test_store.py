"""State on disk: whole at any moment, whatever kills the daemon."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import random
import resource
import subprocess
import threading
from pathlib import Path

import pytest
from lxml import etree

from libvirtish.daemon import DaemonError, prepare_socket
from libvirtish.record import Record, RecordError
from libvirtish.rpc import types as t
from libvirtish.rpc.client import DisconnectedError
from libvirtish.store import Store, StoreLockedError, write_whole
from libvirtish.xml.domain import parse_domain
from tests.libvirt.daemon import BIN, Daemon, domain_xml

DOMAINS = 4


def test_a_daemon_killed_in_the_middle_of_define(daemon: Daemon) -> None:
    """Each definition is one that a client sent, whole: never half of one, none is lost."""
    chance = random.Random(4)  # noqa: S311
    padding = "x" * 30_000
    for round_ in range(6):
        answered = threading.Event()
        acknowledged: dict[str, int] = {}

        def define_for_ever(
            answered: threading.Event = answered, acknowledged: dict[str, int] = acknowledged
        ) -> None:
            with contextlib.suppress(DisconnectedError):
                connection = daemon.connect()
                for count in range(100_000):
                    name = f"d{count % DOMAINS}"
                    xml = domain_xml(name, count % DOMAINS + 1, memory=128 + count).replace(
                        "<devices>", f"<description>{count} {padding}</description><devices>"
                    )
                    connection.call("domain_define_xml", t.OneStr(xml))
                    acknowledged[name] = count
                    if count > chance.randrange(4, 40):
                        answered.set()

        client = threading.Thread(target=define_for_ever)
        client.start()
        assert answered.wait(30)
        daemon.kill()
        client.join(30)
        for path in (daemon.state / "domains").glob("*.xml"):
            root = etree.fromstring(path.read_bytes())
            count = int(str(root.findtext("description")).split()[0])
            assert count >= acknowledged.get(path.stem, 0)  # what was answered is there
            assert root.findtext("memory") == str((128 + count) << 10)
            assert str(root.findtext("description")).endswith(padding)
        daemon.start()
        assert daemon.ok("list", "--all", "--name").split() == [f"d{n}" for n in range(DOMAINS)]
        assert list(daemon.state.glob("**/.new-*")) == [], round_


def test_what_cannot_be_read_is_left_alone_and_the_rest_served(daemon: Daemon) -> None:
    daemon.define("good")
    daemon.stop()
    domains = daemon.state / "domains"
    (domains / "half.xml").write_text(domain_xml("half", 2)[:200])
    (domains / "other.xml").write_text(domain_xml("name", 3))
    (domains / "binary.xml").write_bytes(b"\xff\xfe\x00")
    (domains / "twin.xml").write_text(domain_xml("twin", 1))
    (domains / ".new-cutoff").write_text("<dom")
    run = daemon.state / "run" / "ghost"
    run.mkdir()
    (run / "status.xml").write_text("<domstatus")
    daemon.start()
    for name in ("half", "other", "binary", "twin"):
        daemon.expect_log(name)
        assert (domains / f"{name}.xml").exists()
    assert not (domains / ".new-cutoff").exists()
    daemon.expect_log("left alone")
    assert daemon.ok("list", "--all", "--name") == "good"


def test_autostarted_with_the_daemon(daemon: Daemon) -> None:
    daemon.define("auto")
    daemon.ok("autostart", "auto")
    assert os.readlink(daemon.state / "autostart" / "auto.xml") == "../domains/auto.xml"
    daemon.stop()
    daemon.start()
    daemon.expect_log("domain auto: started")
    assert daemon.ok("list", "--name") == "auto"
    daemon.ok("destroy", "auto")


def test_a_process_number_that_was_given_out_again_is_not_taken(daemon: Daemon) -> None:
    daemon.define("old")
    daemon.ok("start", "old", "--paused")
    pid = daemon.vmm_pid("old")
    daemon.kill()
    identity = daemon.state / "run" / "old" / "process"
    line = identity.read_text()
    # Another process, which lives and has nothing to do with it: this one.
    identity.write_text(line.replace(str(pid), str(os.getpid()), 1))
    daemon.start()
    daemon.expect_log("domain old: stopped while no daemon ran")
    assert daemon.ok("domstate", "old") == "shut off"
    os.kill(pid, 9)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--socket", "/proc/x/sock"], "/proc/x"),
        (["--state", "/proc/x"], "/proc/x: No such file or directory; choose another --socket"),
        (["--socket", "/run/" + "x" * 200], "longer than 107 bytes; choose a shorter --socket"),
        (["--vmm", "/nowhere/vmm"], "/nowhere/vmm: no such program; name it with --vmm"),
        (["--frame-timeout", "0"], "--frame-timeout"),
        (["--dance"], "No such option"),
        (["more"], "unexpected extra argument"),
    ],
)
def test_a_daemon_that_cannot_start_says_why(tmp_path: Path, options: list[str], said: str) -> None:
    command = [BIN / "libvirtishd", "--state", tmp_path / "state", "--socket", tmp_path / "sock"]
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("libvirtishd: ")
    assert said in done.stderr


def test_one_owner(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(StoreLockedError, match="another libvirtishd owns this state"):
        Store(tmp_path)
    store.close()
    Store(tmp_path).close()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.xml"
    write_whole(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "new \ud800")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.xml"]


def test_a_full_disk_is_said_with_its_place(daemon: Daemon) -> None:
    daemon.define("here")
    limits = resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (0, limits[1]))
    xml = daemon.file("more.xml", domain_xml("more", 2))
    assert f"{daemon.state}/domains/more.xml: File too large" in daemon.refused("define", xml)
    assert f"{daemon.state}/run/here: File too large" in daemon.refused("start", "here")
    resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, limits)
    assert daemon.ok("list", "--all", "--name").split() == ["here"]
    assert daemon.ok("domstate", "here") == "shut off"
    daemon.ok("define", xml)
    assert not daemon.logged("Traceback")


def test_a_domain_undefined_while_its_start_fails_is_gone(tmp_path: Path) -> None:
    """The start is held until the domain is undefined; then its process fails."""
    go = tmp_path / "go"
    os.mkfifo(go)
    program = tmp_path / "vmm"
    program.write_text(f"#!/bin/sh\nread -r line <{go}; exit 1\n")
    program.chmod(0o755)
    daemon = Daemon("--vmm", str(program))
    try:
        daemon.define("ghost")
        with concurrent.futures.ThreadPoolExecutor() as pool:
            start = pool.submit(daemon.refused, "start", "ghost")
            with go.open("w") as gate:  # when the process reads
                daemon.ok("undefine", "ghost")
                gate.write("go\n")
            assert "ended without a word" in start.result()
        assert daemon.ok("list", "--all", "--name") == ""
    finally:
        daemon.close()


@pytest.mark.parametrize("kind", ["file", "directory", "dangling link"])
def test_no_socket_in_the_place_of_something_else(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "precious"
    if kind == "file":
        path.write_text("data")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to("nowhere")
    with pytest.raises(DaemonError, match="is there and not a socket; choose another --socket"):
        prepare_socket(path)
    assert os.listdir(tmp_path) == ["precious"]


def test_a_record_comes_back(tmp_path: Path) -> None:
    record = Record(parse_domain(domain_xml("x")), 3, paused=True, reboot=True)
    record.write(tmp_path)
    read = Record.read(tmp_path)
    assert (read.id, read.paused, read.reboot, read.crashed) == (3, True, True, False)
    assert read.definition.xml() == record.definition.xml()
    (tmp_path / "status.xml").write_text("<domstatus id='1'/>")
    with pytest.raises(RecordError, match="no <domain>"):
        Record.read(tmp_path)
