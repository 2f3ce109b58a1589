"""Sets of images with other channels than RGB: what the tars hold, the figures of the index, and one kind a set."""

import io
import json
import tarfile
from pathlib import Path

import bands
import numpy as np
import pytest
import webdataset
from image_folders import AUDIT_RULE, FORM, SPLIT_RULE, build, files_of, fill, jpeg, scanned, silent
from PIL import Image
from tiffs import tiff

from pipeline.imaging.arrays import encode_array
from pipeline.imaging.resizing import limit_short_side
from pipeline.sharding import inspect, write
from pipeline.sharding.build import build_shard_set
from pipeline.sharding.compact import compact_shard_set
from pipeline.sharding.verify import verify_shard_set
from pipeline.sharding.workers import LocalWorkers

KINDS = [(5, "uint8"), (13, "uint16"), (1, "uint16"), (3, "uint16"), (2, "uint8")]


def read_set(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """By split the stored images, by the path of their source."""
    images = {}
    for path in sorted(folder.glob("*/*.tar")):
        with tarfile.open(path) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar.getmembers()}
        for name, data in members.items():
            if name.endswith(".npy"):
                source = json.loads(members[name.replace(".npy", ".json")])["path"]
                of_split = images.setdefault(path.parent.name, {})
                of_split[source] = np.load(io.BytesIO(data), allow_pickle=False)
    return images


@pytest.fixture(scope="module", params=KINDS, ids=str)
def built(request, tmp_path_factory):
    """(number of channels, type, source, set, its index)"""
    folder = tmp_path_factory.mktemp("bands")
    source = bands.two_classes(folder / "source", 30, *request.param)
    if request.param[0] == 1:  # a TIFF of one channel is a grey picture
        for path in source.glob("dog/*.tif"):
            path.with_suffix(".npy").write_bytes(encode_array(bands.noise(int(path.stem), *request.param)))
            path.unlink()
    return *request.param, source, folder / "set", build(source, folder / "set").index


def test_every_image_is_stored_as_it_is(built):
    num_channels, dtype, source, folder, index = built
    assert (index.num_channels, index.pixel_dtype, index.image_extension) == (num_channels, dtype, "npy")
    stored = {path: image for images in read_set(folder).values() for path, image in images.items()}
    assert len(stored) == index.num_records == sum(1 for path in source.rglob("*") if path.is_file())
    for path, image_HWC in stored.items():
        np.testing.assert_array_equal(image_HWC, bands.noise(int(Path(path).stem), num_channels, dtype))


def test_mean_and_deviation_are_those_of_the_training_split(built):
    num_channels, dtype, _, folder, index = built
    images_NHWC = np.stack(list(read_set(folder)["train"].values())).astype(np.float64) / np.iinfo(dtype).max
    pixels_NC = images_NHWC.reshape(-1, num_channels)
    np.testing.assert_allclose(index.mean, pixels_NC.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(index.std, pixels_NC.std(axis=0), rtol=1e-9)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.usefixtures("careless_reader")
def test_the_set_verifies_and_webdataset_reads_it(built):
    num_channels, dtype, _, folder, index = built
    verify_shard_set(folder / "index.json", lambda count: None)
    urls = sorted(map(str, folder.glob("train/*.tar")))
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert len(samples) == index.num_samples("train")
    for sample in samples:
        assert sample["npy"].shape == (20, 24, num_channels)
        assert sample["npy"].dtype == dtype


@pytest.mark.parametrize("short_side_px", [None, 10])
def test_any_number_of_workers_leaves_the_same_bytes(tmp_path, short_side_px):
    source, form = bands.two_classes(tmp_path / "source", 40), FORM._replace(short_side_px=short_side_px)
    for workers in (1, 2):
        build(source, tmp_path / f"set{workers}", form=form, num_workers=workers)
    assert files_of(tmp_path / "set1") == files_of(tmp_path / "set2")
    images = [image for of_split in read_set(tmp_path / "set1").values() for image in of_split.items()]
    for path, image_HWC in images:
        expected_HWC = bands.noise(int(Path(path).stem))
        expected_HWC = limit_short_side(expected_HWC, short_side_px) if short_side_px else expected_HWC
        np.testing.assert_array_equal(image_HWC, expected_HWC)


def test_a_killed_run_is_taken_up_with_the_same_result(tmp_path, monkeypatch):
    source = bands.two_classes(tmp_path / "source", 40)
    build(source, tmp_path / "whole")
    decoded, real, done = [], inspect.encode, []

    def once(*arguments):
        if done:
            raise KeyboardInterrupt
        done.append(write_shard(*arguments))
        return done[0]

    def run(folder: Path) -> None:
        (tmp_path / "work").mkdir(exist_ok=True)
        folder.mkdir(exist_ok=True)
        manifest = scanned(source, tmp_path / "manifest")
        build_shard_set(
            folder, tmp_path / "work", manifest, source, SPLIT_RULE, FORM, AUDIT_RULE, LocalWorkers(1), silent
        )

    write_shard = write._write
    with monkeypatch.context() as patch:
        patch.setattr(write, "_write", once)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "again")
    monkeypatch.setattr(inspect, "encode", lambda *arguments: decoded.append(1) or real(*arguments))
    run(tmp_path / "again")
    assert not decoded
    assert files_of(tmp_path / "again") == files_of(tmp_path / "whole")


