"""`kvmish boot`: options, the terminal, progress, and the summary at the end."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from importlib import import_module

from kvm_core import engines
from kvm_core.api import Door, cpu_model_names, open_door
from kvm_core.errors import ConfigError
from vmmuser import assets, status
from vmmuser.config import MachineConfig, parse_disk, parse_memory, parse_vcpus
from vmmuser.console import HELP, Keys, Output, ending_signals, raw_terminal
from vmmuser.machine import Machine, Outcome
from vmmuser.profile import Symbols, table
from vmmuser.report import Report, process_start
from vmmuser.runstate import Event, Policy
from vmmuser.status import say

CONSOLE_CMDLINE = "console=ttyS0"
SELFCHECK_CMDLINE = "kvmish.selfcheck"
PANIC_CMDLINE = "panic=-1"  # resets at once: nobody is there to read the screen

MARKS = {
    "userland": assets.USERLAND_MARK.encode(),
    "selfcheck ok": assets.SELFCHECK_MARK.encode(),
    "selfcheck failed": b"kvmish: selfcheck FAILED",
}


class Session:
    """One run of the command."""

    def __init__(self, config: MachineConfig, door: Door, interactive: bool) -> None:
        """`interactive`: standard input is a terminal, and the guest's console."""
        self.config, self.door, self.interactive = config, door, interactive
        self.started = process_start()
        self.output = Output(sys.stdout.fileno(), MARKS)
        self.output.on_mark = self._mark
        self.keys = Keys({ord("x"): self._quit, ord("h"): self._help, ord("p"): self._power})
        self.machine: Machine | None = None
        self.signalled = 0
        self._line_shown = False
        self._show_progress = sys.stderr.isatty()
        self.report = Report(config, door.engine, door.name, board="microvm")

    # -- the user's side ----------------------------------------------------------------------

    def _quit(self) -> None:
        self.output.closing = True
        if self.machine:
            self.machine.stop("quit", "stopped by Ctrl-A X")

    def _help(self) -> None:
        self.output.tell(HELP)

    def _power(self) -> None:
        if self.machine:
            self.machine.board.press_power_button()

    def _signal(self, number: int) -> None:
        self.signalled = number
        self.output.closing = True
        if self.machine:
            self.machine.stop("quit", f"stopped by {signal.Signals(number).name}")

    def _input(self) -> None:
        machine = self.machine
        if machine is None:
            return
        try:
            data = os.read(sys.stdin.fileno(), 4096)
        except OSError:
            data = b""
        if not data:  # the terminal went away
            machine.loop.remove_reader(sys.stdin.fileno())
            machine.stop("quit", "the terminal is gone")
            return
        data = self.keys.feed(data)
        if data:
            machine.board.type(data)

    # -- progress -----------------------------------------------------------------------------

    def _since_start(self, moment: float) -> float:
        return round(moment - self.started, 3)

    def _tick(self) -> bool:
        """Say how far it is. False: there will be no more to say."""
        machine = self.machine
        if machine is None or machine.first_instruction is None:
            return True
        if not self._show_progress:
            at = self._since_start(machine.first_instruction)
            say(f"first guest instruction after {at:.2f} s")
            return False
        if self.output.first_byte is not None:
            return False
        spent = time.monotonic() - machine.first_instruction
        text = f"kvmish: the kernel unpacks itself, {spent:.1f} s"
        count = machine.instructions()
        if count and spent:
            text += f", {count / 1e6:.0f} M instructions, {count / 1e6 / spent:.0f} MIPS"
        sys.stderr.write(f"\r{text}\x1b[K")
        sys.stderr.flush()
        self._line_shown = True
        return True

    def _clear_line(self) -> None:
        if self._line_shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._line_shown = False

    def _before_first_output(self) -> None:
        self._clear_line()
        if not self._show_progress and self.output.first_byte:
            say(f"the kernel prints after {self._since_start(self.output.first_byte):.2f} s")

    def _mark(self, name: str) -> None:
        if not self._show_progress:
            say(f"{name} after {self._since_start(self.output.seen[name]):.2f} s")

    # -- the run ------------------------------------------------------------------------------

    def run(self) -> int:
        """Run to the end; the exit status. :raise VmError: if no machine can be built."""
        policy = Policy(on_reboot="reset" if self.interactive else "exit")
        consoles = {"serial": self.output}
        if "console=hvc" in self.config.cmdline:  # else a getty on it would share the terminal
            consoles["virtio"] = self.output
        with ending_signals(self._signal):
            self.machine = machine = Machine(self.config, self.door, consoles, policy)
            machine.on_event = self._event
            say(f"engine {self.door.engine}, door {self.door.name}: {_why(self.door)}")
            # The terminal changes only now, so that errors until here look as usual.
            try:
                with self._terminal():
                    outcome = self._run_machine(machine)
                    self._clear_line()
            finally:
                machine.close()
        return self._status(outcome)

    def _event(self, event: Event) -> None:
        if event.name == "RESET":
            self.report.resets += 1

    @contextlib.contextmanager
    def _terminal(self) -> Iterator[None]:
        if not self.interactive:
            yield
            return
        say("Ctrl-A X quits, Ctrl-A H helps")
        with raw_terminal(sys.stdin.fileno()):
            yield

    def _run_machine(self, machine: Machine) -> Outcome:
        machine.loop.soon(self._loop_runs)
        self.output.before_first = self._before_first_output
        if self.interactive:
            machine.loop.add_reader(sys.stdin.fileno(), self._input)
        began = time.monotonic()
        if self.signalled:
            self._signal(self.signalled)
        try:
            outcome = machine.run(self._tick)
        finally:
            self.output.after_ns = None
            self.output.flush()
        self._book(machine, outcome, began)
        return outcome

    def _loop_runs(self) -> None:
        if self.machine:
            self.output.after_ns = self.machine.loop.after_ns
            self.output.flush()

    def _book(self, machine: Machine, outcome: Outcome, began: float) -> None:
        report, output, now = self.report, self.output, time.monotonic()
        report.outcome, report.message = outcome.ending, outcome.message
        report.seconds = self._since_start(now)
        report.guest_seconds = round(now - (machine.first_instruction or began), 3)
        if machine.first_instruction and report.seconds_to_first_instruction is None:
            at = self._since_start(machine.first_instruction)
            report.seconds_to_first_instruction = at
        if output.first_byte:
            report.seconds_to_kernel = self._since_start(output.first_byte)
        if "userland" in output.seen:
            report.seconds_to_userland = self._since_start(output.seen["userland"])
        if "selfcheck ok" in output.seen or "selfcheck failed" in output.seen:
            report.selfcheck = "selfcheck failed" not in output.seen
        report.instructions = machine.instructions()
        if report.instructions is not None and report.guest_seconds:
            report.mips = round(report.instructions / 1e6 / report.guest_seconds, 2)
        report.exits, report.ports = machine.exits(), machine.ports()
        report.core_stats = machine.core_stats()

    def _status(self, outcome: Outcome) -> int:
        if outcome.ending == "quit":
            return 128 + self.signalled if self.signalled else 0
        if outcome.ending != "off":
            return status.FAILED
        return status.FAILED if self.report.selfcheck is False else 0


