"""Where a run comes from: git's commit and what differs from it, DVC's hash of the shards, the Ray job around it."""

import json
import os
import re
import subprocess
from pathlib import Path

from pipeline.stages import layout

MAX_DIFFERENCE_BYTES = 1 << 20


def tags() -> dict[str, str]:
    """What is known of it; nothing where there is neither git nor DVC nor Ray."""
    return _git_tags() | _dvc_tags() | _ray_tags()


def leave_difference(folder: Path) -> None:
    """Writes what was not committed, `git diff HEAD`, as `folder`/uncommitted.diff; nothing where nothing differs.

    A resumed run keeps the one it began with. Cut at a megabyte.
    """
    path = folder / "uncommitted.diff"
    if path.exists():
        return
    difference = _git("diff", "HEAD", "--no-color", "--no-ext-diff")
    if difference:
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_bytes(without_credentials(difference)[:MAX_DIFFERENCE_BYTES])
        partial.replace(path)


def without_credentials(text: bytes) -> bytes:
    """The text with user and password taken out of every address in it."""
    return re.sub(rb"://[^/\s@]+@", b"://", text)


def _git(*arguments: str) -> bytes:
    """What git prints; nothing without git, a repository or a commit."""
    try:
        return subprocess.run(["git", *arguments], capture_output=True, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        return b""


def _git_tags() -> dict[str, str]:
    commit = _git("rev-parse", "HEAD").decode().strip()
    if not commit:
        return {}
    # dvc.lock is what the stages before this one left, and no difference in what they were told.
    differs = bool(_git("status", "--porcelain", "--", ":/", f":!{layout.DVC_LOCK}"))
    return {"mlflow.source.git.commit": commit, "git_dirty": str(differs).lower()}


def _dvc_tags() -> dict[str, str]:
    """The name of the experiment that `dvc exp run` makes, and the hash under which `dvc checkout` finds the shards
    again; dvc.lock has it once the shard stage is done."""
    import yaml

    experiment = os.environ.get("DVC_EXP_NAME")
    named = {"dvc.experiment": experiment} if experiment else {}

    try:
        stages = yaml.safe_load(layout.DVC_LOCK.read_text(encoding="utf-8"))["stages"]
        outs = {out["path"]: out["md5"] for out in stages["shard"]["outs"]}
    except (FileNotFoundError, KeyError, TypeError, yaml.YAMLError):
        return named
    return named | ({"dvc.shards": outs[layout.SHARDS.as_posix()]} if layout.SHARDS.as_posix() in outs else {})


def _ray_tags() -> dict[str, str]:
    try:
        metadata = json.loads(os.environ["RAY_JOB_CONFIG_JSON_ENV_VAR"])["metadata"]
        return {"ray_job_id": metadata["job_submission_id"]}
    except (KeyError, ValueError, TypeError):
        return {}
