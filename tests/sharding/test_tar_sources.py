"""Existing WebDataset tars as a source: every sample found, with its label, and nothing extracted."""

import json
import tarfile
from pathlib import Path

import image_folders
import pytest
from image_folders import BY_FOLDERS, build, files_of, fill, jpeg, two_classes, write_tar

from pipeline.errors import ImageError, SourceError
from pipeline.sharding import members
from pipeline.sharding.reading import absolute_root, read_image
from pipeline.sharding.scan import image_root
from pipeline.sharding.tables import TableColumns


def samples_of(folder: Path) -> list[tuple[str, str, str]]:
    """Split, label and sha256 of the source, sorted, of every sample of a set."""
    samples = []
    for path in folder.glob("*/*.tar"):
        with tarfile.open(path) as tar:
            data = {member.name: tar.extractfile(member).read() for member in tar.getmembers()}
        keys = {name.split(".")[0] for name in data}
        samples += [
            (path.parent.name, data[f"{k}.cls"].decode(), json.loads(data[f"{k}.json"])["sha256"]) for k in keys
        ]
    return sorted(samples)


def scan(source: object, columns: TableColumns = BY_FOLDERS) -> tuple[list[dict], dict[str, int]]:
    manifest, counts = image_folders.scan(source, columns)
    return manifest.to_pylist(), counts.ignored


def labelled(number: int, label: str) -> list[tuple[str, bytes]]:
    return [(f"{number:04d}.jpg", jpeg(number)), (f"{number:04d}.cls", label.encode())]


@pytest.fixture
def tars(tmp_path) -> Path:
    for at in range(3):
        numbers = range(at * 20, at * 20 + 20)
        members = [member for number in numbers for member in labelled(number, str(number % 2))]
        write_tar(tmp_path / f"tars/set-{at:03d}.tar", members)
    return tmp_path / "tars"


@pytest.mark.parametrize("source", ["", "/", "/set-*.tar", "/set-00[0-2].tar"])
def test_a_folder_or_a_pattern_of_tars(tars, source):
    rows, ignored = scan(f"{tars}{source}")
    assert len(rows) == 60
    assert ignored == {}
    root = image_root(f"{tars}{source}")
    for row in rows:
        number = int(row["path"].split("/")[1][:4])
        assert row["path"].startswith(f"set-{number // 20:03d}.tar/")
        assert row["class_name"] == str(number % 2)
        assert read_image(root, row["path"]) == jpeg(number)
        assert row["num_bytes"] == len(jpeg(number))


def test_one_tar(tars, monkeypatch):
    rows, _ = scan(tars / "set-001.tar")
    assert len(rows) == 20
    monkeypatch.chdir(tars)
    for source in ("set-001.tar", "./set-001.tar", "set-*1.tar"):
        here, _ = scan(source)
        assert [row["path"] for row in here] == [row["path"] for row in rows]
        assert read_image(image_root(source), here[0]["path"]) == jpeg(20)


@pytest.mark.parametrize("source", ["*/set-001.tar", "t[a]rs/set-001.tar", "tar?/set-001.tar", "./*/set-001.tar"])
def test_a_pattern_of_folders_finds_the_images_again(tars, monkeypatch, source):
    monkeypatch.chdir(tars.parent)
    rows, _ = scan(source)
    root = absolute_root(image_root(source))
    monkeypatch.chdir("/")
    assert [read_image(root, row["path"]) for row in rows] == [jpeg(number) for number in range(20, 40)]


def test_a_pattern_from_the_root_of_the_file_system_on(tars):
    source = f"/[{tars.parts[1][0]}]{str(tars / 'set-001.tar')[2:]}"
    rows, _ = scan(source)
    assert rows[0]["path"].startswith(f"{str(tars)[1:]}/set-001.tar/")
    assert read_image(absolute_root(image_root(source)), rows[0]["path"]) == jpeg(20)


