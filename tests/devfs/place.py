"""A mount namespace in which the device file is /dev/kvm, whether or not the host has one."""

from __future__ import annotations

from pathlib import Path

# $0: the device file, $1: a directory that is not there yet, the rest: the command.
_SCRIPT = """
set -e
if [ ! -e /dev/kvm ]; then  # a /dev for this namespace alone, with a place for the file
    mkdir "$1"
    mount --rbind /dev "$1"
    mount -t tmpfs none /dev
    for name in "$1"/*; do ln -s "$name" /dev/; done
    : >/dev/kvm
fi
mount --bind "$0" /dev/kvm
shift
exec "$@"
"""


def at_the_usual_place(file: Path, directory: Path) -> list[str]:
    """Return what to put before a command."""
    return ["unshare", "--mount", "sh", "-c", _SCRIPT, str(file), str(directory / "dev-before")]
