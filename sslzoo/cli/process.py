"""Settings of the whole process, which only the command line may make: nothing like this happens on import."""

from __future__ import annotations

import os
import sys


def make_lean() -> None:
    """Prepares a process that embeds or searches: quick memory for torch, should it be used, and a small pyarrow."""
    from sslzoo.backends import allocator

    allocator.own_process = True
    # an allocator of pyarrow's own would hold memory beside what the rest of the process has freed
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    if "pandas" not in sys.modules:
        import pyarrow as pa

        # pyarrow imports pandas, where it is installed, with the first conversion, to look for Series that we never give
        # it, which costs time and memory. It asks once, and again when somebody does want a DataFrame.
        absent = _WithoutPandas()
        sys.meta_path.insert(0, absent)
        try:
            pa.array([0])
        finally:
            sys.meta_path.remove(absent)


class _WithoutPandas:
    """An import finder to which pandas is not installed."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
