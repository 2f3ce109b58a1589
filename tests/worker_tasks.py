"""Tasks for `sharding.workers` and `launch.tasks`: at the top of a module that worker processes can import."""

import os
import resource
import signal

from pipeline.errors import SourceError


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


def count_and_fail(folder: str, advance) -> None:
    _leave_a_mark(folder)
    raise KeyError("a bug of the user's")


def count_and_be_killed(folder: str, advance) -> None:
    _leave_a_mark(folder)
    os.kill(os.getpid(), signal.SIGKILL)


def where(task: object, advance) -> int:
    """The process of the node that this one belongs to."""
    return os.getppid()


def die_once(marks: str, whom: str, function, task: object, advance) -> object:
    """`function(task, advance)`, but once, for each function, its process or its node is killed in the middle."""

    def advance_or_die(num: int) -> None:
        advance(num)
        try:
            os.close(os.open(f"{marks}/{whom}-{function.__name__}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        os.kill(os.getppid() if whom == "node" else os.getpid(), signal.SIGKILL)
        signal.pause()  # a process ends with its node

    return function(task, advance_or_die)


def be_fit() -> None:
    """A check that every machine passes."""


def be_fit_on(nodes: tuple[int, ...]) -> None:
    """A check that only these nodes, named by their processes, pass."""
    if os.getppid() not in nodes:
        raise SourceError("/data/photos cannot be seen there")


def fetch_pages(num_bytes: int, advance) -> int:
    """How often the system had to give a page while four times this memory was used 20 times, after a first time."""
    [bytearray(num_bytes) for _ in range(4)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        [bytearray(num_bytes) for _ in range(4)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def _leave_a_mark(folder: str) -> None:
    with open(f"{folder}/marks", "a") as file:
        file.write("x")
