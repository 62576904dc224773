"""Machines as processes: kvmish vm, its monitor and its consoles."""
