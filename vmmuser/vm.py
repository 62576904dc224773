"""`kvmish vm`: reads a description, runs its machine, and says in one line how it went wrong."""

from __future__ import annotations

import logging
import os
from dataclasses import replace

from kvm_core.errors import ConfigError
from vmmuser import description as descriptions
from vmmuser import status
from vmmuser.process import VmProcess


def _parser() -> status.Parser:
    parser = status.Parser(
        prog="kvmish vm",
        description="Run one machine as a process with a QMP monitor, until it powers off, `quit`"
        " or SIGTERM. Exit status: 0 it powered off or was told to stop, 1 it crashed, 2 it could"
        " not be.",
    )
    add = parser.add_argument
    add("--config", metavar="FILE", required=True, help="the machine's description: JSON; or -")
    add("--qmp", metavar="SOCKET", help="where the monitor listens")
    add("-v", "--verbose", action="store_true", help="tell each event and how it ended")
    return parser


def vm(arguments: list[str]) -> int:
    """Do what the arguments say; the exit status. :raise VmError: if it cannot be."""
    options = _parser().parse_args(arguments)
    level = logging.INFO if options.verbose else logging.WARNING
    logging.basicConfig(format="kvmish: %(asctime)s %(message)s", level=level)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    description = descriptions.read(options.config)
    if (qmp := options.qmp) is not None:
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
    return status.run(vm, arguments)
