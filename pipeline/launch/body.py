"""What a launcher starts: one function that is told its rank, the world size and its device. It knows no launcher."""

from collections.abc import Callable
from typing import Protocol

Body = Callable[[int, int, str], None]
"""Called as body(rank, world_size, device). Must be picklable: a module's function, or a partial of one."""


class Pause(Protocol):
    """How a launcher asks bodies to leave what they have done, and to end."""

    def ask(self) -> None:
        """The ranks commit a checkpoint after their next step, and end."""

    def lift(self) -> bool:
        """Takes the wish back; False when they are to stay ended, because somebody else wished so too."""

    def is_asked(self) -> bool:
        """Whether somebody else wishes so."""
