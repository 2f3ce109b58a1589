"""Tasks for `pipeline.sharding.workers`: at the top of a module that worker processes can import."""

import os
import signal


def square(task: int, advance) -> int:
    advance(task)
    return task * task


def fail_at_three(task: int, advance) -> int:
    if task == 3:
        raise OSError(28, "No space left on device")
    return square(task, advance)


def be_killed(task: int, advance) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return task


def say_who_and_stay(task: str, advance) -> None:
    """Leaves a file named after its process, then stays for as long as it is left alone."""
    with open(f"{task}/{os.getpid()}", "w"):
        pass
    signal.pause()


def variable(name: str, advance) -> str | None:
    """An environment variable of the process."""
    return os.environ.get(name)
