"""The languages between which a pretrained model translates, as a config names them."""

import difflib
from pathlib import Path
from typing import Any

from fewshot_jax.config import Config
from fewshot_jax.errors import UserError, require
from fewshot_jax.models.huggingface.languages import Languages, forced_begin, languages_of

_SHOWN = 10  # languages in a message


def with_languages(around: dict[str, Any], tokenizer: Any, config: Config, home: Path) -> dict[str, Any]:
    """Return the tokens around texts with those of the languages, and with what every target must begin with.

    Args:
        around: ids, by the names of `Codec`.
        tokenizer: of the model, as transformers has it.
        config: that names the languages.
        home: directory of the model's config.

    Raises:
        UserError: a language is missing, unknown, or of a model that knows none.
    """
    languages = languages_of(tokenizer.get_vocab(), tokenizer.get_added_vocab())
    where = str(config.model.pretrained)
    if languages is None:
        require(
            not hasattr(tokenizer, "src_lang"),
            f"{where}: the tokenizer translates, and lacks the tokens of its languages; put the tokenizer.json of the "
            "original model beside it",
        )
        for side in ("source", "target"):
            given = getattr(config.tokenizer, f"{side}_language")
            require(
                given is None,
                f"tokenizer.{side}_language={given}: the tokenizer of {where} knows no languages; leave it out",
            )
        return {**around, "target_begin": forced_begin(home)}
    target = _language(languages, config, "target", where)
    if not languages.own:
        given = config.tokenizer.source_language
        require(
            given is None,
            f"tokenizer.source_language={given}: {where} is told the language of the target alone; leave it out",
        )
        return {**around, "begin": (target, *around["begin"]), "target_begin": forced_begin(home)}
    source, known = _language(languages, config, "source", where), set(languages.ids.values())
    # The tokenizer's template has a language of its own choice, where it has one.
    begin, middle = (tuple(source if token in known else token for token in around[name]) for name in _SOURCE)
    if source not in (*begin, *middle):
        begin = (source, *begin)
    return {**around, "begin": begin, "middle": middle, "target_begin": (target,)}


_SOURCE = ("begin", "middle")


def _language(languages: Languages, config: Config, side: str, where: str) -> int:
    """The id of the language that a config names for a side."""
    option, given = f"tokenizer.{side}_language", getattr(config.tokenizer, f"{side}_language")
    codes = list(languages.ids)
    if given is None:
        if len(codes) == 1:
            return languages.ids[codes[0]]
        more = f" and {len(codes) - _SHOWN} more" if len(codes) > _SHOWN else ""
        raise UserError(
            f"{option}: {where} knows {len(codes)} languages and must be told that of the {side}; set it to one of "
            f"{', '.join(codes[:_SHOWN])}{more}"
        )
    code = languages.code_of(given)
    if code is None:
        close = difflib.get_close_matches(given, codes, n=3, cutoff=0.3) or codes[:_SHOWN]
        raise UserError(f"{option}={given}: is no language of {where}; the nearest are {', '.join(close)}")
    return languages.ids[code]