def grey_png() -> bytes:
    out = io.BytesIO()
    Image.new("L", (20, 20), 99).save(out, "PNG")
    return out.getvalue()


def test_pictures_among_other_channels_are_rejects(tmp_path):
    source = bands.two_classes(tmp_path / "source", 30)
    others = {
        "cat/a.jpg": jpeg(1),
        "cat/b.png": grey_png(),
        "cat/c.npy": encode_array(bands.noise(90, 4)),
        "dog/d.npy": encode_array(bands.noise(91, 5, "uint16")),
    }
    built = build(fill(source, others), tmp_path / "set")
    assert [reject.path for reject in built.rejects] == sorted(others)
    assert {reject.reason for reject in built.rejects} == {"other_channels"}
    assert "The image has 3 channels of uint8, most of the set have 5 channels of uint8" in built.rejects[0].detail
    assert (built.index.num_records, built.index.num_rejects) == (64, 4)
    assert sum(map(built.index.num_samples, built.index.splits)) == built.audit.num_samples == 60
    assert built.audit.samples_by_kind == {"NPY 5 uint8": 30, "TIFF 5 uint8": 30}


def test_other_channels_among_pictures_are_rejects(tmp_path):
    pictures = {
        f"{label}/{n}.png": grey_png() if n == 0 else jpeg(n + 100 * (label == "b"))
        for label in "ab"
        for n in range(30)
    }
    others = {"a/x.tif": tiff(bands.noise(1)), "b/y.npy": encode_array(bands.noise(2))}
    built = build(fill(tmp_path / "source", pictures | others), tmp_path / "set")
    assert [(reject.path, reject.reason) for reject in built.rejects] == [(name, "other_channels") for name in others]
    assert (built.index.num_channels, built.index.image_extension) == (3, "jpg")


def test_of_as_many_of_either_the_one_with_fewer_channels_stays(tmp_path):
    files = {f"{label}/{n}.npy": encode_array(bands.noise(n, 5 - n % 2)) for n, label in enumerate("ab" * 20)}
    built = build(fill(tmp_path / "source", files), tmp_path / "set", rule=SPLIT_RULE._replace(test_fraction=0.0))
    assert built.index is not None
    assert built.index.num_channels == 4


