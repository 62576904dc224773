"""The domain `demo`: the guest that `make boot` boots."""

from __future__ import annotations

import html
import json
import shutil
import subprocess
import sys
from pathlib import Path

from libvirtish.virtish.session import VerbError

DEMO = """\
<domain type='kvm'>
  <name>demo</name>
  <memory unit='MiB'>256</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='microvm'>hvm</type>
    <kernel>{kernel}</kernel>
    <initrd>{initrd}</initrd>
    <cmdline>console=ttyS0</cmdline>
  </os>
  <devices>
    <serial type='pty'><target port='0'/></serial>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
  </devices>
</domain>
"""


def demo_xml() -> str:
    """Return the definition, with the files that `kvmish assets` names. :raise VerbError:"""
    beside = Path(sys.argv[0]).resolve().with_name("kvmish")
    program = str(beside) if beside.is_file() else shutil.which("kvmish")
    if program is None:
        raise VerbError("kvmish is not on PATH: it knows where the kernel is")
    done = subprocess.run([program, "assets"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise VerbError(done.stderr.strip() or "kvmish assets failed")
    files = json.loads(done.stdout)
    return DEMO.format(kernel=html.escape(files["kernel"]), initrd=html.escape(files["initrd"]))
