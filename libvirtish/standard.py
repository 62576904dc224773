"""Standard input and output as a caller may leave them: closed, full, or with nobody behind."""

from __future__ import annotations

import errno
import os
import sys
from io import TextIOWrapper

LOST_OUTPUT = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def prepare() -> None:
    """Open what is closed, lest a file of ours be taken for it. What the locale cannot write comes
    as an escape.
    """
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, os.O_RDWR), fd)  # the lowest that is free: this one
            setattr(sys, name, os.fdopen(fd, mode, encoding="utf-8", closefd=False))
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def give_up_output(error: OSError) -> str:
    """Drop what standard output does not take; what to say of it, or nothing.

    :raise OSError: the same, if it is another error.
    """
    if error.errno not in LOST_OUTPUT:
        raise error
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    # A reader that went away, as `| head` does, needs no word.
    return "" if error.errno == errno.EPIPE else f"write error: {error.strerror}"
