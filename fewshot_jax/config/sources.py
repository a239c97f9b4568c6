"""What a config knows of each source of data: plain data, read before anything heavy is imported.

A new source is its file in `data/`, a record here, and a line in `data/sources.py`, which reads it.
"""

from dataclasses import dataclass

from fewshot_jax.config.names import is_function


@dataclass(frozen=True, kw_only=True)
class SourceRecord:
    """What a config knows of a source of data.

    Attributes:
        labelled_only: it makes labelled texts and nothing else.
        has_paths: it reads `data.path` and `data.files`.
        takes_options: it reads `data.options`.
    """

    labelled_only: bool = False
    has_paths: bool = True
    takes_options: bool = False


SOURCE_RECORDS: dict[str, SourceRecord] = {
    "generated": SourceRecord(),  # from the package; it ignores a path, which another source of the same config reads
    "files": SourceRecord(),
    "tfds": SourceRecord(),
    "smlmt": SourceRecord(labelled_only=True),
}
_OWN = SourceRecord(has_paths=False, takes_options=True)  # a function of the user's own


def source_record(name: str) -> SourceRecord:
    """Return what a config knows of a source, by its name."""
    return _OWN if is_function(name) else SOURCE_RECORDS[name]
