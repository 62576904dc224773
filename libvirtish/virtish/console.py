"""`virtish console`: the terminal becomes the guest's, until Ctrl-] or the stream's end."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty

from libvirtish.rpc import types as t
from libvirtish.rpc.client import RemoteError
from libvirtish.virtish.session import Session, VerbError

ESCAPE = b"\x1d"  # Ctrl-]


def attach(session: Session, dom: t.Domain, device: str | None, force: bool) -> None:
    """Attach to a console and copy both ways. :raise VerbError: if it cannot be had."""
    if dom.id < 0:
        raise VerbError("The domain is not running")
    if not sys.stdin.isatty():
        raise VerbError("Cannot run interactive console without a controlling TTY")
    try:
        stream = session.daemon.open_stream(
            "domain_open_console", t.OpenConsoleArgs(dom, device, int(force))
        )
    except RemoteError as error:
        raise VerbError(str(error)) from error
    sys.stdout.write(f"Connected to domain '{dom.name}'\nEscape character is ^] (Ctrl + ])\n")
    sys.stdout.flush()
    keyboard, screen = sys.stdin.fileno(), sys.stdout.fileno()
    before = termios.tcgetattr(keyboard)
    tty.setraw(keyboard)
    try:
        while True:
            ready, _, _ = select.select([keyboard, session.daemon], [], [])
            if session.daemon in ready:
                data = stream.receive()
                if not data:
                    break
                while data:
                    data = data[os.write(screen, data) :]
            if keyboard in ready:
                typed = os.read(keyboard, 4096)
                kept, escape, _ = typed.partition(ESCAPE)
                if kept:
                    stream.send(kept)
                if escape or not typed:
                    stream.finish()
                    break
    except RemoteError as error:
        raise VerbError(str(error)) from error
    finally:
        termios.tcsetattr(keyboard, termios.TCSAFLUSH, before)
