"""No memory is writable and executable at once; a child of fork has none of its parent's code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import os
from tests.abi.guest import Guest

def mappings():
    with open("/proc/self/maps") as file:
        return [line.split(maxsplit=5) for line in file]

def check(code):
    both = [" ".join(m) for m in mappings() if "w" in m[1] and "x" in m[1]]
    assert not both, both
    found = [m for m in mappings() if "x" in m[1] and "memfd:kvmish" in m[-1]]
    assert bool(found) == code, found

def run():
    loop = "1: add ebx, ecx\\n movd xmm0, ebx\\n addps xmm0, xmm0\\n dec ecx\\n jnz 1b"
    guest = Guest(f"mov ecx, 3000\\n{loop}\\n say ebx\\n done\\n")
    guest.run()
    assert guest.said == [4501500], guest.said
    return guest

guest = run()
check(True)
child = os.fork()
if not child:
    check(False)
    run()
    check(True)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
guest.place(guest.vcpu.get_regs().rip)  # it lives on
check(True)
print("ok")
"""


def test_never_writable_and_executable() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("ok\n", "")
