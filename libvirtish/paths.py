"""Where the daemon listens and keeps its state when nobody says so; what a URI says of it."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import parse_qs, urlsplit


class NoHomeError(Exception):
    """Nothing says where this user's state belongs."""


def default_socket() -> Path:
    """Return the socket: of the system for root, else of the user. :raise NoHomeError:"""
    if os.geteuid() == 0:
        return Path("/run/libvirtish/libvirt-sock")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    # Never in a directory that others may write to: they could listen there first.
    return (Path(runtime) / "libvirtish" if runtime else default_state()) / "libvirt-sock"


def default_state() -> Path:
    """Return the directory of the state. :raise NoHomeError:"""
    if os.geteuid() == 0:
        return Path("/var/lib/libvirtish")
    if of_user := os.environ.get("XDG_STATE_HOME"):
        return Path(of_user) / "libvirtish"
    try:
        return Path.home() / ".local" / "state" / "libvirtish"
    except RuntimeError:  # a number without an entry in the table of users, as in containers
        raise NoHomeError("HOME is not set") from None


def uri_of(path: Path | str) -> str:
    """Return the URI by which libvirt's clients reach a socket."""
    return f"qemu:///system?socket={path}"


def socket_of(uri: str) -> Path | None:
    """Return the socket that a URI names, or None if it names none.

    :raise ValueError: if it is not of a daemon on this machine.
    """
    parts = urlsplit(uri)
    if parts.scheme not in ("qemu", "qemu+unix") or parts.netloc:
        raise ValueError(uri)
    named = parse_qs(parts.query).get("socket")
    return Path(named[0]) if named else None
