"""All of this directory, by each engine."""

from __future__ import annotations

import pytest

from tests import engines


@pytest.fixture(autouse=True, params=engines.WAYS[1:])
def _engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    engines.choose(request.param, monkeypatch)
