"""Writes docs/abi.md: what of Linux's KVM ABI kvmish implements, read from the C sources.

Run as `python -m tools.abi_page` (make generate); tests/unit/test_abi_page.py regenerates and
compares, and asks the core whether it answers as the page says.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from tools import abi_differences as differences

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "kvm_core"
PAGE = ROOT / "docs" / "abi.md"
HEADERS = (Path("/usr/include/linux/kvm.h"), CORE / "kvm" / "abi_new.h")

# The functions in which a request of each descriptor finds its way.
DISPATCH = {
    "system": (("kvm/system.c", "system_ioctl"),),
    "VM": (("kvm/vm.c", "vm_ioctl"), ("kvm/vm.c", "vm_irq_ioctl")),
    "vCPU": (
        ("kvm/vcpu.c", "vcpu_ioctl_locked"),
        ("kvm/vcpu.c", "set_state"),
        ("kvm/vcpu.c", "get_state"),
    ),
}

TOP = """# The KVM ABI of kvmish

Numbers, layouts and errno are those of Linux on x86 (`<linux/kvm.h>`, Linux 6.1;
Documentation/virt/kvm/api.rst is the reference). This page is made from the sources by
`make generate`, and a test compares: do not edit it. `tests/abi` runs the same contract tests on
the core and on a real `/dev/kvm`; the differences accepted there are those listed here, from
`tools/abi_differences.py`.
"""


def _source(name: str) -> str:
    text = (CORE / name).read_text()
    return re.sub(
        r"/\*.*?\*/", lambda comment: "\n" * comment.group().count("\n"), text, flags=re.S
    )


def function(name: str, text: str) -> str:
    """The body of a C function: from its head to the brace in the first column."""
    found = re.search(rf"^\w[^\n;]*\b{name}\([^;{{]*\)\n\{{\n(.*?)^\}}", text, re.S | re.M)
    if not found:
        raise LookupError(f"no function {name}; tools/abi_page.py names it")
    return found.group(1)


def array(name: str, text: str) -> list[str]:
    """The elements of a C array of plain values."""
    found = re.search(rf"\b{name}\[\] = \{{([^{{}}]*)\}};", text)
    if not found:
        raise LookupError(f"no array {name}; tools/abi_page.py names it")
    return [word for word in re.split(r"[\s,]+", found.group(1)) if word]


def _headers() -> str:
    return "\n".join(path.read_text().replace("\\\n", " ") for path in HEADERS)


def header_numbers(prefix: str) -> dict[str, int]:
    """Constants of <linux/kvm.h>: `#define KVM_CAP_IRQCHIP 0`."""
    rows = re.findall(rf"^#\s*define ({prefix}\w+)\s+(\d+)\b", _headers(), re.M)
    return {name: int(value) for name, value in rows}


def header_requests() -> dict[str, int]:
    """The requests of <linux/kvm.h> with their number within KVMIO."""
    row = r"^#\s*define (KVM_\w+)\s+_IO\w*\(KVMIO,\s*(0x[0-9a-fA-F]+)"
    return {name: int(value, 16) for name, value in re.findall(row, _headers(), re.M)}


def requests() -> dict[str, list[str]]:
    """The requests that each descriptor answers."""
    return {
        kind: [
            name
            for file, body in places
            for name in re.findall(r"\bcase (KVM_\w+):", function(body, _source(file)))
        ]
        for kind, places in DISPATCH.items()
    }


def capabilities() -> dict[str, str]:
    """KVM_CAP_ name -> value, as it stands in the source."""
    text = _source("kvm/caps.c")
    found = dict.fromkeys(array("present", text), "1")
    valued = function("check_valued", text)
    for name, body in re.findall(r"case (KVM_CAP_\w+):(.*?)(?=case KVM_|default:)", valued, re.S):
        value = re.search(r"return ([^;]*);\s*$", body.strip())
        found[name] = " ".join(value.group(1).split()) if value else ""
    found["KVM_CAP_NR_VCPUS"] = "the host's processors"
    return {name: _spelled_out(value, text) for name, value in found.items()}


def _spelled_out(value: str, text: str) -> str:
    """A value with the sources' own names replaced by what they stand for."""
    for name in re.findall(r"\b(?!KVM_)[A-Z]\w+\b", value):
        headers = [*CORE.glob("kvm/*.h"), *CORE.glob("irq/*.h"), *CORE.glob("cpu/*.h")]
        for source in [text, *(_source(str(path.relative_to(CORE))) for path in headers)]:
            macro = re.search(rf"#define {name}\s+(?:\\\n)?\s*\(((?:[^()]|\\\n)*)\)\n", source)
            constant = re.search(rf"\b{name}\s*=\s*([^,}}]+)", source)
            constant = constant or re.search(rf"#define {name}\s+(\d+)", source)
            if macro or constant:
                meaning = macro.group(1) if macro else constant.group(1) if constant else name
                value = value.replace(name, " ".join(meaning.replace("\\\n", " ").split()))
                break
    return value


