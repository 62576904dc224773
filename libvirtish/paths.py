"""Where the daemon listens and keeps its state when nobody says so; what a URI says of it."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import parse_qs, urlsplit


def default_socket() -> Path:
    """Return the socket: of the system for root, else of the user."""
    if os.geteuid() == 0:
        return Path("/run/libvirtish/libvirt-sock")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    # Never in a directory that others may write to: they could listen there first.
    return (Path(runtime) / "libvirtish" if runtime else default_state()) / "libvirt-sock"


def default_state() -> Path:
    """Return the directory of the state."""
    if os.geteuid() == 0:
        return Path("/var/lib/libvirtish")
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "libvirtish"


def uri_of(path: Path | str) -> str:
    """Return the URI by which libvirt's clients reach a socket."""
    return f"qemu:///system?socket={path}"


def socket_of(uri: str) -> Path | None:
    """Return the socket that a URI names, or None if it names none."""
    named = parse_qs(urlsplit(uri).query).get("socket")
    return Path(named[0]) if named else None
