"""The launcher door without any right: no capability, a container's filter, a namespace."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.door.conftest import LAUNCHER, ROOT, Need, launch

ORDINARY = ["--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"]
SCENARIOS = ["slots", "memory", "aliases", "eventfds", "signals", "crowd", "int80"]


@pytest.fixture(scope="session")
def open_to_all(client: Path) -> Iterator[Path]:
    """The client and the container, where any user gets at them: pytest's own places are closed."""
    if subprocess.run([*_user(), "test", "-x", LAUNCHER], check=False).returncode:
        pytest.skip("the source tree is closed to other users")
    with TemporaryDirectory(prefix="kvmish-test-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        shutil.copy(client, directory / "client")
        source = ROOT / "tests" / "door" / "container.c"
        command = ["gcc", "-Wall", "-Werror", "-o", str(directory / "container"), str(source)]
        subprocess.run(command, check=True)
        yield directory


def _user() -> list[str]:
    """What makes root an ordinary user; whoever is not root is one."""
    return ["setpriv", *ORDINARY] if os.geteuid() == 0 else []


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_in_a_container(open_to_all: Path, scenario: str) -> None:
    command = [*_user(), str(open_to_all / "container")]
    command += launch(open_to_all / "client", "/dev/kvm", scenario)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")


@pytest.mark.parametrize("scenario", ["slots", "eventfds"])
def test_in_a_user_namespace(open_to_all: Path, scenario: str, need: Need) -> None:
    """Root in there, nobody outside."""
    inside = [*_user(), "unshare", "--user", "--map-root-user"]
    allowed = shutil.which("unshare") and not subprocess.run(
        [*inside, "true"], capture_output=True, check=False
    ).returncode
    need(allowed, "user namespaces for ordinary users")
    command = [*inside, *launch(open_to_all / "client", "/dev/kvm", scenario)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")
