"""Examples to token ids, and back: what a decoder reads before it writes, and what it should write."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from fewshot_jax.data.examples import Example
from fewshot_jax.data.loader import bucket
from fewshot_jax.data.tokenization import SPECIAL_TOKENS
from fewshot_jax.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_TOGETHER = 1024  # examples tokenised at once
Ids = Sequence[int] | np.ndarray
Encodable = TypeVar("Encodable", bound=Hashable)
Encoded = TypeVar("Encoded")


@dataclass(frozen=True, kw_only=True)
class Codec:
    """A tokenizer and the tokens around texts: ``begin source middle``, then ``target_begin target end``.

    Attributes:
        tokenizer: of sources; adds nothing itself.
        target_tokenizer: of targets, over the same ids; None for the same.
        begin, middle: ids before and after a source; may be empty.
        target_begin: ids before a target, which are given where one is written (the language that NLLB writes).
        end: id after a target.
        pad: id of padding.
        prompt: put before each source.
        max_length, target_max_length: most tokens of a source and of a target, those around them included.
        buckets, target_buckets: lengths that batches are padded to.
        keep_end: a source that is too long loses its beginning, not its end (a dialogue).
        refuse: refuse what is too long.
        windows, stride: most windows of a context in which an answer is pointed to, and tokens from the beginning of
            one to that of the next; 0 for half of what a window holds.
        positions: of the model, where they are fewer than a config's lengths; None where lengths are the config's.
        rows: tokens that the model has; what a text has beyond them (its padding token, spelled out) is read as
            padding. None for all.
        cut: counts ``[sources, targets]`` that were cut so far.
        known: what was encoded before, so that no example is tokenised twice; None to remember nothing.
    """

    tokenizer: "Tokenizer"
    target_tokenizer: "Tokenizer | None" = None
    begin: tuple[int, ...] = (SPECIAL_TOKENS.index("[CLS]"),)
    middle: tuple[int, ...] = (SPECIAL_TOKENS.index("[SEP]"),)
    target_begin: tuple[int, ...] = ()
    end: int = SPECIAL_TOKENS.index("[SEP]")
    pad: int = SPECIAL_TOKENS.index("[PAD]")
    prompt: str = ""
    max_length: int
    target_max_length: int
    buckets: tuple[int, ...]
    target_buckets: tuple[int, ...]
    keep_end: bool = False
    refuse: bool = False
    windows: int = 1
    stride: int = 0
    positions: int | None = None
    rows: int | None = None
    cut: list[int] = field(default_factory=lambda: [0, 0])
    known: dict[Any, Any] | None = None

    def encode(self, examples: Sequence[Example]) -> list[tuple[Ids, Ids]]:
        """The ids of each source and target.

        Raises:
            UserError: one is too long, and ``refuse``.
        """
        return self.once(examples, self._encode)

    def once(self, items: Sequence[Encodable], encode: Callable[[Sequence[Encodable]], list[Encoded]]) -> list[Encoded]:
        """What ``encode`` makes of each item, called for those alone that are not `known`."""
        if self.known is None:
            return encode(items)
        if new := list(dict.fromkeys(item for item in items if item not in self.known)):
            for start in range(0, len(new), _TOGETHER):
                part = new[start : start + _TOGETHER]
                self.known.update(zip(part, encode(part), strict=True))
        return [self.known[item] for item in items]

    def _encode(self, examples: Sequence[Example]) -> list[tuple[Ids, Ids]]:
        sources = self._ids([self.prompt + example.source for example in examples])
        targets = self._ids([example.target for example in examples], self.target_tokenizer)
        return [
            (self._source(ids, example), self._target(written, example))
            for ids, written, example in zip(sources, targets, examples, strict=True)
        ]

    def sources(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of sources alone."""
        encoded = self._ids([self.prompt + text for text in texts])
        return [self._source(ids, Example(text, "")) for ids, text in zip(encoded, texts, strict=True)]

    @property
    def prompt_tokens(self) -> int:
        """Tokens of a source that are the prompt's, those before it included; 0 without a prompt."""
        return len(self.begin) + len(self._ids([self.prompt])[0]) if self.prompt else 0

    def decode(self, ids: np.ndarray) -> list[str]:
        """Texts of generated ids ``[n, M]``, each up to its end; -1 is padding too."""
        rows = []
        for row in np.asarray(ids).tolist():
            stop = row.index(self.end) if self.end in row else len(row)
            rows.append([token for token in row[:stop] if token not in (self.pad, -1)])
        return [text.strip() for text in (self.target_tokenizer or self.tokenizer).decode_batch(rows)]

    def _ids(self, texts: Sequence[str], tokenizer: "Tokenizer | None" = None) -> list[list[int]]:
        encodings = (tokenizer or self.tokenizer).encode_batch(list(texts), add_special_tokens=False)
        return [self.within(encoding.ids) for encoding in encodings]

    def within(self, ids: list[int]) -> list[int]:
        """Some ids, `pad` in the place of those beyond `rows`."""
        if self.rows is None or max(ids, default=0) < self.rows:
            return ids
        return [token if token < self.rows else self.pad for token in ids]

    def _source(self, ids: list[int], example: Example) -> Ids:
        """What stands before the target."""
        room = self.max_length - len(self.begin) - len(self.middle)
        if len(ids) > room:
            self._too_long("source", len(ids), room, example)
            ids = ids[-room:] if self.keep_end else ids[:room]
        return np.array([*self.begin, *ids, *self.middle], np.int32)

    def _target(self, ids: list[int], example: Example) -> Ids:
        room = self.target_max_length - 1 - len(self.target_begin)
        if len(ids) > room:
            self._too_long("target", len(ids), room, example)
            ids = ids[:room]
        return np.array([*self.target_begin, *ids, self.end], np.int32)

    def _too_long(self, side: str, length: int, room: int, example: Example) -> None:
        option = "max_length" if side == "source" else "target_max_length"
        if self.refuse:
            text = example.source if side == "source" else example.target
            place = f"task '{example.task}': " if example.task else ""
            larger = f"train with a larger tokenizer.{option}" if self.positions is None else self.remedy(option)
            raise UserError(
                f"{place}a {side} of {length} tokens, room for {room}: '{text[:60]}...'; shorten it, or {larger}, or "
                "train with tokenizer.too_long=cut"
            )
        self.cut[side == "target"] += 1

    def shorter(self, *, source: int | None = None, target: int | None = None) -> "Codec":
        """The same for a model that reads at most so many tokens of a source and of a target; None for no limit."""
        changes: dict[str, Any] = {}
        for length, buckets, most in (
            ("max_length", "buckets", source),
            ("target_max_length", "target_buckets", target),
        ):
            if most is not None and most < getattr(self, length):
                changes[length] = changes["positions"] = most
                changes[buckets] = tuple(sorted({min(size, most) for size in getattr(self, buckets)}))
        return replace(self, **changes)

    def remedy(self, option: str) -> str:
        """What helps where texts are too long: an option, or another model."""
        return f"raise {option}" if self.positions is None else f"take a model of more than {self.positions} positions"

    def check_size(self) -> None:
        """Raise a UserError if a source or a target has no room."""
        around = len(self.begin) + len(self.middle)
        if self.max_length <= around:
            what = f"no room for a text beside {around} special tokens; {self.remedy('tokenizer.max_length')}"
            limit = "tokenizer.max_length" if self.positions is None else "the model's positions"
            raise UserError(f"{limit}={self.max_length}: {what}")
        if self.target_max_length <= len(self.target_begin):
            what = f"no room for a target beside {len(self.target_begin)} special tokens"
            limit = "tokenizer.target_max_length" if self.positions is None else "the model's positions"
            remedy = self.remedy("tokenizer.target_max_length")
            raise UserError(f"{limit}={self.target_max_length}: {what}; {remedy}")

    def too_long(self, texts: Sequence[str]) -> int:
        """How many sources are too long, and read in part."""
        counting = replace(self, cut=[0, 0], refuse=False)
        counting.sources(texts)
        return counting.cut[0]