def _why(door: Door) -> str:
    if door.name == "direct":
        return "the core in this process, which needs nothing of the host"
    known = "the host's own KVM" if door.engine == "hvm" else "a KVM device"
    return f"{known}, named by --kvm"


def _parser() -> status.Parser:
    parser = status.Parser(
        prog="kvmish boot",
        description="Boot a Linux kernel; the terminal is its console. Ctrl-A X quits. Without a"
        " terminal on standard input the guest checks itself and powers off, unless --append says"
        " what to run (kvmish.run=COMMAND, root=DEVICE, init=PROGRAM).",
    )
    add = parser.add_argument
    add("--kernel", metavar="FILE", help="a bzImage or PVH vmlinux; Debian's cloud kernel")
    add("--initrd", metavar="FILE", help="an initramfs; with the default kernel kvmish's own")
    add("--append", metavar="TEXT", default="", help="added to the kernel's command line")
    add("--disk", metavar="FILE", dest="disks", action="append", default=[],
        help="a raw image as virtio disk; FILE,ro read-only")  # fmt: skip
    add("-m", metavar="SIZE", dest="memory", default="256", help="memory: MiB, or 512M, 2G; 256")
    add("--smp", metavar="N", default="1", help="number of processors; 1")
    add("--cpu", metavar="MODEL", default="host", help="`--cpu list` names them; host")
    add("--engine", metavar="NAME",
        help="how guest code is run: emulate, or translate, the default where the host allows it",
    )  # fmt: skip
    add("--kvm", metavar="DOOR", default="direct", help="direct, or a KVM device file; direct")
    add("--lockstep", action="store_true",
        help="compare each stretch with the interpreter's careful path; one processor, slow",
    )  # fmt: skip
    add("--profile", action="store_true",
        help="say at the end which code the guest executed most; adds nokaslr to the command line",
    )  # fmt: skip
    add("--symbols", metavar="FILE", help="for --profile: the kernel's System.map")
    add("--report", metavar="FILE", help="write what was measured to this file, as JSON")
    return parser


