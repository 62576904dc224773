"""How the commands of this package end: one line on standard error, and an exit status."""

from __future__ import annotations

import contextlib
import sys

import click

from kvm_core.errors import ConfigError, VmError

DONE, FAILED, CANNOT = 0, 1, 2  # 1: the guest or the host failed; 2: what was asked for cannot be
INTERRUPTED = 130


def say(text: str) -> None:
    """Tell the user something, on standard error, and never fail for it."""
    with contextlib.suppress(OSError):
        for line in text.splitlines():
            sys.stderr.write(f"kvmish: {line}\n")
        sys.stderr.flush()


def run(command: click.Command, arguments: list[str], name: str) -> int:
    """Run a command that returns its status; an error becomes a line and a status."""
    try:
        status = command.main(arguments, prog_name=name, standalone_mode=False)
    except ConfigError as error:
        say(str(error))
        return CANNOT
    except VmError as error:
        say(str(error))
        return FAILED
    except click.exceptions.Abort:
        return INTERRUPTED
    except click.ClickException as error:
        say(f"{error.format_message()} Try {name} --help.")
        return CANNOT
    return status if isinstance(status, int) else DONE
