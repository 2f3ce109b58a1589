"""Freed memory stays with the process, in a process of its own: what it is told, it is told for good."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from pipeline.heap import UNLIMITED, keep_freed
if sys.argv[1] == "kept":
    keep_freed(UNLIMITED)
import numpy as np
pieces = [np.ones(2**21) for _ in range(4)]  # 16 MB each
del pieces
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    pieces = [np.ones(2**21) for _ in range(4)]
    del pieces
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def num_faults(how: str) -> int:
    return int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library does as it likes")
def test_who_asks_again_gets_the_pages_of_the_last():
    assert num_faults("kept") < 1000 < num_faults("as it is") / 10
