"""Errors that vaeseg raises on purpose, and the exit code that each one means.

    VaesegError                       1   anything that stops a command
    ├── UsageError                    2   the command line names something that cannot be used
    │   ├── ModelNotFoundError        2   no model of that name, no file at that path
    │   └── RunNotFoundError          2   no such run in this store
    ├── CheckpointError               1   a model file that is damaged, foreign or incompatible
    ├── StoreError                    1   the store cannot be written, is full, or is not a store
    │   ├── DatabaseVersionError      1   the database is newer than this code
    │   └── DatabaseAwayError         1   the database server is not there, or went away
    ├── ArchiveBusyError              1   another run has the archive
    ├── TrainingError                 1   training has no data, or cannot resume
    │   ├── DivergedError             1   it diverged (`training.loop`)
    │   └── TrainingInterruptedError  1   it was stopped, and can be resumed (`training.loop`)
    ├── ClusterError                  1   Ray cannot be started or reached
    │   └── ClusterAwayError          1   nobody answers at the cluster's address
    ├── PipelineError                 1   Ray itself failed (`distributed.failures`)
    ├── RunInterruptedError           1   the run was stopped, and can be resumed (`distributed.lifecycle`)
    └── ReadingError                  -   one series or file; becomes a verdict, never ends a run

Exit code 3 belongs to no error: it says that a command finished, but that some series failed or were refused.
A message is one sentence that names the thing and what to do. It carries no patient data and no raw path, save
for paths that the user typed on this very command line.
"""

EXIT_OK = 0
EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_INCOMPLETE = 3
"""Finished, but some series failed, crashed or were refused."""


class VaesegError(Exception):
    """Anything that stops a command; `exit_code` is what the process ends with."""

    exit_code = EXIT_ERROR


class UsageError(VaesegError):
    """The command line names something that cannot be used."""

    exit_code = EXIT_USAGE


class ModelNotFoundError(UsageError):
    """No model of that name in the store or the package, and no file at that path."""


class RunNotFoundError(UsageError):
    """No such run in this store."""


class CheckpointError(VaesegError):
    """A model file that is damaged, of another kind, or does not fit its own metadata."""


ARCHIVE_GONE = (
    "the archive cannot be listed any more, or is empty: is the file system mounted? What was done is kept; the same "
    "command goes on once it is back"
)


class StoreError(VaesegError):
    """The store cannot be created, written or understood."""


class DatabaseVersionError(StoreError):
    """The database was migrated by a newer vaeseg than this one."""


class DatabaseAwayError(StoreError):
    """The database server cannot be reached, or ended the connection; it may come back."""


class ArchiveBusyError(VaesegError):
    """Another run has the archive and is alive."""


class TrainingError(VaesegError):
    """Training diverged, has no data, or cannot go on from where it stopped."""


class ClusterError(VaesegError):
    """Ray cannot be started on this machine, or the cluster cannot be reached."""


class ClusterAwayError(ClusterError):
    """Nobody answers at the cluster's address; the cluster, or the network, may come back."""


class ReadingError(VaesegError):
    """One file or series that cannot be read; caught at the per-series boundary and recorded.

    Args:
        reason: a name from the closed list in `records.Reason`, such as ``missing_slices``.
        detail: one sentence with both values ("slice spacing 2.5 mm at slice 41, expected 1.25 mm"); holds no
            patient data and no path.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type["ReadingError"], tuple[str, str]]:
        """Pickle by both arguments, so that it survives the way between processes."""
        return (type(self), (self.reason, self.detail))
