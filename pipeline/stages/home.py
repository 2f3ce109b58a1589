"""Where a stage is at home: the repository, also for an experiment of DVC's queue, whose stages work in a temporary
copy of what git and DVC know of it. What outlives the copy, and what neither knows, is in the repository itself.
"""

import os
from pathlib import Path

from pipeline.stages.layout import DVC_COPIES


def home() -> Path:
    """The repository, also from a stage in one of DVC's temporary copies; DVC_ROOT names it there."""
    here, root = Path.cwd(), os.environ.get("DVC_ROOT")
    return Path(root) if root and here.resolve().is_relative_to((root / DVC_COPIES).resolve()) else here


def located(path: str) -> str:
    """A path of params.yaml as a stage can use it: relative ones that a temporary copy lacks lie at home. Addresses and
    names stay as they are."""
    at_home = home() / path
    return str(at_home) if home() != Path.cwd() and not Path(path).exists() and at_home.exists() else path
