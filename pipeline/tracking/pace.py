"""How long a run still takes, from the time stamps of what it says about itself; no clock is read here."""

from collections import deque


class Pace:
    """Of the newest steps, as many as an epoch has, so that one validation is among them.

    A run that goes on after a stop begins anew: the pause is nobody's pace. Only a restart that had no step to do again
    goes unseen, for an epoch.
    """

    def __init__(self, steps_per_epoch: int, after_seconds: float):
        """What is stamped `after_seconds` or before was written by an earlier driver's ranks, and does not count."""
        self._steps_per_epoch = steps_per_epoch
        self._newest_seconds = after_seconds
        self._marks: deque[tuple[int, float]] = deque()
        """Step, and when it was done, validation included."""

    def take(self, step: int, time_seconds: float) -> None:
        """In the order of the spool, which is read from its beginning again after a restart."""
        if time_seconds <= self._newest_seconds:
            return
        self._newest_seconds = time_seconds
        if self._marks and step < self._marks[-1][0]:
            self._marks.clear()
        if self._marks and step == self._marks[-1][0]:
            self._marks.pop()
        self._marks.append((step, time_seconds))
        while len(self._marks) > 1 and self._marks[1][0] <= step - self._steps_per_epoch:
            self._marks.popleft()

    def seconds_left(self, num_steps: int) -> float | None:
        """None until two steps were told."""
        if len(self._marks) < 2:
            return None
        (first, began), (step, now) = self._marks[0], self._marks[-1]
        return (num_steps - step) * (now - began) / (step - first)
