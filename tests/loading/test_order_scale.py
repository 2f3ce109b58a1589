"""A smaller run of benchmarks/order.py; the whole one starts 10^9 samples in 10^5 shards."""

import json
import subprocess
import sys


def test_starting_and_resuming_cost_shards_not_samples(repository):
    command = [sys.executable, "benchmarks/order.py", "--samples", "1000000000", "--shards", "20000", "--repeats", "9"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True)
    measured = json.loads(done.stdout)
    assert measured["samples"] > 0.99e9
    assert measured["start_seconds"] < 1.0
    assert measured["peak_mb"] < 200  # eight bytes a sample would be 8,000
    # A source sorted by class, laid into tars by sharding: windows that fit a cache mix as well as a full shuffle.
    assert measured["label_entropy_over_full_shuffle"]["sharded"] > 0.98
    assert measured["label_entropy_over_full_shuffle"]["tars_of_one_class"] < 0.9
    # A quarter more leaves room for a busy machine; a resume that walks there would cost 10^5 times as much.
    assert max(measured["resume_over_step_0"].values()) < 1.25
