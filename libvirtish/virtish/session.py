"""What every verb needs: the connection, a domain by name, id or UUID, and a way to print."""

from __future__ import annotations

import json
import os
import re
import sys
import uuid
from pathlib import Path

from rich.console import Console as RichConsole
from rich.text import Text

from libvirtish import paths
from libvirtish.rpc import types as t
from libvirtish.rpc.client import Connection, DisconnectedError, RemoteError

_STYLES = {"running": "green", "paused": "yellow", "shut off": "dim", "crashed": "bold red"}


class VerbError(Exception):
    """A verb that failed: lines for standard error, each behind `error: `."""

    def __init__(self, *lines: str) -> None:
        """`lines`, the most general first, as virsh prints them."""
        super().__init__(": ".join(lines))
        self.lines = lines


class Session:
    """One run of the command."""

    def __init__(self, uri: str | None, quiet: bool, as_json: bool) -> None:
        """`uri`: of --connect; None takes the environment's, else the default."""
        self.uri = uri or os.environ.get("LIBVIRT_DEFAULT_URI") or ""
        self.quiet, self.as_json = quiet, as_json
        self._connection: Connection | None = None
        self.out = RichConsole(highlight=False, soft_wrap=True, markup=False, emoji=False)

    @property
    def daemon(self) -> Connection:
        """Return the connection, made at the first use. :raise VerbError: if nobody listens."""
        if self._connection is None:
            path = self._socket()
            self.uri = self.uri or paths.uri_of(path)
            try:
                self._connection = Connection(str(path), self.uri)
            except DisconnectedError as error:
                reason = str(error).rpartition(": ")[2]
                raise VerbError(
                    "failed to connect to the hypervisor",
                    f"Failed to connect socket to '{path}': {reason}",
                    "start libvirtishd, or name its socket: --connect qemu:///system?socket=PATH",
                ) from error
        return self._connection

    def _socket(self) -> Path:
        try:
            return (paths.socket_of(self.uri) if self.uri else None) or paths.default_socket()
        except ValueError:
            why = f"'{self.uri}' is not of libvirtishd on this machine"
        except paths.NoHomeError as error:
            why = str(error)
        raise VerbError(
            "failed to connect to the hypervisor",
            f"{why}; name its socket: --connect qemu:///system?socket=PATH",
        )

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()

    # -- domains --------------------------------------------------------------------------------

    def domain(self, named: str) -> t.Domain:
        """Find a domain as virsh does: an id, a UUID, a name. :raise VerbError:"""
        if not named:
            raise VerbError("Failed to get option 'domain': Option argument is empty")
        tries: list[tuple[str, object]] = []
        if re.fullmatch(r"[0-9]{1,9}", named):
            tries.append(("domain_lookup_by_id", t.OneInt(int(named))))
        if re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", named):
            tries.append(("domain_lookup_by_uuid", t.OneUuid(uuid.UUID(named).bytes)))
        tries.append(("domain_lookup_by_name", t.OneStr(named)))
        for procedure, args in tries:
            try:
                return self.daemon.ask(t.OneDomain, procedure, args).dom
            except RemoteError:
                continue
        raise VerbError(f"failed to get domain '{named}'")

    def domains(self, flags: int = 0) -> list[t.Domain]:
        """List domains as virsh sorts them: running ones by id, then the others by name."""
        found = self.daemon.ask(
            t.ListDomainsRet, "connect_list_all_domains", t.ListDomainsArgs(1, flags)
        ).domains
        return sorted(found, key=lambda dom: (dom.id < 0, dom.id, dom.name))

    # -- printing -------------------------------------------------------------------------------

    def show(self, text: str, data: object) -> None:
        """Print a result: the data as JSON if so asked, else the text, as virsh prints it."""
        if self.as_json:
            sys.stdout.write(json.dumps(data, indent=2) + "\n")
        elif self.out.is_terminal:
            styled = Text(text)
            for word, style in _STYLES.items():
                styled.highlight_regex(rf"(?m){re.escape(word)}$", style)
            self.out.print(styled, end="")
        else:
            sys.stdout.write(text)
        sys.stdout.flush()

    def end(self) -> None:
        """Print the empty line that virsh prints after a command."""
        if not self.quiet and not self.as_json:
            sys.stdout.write("\n")
            sys.stdout.flush()


def say_errors(*lines: str) -> None:
    """Print errors as virsh does, in red on a terminal."""
    sys.stdout.flush()
    console = RichConsole(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)
    for line in lines:
        console.print(Text(f"error: {line}", style="red" if console.is_terminal else ""))