def _config(options: Namespace, interactive: bool) -> MachineConfig:
    if options.cpu not in (known := cpu_model_names()):
        raise ConfigError(f"--cpu {options.cpu}: no such model; choose one of {', '.join(known)}")
    kernel, initrd = _default_files(options.kernel, options.initrd)
    words = [CONSOLE_CMDLINE]
    if not interactive:
        words.append(PANIC_CMDLINE)
        if not _says_what_to_run(options.append):
            words.append(SELFCHECK_CMDLINE)
    words += [options.append, "nokaslr" if options.profile else ""]
    config = MachineConfig(
        kernel=kernel,
        initrd=initrd,
        cmdline=" ".join(word for word in words if word),
        memory_mib=parse_memory(options.memory),
        vcpus=parse_vcpus(options.smp),
        cpu=options.cpu,
        disks=[parse_disk(text) for text in options.disks],
        lockstep=options.lockstep,
    )
    if config.lockstep and (options.kvm != "direct" or config.vcpus != 1):
        raise ConfigError("--lockstep is for one processor in this process: no --kvm, --smp 1")
    return config


def boot(arguments: list[str]) -> int:
    """Do what the arguments say; the exit status. :raise VmError: if it cannot be."""
    options = _parser().parse_args(arguments)
    if options.cpu == "list":
        sys.stdout.write("".join(f"{name}\n" for name in cpu_model_names()))
        return 0
    if options.engine is not None:
        engines.choose(options.engine)
    interactive = sys.stdin.isatty()
    config = _config(options, interactive)
    if config.lockstep:
        os.environ["KVMISH_LOCKSTEP"] = "1"  # read where the core creates a vCPU
    if options.report:
        _check_report(options.report)
    door = open_door(options.kvm)
    session = Session(config, door, interactive)
    with _profiled(options.profile, options.symbols, door):
        ended = session.run()
        say(session.report.text())
    if options.report and not _write_report(options.report, session.report.json()):
        return status.FAILED
    return ended


@contextlib.contextmanager
def _profiled(wanted: bool, symbols_path: str | None, door: Door) -> Iterator[None]:
    if symbols_path and not wanted:
        raise ConfigError("--symbols is for --profile")
    if wanted and (door.name, door.engine) != ("direct", "translate"):
        raise ConfigError("--profile is of translated code in this process: no --kvm, no --engine")
    if not wanted:
        yield
        return
    symbols = Symbols.read(symbols_path) if symbols_path else Symbols()
    with import_module("tempfile").NamedTemporaryFile("r", prefix="kvmish-profile-") as samples:
        os.environ["KVMISH_PROFILE"] = samples.name  # read where the core creates a vCPU
        yield
        say(table(samples.read(), symbols))


def _says_what_to_run(append: str) -> bool:
    return any(word.startswith(("kvmish.", "root=", "init=")) for word in append.split())


def _default_files(kernel: str | None, initrd: str | None) -> tuple[str, str | None]:
    if kernel is not None:
        return kernel, initrd
    default = assets.CLOUD
    if not os.path.isfile(default.kernel):
        raise ConfigError(
            f"{default.kernel} is missing: run `make assets`, or name one with --kernel"
        )
    return default.kernel, default.initrd if initrd is None else initrd


def _check_report(path: str) -> None:
    try:
        with open(path, "a", encoding="utf-8"):
            pass
    except OSError as error:
        raise ConfigError(f"--report {path}: {error.strerror}; name a file to write") from None


def _write_report(path: str, text: str) -> bool:
    try:
        with open(path, "w", encoding="utf-8") as report:
            report.write(text)
    except OSError as error:
        say(f"--report {path}: {error.strerror}; it is not complete")
        return False
    return True


def main(arguments: list[str]) -> int:
    """Run `kvmish boot`; 0 done, 1 the guest failed, 2 what was asked for cannot be."""
    return status.run(boot, arguments)