def enabled_by() -> dict[str, list[str]]:
    """Which capabilities KVM_ENABLE_CAP takes, by descriptor."""
    text = _source("kvm/caps.c")
    vcpu = re.findall(r"cap->cap == (KVM_CAP_\w+)", function("caps_enable_vcpu", text))
    vm = re.findall(r"case (KVM_CAP_\w+):", function("caps_enable_vm", text))
    return {"VM": vm, "vCPU": vcpu}


def exit_reasons() -> list[str]:
    """The exit reasons that the sources set."""
    found = set()
    for path in [*CORE.glob("*.c"), *CORE.glob("kvm/*.c")]:
        text = _source(str(path.relative_to(CORE)))
        for value in re.findall(r"exit_reason = ([^;]*);", text):
            found |= set(re.findall(r"KVM_EXIT_\w+", value))
    return sorted(found, key=header_numbers("KVM_EXIT_").__getitem__)


def msr_names() -> dict[str, int]:
    """The MSR numbers that the sources name."""
    found: dict[str, int] = {}
    for file in ("cpu/msr_index.h", "kvm/pv.h", "kvm/msrs.c"):
        text = _source(file)
        for name, value in re.findall(r"\b(MSR_\w+)(?: =)? (0x[0-9a-f]+)", text):
            found[name] = int(value, 16)
    return found


def msr_lists() -> tuple[list[int], list[int]]:
    """KVM_GET_MSR_INDEX_LIST and KVM_GET_MSR_FEATURE_INDEX_LIST."""
    names, text = msr_names(), _source("cpu/msr.c")

    def number(word: str) -> int:
        return names[word] if word in names else int(word, 16)

    machine = array("machine_index", _source("kvm/msrs.c"))
    saved = [number(word) for word in [*array("saved", text), *machine]]
    return saved, [number(word) for word in array("feature_msrs", text)]


def constant_msrs() -> list[tuple[int, int]]:
    """MSRs that answer with a constant: first, last."""
    _, _, rest = _source("cpu/msr.c").partition("} constants[] = {")
    rows = re.findall(r"\{(0x[0-9a-f]+), (0x[0-9a-f]+),", rest.partition("\n};")[0])
    return [(int(first, 16), int(last, 16)) for first, last in rows]


