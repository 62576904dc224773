"""Programs that LD_PRELOAD does not reach, compiled as anybody would, and their launcher."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = ROOT / "build" / "kvmish-launch"
CLIENT = ROOT / "tests" / "devfs" / "client.c"
HEADERS = ["-idirafter", "/usr/include", "-idirafter", "/usr/include/x86_64-linux-gnu"]
FLAGS = ["-O1", "-g", "-Wall", "-Wextra", "-Werror", "-std=gnu11", "-D_GNU_SOURCE"]
COMPILERS = {
    "glibc": ["gcc", "-static"],
    "musl": ["musl-gcc", "-static", *HEADERS],
    "32-bit": ["gcc", "-m32", "-static"],
}

Need = Callable[[object, str], None]


def launch(program: Path | str, *arguments: str) -> list[str]:
    """Return the command that runs a program behind the door."""
    path = shutil.which(str(program))
    assert path is not None, program
    return [str(LAUNCHER), path, str(program), *arguments]


def _runs(compiler: list[str], directory: Path) -> bool:
    """Whether it makes programs of this kind: gcc may be there without its 32-bit half."""
    if shutil.which(compiler[0]) is None:
        return False
    command = [*compiler, "-x", "c", "-o", str(directory / "try"), "-"]
    source = "#include <stdio.h>\nint main(void) { return 0; }\n"
    done = subprocess.run(command, input=source, text=True, capture_output=True, check=False)
    return done.returncode == 0


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory, need: Need) -> Callable[[str], Path]:
    """compiled("musl"): tests/devfs/client.c as a static program of this kind."""
    programs: dict[str, Path] = {}

    def build(kind: str) -> Path:
        if kind not in programs:
            directory = tmp_path_factory.mktemp("client")
            directory.chmod(0o755)
            need(_runs(COMPILERS[kind], directory), f"a compiler for {kind} programs")
            program = directory / "client"
            command = [*COMPILERS[kind], *FLAGS, "-o", str(program), str(CLIENT)]
            subprocess.run([*command, "-lpthread", "-lrt"], check=True)
            programs[kind] = program
        return programs[kind]

    return build


@pytest.fixture(scope="session")
def client(compiled: Callable[[str], Path]) -> Path:
    """The static program of the host's own C library."""
    return compiled("glibc")
