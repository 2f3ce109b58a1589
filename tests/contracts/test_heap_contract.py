"""Freed memory stays with the process, or goes back; each in a process of its own, which is told for good."""

import subprocess
import sys

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


RESIDENT = """
import sys
import psutil
from pipeline.heap import give_back_freed
pieces = [bytes(4096) for _ in range(20_000)]
kept = pieces[::50]  # between those that are freed
del pieces
if sys.argv[1] == "given back":
    give_back_freed()
print(psutil.Process().memory_info().rss)
"""


def said(code: str, how: str) -> int:
    return int(subprocess.run([sys.executable, "-c", code, how], capture_output=True, check=True).stdout)


def test_pages_that_hold_nothing_go_back_from_between_others():
    assert said(RESIDENT, "given back") < said(RESIDENT, "as it is") - 60e6


def test_who_asks_again_gets_the_pages_of_the_last():
    assert said(FAULTS, "kept") < 1000 < said(FAULTS, "as it is") / 10
