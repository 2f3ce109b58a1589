"""What tests have another process do: functions that it can import."""

import contextlib
import os
import signal
import sys
from functools import partial
from pathlib import Path

import torch

from pipeline.errors import ArtifactError
from pipeline.loading.apart import Apart
from pipeline.loading.augment import Augmentation
from pipeline.loading.batches import training_batches
from pipeline.loading.order import order
from pipeline.loading.read import SplitReader

BATCH, SIDE_PX = 4, 32
CPU = torch.device("cpu")
AUGMENTATION = Augmentation((0.5, 1.0), (0.75, 1.33), True, False, 0.2)


@contextlib.contextmanager
def batches_of(index_path, pages):
    """Batches of an epoch from a step on, at a side."""
    with contextlib.closing(SplitReader(index_path, "train")) as reader:

        def make(epoch, first_step=0, side_px=SIDE_PX):
            digest = reader.index.digest
            steps = order(reader.shard_sizes, seed=0, epoch=epoch, digest=digest, global_batch_size=BATCH)
            ranks = {"rank": 0, "world_size": 1, "first_step": first_step, "num_workers": 2}
            return training_batches(reader, steps, AUGMENTATION, input_px=side_px, pages=pages, **ranks)

        yield make


@contextlib.contextmanager
def failing(pages):
    def make(how):
        if how == "ours":
            raise ArtifactError("train-000000.tar is not what it was")
        if how == "a bug":
            raise ZeroDivisionError("no loader divides by zero")
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "crashed":
            os.kill(os.getpid(), signal.SIGSEGV)
        os._exit(7)

    yield make


def open_apart(open_maker, *arguments, device=CPU):
    return Apart(partial(open_maker, *arguments), batch_bytes=BATCH * SIDE_PX * SIDE_PX * 3, device=device)


if __name__ == "__main__":  # a process with a loader's, whose id it tells
    import made_apart  # by the name that the other process knows it by

    apart = open_apart(made_apart.batches_of, Path(sys.argv[1]))
    next(apart.batches(0))
    print(apart._process.pid, flush=True)
    signal.pause()
