"""Builds the cffi module kvm_core._kvm; everything else stands in pyproject.toml."""

from setuptools import setup

setup(cffi_modules=["kvm_core/_build.py:ffi"])
