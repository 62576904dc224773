"""How a test's guests are executed: interpreted, or translated even where they are cold."""

from __future__ import annotations

import pytest

from kvm_core import engines

# The third translates each instruction the first time: small guests have nothing that is hot.
WAYS = (*engines.ENGINES, "translate at once")


def choose(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the vCPUs that this test and its children create."""
    monkeypatch.setenv(engines.VARIABLE, way.split()[0])
    if way == "translate at once":
        monkeypatch.setenv("KVMISH_TRANSLATE_AT_ONCE", "1")
