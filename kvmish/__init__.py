"""The command line: kvmish boot, exec, doctor, bench."""
