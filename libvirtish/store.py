"""State on disk: definitions, autostart marks and what runs, each file whole at any moment.

domains/NAME.xml      a definition
autostart/NAME.xml    a link to it, if it starts with the daemon
run/NAME/             one running domain: status.xml, and what its VMM process uses
lock                  held by the daemon that owns all this
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger("libvirtishd")

SUFFIX = ".xml"


class StoreLockedError(Exception):
    """Another daemon owns this state."""


def write_whole(path: Path, text: str) -> None:
    """Replace a file so that a kill or a power cut at any moment leaves the old or the new one.

    :raise OSError: with the path as its filename.
    """
    try:
        _write_whole(path, text)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _write_whole(path: Path, text: str) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Store:
    """The directory of one daemon."""

    def __init__(self, root: Path) -> None:
        """Make it if need be, and own it. :raise StoreLockedError: if another daemon does."""
        self.root = root
        self.domains, self._autostart, self.run = (
            root / name for name in ("domains", "autostart", "run")
        )
        for path in (self.domains, self._autostart, self.run):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise StoreLockedError(f"{root}: another libvirtishd owns this state") from None
        for leftover in self.root.glob("*/**/.new-*"):  # of a write that was cut off
            log.info("removed the unfinished %s", leftover)
            leftover.unlink()

    def close(self) -> None:
        """Let another daemon own it."""
        os.close(self._lock)

    # -- definitions --------------------------------------------------------------------------

    def definitions(self) -> Iterator[tuple[str, str]]:
        """Give name and XML of each definition; what cannot be read is logged and left."""
        for path in sorted(self.domains.glob("*" + SUFFIX)):
            try:
                yield path.name.removesuffix(SUFFIX), path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                log.error("%s: cannot be read, and is left alone: %s", path, error)

    def save(self, name: str, xml: str) -> None:
        """Write a definition."""
        write_whole(self.domains / (name + SUFFIX), xml)

    def remove(self, name: str) -> None:
        """Remove a definition and its autostart mark."""
        self.set_autostart(name, False)
        (self.domains / (name + SUFFIX)).unlink(missing_ok=True)
        _sync_directory(self.domains)

    def autostart(self, name: str) -> bool:
        """Whether it starts with the daemon."""
        return (self._autostart / (name + SUFFIX)).is_symlink()

    def set_autostart(self, name: str, wanted: bool) -> None:
        """Say whether it starts with the daemon."""
        link = self._autostart / (name + SUFFIX)
        if not wanted:
            link.unlink(missing_ok=True)
        elif not link.is_symlink():
            link.symlink_to(Path("..") / self.domains.name / (name + SUFFIX))
        _sync_directory(self._autostart)

    # -- what runs ----------------------------------------------------------------------------

    def run_directory(self, name: str) -> Path:
        """Return the directory of a running domain, which may not be there."""
        return self.run / name

    def running(self) -> list[str]:
        """Names of the domains that ran when the state was last written."""
        return sorted(path.name for path in self.run.iterdir() if path.is_dir())

    def forget_run(self, name: str) -> None:
        """Remove the directory of a domain that runs no more."""
        shutil.rmtree(self.run / name, ignore_errors=True)
