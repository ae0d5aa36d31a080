"""Images in tables: Parquet with image bytes or paths (the Hugging Face layout), and `datasets.Dataset` objects."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslzoo.errors import ImageError, InputError
from sslzoo.images.sources.item import OWN_COLUMNS, Item, Opened, Summary
from sslzoo.images.sources.location import contents, is_url, opener

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

IMAGE_NAMES = ("image", "img", "jpg", "png", "webp", "picture", "photo")
PATH_NAMES = ("path", "file", "filepath", "file_name", "image_path", "filename")


class ParquetReader:
    """The rows of one Parquet file. The image column is a struct of bytes and path, plain bytes, or paths of files.

    A `label` column of class numbers becomes class names where the file knows them. Other columns are passed on as far as
    Columns takes them. Ids are NAME/ROW with the file's name, or one that tells it from others; or the paths themselves,
    after the folders of that name.
    """

    def __init__(self, location: str | Path, name: str = "") -> None:
        self.location = location
        self.name = name or str(location).rsplit("/", 1)[-1]
        try:
            with self._open() as file:  # a folder may hold more tables than files may be open at once
                self.metadata, schema = file.metadata, file.schema_arrow
        except Exception as error:  # Arrow raises several kinds, and some of its own for remote files
            raise InputError(f"{location} is not a Parquet file that can be read ({error})") from None
        self.image, self.by_path = _image_column(schema, str(location))
        self.class_names = _class_names(schema.metadata or {})
        self.others = Columns(schema, {self.image, "label"})
        self.columns: Mapping[str, str] = self.others.kinds
        self.wanted = [name for name in schema.names if name in (self.image, "label") or name in self.others.names]

    def _open(self) -> pq.ParquetFile:
        import pyarrow.parquet as pq

        return pq.ParquetFile(opener(self.location)() if is_url(str(self.location)) else self.location)

    def __reduce__(self) -> tuple[type[ParquetReader], tuple[str | Path, str]]:
        return ParquetReader, (self.location, self.name)  # in another process the file is opened anew

    def count(self) -> int | None:
        """From the file's metadata."""
        return int(self.metadata.num_rows)

    def items(self, summary: Summary) -> Iterator[Item]:
        """One item a row, in order; the pixels of at most 64 rows are held at a time."""
        row = -1
        self.others.tell(summary)
        try:
            with self._open() as file:
                batches = file.iter_batches(64, columns=self.wanted)
                for row, values in enumerate(itertools.chain.from_iterable(map(self._rows, batches))):
                    yield self._item(row, values)
        except Exception as error:  # damaged data: Arrow raises several kinds, Python one for text that isn't UTF-8
            yield Item(f"{self.name}/{row + 1}", _Unreadable(f"the table can't be read from here on: {error}"))

    @property
    def groups(self) -> list[int]:
        """How many rows each row group has; a group is the least that can be read at once."""
        return [self.metadata.row_group(group).num_rows for group in range(self.metadata.num_row_groups)]

    def group(self, number: int) -> list[Item]:
        """The items of one row group, with their pixels as bytes."""
        first = sum(self.groups[:number])
        with self._open() as file:
            rows = self._rows(file.read_row_group(number, columns=self.wanted))
        return [self._item(first + row, values) for row, values in enumerate(rows)]

    def labels(self) -> list[str | int | None]:
        """The labels of all rows, read without the pixels."""
        if "label" not in self.wanted:
            return [None] * (self.count() or 0)
        with self._open() as file:
            return [self._label(label) for label in file.read(columns=["label"])["label"].to_pylist()]

    def _rows(self, batch: pa.RecordBatch | pa.Table) -> list[dict[str, Any]]:
        for position, field in enumerate(batch.schema):
            if (kind := self.others.read_as.get(field.name, field.type)) != field.type:
                batch = batch.set_column(position, field.name, batch.column(position).cast(kind, safe=False))
        return batch.to_pylist()  # type: ignore[no-any-return]

    def _item(self, row: int, values: dict[str, Any]) -> Item:
        cell, label = values.pop(self.image), self._label(values.pop("label", None))
        id_ = f"{self.name}/{row}"
        if self.by_path and isinstance(cell, str):
            fixed = is_url(cell) or Path(cell).is_absolute()
            id_ = cell if fixed else self.name[: self.name.rfind("/") + 1] + cell
        return Item(id_, _opening(cell, self.location), label, self.others.of(values))

    def _label(self, label: Any) -> Any:
        known = isinstance(label, int) and 0 <= label < len(self.class_names)
        return self.class_names[label] if known else label