@pytest.mark.parametrize(
    ("tar", "image", "pattern"),
    [
        ("a.tar", "cat/1.jpg", "*.tar"),
        ("a.tar", "train/cat/1.jpg", "*.tar"),
        ("train/a.tar", "train/cat/1.jpg", "*/*.tar"),
        ("train/a.tar", "cat/1.jpg", "*/*.tar"),
    ],
)
def test_tars_beside_folders_of_images_are_refused_with_the_way_out(tmp_path, tar, image, pattern):
    write_tar(tmp_path / tar, labelled(1, "a") + labelled(2, "b"))
    fill(tmp_path, {image: jpeg(3), "notes/read.me": b"", ".cache/1.jpg": b"", "embeddings/1.npy": b""})
    message = (
        rf"holds the tar {tar} and images in the folder {image.split('/')[0]}/; a source is either tars or folders"
    )
    with pytest.raises(SourceError, match=message) as caught:
        scan(tmp_path)
    assert str(caught.value).endswith(f"move the tars elsewhere, or write data.source: {tmp_path}/{pattern}.")
    assert len(scan(tmp_path / pattern)[0]) == 2
    (tmp_path / image).unlink()
    assert len(scan(tmp_path)[0]) == 2


def test_a_pattern_without_a_tar(tars):
    with pytest.raises(SourceError, match=r"none\*.tar matches no tar; give a .tar, a pattern of them or their folder"):
        scan(tars / "none*.tar")


def test_folders_of_splits_fix_the_split(tmp_path):
    for at, split in enumerate(("train", "val")):
        members = [member for n in range(4) for member in labelled(at * 4 + n, str(n % 2))]
        write_tar(tmp_path / split / "a.tar", members)
    rows, _ = scan(tmp_path)
    assert {row["split"] for row in rows if row["path"].startswith("val/")} == {"validation"}
    assert {row["split"] for row in rows if row["path"].startswith("train/")} == {"train"}


def test_our_own_shards_are_a_source(tmp_path):
    build(two_classes(tmp_path / "source"), tmp_path / "shards")
    build(tmp_path / "shards", tmp_path / "again")
    assert len(samples_of(tmp_path / "again")) == 60
    assert samples_of(tmp_path / "again") == samples_of(tmp_path / "shards")


def test_tars_of_any_number_of_workers_leave_the_same_bytes(tars, tmp_path):
    for num_workers in (1, 2):
        build(tars, tmp_path / str(num_workers), num_workers=num_workers)
    assert len(samples_of(tmp_path / "1")) == 60
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2")


def test_labels_groups_splits_and_metadata_come_from_json_or_txt(tmp_path):
    facts = {"label": "cat", "who": 7, "part": "val", "site": "north"}
    members = [
        ("x/1.jpg", jpeg(1)), ("x/1.json", json.dumps(facts).encode()),
        ("x/2.png", jpeg(2)), ("x/2.txt", b" dog\n"),
        ("y/2.jpg", jpeg(3)), ("y/2.cls", b"cat"), ("y/2.json", b'["no object"]'), ("y/2.txt", b"a caption"),
    ]  # fmt: skip
    columns = TableColumns("image", "label", "part", "who", ("site",))
    rows, _ = scan(write_tar(tmp_path / "a.tar", members), columns)
    of_names = {row["path"].split("#")[0]: row for row in rows}
    assert [row["class_name"] for row in rows] == ["cat", "dog", "cat"]
    first = of_names["a.tar/x/1.jpg"]
    assert (first["split"], first["group"], json.loads(first["metadata"])) == ("validation", "7", {"site": "north"})
    assert json.loads(of_names["a.tar/y/2.jpg"]["metadata"]) == {"site": None}


