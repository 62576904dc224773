"""Who may know whom: reads every import and #include, and fails when an arrow runs backwards.

Also: files stay small, say in their first line why they exist, and generated files are current.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAX_FILE_LINES = 800
MAX_FUNCTION_LINES = 85  # "about 80"
MAX_C_COLUMNS = 140  # tables and long conditions; of Python, ruff looks at the width
MAX_FILE_BYTES = 512 * 1024

# Python: package -> the first-party modules (prefixes) it may import besides its own.
PYTHON_MAY = {
    "kvm_core": (),
    "vmmuser": tuple(f"kvm_core.{name}" for name in ("api", "abi", "engines", "errors", "exits")),
    "devfs": ("kvm_core",),
    "libvirtish": (),
    "kvmish": ("vmmuser", "kvm_core", "devfs"),
    "tools": ("vmmuser.assets", "kvm_core.abi"),
}
# Inside vmmuser, what a device (the left) must not know.
_MACHINE = tuple(f"vmmuser.{name}" for name in ("board", "boot", "machine", "bus", "cli"))
DEVICES_MUST_NOT = {
    "vmmuser.devices": (*_MACHINE, "kvm_core.api"),
    "vmmuser.virtio": (*_MACHINE, "kvm_core.api", "vmmuser.devices"),
}

# C: directory of kvm_core -> the directories whose headers it may include besides its own.
C_MAY = {
    "isa": {"cpu", "mmu", "gen"},
    "gen": {"isa", "cpu", "mmu"},
    "cpu": {"isa", "mmu", "gen"},
    "mmu": {"cpu", "isa"},
    "jit": {"cpu", "mmu", "isa", "gen"},
    "irq": {"cpu", "mmu"},
    "kvm": {"cpu", "mmu", "isa", "irq", "jit", "gen"},
    "shim": {"kvm", "isa"},
    "": {"cpu", "mmu", "isa", "irq", "jit", "gen", "kvm"},  # _accel.c, runner.c
}


def _tracked(*suffixes: str) -> list[Path]:
    """Source files: what git tracks or would, without generated ones."""
    names: list[str] = []
    if shutil.which("git"):
        listing = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        names = listing.stdout.splitlines()
    if not names:  # an unpacked archive, or no git
        names = [
            str(path.relative_to(ROOT))
            for path in ROOT.rglob("*")
            if path.is_file() and path.relative_to(ROOT).parts[0] not in ("build", ".venv")
        ]
    return [
        ROOT / name
        for name in sorted(set(names))
        if name.endswith(suffixes) and "/gen/" not in name and (ROOT / name).is_file()
    ]


def _imports(path: Path) -> set[str]:
    """The absolute names of what a Python file imports, as modules or module members."""
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    package = module.rpartition(".")[0]  # of a/__init__.py too: its module is a.__init__
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")
                above = above[: len(above) - node.level + 1]
                base = ".".join([*above, base]).rstrip(".")
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def _within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def test_python_arrows() -> None:
    wrong = []
    for path in _tracked(".py"):
        parts = path.relative_to(ROOT).parts
        own = parts[0]
        if own not in PYTHON_MAY:
            continue
        for name in _imports(path):
            top = name.split(".")[0]
            if top not in (*PYTHON_MAY, "tests") or top == own:
                continue
            if not any(_within(name, allowed) for allowed in PYTHON_MAY[own]):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert wrong == []


def test_devices_know_only_offsets() -> None:
    wrong = []
    for path in _tracked(".py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for package, forbidden in DEVICES_MUST_NOT.items():
            if not _within(module, package):
                continue
            for name in _imports(path):
                if any(_within(name, prefix) for prefix in forbidden):
                    wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert wrong == []


def test_only_the_door_loads_the_extension() -> None:
    users = {
        str(path.relative_to(ROOT))
        for path in _tracked(".py")
        if any(_within(name, "kvm_core._kvm") for name in _imports(path))
        and path.relative_to(ROOT).parts[0] != "tests"
    }
    assert {user.split("/")[0] for user in users} <= {"kvm_core"}, users


def test_c_arrows() -> None:
    core = ROOT / "kvm_core"
    directories = {path.name for path in core.iterdir() if path.is_dir()}
    wrong = []
    for path in _tracked(".c", ".h"):
        if core not in path.parents:
            continue
        relative = path.relative_to(core)
        own = relative.parts[0] if len(relative.parts) > 1 else ""
        if own == "" and path.name == "_cdef.h":
            continue
        for include in re.findall(r'^\s*#\s*include\s*["<]([^">]+)[">]', path.read_text(), re.M):
            target = include.split("/")[0] if "/" in include else own
            if target in directories and target != own and target not in C_MAY.get(own, set()):
                wrong.append(f"{path.relative_to(ROOT)} includes {include}")
            if include == "Python.h":
                wrong.append(f"{path.relative_to(ROOT)} includes Python.h")
    assert wrong == []


def test_devfs_knows_the_abi_only() -> None:
    """Of the core it includes kvm/: the ioctl entries and the client's accessor."""
    wrong = []
    for path in _tracked(".c", ".h"):
        if ROOT / "devfs" not in path.parents:
            continue
        for include in re.findall(r'^\s*#\s*include\s*["<]([^">]+)[">]', path.read_text(), re.M):
            top = include.split("/")[0]
            inside = (ROOT / "kvm_core" / top).is_dir() and "/" in include and top != "linux"
            if include == "Python.h" or (inside and top != "kvm"):
                wrong.append(f"{path.relative_to(ROOT)} includes {include}")
    assert wrong == []


