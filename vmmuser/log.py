"""What goes wrong besides the guest, by `logging`. Importing that takes longer than building a
machine: it is done when there is something to say.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


class Log:
    """A logger. The command may have configured `logging`; if not, lines are as `say` has them."""

    def __init__(self, name: str) -> None:
        """Name it, as logging.getLogger does."""
        self._name = name

    def warning(self, text: str, *arguments: object) -> None:
        """Say what a user should know."""
        self._logger().warning(text, *arguments)

    def error(self, text: str, *arguments: object, error: BaseException | None = None) -> None:
        """Say what should not have been; with the traceback of `error`."""
        self._logger().error(text, *arguments, exc_info=error)

    def _logger(self) -> Any:
        logging = import_module("logging")
        logging.basicConfig(format="kvmish: %(message)s")
        return logging.getLogger(self._name)
