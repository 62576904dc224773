"""Prints the project's Python requirements, run-time and development, for pip -r."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def main() -> None:
    """Read pyproject.toml, the one place where requirements stand."""
    text = (Path(__file__).resolve().parent.parent / "pyproject.toml").read_bytes()
    project = tomllib.loads(text.decode())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    sys.stdout.write("\n".join(wanted) + "\n")


if __name__ == "__main__":
    main()