def test_what_is_no_sample_is_counted(tmp_path):
    members = [
        ("1.jpg", jpeg(1)), ("1.cls", b"a"), ("1.pyd", b"pickle"), ("1.seg.png", b"mask"),
        ("2.cls", b"b"),
        ("3.jpg", jpeg(3)),
        ("4.jpg", jpeg(4)), ("4.cls", b"b"),
        ("4.jpg", jpeg(5)), ("4.cls", b"b"),
    ]  # fmt: skip
    path = write_tar(tmp_path / "a.tar", members)
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("5.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    rows, ignored = scan(path)
    assert [row["path"].split("#")[0] for row in rows] == ["a.tar/1.jpg", "a.tar/4.jpg", "a.tar/4.jpg"]
    assert len({row["path"] for row in rows}) == 3
    assert ignored == {
        "not_a_regular_file": 1,
        "sample_without_a_label": 1,
        "sample_without_an_image": 1,
        "unknown_extension": 2,
    }


@pytest.mark.parametrize("order", [("npy", "jpg"), ("jpg", "npy"), ("NPY", "jpg")])
def test_an_array_is_the_image_where_there_is_no_picture(tmp_path, order):
    beside = [(f"1.{extension}", jpeg(1)) for extension in order]
    alone = [("2.npy", jpeg(2)), ("2.cls", b"b")]
    write_tar(tmp_path / "a.tar", [*beside, ("1.cls", b"a"), *alone])
    records, ignored = scan(tmp_path)
    assert [record["path"].split("#")[0] for record in records] == ["a.tar/1.jpg", "a.tar/2.npy"]
    assert ignored == {"unknown_extension": 1}


@pytest.mark.parametrize("cut", [512 * 3, 700, 512 * 4, -10240])
def test_a_tar_that_is_cut_short_is_refused(tars, cut):
    path = tars / "set-001.tar"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(SourceError, match=r"set-001.tar is (cut short or damaged at byte \d+|no whole tar)"):
        scan(tars)


def test_a_damaged_header_is_no_end(tars):
    data = bytearray((tars / "set-001.tar").read_bytes())
    with tarfile.open(tars / "set-001.tar") as tar:
        data[tar.getmembers()[7].offset + 150] ^= 1  # inside the header's checksum
    (tars / "set-001.tar").write_bytes(data)
    with pytest.raises(SourceError, match=r"set-001.tar is cut short or damaged at byte \d+: there is no end"):
        scan(tars)


def test_a_block_of_zeros_before_other_members_is_no_end(tars):
    path = tars / "set-001.tar"
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        at = tar.getmembers()[8].offset
    data[at : at + 512] = bytes(512)
    path.write_bytes(data)
    with pytest.raises(
        SourceError, match=rf"set-001.tar ends at byte {at} with an .* goes on at byte {at + 512}; make"
    ):
        scan(tars)


def test_tars_behind_one_another_in_one_file_are_refused(tars):
    parts = [(tars / f"set-{at:03d}.tar").read_bytes() for at in (0, 1)]
    (tars / "set-000.tar").write_bytes(b"".join(parts))
    with pytest.raises(SourceError, match=rf"goes on at byte {len(parts[0])}; .* with `cat`, give them one by one"):
        scan(tars)


def test_zeros_behind_the_end_are_no_members_however_many(tars):
    with (tars / "set-002.tar").open("ab") as file:
        file.write(bytes(2 * members.BYTES_AT_ONCE + 700))
        end = file.tell()
    assert len(scan(tars)[0]) == 60
    with (tars / "set-002.tar").open("ab") as file:
        file.write(b"\0x")
    with pytest.raises(SourceError, match=rf"set-002.tar ends at .* goes on at byte {end + 1}"):
        scan(tars)


def test_labels_that_cannot_be_read_name_the_member(tmp_path):
    with pytest.raises(SourceError, match=r"a.tar, 1.jpg has a json member that is not JSON .*mend the tar"):
        scan(write_tar(tmp_path / "a.tar", [("1.jpg", b"x"), ("1.json", b"{")]))
    with pytest.raises(SourceError, match=r"a.tar, 1.jpg has a label that is not UTF-8 .*mend the tar"):
        scan(write_tar(tmp_path / "a.tar", [("1.jpg", b"x"), ("1.cls", b"\xff")]))
    columns = TableColumns("image", "label", "part", None, ())
    dev = write_tar(tmp_path / "a.tar", [("1.jpg", b"x"), ("1.json", b'{"label": "a", "part": "dev"}')])
    with pytest.raises(SourceError, match=r"1.jpg has the split 'dev'; it must be train, validation, test or empty"):
        scan(dev, columns)


@pytest.mark.parametrize("says", ['{"label": HALF}', '{"label": ["a", HALF]}', '{"label": "a", "who": HALF}'])
def test_half_a_character_in_a_json_member_is_no_text(tmp_path, says):
    data = says.replace("HALF", r'"\ud83d"').encode()
    path = write_tar(tmp_path / "a.tar", [("1.jpg", b"x"), ("1.json", data)])
    with pytest.raises(SourceError, match=r"a.tar, 1.jpg holds '\\ud83d', where a character was cut in half"):
        scan(path, TableColumns("image", "label", None, "who", ()))


def test_a_tar_that_shrank_after_the_scan_gives_a_reject(tars):
    rows, _ = scan(tars)
    path = tars / "set-000.tar"
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(ImageError, match=r"The tar ends inside the member: \d+ of \d+ bytes") as caught:
        read_image(image_root(str(tars)), rows[0]["path"])
    assert caught.value.reason == "unreadable_file"
