"""The languages that a translation model's tokenizer knows, and the tokens that its answers are made to begin with."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from fewshot_jax.models.huggingface.pretrained import read_model_json


class Languages(NamedTuple):
    """The languages of a tokenizer.

    Attributes:
        ids: of the token of each language, by its code.
        own: each text begins with the token of its own language (M2M-100, NLLB); otherwise a source begins with that
            of its target (Marian), and a target with none.
    """

    ids: dict[str, int]
    own: bool

    def code_of(self, name: str) -> str | None:
        """The code that a user means, who may write it as it stands in the tokenizer; None for no known one."""
        found = (match[1] for pattern, _ in _STYLES if (match := pattern.fullmatch(name)))
        return next((code for code in (name, *found) if code in self.ids), None)


# How the token of a language is written around its code, and whether each text begins with its own. Of the second kind
# tokens are special ones: the pieces of words may look like them.
_STYLES = (
    (re.compile(r">>(.+)<<"), False),  # Marian: >>fra<<
    (re.compile(r"__([a-z]{2,3})__"), True),  # M2M-100: __fr__
    (re.compile(r"([a-z]{3}_[A-Z][a-z]{3})"), True),  # NLLB: fra_Latn
)


def languages_of(tokens: Mapping[str, int], added: Mapping[str, int]) -> Languages | None:
    """Find the languages of a tokenizer, in alphabetical order of their codes.

    Args:
        tokens: with their ids.
        added: those of them that are no pieces of words.

    Returns:
        None where it knows none.
    """
    for pattern, own in _STYLES:
        among = added if own else tokens
        found = {match[1]: index for token, index in among.items() if (match := pattern.fullmatch(token))}
        if found:
            return Languages(dict(sorted(found.items())), own)
    return None


def forced_begin(home: Path) -> tuple[int, ...]:
    """Read the token that an answer is forced to begin with, from generation_config.json or else config.json.

    Args:
        home: directory of a pretrained model.

    Returns:
        One id, or nothing.
    """
    for name in ("generation_config.json", "config.json"):
        if (home / name).is_file():
            raw = read_model_json(home / name)
            forced = raw.get("forced_bos_token_id") if isinstance(raw, dict) else None
            if type(forced) is int:
                return (forced,)
    return ()
