"""The exceptions sslzoo raises on purpose; each message says what was wrong, the value, and what to type next.

SslzooError                 anything below; the command line prints it as one line and exits 1
├── InputError              a path, folder or argument that can't be used
│   ├── ImageError          one image that can't be decoded (carries .reason)
│   └── OutputExists        an output that is already there
├── OutputError             an output that can't be written (disk full, read-only); what is finished is kept
├── UnknownModel            no encoder of that name (carries .suggestions)
├── WeightsError            a weight file that is damaged or doesn't fit its encoder
├── Interrupted             asked to stop before the end; what is finished is kept
├── SpaceMismatch           vectors of two different encoders were about to be compared
└── MissingExtra            an optional package is not installed
"""

from __future__ import annotations


class SslzooError(Exception):
    """Base class of every error that sslzoo raises on purpose."""


class InputError(SslzooError):
    """A path, folder or argument that can't be used as given."""


class ImageError(InputError):
    """One image that can't be decoded; `reason` is the bare cause, as it stands in `failures.parquet`."""

    def __init__(self, reason: str, name: str = "") -> None:
        super().__init__(f"{name}: {reason}" if name else reason)
        self.reason = reason


class OutputExists(InputError):
    """The output is already there and would be overwritten."""


class OutputError(SslzooError):
    """An output that can't be written: the disk is full, or the folder is read-only. What is finished is kept."""


class UnknownModel(SslzooError):
    """No encoder of that name; `suggestions` lists near ones."""

    def __init__(self, message: str, suggestions: list[str] | None = None) -> None:
        super().__init__(message)
        self.suggestions = suggestions or []


class WeightsError(SslzooError):
    """A weight file that is damaged, was exchanged, or doesn't fit its encoder."""


class Interrupted(SslzooError):
    """The run was asked to stop before its end; what is finished is kept, and --resume goes on."""


class SpaceMismatch(SslzooError):
    """Vectors that were made by different encoders (or different preprocessing) can't be compared."""


class MissingExtra(SslzooError):
    """An optional package is not installed; the message has the `pip install` to type."""
