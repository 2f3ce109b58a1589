"""What a launcher starts: one function that is told its rank, the world size and its device. It knows no launcher."""

from collections.abc import Callable

Body = Callable[[int, int, str], None]
"""Called as body(rank, world_size, device). Must be picklable: a module's function, or a partial of one."""
