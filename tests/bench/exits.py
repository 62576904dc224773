"""How often a guest left KVM_RUN for QEMU, as QEMU's own statistics have it (KVM API 4.135)."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from qemu.qmp import QMPClient

from tests.bench import image

SOCKET = image.BUILD / "exits.qmp"
# At power-off QEMU stays until it is told to go, with the processors' figures.
OPTIONS = ("-action", "shutdown=pause", "-qmp", f"unix:{SOCKET},server=on,wait=off")
MARK = "reboot: Power down"


def read_and_quit() -> float:
    """Return the sum over the processors, and end QEMU."""
    return asyncio.run(_read_and_quit())


async def _read_and_quit() -> float:
    client = QMPClient()
    await client.connect(str(SOCKET))
    wanted = [{"provider": "kvm", "names": ["user_exits"]}]
    found: Any = await client.execute("query-stats", {"target": "vcpu", "providers": wanted})
    await client.execute("quit")
    with contextlib.suppress(EOFError):  # it may be gone first
        await client.disconnect()
    return float(sum(stat["value"] for vcpu in found for stat in vcpu["stats"]))
