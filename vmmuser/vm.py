"""`kvmish vm`: reads a description, runs its machine, and says in one line how it went wrong."""

from __future__ import annotations

import logging
import os
from dataclasses import replace

import click

from kvm_core.errors import ConfigError
from vmmuser import description as descriptions
from vmmuser import status
from vmmuser.process import VmProcess


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config", required=True, metavar="FILE", help="The machine's description: JSON; or -."
)
@click.option("--qmp", metavar="SOCKET", help="Where the monitor listens.")
@click.option("-v", "--verbose", is_flag=True, help="Tell each event and how it ended.")
def vm(config: str, qmp: str | None, verbose: bool) -> int:
    """Run one machine as a process with a QMP monitor, until it powers off, `quit` or SIGTERM.

    Exit status: 0 it powered off or was told to stop, 1 it crashed, 2 it could not be.
    """
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(format="kvmish: %(asctime)s %(message)s", level=level)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    description = descriptions.read(config)
    if qmp is not None:
        if len(os.path.basename(os.fsencode(qmp))) > descriptions.MAX_SOCKET_NAME_BYTES:
            raise ConfigError(f"--qmp {qmp}: the name is too long for a socket; shorten it")
        description = replace(description, qmp=os.path.abspath(qmp))
    process = VmProcess(description)
    try:
        return process.run()
    finally:
        process.close()


def main(arguments: list[str]) -> int:
    """Run `kvmish vm`; see vm for the status."""
    return status.run(vm, arguments, "kvmish vm")
