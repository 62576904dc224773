"""virtish beside Debian's virsh: the same words, the same exit statuses, on the same daemon."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from libvirtish import paths
from tests.boot.terminal import Terminal
from tests.libvirt.daemon import BIN, Daemon, domain_xml

# Run by both in this order; each must print and return the same. {file} is a definition.
BESIDE = """
uri
version
hostname
nodeinfo
capabilities
list --all
define {file}
list --all
list --all --name
list --all --uuid
list --id
list --all --id
list --all --name --id
list --all --uuid --name
list --all --title
list --state-shutoff
list --state-running --all
list --all --no-autostart
list --all --without-managed-save --managed-save
list --with-snapshot --all
list --table --name
version --daemon
event --list
event one lifecycle --timeout 1
domstate --domain one
domstate --domain=one --reason
domstate --domain
dominfo aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
-q list --all
dominfo one
domstate one
domstate one --reason
domuuid one
domid one
dumpxml one
domstats one
autostart one
dominfo one
list --all --autostart
autostart one --disable
domrename one
domrename one --new-name two
dominfo two
domrename two one
undefine two
destroy one
suspend one
resume one
shutdown one
reboot one
reset one
console one
domcontrol one
start nobody
dominfo nobody
define /nowhere/x.xml
define {bad}
define --validate {bad}
define --validate {file}
undefine one
create {bad}
start
bogus
start one --bogus
list extra
event --event lifecycle --timeout 1
event --event nonsense
start one --paused
list
list --state-paused
domstate one --reason
domid one
domname 1
domcontrol one
ttyconsole one
start one
qemu-monitor-command one {{"execute":"query-kvm"}}
resume one
suspend one
domstate one --reason
reset one
undefine one
list --all
list --transient --name
destroy one
list --all
create {file}
destroy one
list --all
"""
BESIDE_LINES = [line for line in BESIDE.strip().splitlines() if line]


@pytest.fixture
def two(virsh_is_there: None) -> Iterator[tuple[Daemon, Daemon]]:
    """Two daemons, for the same commands by the one and by the other."""
    daemons = Daemon(), Daemon()
    yield daemons
    for daemon in daemons:
        daemon.close()


def test_beside_virsh(two: tuple[Daemon, Daemon]) -> None:
    ours, theirs = two
    different = []
    for line in BESIDE_LINES:
        results = []
        for daemon, run in ((theirs, theirs.virsh), (ours, ours.virtish)):
            good = daemon.file("one.xml", domain_xml("one"))
            bad = daemon.file("bad.xml", domain_xml("a/b"))
            words = line.format(file=good, bad=bad).split()
            done = run(*words)
            where = str(daemon.directory)
            text = (done.stdout + done.stderr).replace(where, "DIR")
            if line == "capabilities":
                text = text.rstrip()  # virsh 10 has one blank line less
            results.append((done.returncode, [_even(each) for each in text.splitlines()]))
        if results[0] != results[1]:
            different.append(f"{line}\n  virsh: {results[0]}\n  virtish: {results[1]}")
    assert not different, "\n".join(different)


def _even(line: str) -> str:
    """Even out what differs between two runs, and that virsh is not always libvirt 9's."""
    for name in (
        "  cpu.time=",
        "CPU time:",
        "  balloon.rss=",
        "/dev/pts/",
        '      <source path="/dev',
        "Compiled against library:",
        "Using library:",
        "Using API:",
    ):
        if line.startswith(name):
            return name
    return line


@pytest.mark.parametrize("command", ["dominfo", "start"])
def test_an_empty_name_beside_virsh(quiet_daemon: Daemon, command: str) -> None:
    ours, theirs = (run(command, "") for run in (quiet_daemon.virtish, quiet_daemon.virsh))
    assert (ours.returncode, ours.stdout, ours.stderr) == (
        theirs.returncode, theirs.stdout, theirs.stderr,
    )  # fmt: skip


def test_wide_names_and_titles_beside_virsh(quiet_daemon: Daemon) -> None:
    xml = domain_xml("日本").replace("<uuid>", "<title>Ein Gerät</title><uuid>")
    quiet_daemon.ok("define", quiet_daemon.file("wide.xml", xml))
    quiet_daemon.define("narrow", 2)
    listing = ["list", "--all", "--title"]
    environment = os.environ | {"LIBVIRT_DEFAULT_URI": quiet_daemon.uri, "LC_ALL": "C.UTF-8"}
    ours, theirs = (
        subprocess.run(
            [program, *listing], capture_output=True, text=True, env=environment, check=True
        ).stdout
        for program in (str(BIN / "virtish"), "virsh")
    )
    assert ours == theirs
    for name in ("日本", "narrow"):
        quiet_daemon.ok("undefine", name)


