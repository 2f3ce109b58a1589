"""Whether a world that lost something may be started again: counted here, away from Ray."""

from pipeline.errors import ClusterError
from pipeline.launch.losses import Loss
from pipeline.wording import counted


class Restarts:
    """What is left of `max_failures` in one run."""

    def __init__(self, max_failures: int):
        self._max_failures, self._num_failures = max_failures, 0
        self._last: Loss | None = None

    def spend(self, loss: Loss) -> str:
        """What to say of the start that now follows; a loss that was announced costs nothing.

        Raises ClusterError when there is none left, or memory ran out twice running.
        """
        if loss.is_announced:
            return f"{loss.what}; going on from the newest checkpoint"
        if loss.is_of_memory and self._last is not None and self._last.is_of_memory:
            raise ClusterError(
                f"{loss.what}; it was so the last time too, so a third start would meet the same. Nothing is gone: add "
                "memory and run the same command again, or raise training.accumulate_steps, or lower "
                "model.input_px."
            )
        self._num_failures, self._last = self._num_failures + 1, loss
        if self._num_failures > self._max_failures:
            raise ClusterError(
                f"A rank was lost {counted(self._num_failures, 'time')}, the last time so: "
                f"{loss.what}. Nothing is gone: run the same command to go on from the newest checkpoint, or raise "
                "cluster.max_failures."
            )
        return f"{loss.what}; going on from the newest checkpoint, restart {self._num_failures} of {self._max_failures}"
