"""The machines that a row runs on: the host itself, QEMU TCG, QEMU on our KVM by the preload door
and by the device file, and kvmish boot.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests import qemu
from tests.bench import exits, image
from tests.bench.rows import SCALES, SESSIONS, Row, Session
from vmmuser.assets import CLOUD

OURS = ("kvm", "file", "boot")
DEVICE = image.BUILD / "device"  # the directory of the device file
MITIGATIONS = {"off": "mitigations=off", "default": ""}


@dataclass(frozen=True)
class Side:
    """One column: native, tcg/CPU, kvm/ENGINE, file/ENGINE or boot/ENGINE."""

    column: str
    judged: bool = True  # False: an engine for comparison, under one setting of mitigations only

    @property
    def kind(self) -> str:
        """The part before the slash."""
        return self.column.partition("/")[0]

    @property
    def option(self) -> str:
        """The part behind it: QEMU's CPU model, or our engine."""
        return self.column.partition("/")[2]

    @property
    def scale(self) -> float:
        """Which part of the work it does."""
        return SCALES.get(self.option, 1.0) if self.kind in OURS else 1.0

    def runs(self, session: str) -> bool:
        """Whether a session makes sense here."""
        what = SESSIONS[session]
        return {
            "native": what.native,
            "tcg": what.tcg,
            "kvm": what.qemu,
            "file": what.file,
            "boot": what.own,
        }[self.kind]

    def turns(self, session: str) -> int:
        """How often it takes its turn in a round."""
        what = SESSIONS[session]
        return (what.tcg_turns if self.kind == "tcg" else what.turns) if self.judged else 1

    def command(self, session: str, rows: list[Row], mitigations: str) -> list[str]:
        """Return what to run."""
        words = ",".join(f"{program}:{count}" for program, count in self.work(rows))
        what = SESSIONS[session]
        if self.kind == "native":
            return ["sh", str(image.SCRIPT), words]
        if session == "tiny":
            return [*self._boot(what), "--kernel", str(image.tiny()), "--append", "tiny"]
        run = "kvmish.run=true" if what.plain else f"quiet kvmish.run=bench-rows bench.rows={words}"
        append = f"{run} {MITIGATIONS[mitigations]}".strip()
        initrd = CLOUD.initrd if what.plain else str(image.initrd())
        if self.kind == "boot":
            return [*self._boot(what), "--initrd", initrd, "--append", append]
        return self._qemu(session, append, initrd)

    def work(self, rows: list[Row]) -> list[tuple[str, int]]:
        """Return the programs to run, with their counts; idle and memory share one sleep."""
        programs: dict[str, int] = {}
        for row in rows:
            if row.measure in ("idle", "memory"):
                # something must have run before memory and idleness mean anything
                programs |= {"gzip": 100, "forkexec": 20, "cold": 50, "sleep": row.count}
            elif row.measure == "time":
                programs[row.name] = row.count_for(self.scale)
        return list(programs.items())

    def environment(self, session: str) -> dict[str, str]:
        """Return what to add to the environment."""
        if self.kind in OURS:
            return {"KVMISH_ENGINE": self.option}
        names = {"BENCH_BIN": str(image.PROGRAMS), "BENCH_COLD": str(image.PROGRAMS / "bench-cold")}
        if SESSIONS[session].disk:
            names["BENCH_ROOT"] = str(image.root_directory())
        return names if self.kind == "native" else {}

    def _boot(self, what: Session) -> list[str]:
        words = [str(qemu.KVMISH), "boot", "-m", str(what.memory_mb), "--smp", str(what.smp)]
        return words + (["--disk", f"{image.root_image()},ro"] if what.disk else [])

    def _qemu(self, session: str, append: str, initrd: str) -> list[str]:
        what = SESSIONS[session]
        extra: list[str] = []
        machine = what.machine
        if what.disk:
            drive = f"file={image.root_image()},if=virtio,format=raw,readonly=on"
            extra += ["-drive", drive]
        if session == "idle":  # guest RAM under a name of its own, to be left out of the count
            memory = f"memory-backend-memfd,id=ram,size={what.memory_mb}M"
            extra += ["-object", memory]
            machine += ",memory-backend=ram"
        if session == "exits":
            extra += exits.OPTIONS
        ours = self.kind in OURS
        return qemu.Machine(
            accel="kvmish" if ours else "tcg",
            machine=machine,
            cpu="max" if ours else ("" if self.option == "default" else self.option),
            smp=what.smp,
            memory_mb=what.memory_mb,
            flavour=CLOUD._replace(initrd=initrd),
            append=f"console=ttyS0 {append}",
            extra=tuple(extra),
            door=("--door", "fuse", "--mounted", str(DEVICE)) if self.kind == "file" else (),
        ).command()


def sides(engines: list[str], has_file: bool) -> list[Side]:
    """Return all columns for the engines; the first is judged, the others are beside it.
    has_file: whether there is a device file.
    """
    first, *others = engines
    columns = ["native", "tcg/default", "tcg/max", f"kvm/{first}", f"boot/{first}"]
    columns += [f"file/{first}"] if has_file else []
    beside = [Side(f"kvm/{engine}", judged=False) for engine in others]
    return [*(Side(column) for column in columns), *beside]
