"""Benchmarks run by `make bench` only: `make test` does not even collect them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

ROUNDS = 5


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rounds", type=int, default=ROUNDS, help="runs of each side, alternating")


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Ignore this directory without --benchmark-only."""
    return None if config.getoption("benchmark_only") else True


@dataclass
class Comparison:
    """Runs the sides of a comparison in turn, so that a busy moment of the host hits them alike.

    Keeps every sample; tools/performance.py renders medians.
    """

    benchmark: Any
    rounds: int
    samples: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def run(
        self, table: str, unit: str, sides: Mapping[str, Callable[[], Mapping[str, float]]]
    ) -> None:
        """Each side, when called, runs once and returns a value for each of the table's rows."""
        turn = 0

        def alternate() -> None:
            nonlocal turn
            order = list(sides) if turn % 2 == 0 else list(reversed(sides))
            turn += 1
            for column in order:
                for row, value in sides[column]().items():
                    self.samples.setdefault(row, {}).setdefault(column, []).append(value)

        self.benchmark.pedantic(alternate, rounds=self.rounds, iterations=1)
        self.benchmark.extra_info.update(table=table, unit=unit, samples=self.samples)

    def median(self, row: str, column: str) -> float:
        """The middle one of the samples."""
        return statistics.median(self.samples[row][column])


@pytest.fixture
def comparison(benchmark: Any, request: pytest.FixtureRequest) -> Comparison:
    return Comparison(benchmark, request.config.getoption("--rounds"))
