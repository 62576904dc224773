"""The `kvmish` command: boot, vm, exec, devfs, assets, doctor, bench. Work is done elsewhere."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click

from kvm_core import engines
from kvm_core.errors import BackendError, ConfigError
from kvmish import doctor as doctor_report
from kvmish import doors
from vmmuser import __version__
from vmmuser.assets import FLAVOURS, ROOT
from vmmuser.status import CANNOT, say

PASS_ON = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
MICRO_ROUNDS = 5  # at least: what a call costs depends on where the scheduler has put a process


def _refuse(message: str) -> int:
    say(message)
    return CANNOT


_ENGINE = click.option(
    "--engine", type=click.Choice(engines.ENGINES), help="How guest code is run."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name=None, version=__version__, prog_name="kvmish")
def cli() -> None:
    """KVM without the hardware: boot a machine, or lend a /dev/kvm to a program."""


@cli.command(context_settings=PASS_ON, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def boot(arguments: tuple[str, ...]) -> int:
    """Boot a kernel on our own VMM (kvmish boot --help)."""
    vmm = importlib.import_module("vmmuser.cli")
    status: int = vmm.main(list(arguments))
    return status


@cli.command(context_settings=PASS_ON, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def vm(arguments: tuple[str, ...]) -> int:
    """Run a machine as a process with a QMP monitor (kvmish vm --help)."""
    process = importlib.import_module("vmmuser.vm")
    status: int = process.main(list(arguments))
    return status


@cli.command(
    "exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@_ENGINE
@click.option("--door", type=click.Choice(doors.DOORS), help="How /dev/kvm comes to the program.")
@click.option(
    "--mounted", default=doors.MOUNTED, type=click.Path(path_type=Path),
    help="Where kvmish devfs is, for --door fuse; /run/kvmish.",
)  # fmt: skip
@click.option("--cpuid", is_flag=True, help="Its CPUID says SVM or VMX: for kvmtool; preload only.")
@click.option("--quiet", is_flag=True, help="Do not say which door it is.")
def exec_command(
    command: tuple[str, ...],
    engine: str | None,
    door: str | None,
    mounted: Path,
    cpuid: bool,
    quiet: bool,
) -> int:
    """Run COMMAND with a /dev/kvm of ours: kvmish exec -- qemu-system-x86_64 -accel kvm ..."""
    if engine:
        engines.choose(engine)
    return doors.run(command, door, quiet, mounted, cpuid)


@cli.group()
def devfs() -> None:
    """A device file of ours, for programs that know only /dev/kvm."""


def _absolute(context: click.Context, parameter: click.Parameter, value: Path) -> Path:
    try:
        return value.absolute()
    except FileNotFoundError:
        raise click.BadParameter(f"{value}: this directory is gone; name all of it.") from None


_PATH = click.argument(
    "path", default=doors.MOUNTED, type=click.Path(path_type=Path), callback=_absolute
)


def _mode(context: click.Context, parameter: click.Parameter, value: str) -> int:
    """Octal permissions without execution."""
    try:
        mode = int(value, 8)
    except ValueError:
        mode = -1
    if mode & ~0o666:
        raise click.BadParameter(f"{value}: give octal permissions, such as 0660.")
    return mode


@devfs.command()
@_PATH
@click.option("--mode", default="0660", callback=_mode, help="Permissions of the file; 0660.")
@click.option("--group", help="Its group; kvm if there is one.")
@_ENGINE
@click.option("--daemon", is_flag=True, help="Return when it is there; serve in the background.")
def mount(path: Path, mode: int, group: str | None, engine: str | None, daemon: bool) -> int:
    """Serve PATH/kvm until unmounted or interrupted (PATH: /run/kvmish)."""
    if engine:
        engines.choose(engine)  # the workers inherit it
    module = importlib.import_module("devfs.mount")

    def serve(ready: Callable[[], None]) -> None:
        module.mount(path, mode, group, ready)

    try:
        engines.check()
        if daemon:
            status: int = module.in_background(serve)
            return status
        serve(lambda: click.echo(f"kvmish: {path}/kvm is there; ctrl-C ends it", err=True))
    except (BackendError, ConfigError) as error:
        return _refuse(str(error))
    return 0


@devfs.command()
@_PATH
@click.option("--lazy", is_flag=True, help="Even if the file is open somewhere.")
def umount(path: Path, lazy: bool) -> int:
    """End the broker of PATH; virtual machines that run go on."""
    try:
        importlib.import_module("devfs.mount").umount(path, lazy)
    except ConfigError as error:
        return _refuse(str(error))
    return 0


@cli.command("assets")
@click.option("--flavour", type=click.Choice(sorted(FLAVOURS)), default="cloud", show_default=True)
def assets_command(flavour: str) -> int:
    """Print where the guest of `make boot` is, as JSON: kernel and initrd."""
    files = FLAVOURS[flavour]
    if not files.ready():
        return _refuse(f"{files.kernel} or its initrd is missing: run make assets")
    click.echo(json.dumps({"kernel": files.kernel, "initrd": files.initrd}))
    return 0


@cli.command()
@click.option("--format", "output_format", type=click.Choice(["text", "json"]), default="text")
@click.option("--kvm", "kvm_path", default="/dev/kvm", help="The device to examine.")
@click.option("--no-kvm", is_flag=True, help="Do not open any KVM device.")
def doctor(output_format: str, kvm_path: str, no_kvm: bool) -> int:
    """Tell what this machine offers and which choices follow; status 1 if something is missing."""
    return doctor_report.run(output_format, None if no_kvm else kvm_path, click.echo)


@cli.command()
@click.option("--runs", type=click.IntRange(1), default=3, help="Runs of each side, in turn.")
@click.option("--rows", default="", help="Only rows of these names or sessions: a,b*; no page.")
@click.option("--engine", "engines", multiple=True, help="translate, emulate; the first is judged.")
@click.option("--mitigations", default="", help="Only this setting: off or default.")
@click.option("-k", "expression", default="", help="Only micro-benchmarks that match; no page.")
def bench(runs: int, rows: str, engines: tuple[str, ...], mitigations: str, expression: str) -> int:
    """Measure beside QEMU TCG and the host itself; write docs/performance.md."""
    if not Path(ROOT, "tests", "bench").is_dir():
        return _refuse(f"no tests/bench under {ROOT}: bench runs from a source tree")
    python, page = [sys.executable, "-m"], not (rows or expression)
    results = Path(ROOT, "build", "bench")
    results.mkdir(parents=True, exist_ok=True)
    files, status = [], 0
    if not expression:
        files.append(str(results / ("rows-part.json" if rows else "rows.json")))
        measure = [*python, "tests.bench", "--output", files[0], "--runs", str(runs)]
        measure += ["--rows", rows or "*"] + [f"--engine={name}" for name in engines]
        measure += [f"--mitigations={mitigations}"] if mitigations else []
        status = subprocess.run(measure, cwd=ROOT, check=False).returncode
        if status == CANNOT:
            return status
    if not rows:
        files.append(str(results / ("micro-part.json" if expression else "micro.json")))
        micro = [*python, "pytest", "tests/bench", "--benchmark-enable", "--benchmark-only"]
        micro += [f"--benchmark-json={files[-1]}", f"--rounds={max(runs, MICRO_ROUNDS)}"]
        micro += ["-k", expression] if expression else []
        status = subprocess.run(micro, cwd=ROOT, check=False).returncode or status
    if expression:  # pytest has printed them
        return status
    render = [*python, "tools.performance", *files] + ([] if page else ["--print"])
    return subprocess.run(render, cwd=ROOT, check=False).returncode or status


def main() -> int:
    """Run the command line; click's usage errors exit with 2 by themselves."""
    try:
        status = cli.main(prog_name="kvmish", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return CANNOT
    except click.ClickException as error:
        context = error.ctx if isinstance(error, click.UsageError) else None
        command = context.command_path if context else "kvmish"
        return _refuse(f"{error.format_message()} Try {command} --help.")
    except click.exceptions.Abort:
        return 130
    return status if isinstance(status, int) else 0
