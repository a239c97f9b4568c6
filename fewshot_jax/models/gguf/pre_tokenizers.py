"""How byte-level tokenizers split a text before they merge bytes, by ``tokenizer.ggml.pre``.

The regular expressions are those of the models' own tokenizer.json files.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewshot_jax.errors import UserError
from fewshot_jax.models.gguf.file import GGUFFile, quote
from fewshot_jax.models.gguf.metadata import text
from fewshot_jax.notes import warn

if TYPE_CHECKING:
    from tokenizers.pre_tokenizers import PreTokenizer

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True, kw_only=True)
class Splitting:
    """One way to split.

    Attributes:
        pattern: whose matches stay together; None for GPT-2's.
        digits: every digit stands alone.
        composed: the text is brought into Unicode's form NFC first.
        whole_words: a word that is a token needs no merges.
        begins: texts begin with the token for that, unless the file says otherwise.
    """

    pattern: str | None = None
    digits: bool = False
    composed: bool = False
    whole_words: bool = False
    begins: bool = False

    def pre_tokenizer(self) -> "PreTokenizer":
        """The pre-tokenizer of the tokenizers package."""
        from tokenizers import Regex, pre_tokenizers

        steps: list[PreTokenizer] = [pre_tokenizers.Digits(individual_digits=True)] if self.digits else []
        if self.pattern is not None:
            steps.append(pre_tokenizers.Split(Regex(self.pattern), "isolated"))
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=self.pattern is None))
        return pre_tokenizers.Sequence(steps)


_GPT2 = Splitting()
_DIGITS = Splitting(digits=True)
_LLAMA3 = Splitting(
    pattern=rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}", whole_words=True, begins=True
)
_QWEN2_PATTERN = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}"
_QWEN2 = Splitting(pattern=_QWEN2_PATTERN, composed=True)
_TEKKEN = Splitting(
    pattern=(
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
        r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    whole_words=True,
    begins=True,
)
SPLITTINGS: dict[str, Splitting] = {
    "deepseek-r1-qwen": Splitting(pattern=_QWEN2_PATTERN),
    "falcon3": _LLAMA3,
    "gpt-2": _GPT2,
    "llama-bpe": _LLAMA3,
    "llama-v3": _LLAMA3,
    "llama3": _LLAMA3,
    "mpt": _GPT2,
    "olmo": _GPT2,
    "phi-2": _GPT2,
    "qwen2": _QWEN2,
    "refact": _DIGITS,
    "smollm": _DIGITS,
    "stablelm2": Splitting(pattern=_QWEN2_PATTERN),
    "starcoder": _DIGITS,
    "tekken": _TEKKEN,
}


def splitting_of(file: GGUFFile) -> Splitting:
    """How a file says that texts are split.

    Raises:
        UserError: the name is not in the table.
    """
    name = text(file, "tokenizer.ggml.pre", "default")
    if name == "default":  # what old converters wrote, or nothing
        warn(f"{file.path}: does not say how its tokenizer splits a text (tokenizer.ggml.pre); split as GPT-2's does")
        return _GPT2
    if name not in SPLITTINGS:
        raise UserError(
            f"{file.path}: tokenizer.ggml.pre={quote(name)} is not one of {', '.join(SPLITTINGS)}; its tokenizer "
            "cannot be read. Take that of the original model, as a Hugging Face directory"
        )
    return SPLITTINGS[name]
