"""`kvmish boot --profile`: where the guest's instructions went, with the kernel's names for it."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable

from kvm_core.errors import ConfigError

ROWS = 20
KERNEL_HALF = 1 << 63


class Symbols:
    """Names of addresses, from a System.map or a copy of /proc/kallsyms."""

    def __init__(self, lines: Iterable[str] = ()) -> None:
        """Take lines `address type name`. :raise ValueError: if one is none."""
        found = []
        for line in lines:
            address, _, name = line.split()[:3]
            found.append((int(address, 16), name))
        found.sort()
        self._addresses = [address for address, _ in found]
        self._names = [name for _, name in found]

    @classmethod
    def read(cls, path: str) -> Symbols:
        """Read a file of lines `address type name`.

        :raise ConfigError: if it cannot be read, or is something else.
        """
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                return cls(line for line in file.read().splitlines() if line)
        except OSError as error:
            raise ConfigError(f"--symbols {path}: {error.strerror}; name a System.map") from None
        except ValueError:
            raise ConfigError(
                f"--symbols {path}: no System.map and no kallsyms: lines are `address type name`"
            ) from None

    def name(self, address: int) -> str:
        """Return symbol+offset; empty when nothing is known of the address."""
        at = bisect_right(self._addresses, address) - 1
        if at < 0 or not self._addresses[at] or (address ^ self._addresses[at]) & KERNEL_HALF:
            return ""
        return f"{self._names[at]}+{address - self._addresses[at]:#x}"


def table(samples: str, symbols: Symbols) -> str:
    """Return the hottest blocks, most first; `samples` as the core wrote them (jit/profile.c)."""
    counts: Counter[tuple[int, bool]] = Counter()
    for line in samples.splitlines():
        rip, cpl, times = line.split()
        counts[int(rip, 16), cpl == "3"] += int(times)
    total = sum(counts.values())
    if not total:
        return "nothing was sampled: too little was executed"
    lines = [f"the hottest of {len(counts):,} blocks, {total:,} samples of instructions:"]
    for (address, user), count in counts.most_common(ROWS):
        name = "user" if user else symbols.name(address)
        lines.append(f"  {100 * count / total:5.1f} %  {address:016x}  {name}".rstrip())
    return "\n".join(lines)
