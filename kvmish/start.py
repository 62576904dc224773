"""The entry point of `kvmish`: a program or a machine is started at once, all else by `cli.py`.

Importing a command line costs more than the first 10 ms of a guest; `kvmish exec -- PROGRAM` needs
none, and `boot` and `vm` have one of their own.
"""

from __future__ import annotations

import sys
from importlib import import_module

OWN = {"boot": "vmmuser.cli", "vm": "vmmuser.vm"}
CORE = "kvm_core._kvm"


def main() -> int:
    """Run the command line of this process."""
    words = sys.argv[1:]
    if words and words[0] in OWN:
        import_module(CORE)  # takes its first look at the host's clock; the last is some ms later
        status: int = import_module(OWN[words[0]]).main(words[1:])
        return status
    if words[:2] == ["exec", "--"] and len(words) > 2:
        return int(import_module("kvmish.doors").run(tuple(words[2:])))
    return int(import_module("kvmish.cli").main())
