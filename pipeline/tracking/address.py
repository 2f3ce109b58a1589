"""Where the MLflow store is: params.yaml, then MLFLOW_TRACKING_URI, then sqlite beside the data. Imports no mlflow."""

import os
import urllib.parse
from pathlib import Path

from pipeline.errors import TrackingError

SQLITE = "sqlite:///"
SERVERS = ("http", "https", "databricks", "databricks-uc")
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


def resolve(uri: str | None, root: Path) -> str:
    """The store's address, of a sqlite file the absolute one; `root` is the folder that a relative one lies in.

    Raises TrackingError for what MLflow 3 has no store for, plain folders among it.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}mlflow.db"
    scheme = urllib.parse.urlsplit(uri).scheme.partition("+")[0]
    if scheme not in SERVERS + DATABASES and uri not in SERVERS:
        raise TrackingError(
            f"tracking.uri (or MLFLOW_TRACKING_URI) {strip_credentials(uri)!r} is not a store that MLflow can open; "
            "name a server (http://...), a database (sqlite:///mlflow.db) or null for sqlite in the repository."
        )
    if uri.startswith(SQLITE):
        return f"{SQLITE}{(root / uri.removeprefix(SQLITE)).absolute()}"
    return uri


def sqlite_file(uri: str) -> Path | None:
    """The database file of a resolved sqlite address; None for any other store."""
    return Path(uri.removeprefix(SQLITE).partition("?")[0]) if uri.startswith(SQLITE) else None


def strip_credentials(uri: str) -> str:
    """The address as it may be logged: without user, password and query."""
    parts = urllib.parse.urlsplit(uri)
    if uri.startswith(SQLITE):
        return uri.partition("?")[0]
    host = parts.netloc.rpartition("@")[2]
    return urllib.parse.urlunsplit((parts.scheme, host, parts.path, "", "")) if parts.scheme else uri


def strip_credentials_in(text: str, uri: str) -> str:
    """A message about `uri` without the credentials and the query that `uri` holds."""
    parts = urllib.parse.urlsplit(uri)
    for secret in (f"{parts.netloc.rpartition('@')[0]}@", f"?{parts.query}", parts.password, parts.query):
        if secret and secret not in ("@", "?"):
            text = text.replace(secret, "")
    return text
