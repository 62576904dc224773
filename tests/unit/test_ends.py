"""What ends while a vCPU of this process's core is inside: the process, the machine, its memory,
the thread's patience. Each in a process of its own, since some once ended that.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kvm_core.engines import ENGINES

ROOT = Path(__file__).resolve().parents[2]
PRELUDE = """
import ctypes, faulthandler, gc, mmap, os, signal, threading
from kvm_core import abi, exits
from kvm_core.api import Kvm, open_door

COUNTER = 0x800
LOOP = "ff 06 00 08 eb fa"  # inc word [COUNTER]; jmp back

class Machine:
    def __init__(self, address_only=False):
        self.kvm = Kvm(open_door("direct"))
        self.vm = self.kvm.create_vm()
        self.fd = os.memfd_create("ram")
        os.ftruncate(self.fd, 0x1000)
        self.ram = mmap.mmap(self.fd, 0x1000)
        view = (ctypes.c_char * 0x1000).from_buffer(self.ram)
        self.address = ctypes.addressof(view)
        self.vm.set_user_memory_region(0, 0, 0x1000, self.address if address_only else view)
        self.vcpu = self.vm.create_vcpu(0)
        sregs = self.vcpu.get_sregs()
        sregs.cs.base = sregs.cs.selector = 0
        self.vcpu.set_sregs(sregs)
        self.vcpu.set_regs(abi.KvmRegs(rip=0, rflags=2))
        self.ram[:6] = bytes.fromhex(LOOP)

    def counter(self):
        return os.pread(self.fd, 2, COUNTER)

    def goes_on(self):
        was = self.counter()
        while self.counter() == was:
            os.sched_yield()

    def enter(self, then=lambda event: None):
        def run(vcpu):
            try:
                then(vcpu.run())
            except OSError as error:
                then(error)
        thread = threading.Thread(target=run, args=(self.vcpu,), daemon=True)
        thread.start()
        self.goes_on()
        return thread

    def loses_its_memory(self):
        ends = []
        thread = self.enter(ends.append)
        ctypes.CDLL(None).munmap(ctypes.c_void_p(self.address), 0x1000)
        thread.join()
        assert ends[0].errno == 14, ends  # EFAULT

    def close(self):
        self.vcpu.close()
        self.vm.close()
        self.kvm.close()

def meanwhile(act):  # on another thread, once the guest runs
    def run():
        machine.goes_on()
        act()
    threading.Thread(target=run, daemon=True).start()

machine = Machine()
"""

PROGRAMS = {
    "the process": """
other = Machine(address_only=True)
for each in (machine, other):
    each.enter()
""",
    "the process, and the thread would go on": """
def forever():
    while True:
        machine.vcpu.run()
threading.Thread(target=forever, daemon=True).start()
machine.goes_on()
""",
    "the process, of a vCPU that sleeps": """
vm = machine.kvm.create_vm()
vm.create_irqchip()
waiting = vm.create_vcpu(1)  # for its SIPI
threading.Thread(target=waiting.run, daemon=True).start()
""",
    "the machine": """
machine.enter()
machine.close()
machine.goes_on()
""",
    "who has the memory": """
machine.enter()
fd = os.dup(machine.fd)
machine.close()
del machine
gc.collect()
was = os.pread(fd, 2, COUNTER)
while os.pread(fd, 2, COUNTER) == was:
    os.sched_yield()
""",
    "another interpreter": """
import _xxsubinterpreters as interpreters
thread = machine.enter()
other = interpreters.create(isolated=False)
interpreters.run_string(other, '''if True:
    from kvm_core.api import Kvm, open_door
    Kvm(open_door("direct")).create_vm().create_vcpu(0).run()
''')
interpreters.destroy(other)
machine.goes_on()
assert thread.is_alive()
""",
    "the memory, which is refused": """
thread = machine.enter()
try:
    machine.ram.close()
except BufferError:
    machine.goes_on()
machine.vm.set_user_memory_region(0, 0, 0, 0)
machine.ram.close()
""",
    "the memory, with the machine": """
machine.close()
machine.ram.close()
""",
    "the memory, of which we had the address": """
machine = Machine(address_only=True)
machine.loses_its_memory()
""",
    "patience": """
meanwhile(lambda: os.kill(os.getpid(), signal.SIGINT))
try:
    machine.vcpu.run()
except KeyboardInterrupt:
    machine.vcpu.get_regs()
else:
    raise AssertionError