# -- the page -------------------------------------------------------------------------------------


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def _code(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _requests_part() -> str:
    numbers = header_requests()
    rows: list[list[str]] = []
    for kind, names in requests().items():
        plain = [f"{name} {numbers[name]:#x}" if name in numbers else name for name in names]
        rows.append([kind, _code(word.removeprefix("KVM_") for word in plain)])
    different = [(f"`{name}`", why) for name, why in differences.REQUESTS.items()]
    absent: dict[str, list[str]] = {}
    for name, why in differences.ABSENT.items():
        absent.setdefault(why, []).append(name)
    return (
        "## Requests\n\n`KVM_` and the number within KVMIO, by descriptor:\n\n"
        + _table(("descriptor", "answers"), rows)
        + "\nAnswered, but not as Linux does:\n\n"
        + _table(("request", "here"), different)
        + "\nNot there (EINVAL or ENOTTY, as for any unknown request):\n\n"
        + _table(("request", "why"), [(_code(names), why) for why, names in absent.items()])
    )


def _capabilities_part() -> str:
    numbers, found = header_numbers("KVM_CAP_"), capabilities()
    simple = sorted((name for name in found if found[name] == "1"), key=numbers.__getitem__)
    valued = sorted((name for name in found if found[name] != "1"), key=numbers.__getitem__)

    def short(name: str) -> str:
        return f"{name.removeprefix('KVM_CAP_')} {numbers[name]}"

    reasons: dict[str, list[int]] = {}
    for number, why in differences.CAPABILITIES.items():
        reasons.setdefault(why, []).append(number)
    enabled = [
        (kind, _code(name.removeprefix("KVM_CAP_") for name in names))
        for kind, names in enabled_by().items()
    ]
    return (
        "## Capabilities\n\n`KVM_CAP_` and its number. KVM_CHECK_EXTENSION answers 1 for\n\n"
        + _code(short(name) for name in simple)
        + "\n\nand a value for\n\n"
        + _table(
            ("capability", "value"),
            [(f"`{short(name)}`", found[name].replace("|", "\\|")) for name in valued],
        )
        + "\nand 0 for all others. KVM_ENABLE_CAP takes\n\n"
        + _table(("descriptor", "capabilities"), enabled)
        + "\nWhere a real KVM may answer otherwise, on purpose (capabilities of Linux 6.1):\n\n"
        + _table(("number", "why"), [(", ".join(map(str, n)), why) for why, n in reasons.items()])
    )


def _exits_part() -> str:
    numbers = header_numbers("KVM_EXIT_")
    seen = [f"{name.removeprefix('KVM_EXIT_')} {numbers[name]}" for name in exit_reasons()]
    never = [(f"`{name}`", why) for name, why in differences.EXITS_NEVER.items()]
    return f"## Exits\n\n`KVM_EXIT_`: {_code(seen)}\n\nNever seen:\n\n" + _table(
        ("exit", "why"), never
    )


def _ranges(numbers: Iterable[int]) -> list[str]:
    spans: list[list[int]] = []
    for n in sorted(numbers):
        if spans and spans[-1][1] == n - 1:
            spans[-1][1] = n
        else:
            spans.append([n, n])
    return [f"{a:#x}" if a == b else f"{a:#x}-{b:#x}" for a, b in spans]


def _msrs_part() -> str:
    saved, features = msr_lists()
    named = {value: name.removeprefix("MSR_") for name, value in reversed(msr_names().items())}
    words = [f"{named[n]} {n:#x}" for n in saved if n in named]
    unnamed = [n for n in saved if n not in named]
    constant = [n for first, last in constant_msrs() for n in range(first, last + 1)]
    return (
        "## Model-specific registers\n\nKVM_GET_MSR_INDEX_LIST: "
        + _code(words)
        + ", and the memory type ranges "
        + _code(_ranges(unnamed))
        + ".\n\nKVM_GET_MSR_FEATURE_INDEX_LIST: "
        + _code(f"{named[n]} {n:#x}" for n in features)
        + ".\n\nBesides these: the APIC's (`0x1b`, x2APIC `0x800-0x8ff`), FS and GS base, EFER, "
        "SYSCALL's and SYSENTER's, the machine check banks, PRED_CMD and FLUSH_CMD. With "
        "a constant, since guests of KVM rely on it: "
        + _code(_ranges(constant))
        + ". Any other is #GP, or the "
        "client's by `KVM_CAP_X86_USER_SPACE_MSR`.\n"
    )


def _behaviour_part() -> str:
    lines = [f"- **{what}**: {how}" for what, how in differences.BEHAVIOUR]
    return "## Behaviour that differs from Linux's\n\n" + "\n".join(lines) + "\n"


def render() -> str:
    """The whole page."""
    parts = (_requests_part, _capabilities_part, _exits_part, _msrs_part, _behaviour_part)
    return "\n".join([TOP, *(part() for part in parts)])


if __name__ == "__main__":
    PAGE.write_text(render())
    sys.stdout.write(f"{PAGE.relative_to(ROOT)}\n")
