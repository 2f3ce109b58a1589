"""What MLflow reads from the environment, set before its first import and nowhere else."""

import os

FLAGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # MLflow looks for git; without it or without a repository it prints a warning each time.
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}


def prepare(max_retries: int = 3) -> None:
    """Sets the flags; what the user has set stands, but for the pickle switch.

    MLflow's own 7 retries of 120 s hold a caller for four minutes when the server is dead. The first caller in a
    process decides about `max_retries`; one with a back-off of its own wants 0.
    """
    for name, value in (FLAGS | {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(max_retries)}).items():
        os.environ.setdefault(name, value)
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
