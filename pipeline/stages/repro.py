"""repro: the whole pipeline as DVC runs it; in a Ray job, in cluster.storage, where the outputs outlive the job."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from pipeline import params
from pipeline.errors import ClusterError, StorageError
from pipeline.stages import layout

DEFINITION = ("dvc.yaml", "params.yaml", ".dvcignore", ".dvc/config")
"""What makes a folder one that DVC can run the pipeline in."""

DVC_FAILED = 255


def repro(cluster: params.Cluster) -> int:
    """The exit code of `dvc repro`, but 1 for its 255: a stage did not end well, and said so."""
    from pipeline.launch.cluster import inside_job

    code = Path.cwd()
    workspace = _open_workspace(code, cluster) if inside_job() else code
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(code), os.environ.get("PYTHONPATH")])),
    }
    if not (workspace / ".git").exists():
        _do_without_git(workspace, environment)
    return _run([sys.executable, "-m", "dvc", "repro"], workspace, environment)


def _run(command: list[str], workspace: Path, environment: dict[str, str]) -> int:
    """The exit code. dvc outlives Ctrl-C, which its stage hears, too: that has a checkpoint to write."""
    sys.stdout.flush()  # what was said before dvc says something stands before it, in a file too
    dvc, was_interrupted = subprocess.Popen(command, cwd=workspace, env=environment), False
    while True:
        try:
            code = dvc.wait()
        except KeyboardInterrupt:
            if was_interrupted:
                dvc.terminate()  # for a signal that this process alone was sent, twice
            was_interrupted = True
        except SystemExit:  # SIGTERM
            dvc.terminate()
            dvc.wait()
            raise
        else:
            if was_interrupted and code:
                return 128 + signal.SIGINT
            return 1 if code == DVC_FAILED else code


def _do_without_git(workspace: Path, environment: dict[str, str]) -> None:
    run = [sys.executable, "-m", "dvc", "config", "--local", "core.no_scm", "true"]
    done = subprocess.run(run, cwd=workspace, env=environment, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        why = next((line for line in done.stderr.splitlines() if line.strip()), "it says nothing")
        raise StorageError(
            f"DVC cannot keep its settings in {workspace / '.dvc'} ({why}); make it a folder that can be written, and "
            "run this again."
        )


def _open_workspace(code: Path, cluster: params.Cluster) -> Path:
    """cluster.storage with this job's definition of the pipeline in it: what an earlier job left there is reused."""
    if cluster.storage is None:
        raise ClusterError(
            "cluster.storage is null, and the folder of a Ray job is deleted with the job; set cluster.storage in "
            f"{layout.PARAMS} to a folder that every node sees."
        )
    workspace = Path(cluster.storage).absolute()
    for name in DEFINITION:
        (workspace / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(code / name, workspace / name)
    return workspace
