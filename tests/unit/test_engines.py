"""The engines' names: Python's list is the core's, and what is no engine is refused."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from importlib import import_module

import pytest

from kvm_core import engines
from kvm_core.api import Kvm, open_door
from kvm_core.errors import ConfigError
from kvmish import doors


def test_python_and_the_core_name_the_same() -> None:
    module = import_module("kvm_core._kvm")
    names = [module.ffi.string(module.lib.engine_name(n)).decode() for n in range(2)]
    assert tuple(names) == engines.ENGINES
    assert not module.lib.engine_name(len(names))


def test_no_such_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vCPU is refused; Python says so before."""
    with Kvm(open_door("direct")) as system, system.create_vm() as vm:
        monkeypatch.setenv(engines.VARIABLE, "magic")
        with pytest.raises(OSError, match="Invalid") as refused:
            vm.create_vcpu(0)
        assert refused.value.errno == errno.EINVAL
    with pytest.raises(ConfigError, match=r"KVMISH_ENGINE magic: .* translate or emulate"):
        engines.chosen()


def test_exec_passes_it_on() -> None:
    show = [sys.executable, "-c", "import os; print(os.environ['KVMISH_ENGINE'])"]
    kvmish = "import sys; from kvmish.start import main; sys.exit(main())"
    command = [sys.executable, "-c", kvmish, "exec", "--engine", "emulate", "--", *show]
    environment = {name: value for name, value in os.environ.items() if name != engines.VARIABLE}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.stdout == "emulate\n", done.stderr


def test_exec_refuses_what_is_no_engine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(engines.VARIABLE, "magic")
    assert doors.run(("true",)) == 2
    assert "kvmish: KVMISH_ENGINE magic: there is no" in capsys.readouterr().err
