"""What a user should know of an adaptation: sentences for warnings of Python, the command line and the report."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fewshot_jax.adaptation.folds import rare_classes
from fewshot_jax.adaptation.named import NamedModel, is_run
from fewshot_jax.adaptation.readers import Reader
from fewshot_jax.data.names import counted
from fewshot_jax.data.sequences import Codec
from fewshot_jax.data.splits import TextSplit
from fewshot_jax.notes import Caution, warn
from fewshot_jax.training.run_directory import RunDirectory

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LITTLE_KNOWN = 0.85  # share of known words below which a warning is due
NO_FOLDS = "without folds nothing is known of how well the model does, and its probabilities are not calibrated"
TOO_FEW = (
    "nothing is cross-validated, and nothing known of how well the model does: at least two classes need two examples "
    "each, one to hold out"
)


class Remarks:
    """Collects the remarks on one adaptation, each of which is a warning of Python at once.

    Attributes:
        notes: sentences that a user may want to know.
        warnings: sentences on what a user may want to change.
    """

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def note(self, *sentences: str) -> None:
        """Add notes."""
        for sentence in sentences:
            self.notes.append(sentence)
            warn(sentence)

    def caution(self, *sentences: str) -> None:
        """Add warnings."""
        for sentence in sentences:
            self.warnings.append(sentence)
            warn(sentence, Caution)


def unfinished(model: str) -> list[str]:
    """A note on a run that has not finished, none on another model."""
    if is_run(model) and RunDirectory(model).result() is None:
        return [f"{model} is unfinished; this is its best checkpoint so far"]
    return []


def changed(named: NamedModel) -> list[str]:
    """A warning where a saved model was adapted from other files than its name finds now."""
    if not named.changed:
        return []
    return [f"{named.origin} is not what {named.name} was adapted from: its files have changed since"]


def unknown_words(model: str, tokenizer: "Tokenizer", texts: Sequence[str]) -> list[str]:
    """A warning where the tokenizer of a model knows few words of some texts."""
    if (known := known_share(tokenizer, texts)) >= LITTLE_KNOWN:
        return []
    return [
        f"the tokenizer of {model} knows {known:.0%} of the words of these texts: expect little, and train a run on "
        "texts like yours"
    ]


def known_share(tokenizer: "Tokenizer", texts: Sequence[str]) -> float:
    """Share of the words of some texts that a tokenizer knows: not as an unknown token, nor letter by letter."""
    token = getattr(tokenizer.model, "unk_token", None)
    unknown = None if token is None else tokenizer.token_to_id(token)
    counts = Counter(word for text in texts for word in text.split())
    encodings = tokenizer.encode_batch(list(counts), add_special_tokens=False)
    known = sum(
        count
        for (word, count), encoding in zip(counts.items(), encodings, strict=True)
        if unknown not in encoding.ids and len(encoding.ids) <= max(2, len(word) / 2)
    )
    return known / max(counts.total(), 1)


def too_long(reader: Reader, texts: Sequence[str]) -> list[str]:
    """A note on the texts that a classifier reads in part."""
    count = reader.cut(texts)
    return [f"{counted(count, 'text')} longer than {reader.max_length} tokens; the rest is not read"] if count else []


def cut(codec: Codec) -> list[str]:
    """Notes on the texts that a model that writes has read in part."""
    return [
        f"{counted(count, what)} too long for the model, and cut"
        for count, what in zip(codec.cut, ("source", "target"), strict=False)
        if count
    ]


def not_judged(data: TextSplit) -> list[str]:
    """A note on the classes that are never held out."""
    rare = [data.classes[one] for one in rare_classes(data.label)]
    if not rare:
        return []
    one = len(rare) == 1
    return [
        f"{len(rare)} of the classes {'has' if one else 'have'} too few examples to hold out, and "
        f"{'is' if one else 'are'} trained on and not judged: '{rare[0]}'{'' if one else ' and more'}"
    ]
