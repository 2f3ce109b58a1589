"""Everything that can go wrong and that the user can mend.

A message says what was wrong, the value, the rule and the way out, in that order. `__main__` prints it without a
traceback and exits with `exit_code`; any other exception is a bug of ours and exits with 70.
"""


class ConvoyError(Exception):
    """Something the user can mend."""

    exit_code = 1


class ParamsError(ConvoyError):
    """params.yaml says something that cannot be done."""


class SourceError(ConvoyError):
    """The data source is missing, empty or not what it was declared to be."""


class ImageError(ConvoyError):
    """Bytes that are not an acceptable image. `reason` is the short code that rejects are counted under."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason

    def __reduce__(self):
        return type(self), (self.reason, str(self))  # crosses processes with both of its arguments


class ArtifactError(ConvoyError):
    """A file that crosses a stage is missing, damaged or of another format version."""


class ModelError(ConvoyError):
    """The backbone or its weights cannot be built."""


class TrainingError(ConvoyError):
    """Training stopped for a reason that a retry would meet again."""


class PeerLostError(ConvoyError):
    """Another rank went away in the middle of a step; a retry may well succeed."""


class OutOfMemoryError(ConvoyError):
    """A rank ran out of memory; a retry may succeed where something else had it."""


class CheckpointError(ConvoyError):
    """No whole checkpoint, or one of another run."""


class LockedError(ConvoyError):
    """Another process is writing the same outputs."""


class ClusterError(ConvoyError):
    """The Ray cluster cannot be reached or cannot hold what was asked for."""


class TrackingError(ConvoyError):
    """The MLflow store cannot be used."""


class StorageError(ConvoyError):
    """A disk or an object store is full, read-only or out of reach."""
