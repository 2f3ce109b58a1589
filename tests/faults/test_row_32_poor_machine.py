"""Row 32, the loader's part: few file descriptors, no HOME, the C locale, a path with spaces, nothing to write to."""

import subprocess
import sys

import shard_sets

READ_ALL = """
import sys
from pathlib import Path
from pipeline.loading.augment import Augmentation
from pipeline.loading.batches import training_batches
from pipeline.loading.order import order
from pipeline.loading.read import SplitReader
reader = SplitReader(Path(sys.argv[1]), "train")
steps = order(reader.shard_sizes, seed=0, epoch=0, digest="d", global_batch_size=20)
plain = Augmentation((1.0, 1.0), (1.0, 1.0), False, False, 0.0)
made = training_batches(reader, steps, plain, input_px=8, rank=0, world_size=1, first_step=0, num_workers=4)
print(len({key for batch in made for key in batch.keys_B.tolist()}))
"""


def test_more_shards_than_descriptors_on_a_poor_machine(tmp_path, repository):
    folder = tmp_path / "my photos é"
    index_path = shard_sets.write(folder, {"train": [1] * 300})
    before = sorted(folder.rglob("*"))
    command = f'ulimit -n 256; cd /; exec "{sys.executable}" -B -c "$1" "$2"'
    done = subprocess.run(
        ["bash", "-c", command, "bash", READ_ALL, index_path],
        env={"LC_ALL": "C", "PATH": "/usr/bin:/bin", "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "300\n"
    assert sorted(folder.rglob("*")) == before