def sequence_batch(
    rows: Sequence[Sequence[tuple[Ids, Ids]]], items: int, length: int, target_length: int, pad: int
) -> dict[str, np.ndarray]:
    """The encoded examples of ``T`` tasks as arrays, with ``items`` slots a task.

    Returns:
        ``input_ids, attention_mask [T, items, length]``, ``decoder_label, decoder_mask [T, items, target_length]``
        and ``mask [T, items]``, False where a task has no such example.
    """
    tasks = len(rows)
    batch = {
        "input_ids": np.full((tasks, items, length), pad, np.int32),
        "attention_mask": np.zeros((tasks, items, length), bool),
        "decoder_label": np.full((tasks, items, target_length), pad, np.int32),
        "decoder_mask": np.zeros((tasks, items, target_length), bool),
        "mask": np.zeros((tasks, items), bool),
    }
    for t, task in enumerate(rows):
        for i, (source, target) in enumerate(task):
            batch["input_ids"][t, i, : len(source)] = source
            batch["attention_mask"][t, i, : len(source)] = True
            batch["decoder_label"][t, i, : len(target)] = target
            batch["decoder_mask"][t, i, : len(target)] = True
            batch["mask"][t, i] = True
    return batch


def bucket_lengths(codec: Codec, rows: Sequence[Sequence[tuple[Ids, Ids]]]) -> tuple[int, int]:
    """The buckets of the longest source and the longest target."""
    longest = [max((len(pair[side]) for row in rows for pair in row), default=1) for side in (0, 1)]
    return bucket(longest[0], codec.buckets), bucket(longest[1], codec.target_buckets)