""",
    "patience, by a handler that came later": """
ran = []
signal.signal(signal.SIGUSR1, lambda *_: ran.append(1))
meanwhile(lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1))
assert machine.vcpu.run() == exits.Interrupted()
assert ran
""",
    "patience, by a handler that came when it was inside": """
ends = []
thread = machine.enter(ends.append)
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.pthread_kill(thread.ident, signal.SIGUSR1)
thread.join()
assert ends == [exits.Interrupted()], ends
""",
    "patience, by a signal that waits outside": """
ran = []
signal.signal(signal.SIGUSR1, lambda *_: ran.append(1))
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
machine = Machine()
machine.vcpu.set_signal_mask([])
meanwhile(lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1))
assert machine.vcpu.run() == exits.Interrupted()
assert not ran
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
assert ran
""",
    "patience, of a vCPU that sleeps, by a handler that goes back to sleep": """
vm = machine.kvm.create_vm()
vm.create_irqchip()
waiting = vm.create_vcpu(1)  # for its SIPI
ends = []
thread = threading.Thread(target=lambda: ends.append(waiting.run()), daemon=True)
thread.start()
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.siginterrupt(signal.SIGUSR1, False)
while thread.is_alive():  # the first may have come before it slept
    signal.pthread_kill(thread.ident, signal.SIGUSR1)
    thread.join(1)
assert ends == [exits.Interrupted()], ends
""",
    "a handler that the next one goes on to": """
ran = []
signal.signal(signal.SIGUSR1, lambda *_: ran.append(1))
machine = Machine()
with open(os.devnull, "w") as traces:
    faulthandler.register(signal.SIGUSR1, traces, chain=True)
    machine = Machine()
    signal.raise_signal(signal.SIGUSR1)
    assert ran == [1]
""",
    "a handler that is put back": """
ran = []
signal.signal(signal.SIGUSR1, lambda *_: ran.append(1))
machine = Machine()
with open(os.devnull, "w") as traces:
    faulthandler.register(signal.SIGUSR1, traces)
    machine = Machine()
    faulthandler.unregister(signal.SIGUSR1)
    signal.raise_signal(signal.SIGUSR1)
    assert ran == [1]
""",
    "the memory, of a program that no longer has its handler of faults": """
machine = None
faulthandler.enable()
machine = Machine(address_only=True)
faulthandler.disable()
Machine()
machine.loses_its_memory()
""",
    "the memory, of a program that has come to have one": """
faulthandler.enable()
machine = Machine(address_only=True)
machine.loses_its_memory()
""",
    "patience, of a child's thread in the place of a parent's": """
thread = machine.enter()
if child := os.fork():
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    machine.goes_on()
else:
    signal.alarm(30)  # nobody else ends a child that waits
    ends = []
    signal.signal(signal.SIGUSR1, lambda *_: None)
    machine = Machine()
    new = machine.enter(ends.append)
    assert new.ident == thread.ident
    signal.pthread_kill(new.ident, signal.SIGUSR1)
    new.join()
    assert ends == [exits.Interrupted()], ends
""",
    "the parent's machine, in a child": """
machine.enter()
if child := os.fork():
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    machine.goes_on()
else:
    try:
        machine.vcpu.get_regs()
    except OSError as error:
        assert error.errno == 5
        Machine().enter()
    else:
        raise AssertionError
""",
}  # fmt: skip


def _run(program: str, engine: str) -> tuple[int, str, str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "KVMISH_ENGINE": engine}
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + program],
        env=environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("what", PROGRAMS)
def test_while_a_vcpu_is_inside(what: str, engine: str) -> None:
    assert _run(PROGRAMS[what], engine) == (0, "", "")


def test_an_exception_ends_the_process_as_ever() -> None:
    status, _, errors = _run("machine.enter()\nraise ValueError", "translate")
    assert status == 1
    assert errors.endswith("\nValueError\n")


def test_a_fault_of_the_program_is_its_own() -> None:
    status, _, errors = _run("ctypes.string_at(0)", "translate")
    assert (status, errors) == (-signal.SIGSEGV, "")


def test_a_fault_of_the_program_has_its_handler() -> None:
    """The one that was there before."""
    code = "machine = None\nfaulthandler.enable()\nMachine().enter()\nctypes.string_at(0)"
    status, _, errors = _run(code, "translate")
    assert status == -signal.SIGSEGV
    assert errors.startswith("Fatal Python error: Segmentation fault")
