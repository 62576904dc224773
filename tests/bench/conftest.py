"""Benchmarks run by `make bench` only: `make test` does not even collect them."""

from __future__ import annotations

import pytest


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Ignore this directory without --benchmark-only."""
    return None if config.getoption("benchmark_only") else True
