"""What is on disk of a running domain, for the daemon that comes after: run/NAME/status.xml."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lxml import etree

from libvirtish.errors import VirError
from libvirtish.store import write_whole
from libvirtish.xml.domain import Definition, parse_domain

FILE = "status.xml"
_FLAGS = ("paused", "reboot", "crashed")


class RecordError(Exception):
    """A record that is not there, or not whole."""


def boot_id() -> str:
    """Return what changes when the host boots: process numbers from before mean nothing."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


@dataclass(frozen=True)
class Record:
    """One run of a domain."""

    definition: Definition  # as it was started
    id: int
    paused: bool  # it was started, and is to stay, paused
    reboot: bool = False  # when the guest powers off, it is to be started again
    crashed: bool = False  # the guest has crashed and is preserved
    boot: str = ""

    def write(self, directory: Path) -> None:
        """Replace the record in a directory."""
        root = etree.Element("domstatus", id=str(self.id), boot=boot_id())
        for flag in _FLAGS:
            root.set(flag, "yes" if getattr(self, flag) else "no")
        root.append(etree.fromstring(self.definition.xml()))
        write_whole(directory / FILE, etree.tostring(root, encoding="unicode"))

    @classmethod
    def read(cls, directory: Path) -> Record:
        """Read it. :raise RecordError: if it is not there or not whole."""
        try:
            root = etree.fromstring((directory / FILE).read_bytes())
            element = root.find("domain")
            if element is None:
                raise ValueError("no <domain>")
            definition = parse_domain(etree.tostring(element, encoding="unicode"))
            flags = {flag: root.get(flag) == "yes" for flag in _FLAGS}
            return cls(definition, int(root.get("id", "")), boot=root.get("boot", ""), **flags)
        except (OSError, ValueError, VirError, etree.XMLSyntaxError) as error:
            raise RecordError(f"{directory / FILE}: {error}") from error
