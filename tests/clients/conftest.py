"""The doors by which a client finds /dev/kvm: what to put before its command."""

from __future__ import annotations

import pytest

from tests.devfs.broker import Broker
from tests.devfs.conftest import device, may_mount
from tests.devfs.place import at_the_usual_place
from tests.qemu import KVMISH

__all__ = ["device", "may_mount"]  # fixtures: the device file


_LONG = [pytest.param(name, marks=pytest.mark.full) for name in ("seccomp", "file")]


@pytest.fixture(params=["preload", *_LONG])
def prefix(request: pytest.FixtureRequest) -> list[str]:
    """`kvmish exec`, or a mount namespace in which the device file is /dev/kvm."""
    if request.param != "file":
        return [str(KVMISH), "exec", "--quiet", "--door", request.param, "--"]
    broker: Broker = request.getfixturevalue("device")
    return at_the_usual_place(broker.file)
