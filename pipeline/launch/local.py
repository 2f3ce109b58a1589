"""One rank in this process, without Ray: for a debugger, and for `cluster.num_workers: 0`."""

import os

from pipeline.launch.body import Body


def launch(body: Body) -> None:
    """Runs the only rank of a world of one, on a GPU where there is one."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    body(0, 1, "cuda:0" if torch.cuda.is_available() else "cpu")
