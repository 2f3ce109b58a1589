"""A piece of a test in a process of its own: one that a test may stop, or take rights from."""

import os

NOBODY = 65534


def in_a_child(action) -> tuple[int, str]:
    """Exit code of a forked process that runs `action`, and the message of the error that ended it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 0
        try:
            action()
        except BaseException as exc:
            code = 1
            os.write(writer, f"{type(exc).__name__}: {exc}".encode())
        finally:
            os._exit(code)
    os.close(writer)
    with open(reader, encoding="utf-8") as file:
        message = file.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), message


def as_nobody() -> None:
    """Gives root's rights up, in a child: root may read and write anywhere."""
    if os.geteuid() == 0:
        os.setuid(NOBODY)
