"""What all tests share: the long runs' switch, C test programs, and the watch over /dev/kvm."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kvm_guard import Guard

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="the long runs too (make test-full)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--full"):
        return
    long_runs = [item for item in items if item.get_closest_marker("full")]
    if long_runs:
        config.hook.pytest_deselected(items=long_runs)
        items[:] = [item for item in items if item not in long_runs]


@pytest.fixture(scope="session")
def full(pytestconfig: pytest.Config) -> bool:
    """Whether this is `make test-full`, where a missing counterpart is a failure."""
    return bool(pytestconfig.getoption("--full"))


@pytest.fixture(scope="session")
def need(full: bool) -> Callable[[bool, str], None]:
    """need(condition, what): without a counterpart, skip; in a full run, fail."""

    def check(present: object, what: str) -> None:
        if not present and full:
            pytest.fail(f"missing for a full run: {what}")
        if not present:
            pytest.skip(f"missing: {what}")

    return check


@pytest.fixture(scope="session")
def c_program() -> Callable[..., Path]:
    """c_program("unit/test_x.c", asan=False): builds tests/unit/test_x.c, returns the program.

    The Makefile's rule has the flags, links build/libkvmcore.a and rebuilds what changed.
    """

    def build(source: str, asan: bool = False) -> Path:
        directory = "build/asan/tests" if asan else "build/tests"
        target = f"{directory}/{source.removesuffix('.c')}"
        # MAKEFLAGS of an outer make would name a job server that is not ours.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
        done = subprocess.run(
            ["make", "-s", f"-j{os.cpu_count()}", target],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return ROOT / target

    return build


@pytest.fixture(scope="session")
def _kvm_guard() -> Iterator[Guard | None]:
    guard = Guard.watching("/dev/kvm")
    yield guard
    if guard is not None:
        guard.close()


@pytest.fixture(autouse=True)
def _host_kvm_is_left_alone(
    request: pytest.FixtureRequest, _kvm_guard: Guard | None
) -> Iterator[None]:
    """Fail a test that opens the host's /dev/kvm, itself or in a child, unless marked host_kvm."""
    if _kvm_guard is None:
        yield
        return
    _kvm_guard.take()
    yield
    openers = _kvm_guard.take()
    if openers and not request.node.get_closest_marker("host_kvm"):
        pytest.fail(f"the host's /dev/kvm was opened by: {', '.join(openers)}")
