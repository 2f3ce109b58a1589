import hashlib
import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sharding.tar import TarWriter, _header


def by_tarfile(members: list[tuple[str, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


@given(st.lists(st.sampled_from([0, 1, 511, 512, 513, 1024, 9000]), max_size=8))
def test_the_bytes_are_those_of_the_standard_library(tmp_path_factory, sizes):
    path = tmp_path_factory.mktemp("tar") / "a.tar"
    members = [(f"{number:09d}.jpg", b"x" * size) for number, size in enumerate(sizes)]
    with TarWriter(path) as tar:
        offsets = [tar.add(*member) for member in members]
    content = path.read_bytes()
    assert content == by_tarfile(members)
    assert (tar.num_bytes, tar.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert [content[offset : offset + len(data)] for offset, (_, data) in zip(offsets, members, strict=True)] == [
        data for _, data in members
    ]


def test_after_an_error_there_is_no_end_mark(tmp_path):
    def stop_in_the_middle():
        with TarWriter(tmp_path / "a.tar") as tar:
            tar.add("1.jpg", b"x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_in_the_middle()
    assert (tmp_path / "a.tar").stat().st_size == 1024


@given(st.text("abcXYZ019._-/", min_size=1, max_size=130), st.integers(0, 8**11 - 1))
def test_a_header_is_the_standard_librarys(name, num_bytes):
    member = tarfile.TarInfo(name)
    member.size = num_bytes
    try:
        expected = member.tobuf(tarfile.USTAR_FORMAT)
    except ValueError:  # a long name that cannot be divided at a slash
        with pytest.raises(ValueError, match="name is too long"):
            _header(name, num_bytes)
    else:
        assert _header(name, num_bytes) == expected
