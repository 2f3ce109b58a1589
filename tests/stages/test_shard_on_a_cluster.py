"""The shard stage as tasks on a real Ray cluster: the bytes of one machine alone, whatever is lost meanwhile."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import data_project
import pytest
import ray_nodes
import worker_tasks
from image_folders import files_of, fill, jpeg

from pipeline.errors import ClusterError, SourceError
from pipeline.launch import tasks
from pipeline.sharding.manifest import Manifest
from pipeline.sharding.sight import check_sight, take_sight
from pipeline.stages import layout

pytestmark = pytest.mark.runs_ray

PHOTOS = {f"{'ab'[number % 2]}/{number}.jpg": jpeg(number, 40, 48) for number in range(300)} | {"a/0.png": b"text"}
CHANGES = {"short_side_px": 32, "samples_per_shard": 64, "validation_fraction": 0.2, "test_fraction": 0.2}


@pytest.fixture(scope="module")
def cluster():
    with ray_nodes.nodes(2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A project that was sharded without a cluster."""
    folder, here = tmp_path_factory.mktemp("alone"), Path.cwd()
    fill(folder / "photos", PHOTOS)
    data_project.stages(folder, **CHANGES)
    files = files_of(folder / layout.SHARDS)
    os.chdir(here)
    return files


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "photos", PHOTOS)
    return tmp_path


@pytest.mark.parametrize("num_workers", [None, 3])
def test_the_bytes_are_those_of_one_machine(project, cluster, alone, num_workers, capsys):
    data_project.stages(project, address=cluster.address, num_workers=num_workers, **CHANGES)
    assert files_of(layout.SHARDS) == alone
    fill(project / "photos", {f"a/new{number}.jpg": jpeg(1000 + number, 40, 48) for number in range(20)})
    data_project.stages(project, address=cluster.address, num_workers=num_workers, **CHANGES)
    grown = files_of(layout.SHARDS)
    assert {name: grown[name] for name in alone if name.endswith(".tar")} == {
        name: data for name, data in alone.items() if name.endswith(".tar")
    }
    assert "generation 1: 20 samples written" in capsys.readouterr().out


@pytest.mark.parametrize("whom", ["process", "node"])
def test_what_is_lost_in_the_middle_changes_no_byte(project, cluster, alone, whom, monkeypatch, capsys):
    """One while images are decoded, one while a shard is written."""

    class Dying(tasks.ClusterWorkers):
        def map(self, function, *arguments):
            if whom == "node":
                cluster.add()
            return super().map(partial(worker_tasks.die_once, str(project), whom, function), *arguments)

    monkeypatch.setattr(tasks, "ClusterWorkers", Dying)
    data_project.stages(project, address=cluster.address, num_workers=None, **CHANGES)
    assert {path.name for path in project.glob(f"{whom}-*")} == {f"{whom}-inspect_piece", f"{whom}-write_shard"}
    assert files_of(layout.SHARDS) == alone
    assert "a piece of the work was lost (" in capsys.readouterr().err


def test_an_unseen_source_is_said_before_anything_is_decoded(project, cluster):
    """A node in a mount namespace of its own, where the photographs' folder is another."""
    enter = ["unshare", "--mount", "sh", "-c"]
    hide = f"mount -t tmpfs none {project / 'photos'} && exec "
    try:
        subprocess.run([*enter, hide + "true"], check=True, capture_output=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("a mount namespace of one's own is not allowed here")
    cluster.wait_for(2)  # a node that a test before this one has lost is not listed any more
    start = f"{sys.executable} -m ray.scripts.scripts start --address {cluster.address} --num-cpus 1 --block"
    node = subprocess.Popen([*enter, hide + start + " --object-store-memory 80000000"], stdout=subprocess.DEVNULL)
    try:
        cluster.wait_for(3)
        with pytest.raises(ClusterError, match=r"1 of the 3 nodes of the cluster cannot help; ") as caught:
            data_project.stages(project, address=cluster.address, **CHANGES)
        assert f"{project}/photos/a/0.jpg cannot be read there" in str(caught.value)
        assert "data.source must be a folder that every node sees" in str(caught.value)
        assert not list(layout.SHARDS_WORK.rglob("*.piece"))
    finally:
        node.terminate()
        node.wait()
        cluster.wait_for(2)


@pytest.fixture
def sight(project):
    """What this machine sees."""
    data_project.stages(project, **CHANGES)
    (project / "work").mkdir()
    return take_sight(project / "work", Manifest(layout.MANIFEST), "photos", 32, 90, None)


def test_what_is_seen_here_is_seen_here(sight):
    assert len(sight.images) >= 3
    check_sight(sight)
    assert [path.name for path in sight.work.iterdir()] == ["sight"]


def test_a_destination_need_not_hold_anything_yet(sight):
    check_sight(sight._replace(location="memory://shards-of-a-test"))


def test_each_difference_has_its_words(sight, project):
    def words(sight) -> str:
        with pytest.raises(SourceError) as caught:
            check_sight(sight)
        return str(caught.value)

    assert "work is another folder there; the pipeline must run in a folder that every node" in words(
        sight._replace(token="another")
    )
    assert "nowhere cannot be used there (No such file or directory); the pipeline must run in" in words(
        sight._replace(work=project / "nowhere")
    )
    assert "is encoded to other bytes there; install the same versions" in words(sight._replace(jpeg_quality=80))
    (project / "photos" / sight.images[0].path).write_bytes(jpeg(5))
    assert "is another image there; data.source must be the same folder" in words(sight)
    (project / "photos" / sight.images[0].path).unlink()
    assert "cannot be read there" in words(sight)
