"""`libvirtishd`: options, the socket, signals. Domains outlive it, and it finds them again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import stat
import sys
from pathlib import Path

import click

from libvirtish import paths, standard
from libvirtish.domain import Surroundings
from libvirtish.driver import Driver
from libvirtish.events import Events
from libvirtish.registry import Registry
from libvirtish.rpc.server import Limits, Server
from libvirtish.store import Store, StoreLockedError

log = logging.getLogger("libvirtishd")

CANNOT = 2  # exit status: what was asked for cannot be
SOCKET_PATH_MAX = 107  # bytes of sockaddr_un


class DaemonError(Exception):
    """The daemon cannot start."""


def find_vmm(named: str | None) -> list[str]:
    """Return the command that runs a machine: named, or `kvmish` beside this one, or on PATH.

    :raise DaemonError: if there is none.
    """
    beside = Path(sys.argv[0]).resolve().with_name("kvmish")
    found = named or (str(beside) if beside.is_file() else shutil.which("kvmish"))
    if found is None or shutil.which(found) is None:
        raise DaemonError(f"{found or 'kvmish'}: no such program; name it with --vmm")
    return [str(Path(shutil.which(found) or found).resolve()), "vm"]


def prepare_socket(path: Path) -> None:
    """Make way for the socket. :raise DaemonError: if somebody listens on it, or it cannot be."""
    if len(os.fsencode(path)) > SOCKET_PATH_MAX:
        raise DaemonError(f"{path}: longer than {SOCKET_PATH_MAX} bytes; choose a shorter --socket")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):  # connect() answers as if it were a dead socket
        raise DaemonError(f"{path}: is there and not a socket; choose another --socket")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        except OSError as error:
            raise DaemonError(f"{path}: {error.strerror}; remove it or choose --socket") from error
        else:
            raise DaemonError(f"{path}: another daemon listens there; choose --socket and --state")


async def serve(socket_path: Path, store: Store, command: list[str], limits: Limits) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP."""
    events = Events()
    registry = Registry(Surroundings(store, events, command))
    await registry.load()
    server = Server(Driver(registry, events, command[0]), limits)
    before = os.umask(0o177)  # the socket is the only lock on the door
    try:
        await server.listen(str(socket_path))
    finally:
        os.umask(before)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    log.info("listening on %s, state in %s", socket_path, store.root)
    starting = asyncio.create_task(registry.autostart())
    await stop.wait()
    starting.cancel()
    with contextlib.suppress(FileNotFoundError):
        socket_path.unlink()
    await server.close()
    registry.close()
    log.info("ended; domains run on")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--socket", "socket_path", type=click.Path(path_type=Path), help="Where to listen.")
@click.option("--state", type=click.Path(path_type=Path), help="The directory of all state.")
@click.option("--vmm", metavar="PROGRAM", help="The program that runs a machine. Default: kvmish.")
@click.option(
    "--frame-timeout",
    type=click.FloatRange(min=0.01),
    default=Limits.frame_s,
    show_default=True,
    help="Seconds for a client to finish a message that it has begun.",
)
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
def run(
    socket_path: Path | None,
    state: Path | None,
    vmm: str | None,
    frame_timeout: float,
    verbose: bool,
) -> int:
    """Manage virtual machines for libvirt's clients: virsh -c 'qemu:///system?socket=PATH'.

    Its domains are processes of their own and run on when it ends.
    """
    logging.basicConfig(
        format="libvirtishd: %(levelname)s: %(message)s",
        level=logging.DEBUG if verbose else logging.INFO,
        stream=sys.stderr,
    )
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    try:
        socket_path = (socket_path or paths.default_socket()).absolute()
        command = find_vmm(vmm)
        store = Store((state or paths.default_state()).absolute())
        prepare_socket(socket_path)
        asyncio.run(serve(socket_path, store, command, Limits(frame_s=frame_timeout)))
        store.close()
    except (DaemonError, StoreLockedError) as error:
        return _refuse(str(error))
    except paths.NoHomeError as error:
        return _refuse(f"{error}; choose --socket and --state")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _refuse(f"{where}{error.strerror or error}; choose another --socket or --state")
    return 0


def _refuse(message: str) -> int:
    click.echo(f"libvirtishd: {message}", err=True)
    return CANNOT


def main() -> int:
    """Run the command line."""
    standard.prepare()
    try:
        status = run.main(standalone_mode=False)
    except click.ClickException as error:
        return _refuse(f"{error.format_message()} Try libvirtishd --help.")
    except click.exceptions.Abort:
        return 130
    return status if isinstance(status, int) else 0
