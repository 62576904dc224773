"""The entry point of `kvmish`: a program or a machine is started at once, all else by `cli.py`.

Importing a command line costs more than the first 10 ms of a guest; `kvmish exec -- PROGRAM` needs
none, and `boot` and `vm` have one of their own.
"""

from __future__ import annotations

import errno
import os
import sys
from importlib import import_module

OWN = {"boot": "vmmuser.cli", "vm": "vmmuser.vm"}
CORE = "kvm_core._kvm"
FAILED, INTERRUPTED = 1, 130
LOST_OUTPUT = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def main() -> int:
    """Run the command line of this process."""
    _fill_standard_files()
    try:
        try:
            return _run(sys.argv[1:])
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        if error.errno not in LOST_OUTPUT:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is buffered yet
        if error.errno != errno.EPIPE:  # `kvmish ... | head` needs no word
            sys.stderr.write(f"kvmish: write error: {error.strerror}\n")
        return FAILED


def _fill_standard_files() -> None:
    """Open what the caller has closed, lest a file of ours be taken for it."""
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, os.O_RDWR), fd)  # the lowest that is free: this one
            setattr(sys, name, os.fdopen(fd, mode, encoding="utf-8", closefd=False))


def _run(words: list[str]) -> int:
    if words and words[0] in OWN:
        import_module(CORE)  # takes its first look at the host's clock; the last is some ms later
        status: int = import_module(OWN[words[0]]).main(words[1:])
        return status
    if words[:2] == ["exec", "--"] and len(words) > 2:
        return int(import_module("kvmish.doors").run(tuple(words[2:])))
    return int(import_module("kvmish.cli").main())
