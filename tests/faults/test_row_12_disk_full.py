"""Row 12: the disk fills up while sharding: the error names the space, the rerun ends with the same bytes."""

from pathlib import Path

import data_project
import pytest
from image_folders import files_of, fill, jpeg
from small_disks import grow, small_disk

from pipeline.errors import StorageError
from pipeline.stages import layout

PHOTOS = {f"{'ab'[number % 2]}/{number}.jpg": jpeg(number, 64, 64) for number in range(300)}
CHANGES = {"samples_per_shard": 40, "short_side_px": 48}


@pytest.fixture
def project(tmp_path):
    """A project whose data/ is a disk of its own, too small for the shards."""
    folder = tmp_path / "project"
    fill(folder / "photos", PHOTOS)
    with small_disk(folder / "data", "900k"):
        yield folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    """The shards as a large enough disk has them."""
    folder = tmp_path_factory.mktemp("whole")
    fill(folder / "photos", PHOTOS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        data_project.stages(folder, **CHANGES)
        return files_of(folder / layout.SHARDS)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_the_error_names_the_space_and_the_rerun_ends_with_the_same_bytes(project, whole, monkeypatch, num_workers):
    monkeypatch.chdir(project)
    with pytest.raises(StorageError, match=r"The disk of .*/data is full \(\d MB free\).* run the same command again"):
        data_project.stages(project, num_workers=num_workers, **CHANGES)
    assert not layout.SHARDS.exists(), "no tar without an index"
    finished = [path for path in layout.SHARDS_WORK.rglob("*") if path.suffix == ".seal"]
    assert finished, "what was done is kept"

    grow(project / "data", "20m")
    assert data_project.run(project, num_workers=num_workers, **CHANGES).index.num_records == len(PHOTOS)
    assert files_of(layout.SHARDS) == whole
    assert not Path(layout.SHARDS_WORK).exists()
