"""The native code is built where that is possible, and installing goes on where it is not."""

import os
import shutil
import subprocess
import sys

import pytest

from pipeline.imaging.region import native


@pytest.fixture
def build(repository, tmp_path):
    """What the build leaves, given an environment; installing calls it this way."""
    (tmp_path / "pipeline" / "imaging").mkdir(parents=True)
    sources = repository.glob("pipeline/imaging/_*.[ch]")
    for name in ("pyproject.toml", "README.md", *(path.relative_to(repository) for path in sources)):
        shutil.copy(repository / name, tmp_path / name)

    def run(**environment: str) -> tuple[list[str], str]:
        command = [sys.executable, "-c", "import setuptools; setuptools.setup()", "build_ext", "--inplace"]
        done = subprocess.run(
            command, cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True, check=True
        )
        built = sorted(path.name for path in (tmp_path / "pipeline" / "imaging").glob("*.so"))
        return built, done.stdout + done.stderr

    return run


@pytest.mark.skipif(not native().is_used, reason=f"no native code: {native().why}")
def test_it_is_built_without_a_warning(build):
    built, said = build(CFLAGS="-Wall -Wextra -Werror")
    assert built == ["_crops.abi3.so"]
    assert "failed" not in said


@pytest.mark.parametrize("compiler", ["false", "cc -nostdinc", "no-such-compiler"])
def test_without_a_compiler_or_headers_installing_goes_on(build, compiler):
    built, said = build(CC=compiler)
    assert built == []
    assert 'building extension "pipeline.imaging._crops" failed' in said
