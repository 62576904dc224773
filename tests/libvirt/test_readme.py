"""The README's session with virtish and virsh, done anew and compared with what stands there.

To write it: KVMISH_WRITE_README=1 pytest tests/libvirt/test_readme.py
"""

from __future__ import annotations

import contextlib
import os

from tests.boot.terminal import ROOT
from tests.libvirt.daemon import PROMPT, Daemon, until

README = ROOT / "README.md"
BEGIN = "<!-- made by tests/libvirt/test_readme.py: begin -->\n"
END = "<!-- made by tests/libvirt/test_readme.py: end -->\n"


class Session:
    """What somebody at a shell would see."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon, self.lines = daemon, ["$ libvirtishd 2>libvirtishd.log &"]

    def type(self, command: str) -> None:
        """A command that is done here in another way."""
        self.lines.append(f"$ {command}")

    def run(self, command: str) -> None:
        self.type(command)
        program, *words = command.split()
        done = (self.daemon.virsh if program == "virsh" else self.daemon.virtish)(*words)
        assert done.returncode == 0, done.stderr
        self.lines += done.stdout.rstrip("\n").splitlines()

    def console(self, command: str, booting: bool) -> None:
        self.type("virsh console demo")
        with contextlib.closing(self.daemon.console("demo")) as console:
            for _ in range(100):
                with contextlib.suppress(AssertionError):
                    console.expect(PROMPT, 1)
                    break
                if not booting:
                    console.type(b"\n")
            console.type(command.encode() + b"\n")
            console.expect(command.encode())
            start = console.seen
            console.expect(PROMPT)
            output = console.text[start : console.seen - len(PROMPT)].decode().replace("\r", "")
            console.type(b"\x1d")
            assert console.wait() == 0
        prompt = PROMPT.decode()
        self.lines += ["Connected to domain 'demo'", "Escape character is ^] (Ctrl + ])"]
        self.lines += ["[kernel messages left out]"] if booting else []
        self.lines += [f"{prompt} {command}", *output.strip().split("\n"), f"{prompt} ^]"]


def _session(daemon: Daemon) -> str:
    session = Session(daemon)
    session.run("virtish define --demo")
    session.run("virtish start demo")
    session.console("dmesg | grep -o 'Hypervisor detected.*'", booting=True)
    session.type("kill -9 $(pidof -x libvirtishd); libvirtishd 2>>libvirtishd.log &")
    daemon.kill()
    daemon.start()
    session.run("virsh list")
    session.console("echo $((6 * 7))", booting=False)
    session.run("virsh shutdown demo")
    until(lambda: daemon.ok("domstate", "demo") == "shut off", "the shutdown")
    session.run("virtish domstate demo --reason")
    return "".join(f"    {line}".rstrip() + "\n" for line in session.lines)


def test_the_readme_s_session(daemon: Daemon) -> None:
    block = _session(daemon)
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    there, _, after = rest.partition(END)
    if os.environ.get("KVMISH_WRITE_README"):
        README.write_text(f"{before}{BEGIN}\n{block}\n{END}{after}", encoding="utf-8")
        return
    assert there.strip("\n") == block.strip("\n")
