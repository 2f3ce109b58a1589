"""Where the store is, and that no password leaves with it."""

import pytest

from pipeline.errors import TrackingError
from pipeline.tracking.address import resolve, sqlite_file, strip_credentials, strip_credentials_in


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_params_come_before_the_variable_and_that_before_sqlite(tmp_path, monkeypatch):
    assert resolve(None, tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert resolve(None, tmp_path) == "http://127.0.0.1:5000"
    assert resolve("https://tracking.example", tmp_path) == "https://tracking.example"


def test_sqlite_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve("sqlite:///history/runs.db", tmp_path) == f"sqlite:///{tmp_path}/history/runs.db"
    assert resolve("sqlite:////srv/runs.db", tmp_path) == "sqlite:////srv/runs.db"
    assert sqlite_file(resolve(None, tmp_path)) == tmp_path / "mlflow.db"
    assert sqlite_file("http://127.0.0.1:5000") is None


@pytest.mark.parametrize("uri", ["postgresql+psycopg2://u:p@db/mlflow", "mysql://db/mlflow", "databricks"])
def test_other_stores_pass(tmp_path, uri):
    assert resolve(uri, tmp_path) == uri


@pytest.mark.parametrize("uri", ["mlruns", "file:///srv/mlruns", "/srv/mlruns", "ftp://me:secret@host/x"])
def test_what_mlflow_has_no_store_for_is_refused(tmp_path, uri):
    with pytest.raises(TrackingError, match=r"is not a store that MLflow can open; name a server") as caught:
        resolve(uri, tmp_path)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "public"),
    [
        ("https://me:s3cr:t@host:5000/path?token=s3cr", "https://host:5000/path"),
        ("postgresql+psycopg2://me:a@b@db:5432/mlflow", "postgresql+psycopg2://db:5432/mlflow"),
        ("sqlite:////srv/a b/runs.db?key=s3cr", "sqlite:////srv/a b/runs.db"),
        ("databricks", "databricks"),
    ],
)
def test_credentials_are_stripped(uri, public):
    assert strip_credentials(uri) == public


def test_credentials_are_stripped_from_a_message():
    uri = "https://me:s3cr@host:5000/path?token=t0k"
    message = f"GET {uri} failed, password s3cr, url /path?token=t0k"
    assert strip_credentials_in(message, uri) == "GET https://host:5000/path failed, password , url /path"
    assert strip_credentials_in("why? me@home", "http://host") == "why? me@home"
