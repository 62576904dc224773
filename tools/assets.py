"""Gets Debian's kernels and busybox, unpacked and not installed, and builds the initramfs archives.

Run as `python -m tools.assets cloud [generic rt | all]`; what is there already is left alone.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from tools import archive, initramfs
from tools.archive import ArchiveError
from vmmuser import assets
from vmmuser.assets import FLAVOURS, Flavour

ASSETS = Path(assets.ASSETS)
TOOLS = Path(__file__).parent
SOURCES = (TOOLS / "assets.py", TOOLS / "initramfs.py", TOOLS / "cpio.py", initramfs.INIT)


def main(arguments: list[str]) -> int:
    """Make the named flavours ready. Exit status 1 with one line if that is impossible."""
    names = list(FLAVOURS) if "all" in arguments else arguments
    unknown = [name for name in names if name not in FLAVOURS]
    if unknown or not names:
        sys.stderr.write(f"tools.assets: name some of: {', '.join(FLAVOURS)}, all\n")
        return 2
    try:
        for name in names:
            prepare(FLAVOURS[name])
    except ArchiveError as error:
        sys.stderr.write(f"kvmish: {error}\n")
        return 1
    return 0


def prepare(flavour: Flavour) -> None:
    """Download what is missing and build the initramfs if it is older than its sources."""
    ASSETS.mkdir(parents=True, exist_ok=True)
    modules = ASSETS / f"modules-{flavour.name}"
    if not os.path.isfile(flavour.kernel) or not modules.is_dir():
        _fetch_kernel(flavour, modules)
    elif _facts(flavour).get("modules") != list(initramfs.MODULES):
        try:  # what was fetched before knew of other modules
            _fetch_kernel(flavour, modules)
        except ArchiveError as error:
            sys.stderr.write(f"kvmish: {error}; going on with the modules that are there\n")
    newest = max(path.stat().st_mtime for path in SOURCES)
    if not os.path.isfile(flavour.initrd) or os.path.getmtime(flavour.initrd) < newest:
        busybox = _busybox()
        image = initramfs.build(busybox.read_bytes(), _applets(busybox), modules)
        _write(Path(flavour.initrd), image)


def _facts(flavour: Flavour) -> dict[str, object]:
    """Read what was noted of a kernel when it was fetched."""
    try:
        facts = json.loads((ASSETS / f"{flavour.name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _fetch_kernel(flavour: Flavour, modules: Path) -> None:
    package = _versioned(flavour.package)
    sys.stdout.write(f"kvmish: fetching {package}\n")
    sys.stdout.flush()
    with tempfile.TemporaryDirectory(dir=ASSETS) as scratch:
        tree, version = archive.unpack(package, Path(scratch))
        kernels = sorted((tree / "boot").glob("vmlinuz-*"))
        # /usr/lib in releases with a merged /usr
        libraries = [*tree.glob("lib/modules/*"), *tree.glob("usr/lib/modules/*")]
        if len(kernels) != 1 or len(libraries) != 1:
            raise ArchiveError(f"{package} has no single kernel with modules")
        shutil.rmtree(modules, ignore_errors=True)
        wanted = {name.replace("-", "_") for name in initramfs.MODULES}
        _keep_modules(libraries[0], modules, wanted)
        release = kernels[0].name.removeprefix("vmlinuz-")
        facts: dict[str, object] = {"package": package, "version": version, "release": release}
        facts["modules"] = list(initramfs.MODULES)
        _write(ASSETS / f"{flavour.name}.json", (json.dumps(facts, indent=2) + "\n").encode())
        _write(Path(flavour.kernel), kernels[0].read_bytes())


def _keep_modules(source: Path, target: Path, wanted: set[str]) -> None:
    """Keep the tree's drivers that an initramfs may need, with their dependencies."""
    found = {path.name.split(".ko")[0].replace("-", "_"): path for path in source.rglob("*.ko*")}
    kept: set[str] = set()
    queue = [name for name in wanted if name in found]
    target.mkdir()
    while queue:
        name = queue.pop()
        if name in kept:
            continue
        kept.add(name)
        shutil.copy(found[name], target / found[name].name)
        queue += [key for key in initramfs.dependencies(found[name]) if key in found]


def _busybox() -> Path:
    """Return a static busybox: the installed one, or one unpacked from its package."""
    installed = shutil.which("busybox")
    if installed and b"/ld-linux" not in Path(installed).read_bytes():
        return Path(installed)
    path = ASSETS / "busybox"
    if not path.is_file():
        with tempfile.TemporaryDirectory(dir=ASSETS) as scratch:
            tree, _ = archive.unpack("busybox-static", Path(scratch))
            binary = next(path for path in tree.glob("**/bin/busybox") if path.is_file())
            _write(path, binary.read_bytes())
        path.chmod(0o755)
    return path


def _applets(busybox: Path) -> list[str]:
    return archive.output([str(busybox), "--list"]).split()


def _versioned(package: str) -> str:
    """Resolve a metapackage to the image package that it depends on today."""
    for attempt in ("as it is", "with fresh lists"):
        if attempt == "with fresh lists":
            archive.update()
        match = re.search(r"Depends: (linux-image-\d\S*)", archive.depends(package))
        if match:
            return match.group(1)
    raise ArchiveError(f"apt knows no {package}: check the network and, on Debian, apt's sources")


def _write(path: Path, data: bytes) -> None:
    """Write whole or not at all."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_bytes(data)
    scratch.replace(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