def test_a_reject_speaks_for_no_group_of_look_alikes(tmp_path):
    """A picture that looks like arrays of the set, and is none of them, moves none to another split."""
    files = {f"{'ab'[n % 2]}/{n:02d}.npy": encode_array(bands.noise(n // 2)) for n in range(60)}
    before = build(fill(tmp_path / "source", files), tmp_path / "before")
    greys = {}
    for n in range(0, 60, 4):
        image_HWC = bands.noise(n // 2).mean(axis=2).astype(np.uint8)
        greys[f"a/x{n:02d}.npy"] = encode_array(np.repeat(image_HWC[:, :, None], 3, axis=2))
    after = build(fill(tmp_path / "source", greys), tmp_path / "after")
    assert len(after.rejects) == len(greys)
    where = [
        {path: split for split, each in read_set(tmp_path / name).items() for path in each}
        for name in ("before", "after")
    ]
    assert where[0] == where[1]
    assert before.audit.findings["near_duplicates"].num_groups == after.audit.findings["near_duplicates"].num_groups


def test_sixteen_bits_are_neither_dark_nor_blank_for_using_few_of_them(tmp_path):
    rule = AUDIT_RULE._replace(dark_below=12.0)
    files = {f"{'ab'[n % 2]}/{n:02d}.npy": encode_array(bands.noise(n, 4, "uint16") // 32) for n in range(60)}
    files["a/flat.npy"] = encode_array(np.full((20, 24, 4), 700, np.uint16))
    files["a/same.npy"] = encode_array(bands.noise(1, 4, "uint16") // 32 + 1)
    found = build(fill(tmp_path / "source", files), tmp_path / "set", audit_rule=rule).audit.findings
    assert found["dark_images"].num_images == 0
    assert found["blank_images"].examples == [["a/flat.npy"]]
    assert found["near_duplicates"].examples == [["a/same.npy", "b/01.npy"]]


def test_a_channel_without_any_difference_is_divided_by_one(tmp_path):
    files = {}
    for n in range(40):
        image_HWC = bands.noise(n)
        image_HWC[:, :, 2] = 50
        files[f"{'ab'[n % 2]}/{n:02d}.npy"] = encode_array(image_HWC)
    index = build(fill(tmp_path / "source", files), tmp_path / "set").index
    assert index.std[2] == 1.0
    assert index.mean[2] == pytest.approx(50 / 255)


def test_a_set_grows_until_most_images_are_of_another_kind(tmp_path):
    source = bands.two_classes(tmp_path / "source", 30)
    old = build(source, tmp_path / "old")
    fill(source, {f"cat/new{n}.npy": encode_array(bands.noise(100 + n)) for n in range(5)})
    grown = build(source, tmp_path / "grown", former=tmp_path / "old")
    assert (grown.num_new, grown.why_anew) == (5, None)
    tars = {path.name: path.read_bytes() for path in (tmp_path / "old").glob("*/*.tar")}
    assert tars.items() <= {path.name: path.read_bytes() for path in (tmp_path / "grown").glob("*/*.tar")}.items()
    images_NHWC = np.stack(list(read_set(tmp_path / "grown")["train"].values()))
    np.testing.assert_allclose(grown.index.mean, images_NHWC.reshape(-1, 5).mean(axis=0) / 255, rtol=1e-12)
    fill(source, {f"dog/other{n}.npy": encode_array(bands.noise(200 + n, 4)) for n in range(80)})
    anew = build(source, tmp_path / "anew", former=tmp_path / "grown")
    assert anew.why_anew == "channels changed"
    assert (anew.index.num_channels, anew.index.num_rejects, old.index.num_channels) == (4, 65, 5)


def test_a_compacted_set_is_what_is_written_anew(tmp_path):
    source = bands.two_classes(tmp_path / "source", 40, 4, "uint16")
    build(source, tmp_path / "old")
    for number in range(0, 40, 5):
        (source / f"cat/{number:03d}.npy").unlink()
    build(source, tmp_path / "grown", former=tmp_path / "old")
    (tmp_path / "compact").mkdir()
    compact_shard_set(tmp_path / "grown/index.json", tmp_path / "compact", 1, silent)
    build(source, tmp_path / "anew")
    assert files_of(tmp_path / "compact") == files_of(tmp_path / "anew")
