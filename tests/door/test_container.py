"""The launcher door without any right: no capability, a container's filter, a namespace."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.door.conftest import ROOT, Need, launch

ORDINARY = ["--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"]
SCENARIOS = ["slots", "memory", "aliases", "eventfds", "signals", "crowd"]


@pytest.fixture(scope="session")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[str]], list[str]]:
    """outside(command): the same, in there. Whoever is not root is an ordinary user already."""
    directory = tmp_path_factory.mktemp("container")
    program = directory / "container"
    source = ROOT / "tests" / "door" / "container.c"
    subprocess.run(["gcc", "-Wall", "-Werror", "-o", str(program), str(source)], check=True)
    _reach(program)
    user = ["setpriv", *ORDINARY] if os.geteuid() == 0 else []

    def put(command: list[str]) -> list[str]:
        return [*user, str(program), *command]

    return put


def _reach(path: Path) -> None:
    """Let others get there: pytest's directories are their owner's."""
    for place in path.parents:
        if not place.stat().st_mode & 0o005:
            place.chmod(0o755)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_in_a_container(
    outside: Callable[[list[str]], list[str]], client: Path, scenario: str
) -> None:
    _reach(client)
    command = outside(launch(client, "/dev/kvm", scenario))
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")


@pytest.mark.parametrize("scenario", ["slots", "eventfds"])
def test_in_a_user_namespace(client: Path, scenario: str, need: Need) -> None:
    """Root in there, nobody outside."""
    _reach(client)
    user = ["setpriv", *ORDINARY] if os.geteuid() == 0 else []
    inside = [*user, "unshare", "--user", "--map-root-user"]
    allowed = shutil.which("unshare") and not subprocess.run(
        [*inside, "true"], capture_output=True, check=False
    ).returncode
    need(allowed, "user namespaces for ordinary users")
    command = [*inside, *launch(client, "/dev/kvm", scenario)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")
