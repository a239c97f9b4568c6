"""What a config knows of each application: plain data, read before anything heavy is imported.

A new application is its file in `applications/`, a record here, and a line in `applications/table.py`, which builds it.
An application whose model works in another way for some configs has a record for each of these kinds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from fewshot_jax.config.rules import (
    check_answers,
    check_pairs,
    check_pretrained_encoder,
    check_tokens,
    check_transformer,
)
from fewshot_jax.errors import require

if TYPE_CHECKING:
    from fewshot_jax.config import Config

Fields = Mapping[str, tuple[str, ...]]  # by section


@dataclass(frozen=True, kw_only=True)
class ApplicationRecord:
    """What a config knows of an application.

    Attributes:
        fields: those fields of each section that say something about it and not about every application. To set
            others of them is a mistake.
        checks: what it asks of a config; each raises a UserError.
        variant_of: the application of which it is a kind; "" for an application of its own.
        when: section, field and value by which a config of that application is of this kind.
        labelled: its data has classes, each item of which has a label.
        texts: it reads texts.
        pairs: it reads a text and writes another: its data is of `Example`.
        tokens: its model predicts tokens.
        chat: what it reads is written by a chat template where there is one; what is too long loses its beginning.
        head: it puts a head for the classes on the features of an encoder.
        compares_classes: its model embeds what it classifies, so that embeddings of classes can be compared.
        no_context: why its model takes no context parameters, where `model.context_width` is not among its fields.
        columns: of a file of examples, the columns (CSV, TSV) or fields (JSONL) by which it is detected; of several
            names in one place, any will do. Empty where it reads no files of texts.
        json_field: the field at the top of a JSON file of it; None where it reads none.
        files: the kinds of files that it reads, in words.
        generated: its data that ships with the package, in words; "" for none.
    """

    fields: Fields
    checks: tuple[Callable[["Config"], None], ...] = ()
    variant_of: str = ""
    when: tuple[str, str, Any] = ("", "", None)
    labelled: bool = False
    texts: bool = False
    pairs: bool = False
    tokens: bool = False
    chat: bool = False
    head: bool = False
    compares_classes: bool = False
    no_context: str = "its model takes no context"
    columns: tuple[tuple[str, ...], ...] = ()
    json_field: str | None = None
    files: str = ""
    generated: str = ""


def _together(*groups: Fields) -> Fields:
    """Join groups of fields, section by section."""
    sections = dict.fromkeys(section for group in groups for section in group)
    return {section: tuple(name for group in groups for name in group.get(section, ())) for section in sections}


_DATA: Fields = {  # read from somewhere, and divided into splits
    "data": (
        *("source", "path", "files"),
        *("class_split", "class_split_name", "fractions", "split_seed", "folds", "fold"),
    ),
    "episodes": ("min_shots",),
    "model": ("compute_dtype",),
}
_CLASSES: Fields = {
    "data": ("name", "tfds_split", "label_field"),
    "episodes": ("ways", "min_ways", "uneven"),
    "evaluation": ("ways", "uneven"),
}
_TEXTS: Fields = {
    "tokenizer": ("kind", "vocab_size", "max_length", "buckets"),
    "model": ("heads", "mlp_width", "dropout", "lora_rank", "lora_targets", "pretrained"),
}
_LABELLED_TEXTS: Fields = {
    "data": (
        *("text_field", "group_field", "split_by", "sets", "groups", "texts_per_class"),
        *("smlmt_words", "smlmt_length"),
    ),
    "episodes": ("within_group", "domain_power"),
    "model": ("classifier",),
}
_TOKENS: Fields = {  # predicted by the model
    "tokenizer": ("target_max_length", "target_buckets", "too_long"),
    "model": ("architecture",),
}
_TARGETS: Fields = {
    "data": ("task_field", "split_files"),
    "tokenizer": ("source_language", "target_language"),
    "evaluation": ("write", "beams"),
}
_PAIRS = _together(_DATA, _TEXTS, _TOKENS, _TARGETS)
_HEAD: Fields = {
    "episodes": ("label_names", "token_dropout", "token_remap", "ngram_dropout"),
    "model": ("norm", "feature_scale", "ngram_width", "context_width"),
}
_QUESTIONS = _together(_PAIRS, {"tokenizer": ("windows", "stride"), "evaluation": ("null_threshold",)})
_NO_CONTEXT = "a language model takes no context"

APPLICATION_RECORDS: dict[str, ApplicationRecord] = {
    "text_classification": ApplicationRecord(
        fields=_together(_DATA, _CLASSES, _TEXTS, _LABELLED_TEXTS, _HEAD),
        checks=(check_transformer, check_pretrained_encoder),
        labelled=True,
        texts=True,
        head=True,
        compares_classes=True,
        columns=(("text",), ("label",)),
        files="CSV, TSV, JSONL",
        generated="intents that are told by the order of three actions",
    ),
    "label_scoring": ApplicationRecord(
        fields=_together(_DATA, _CLASSES, _TEXTS, _LABELLED_TEXTS, _TOKENS, {"learner": ("channel",)}),
        checks=(check_transformer, check_tokens),
        variant_of="text_classification",
        when=("model", "classifier", "label_names"),
        labelled=True,
        texts=True,
        tokens=True,
        no_context=_NO_CONTEXT,
    ),
    "image_classification": ApplicationRecord(
        fields=_together(
            _DATA,
            _CLASSES,
            {"data": ("image_field", "image_size", "invert", "rotations"), "model": ("downsample", "conv_norm")},
        ),
        labelled=True,
        compares_classes=True,
        no_context="the convolutions of images take no context",
    ),
    "question_answering": ApplicationRecord(
        fields=_QUESTIONS,
        checks=(check_pairs, check_transformer, check_answers, check_tokens),
        texts=True,
        pairs=True,
        tokens=True,
        no_context=_NO_CONTEXT,
        columns=(("question",), ("context",), ("answer", "answers")),
        json_field="data",
        files="CSV, TSV, JSONL, or SQuAD's JSON",
        generated="questions whose words for the relations are new in every task",
    ),
    "span_question_answering": ApplicationRecord(
        fields=_QUESTIONS,
        checks=(check_pairs, check_transformer, check_answers, check_tokens),
        variant_of="question_answering",
        when=("model", "architecture", "encoder"),
        texts=True,
        pairs=True,
        tokens=True,
        no_context=_NO_CONTEXT,
    ),
    "translation": ApplicationRecord(
        fields=_together(_PAIRS, {"data": ("source_field", "target_field")}),
        checks=(check_pairs, check_transformer, check_tokens),
        texts=True,
        pairs=True,
        tokens=True,
        no_context=_NO_CONTEXT,
        columns=(("source",), ("target",)),
        files="CSV, TSV, JSONL",
        generated="languages of a lexicon and a word order",
    ),
    "dialogue": ApplicationRecord(
        fields=_together(_PAIRS, {"data": ("history",)}),
        checks=(check_pairs, check_transformer, check_tokens),
        texts=True,
        pairs=True,
        tokens=True,
        chat=True,
        no_context=_NO_CONTEXT,
        columns=(("turns",),),
        files="JSONL, of turns with speaker and text, or of Schema-Guided Dialogue",
        generated="personas with favourites and a manner of speaking",
    ),
    "regression": ApplicationRecord(
        fields={"model": ("context_width",)},
        generated="sinusoids of an amplitude and a phase",
    ),
}


def kind_of(application: str, config: "Config") -> str:
    """Return the name of the record that describes a config: its application, or a kind of that."""
    for name, record in APPLICATION_RECORDS.items():
        section, field, value = record.when
        if record.variant_of == application and getattr(getattr(config, section), field) == value:
            return name
    return application


def kinds(flag: str) -> tuple[str, ...]:
    """Return the names of the records of which a flag is set."""
    return tuple(name for name, record in APPLICATION_RECORDS.items() if getattr(record, flag))


def columns_of_files(
    applications: Mapping[str, ApplicationRecord] = APPLICATION_RECORDS, *, text: str = "text", label: str = "label"
) -> dict[str, tuple[tuple[str, ...], ...]]:
    """Return the columns by which files of each application are detected, see `ApplicationRecord.columns`.

    Args:
        applications: of which those that read files of texts have columns.
        text: the column of the text of labelled texts, where a user has named another.
        label: that of the label.
    """
    renamed = {"text": text, "label": label}
    return {
        name: tuple(tuple(renamed.get(column, column) for column in place) for place in record.columns)
        if record.labelled
        else record.columns
        for name, record in applications.items()
        if record.columns
    }


APPLICATION_NAMES = tuple(name for name, record in APPLICATION_RECORDS.items() if not record.variant_of)
if TYPE_CHECKING:
    ApplicationName = str
else:
    ApplicationName = Literal[APPLICATION_NAMES]

WRITES = tuple(name for name in kinds("pairs") if name in APPLICATION_NAMES)  # read a text and write another
# Of the fields that say something about some applications only: which those are.
APPLIES: dict[str, dict[str, tuple[str, ...]]] = {
    section: {
        name: tuple(kind for kind, record in APPLICATION_RECORDS.items() if name in record.fields.get(section, ()))
        for record in APPLICATION_RECORDS.values()
        for name in record.fields.get(section, ())
    }
    for section in dict.fromkeys(section for record in APPLICATION_RECORDS.values() for section in record.fields)
}


def check_fields(config: "Config") -> None:
    """Raise a UserError if a field is set that says nothing about the application of a config."""
    for section, fields in APPLIES.items():
        given, default = getattr(config, section), type(getattr(config, section))()
        for name, those in fields.items():
            value = getattr(given, name)
            require(
                config.kind in those or value == getattr(default, name),
                f"{section}.{name}={value}: {config.application} has no use for it; leave it out",
            )