def test_no_thread_local_storage() -> None:
    """A vCPU is state, not a thread: any thread may enter it. A stack is a thread's, and a call."""
    of_threads = {"kvm_core/kvm/client.c", "kvm_core/shim/call.c"}  # its stack's end; its ioctl
    pattern = re.compile(r"\b(__thread|_Thread_local|thread_local|pthread_setspecific)\b")
    assert [
        str(path.relative_to(ROOT))
        for path in _tracked(".c", ".h")
        if {ROOT / "kvm_core", ROOT / "devfs"} & set(path.parents)
        and str(path.relative_to(ROOT)) not in of_threads
        and pattern.search(re.sub(r"/\*.*?\*/|//[^\n]*", "", path.read_text(), flags=re.S))
    ] == []


def test_zydis_is_included_once() -> None:
    users = [
        str(path.relative_to(ROOT))
        for path in _tracked(".c", ".h")
        if "kvm_core/" in str(path) and re.search(r"#\s*include\s*<Zydis", path.read_text())
    ]
    assert len(users) == 1, users


def test_files_are_small() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in _tracked(".c", ".h", ".py", ".sh", "Makefile")
        if (lines := path.read_text(encoding="utf-8").count("\n")) > MAX_FILE_LINES
    }
    assert long == {}


def test_lines_of_c_are_not_too_wide() -> None:
    assert [
        f"{path.relative_to(ROOT)}:{number}: {len(line)} columns"
        for path in _tracked(".c", ".h")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > MAX_C_COLUMNS
    ] == []


def test_nothing_big_is_kept() -> None:
    """Images, kernels and core files are made or fetched, never committed."""
    big = {
        str(path.relative_to(ROOT)) for path in _tracked("") if path.stat().st_size > MAX_FILE_BYTES
    }
    assert big == set()


def test_functions_are_short() -> None:
    long = []
    for path in _tracked(".py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno
                if lines > MAX_FUNCTION_LINES:
                    long.append(f"{path.relative_to(ROOT)}: {node.name}: {lines} lines")
    for path in _tracked(".c", ".h"):
        start, header = 0, ""
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if re.match(r"[A-Za-z_].*\)\s*\{$", line) or line == "{":
                start, header = number, line
            elif line == "}" and start:
                lines = number - start
                if lines > MAX_FUNCTION_LINES:
                    long.append(f"{path.relative_to(ROOT)}:{start}: {header} {lines} lines")
                start = 0
    assert long == []


def test_first_line_says_why() -> None:
    wanted = {".py": ('"""', 'r"""', "#!"), ".c": ("/*", "//"), ".h": ("/*", "//"), ".sh": ("#",)}
    assert [
        str(path.relative_to(ROOT))
        for path in _tracked(*wanted)
        if path.stat().st_size
        and not path.read_text(encoding="utf-8").startswith(wanted[path.suffix])
    ] == []


def test_generated_files_are_current(tmp_path: Path) -> None:
    """Generated anew into a scratch directory, they are those that are checked in."""
    generator = ROOT / "kvm_core" / "isa" / "generate.py"
    subprocess.run([sys.executable, str(generator), str(tmp_path)], check=True, timeout=120)
    fresh = {path.name: path.read_text() for path in tmp_path.iterdir()}
    checked_in = {path.name: path.read_text() for path in (ROOT / "kvm_core" / "gen").iterdir()}
    assert fresh.keys() == checked_in.keys()
    stale = [name for name, text in fresh.items() if checked_in[name] != text]
    assert stale == [], "run make generate"


def test_arrows_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader of imports understands every form, relative ones included."""
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / "vmmuser" / "devices" / "serial.py"
    path.parent.mkdir(parents=True)
    path.write_text("import a.b\nfrom ..board import microvm\nfrom . import rtc\nfrom c import d\n")
    assert _imports(path) == {"a.b", "vmmuser.board.microvm", "vmmuser.devices.rtc", "c.d"}
