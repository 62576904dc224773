"""How the commands of this package end: one line on standard error, and an exit status."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable
from functools import partial
from typing import NoReturn

from kvm_core.errors import ConfigError, VmError

DONE, FAILED, CANNOT = 0, 1, 2  # 1: the guest or the host failed; 2: what was asked for cannot be
INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """Options of a command that starts a machine. argparse, because importing click takes longer
    than all else until the guest's first instruction.
    """

    def __init__(self, prog: str, description: str) -> None:
        """Name the command, and tell what it does."""
        super().__init__(
            prog=prog,
            description=description,
            allow_abbrev=False,
            formatter_class=partial(argparse.HelpFormatter, width=100),  # needs no shutil
        )

    def error(self, message: str) -> NoReturn:
        """End by a line, as all else does. :raise ConfigError:"""
        raise ConfigError(f"{message}. Try {self.prog} --help.")


def say(text: str) -> None:
    """Tell the user something, on standard error, and never fail for it."""
    with contextlib.suppress(OSError):
        for line in text.splitlines():
            sys.stderr.write(f"kvmish: {line}\n")
        sys.stderr.flush()


def run(command: Callable[[list[str]], int], arguments: list[str]) -> int:
    """Run a command that returns its status; an error becomes a line and a status."""
    try:
        return command(arguments)
    except ConfigError as error:
        say(str(error))
        return CANNOT
    except VmError as error:
        say(str(error))
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