def test_json(quiet_daemon: Daemon) -> None:
    quiet_daemon.define("one")
    listed = json.loads(quiet_daemon.virtish("--format", "json", "list", "--all").stdout)
    identity = "00000000-0000-4000-8000-000000000001"
    assert listed == [{"id": None, "name": "one", "uuid": identity, "state": "shut off"}]
    info = json.loads(quiet_daemon.virtish("--format", "json", "dominfo", "one").stdout)
    assert (info["max_memory_kib"], info["persistent"]) == (131072, True)
    failed = quiet_daemon.virtish("--format", "json", "start", "nobody")
    assert (failed.returncode, failed.stdout) == (1, "")
    quiet_daemon.ok("undefine", "one")


def test_no_daemon(quiet_daemon: Daemon) -> None:
    done = quiet_daemon.virtish("-c", "qemu:///system?socket=/nowhere/sock", "list")
    assert done.returncode == 1
    assert done.stderr == (
        "error: failed to connect to the hypervisor\n"
        "error: Failed to connect socket to '/nowhere/sock': No such file or directory\n"
        "error: start libvirtishd, or name its socket: --connect qemu:///system?socket=PATH\n"
    )


@pytest.mark.parametrize("uri", ["qemu+ssh://host/system", "qemu://host/system", "foo", "qemu://["])
def test_a_daemon_elsewhere_is_not_taken_for_ours(quiet_daemon: Daemon, uri: str) -> None:
    done = quiet_daemon.virtish("-c", uri, "list")
    assert (done.returncode, done.stdout) == (1, "\n")
    assert f"'{uri}' is not of libvirtishd on this machine" in done.stderr
    assert quiet_daemon.virtish("-c", uri, "list", "--help").returncode == 0


def test_output_that_cannot_be_written(quiet_daemon: Daemon) -> None:
    def list_(where: str) -> tuple[int, str]:
        done = quiet_daemon.run("sh", "-c", f'"$0" list {where}', BIN / "virtish")
        return done.returncode, done.stderr

    assert list_(">/dev/full") == (1, "error: write error: No space left on device\n")
    assert list_("<&- >&-") == (0, "")
    read_end, write_end = os.pipe()
    os.close(read_end)
    with open(write_end, "wb") as broken:
        done = subprocess.run(
            [BIN / "virtish", "-c", quiet_daemon.uri, "list"],
            stdout=broken, stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, b"")


def test_words_that_the_locale_does_not_know(quiet_daemon: Daemon) -> None:
    quiet_daemon.define("\u00f6n", 1)
    ascii_only = ["env", "PYTHONUTF8=0", "PYTHONCOERCECLOCALE=0", BIN / "virtish"]
    assert "\\xf6n" in quiet_daemon.run(*ascii_only, "list", "--all").stdout
    assert quiet_daemon.run(*ascii_only, "undefine", "\u00f6n").returncode == 0
    done = quiet_daemon.run(BIN / "virtish", "start", os.fsdecode(b"\xff"))
    assert done.stderr == "error: failed to get domain '\\udcff'\n"


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError

    monkeypatch.setattr(Path, "home", nowhere)
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    for name in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(paths.NoHomeError, match="HOME is not set"):
        paths.default_socket()


def test_domain_names_are_completed(quiet_daemon: Daemon) -> None:
    quiet_daemon.define("alpha", 1)
    quiet_daemon.define("beta", 2)

    def complete(words: str) -> list[str]:
        done = subprocess.run(
            [BIN / "virtish"],
            env=os.environ
            | {
                "_VIRTISH_COMPLETE": "bash_complete",
                "COMP_WORDS": f"virtish {words}",
                "COMP_CWORD": str(len(words.split(" "))),
                "LIBVIRT_DEFAULT_URI": quiet_daemon.uri,
            },
            capture_output=True,
            text=True,
            check=True,
        )
        return [line.partition(",")[2] for line in done.stdout.splitlines()]

    assert complete("start ") == ["alpha", "beta"]
    assert complete("start b") == ["beta"]
    assert {"domstate", "domstats"} <= set(complete("dom"))
    for name in ("alpha", "beta"):
        quiet_daemon.ok("undefine", name)


def test_on_a_terminal_states_have_colours(quiet_daemon: Daemon) -> None:
    quiet_daemon.define("one")
    command = [str(BIN / "virtish"), "-c", quiet_daemon.uri, "list", "--all"]
    terminal = Terminal(command=command)
    assert terminal.wait() == 0
    assert b"\x1b[" in terminal.text
    assert b"shut off" in terminal.text
    terminal.close()
    quiet_daemon.ok("undefine", "one")


def test_the_console_needs_a_terminal(quiet_daemon: Daemon) -> None:
    quiet_daemon.define("one")
    quiet_daemon.ok("start", "one", "--paused")
    done = quiet_daemon.virtish("console", "one")
    assert done.returncode == 1
    assert done.stderr == "error: Cannot run interactive console without a controlling TTY\n"
    quiet_daemon.ok("destroy", "one")
    quiet_daemon.ok("undefine", "one")