class DatasetReader:
    """The rows of a `datasets.Dataset` (or anything like it: columns, `features`, iteration), in order."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        features = dataset.features or {}
        images = [name for name, feature in features.items() if type(feature).__name__ == "Image"]
        if not images:
            raise InputError(
                f"the dataset has no Image column (it has {', '.join(features)}); cast one to datasets.Image()"
            )
        import datasets  # whoever has a Dataset has the package

        self.image = images[0]
        self.class_names = getattr(features.get("label"), "names", None) or []
        self.dataset = dataset.cast_column(self.image, datasets.Image(decode=False))
        self.others = Columns(dataset.features.arrow_schema, {self.image, "label"})
        self.columns: Mapping[str, str] = self.others.kinds

    def count(self) -> int | None:
        """The dataset's length, where it has one."""
        return len(self.dataset) if hasattr(self.dataset, "__len__") else None

    def items(self, summary: Summary) -> Iterator[Item]:
        """One item a row, in order."""
        self.others.tell(summary)
        for row, values in enumerate(self.dataset):
            label = values.get("label")
            if isinstance(label, int) and 0 <= label < len(self.class_names):
                label = self.class_names[label]
            yield Item(str(row), _opening(values[self.image], Path()), label, self.others.of(values))


@dataclass(frozen=True)
class _Unreadable:
    reason: str

    def __call__(self) -> Opened:
        raise ImageError(self.reason)


def holds_images(file: Path) -> bool:
    """Whether a Parquet file holds images themselves: a struct with their bytes, or bytes under an image's name.

    Paths don't count, nor bytes of any other name: a table of facts about images has those too. Nor does a damaged file.
    """
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(file)
    except Exception:  # Arrow raises several kinds
        return False
    kinds = {field.name: field.type for field in schema}
    return any(_holds_bytes(kind) and (name in IMAGE_NAMES or kind.num_fields) for name, kind in kinds.items())


def _holds_bytes(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _image_column(schema: pa.Schema, location: str) -> tuple[str, bool]:
    import pyarrow as pa

    named = sorted(schema.names, key=lambda name: (name not in IMAGE_NAMES, schema.get_field_index(name)))
    for name in named:
        if _holds_bytes(schema.field(name).type):
            return name, False
    for name in PATH_NAMES + IMAGE_NAMES:
        if name in schema.names and schema.field(name).type in (pa.string(), pa.large_string()):
            return name, True
    has = ", ".join(schema.names)
    raise InputError(
        f"{location} has no column of images (it has {has}); a column 'image' in the Hugging Face layout is needed"
    )


class Columns:
    """The further columns of a table that go into the embeddings: all that Arrow has a plain name for.

    Categories become their values, times are kept to the microsecond (where they have a zone, in UTC), and a name that
    the embeddings use themselves gets a "_" behind it. `names` are new names by the table's, `kinds` Arrow's types by new
    names, `read_as` the types to cast to by the table's names.
    """

    def __init__(self, schema: pa.Schema, without: set[str]) -> None:
        import pyarrow as pa

        self.names: dict[str, str] = {}
        self.kinds: dict[str, str] = {}
        self.read_as: dict[str, pa.DataType] = {}
        self.dropped: list[str] = []
        for field in schema:
            if field.name in without:
                continue
            kind = stored = field.type
            if pa.types.is_dictionary(kind):
                kind = stored = kind.value_type
            if pa.types.is_timestamp(kind):  # Python's own times have neither nanoseconds nor, everywhere, the zones
                kind, stored = pa.timestamp("us", kind.tz and "UTC"), pa.timestamp("us")
            try:
                pa.type_for_alias(str(stored))
            except ValueError:
                self.dropped.append(f"column {field.name} ({field.type})")
                continue
            name = field.name
            while name in OWN_COLUMNS or (name != field.name and name in schema.names):
                name += "_"
            self.names[field.name], self.kinds[name], self.read_as[field.name] = name, str(stored), kind

    def of(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """A row's values under their new names."""
        return {new: values[name] for name, new in self.names.items()}

    def tell(self, summary: Summary) -> None:
        """Says what is left out."""
        for column in self.dropped:
            summary.note(column)


def common_type(kind: str, other: str) -> str:
    """The type that holds values of both, as names of Arrow types: null gives way, whole numbers become floats.

    Raises TypeError where there is none, as for numbers and text.
    """
    if kind == other:
        return kind
    import pyarrow as pa

    schemas = [pa.schema({"": pa.type_for_alias(name)}) for name in (kind, other)]
    return str(pa.unify_schemas(schemas, promote_options="permissive").field(0).type)


def _opening(cell: Any, location: str | Path) -> Callable[[], Opened]:
    data = cell.get("bytes") if isinstance(cell, dict) else cell if isinstance(cell, bytes) else None
    path = cell.get("path") if isinstance(cell, dict) else cell if isinstance(cell, str) else None

    def open_cell() -> Opened:
        if data is not None:
            return data
        if not path:
            raise ImageError("the row holds no image")
        if is_url(path) or Path(path).is_absolute():
            return contents(path)()
        base = str(location).rsplit("/", 1)[0] if is_url(str(location)) else Path(location).parent
        return contents(f"{base}/{path}")()

    return open_cell


def _class_names(metadata: dict[bytes, bytes]) -> list[str]:
    """Class names from the Hugging Face schema metadata, or none."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return list(features["label"]["names"])
    except (KeyError, TypeError, ValueError):
        return []
