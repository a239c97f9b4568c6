"""The tokenizer that a GGUF file's metadata describe, as a fast tokenizer of transformers."""

from pathlib import Path
from typing import TYPE_CHECKING

from fewshot_jax.errors import UserError, first_line
from fewshot_jax.models.gguf.file import AGAIN, GGUFFile, read_file
from fewshot_jax.models.gguf.metadata import flag, integer, text
from fewshot_jax.models.gguf.vocabulary import CONTROL, UNKNOWN, USER_DEFINED, BareTokenizer, builder_of, stored_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_KIND = "tokenizer.ggml.model"
_NONE = ("none", "no_vocab")  # what converters write for a model without a tokenizer


def holds_tokenizer(path: Path) -> bool:
    """Whether a file describes a tokenizer."""
    return text(read_file(path), _KIND, "none") not in _NONE


def tokenizer_of(path: Path) -> "PreTrainedTokenizerBase":
    """Build the tokenizer of a file.

    Raises:
        UserError: its metadata are damaged, or of a kind that is not here.
    """
    from transformers import PreTrainedTokenizerFast

    file = read_file(path)
    name = text(file, _KIND)
    build, vocabulary = builder_of(file, name), stored_tokens(file)
    try:
        built = build(file, vocabulary)
        _add_tokens(built)
        _put_around(file, built)
    except UserError:
        raise
    except Exception as error:  # whatever the tokenizers package raises on damaged metadata
        raise UserError(f"{path}: the tokenizer cannot be built ({first_line(error)}). {AGAIN}") from error
    tokens, special = built.vocabulary.tokens, built.vocabulary.special
    pair = ["token_type_ids"] if name == "bert" else []
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=built.tokenizer,
        model_input_names=["input_ids", *pair, "attention_mask"],
        model_max_length=integer(file, f"{text(file, 'general.architecture')}.context_length", int(1e30)),
        clean_up_tokenization_spaces=False,
        **{name: tokens[index] for name, index in special.items()},
    )
    tokenizer.chat_template = text(file, "tokenizer.chat_template", None)
    return tokenizer


def _add_tokens(built: BareTokenizer) -> None:
    """Tell the tokenizer which tokens are found in a text before anything else."""
    from tokenizers import AddedToken

    tokens, types, special = built.vocabulary
    controls = [i for i, kind in enumerate(types.tolist()) if kind in (CONTROL, UNKNOWN)]
    for index in sorted({*controls, *special.values()}):
        _check_named(tokens[index], index)
    built.tokenizer.add_special_tokens(
        [AddedToken(tokens[i], special=True, normalized=False) for i in sorted({*controls, *special.values()})]
    )
    built.tokenizer.add_tokens(
        [
            AddedToken(tokens[i], normalized=built.matched_as_read)
            for i, kind in enumerate(types.tolist())
            if kind == USER_DEFINED and i not in special.values()
        ]
    )


def _check_named(token: str, index: int) -> None:
    """Refuse a special token that no text can hold."""
    if not token:
        raise ValueError(f"the special token {index} is empty")


def _put_around(file: GGUFFile, built: BareTokenizer) -> None:
    """Put the special tokens around texts that the file or the kind of tokenizer asks for."""
    from tokenizers import processors

    tokens, _, special = built.vocabulary
    before, after = list(built.before), list(built.after)
    if not after:  # BERT's are fixed
        before = ["bos_token"] if flag(file, "tokenizer.ggml.add_bos_token", bool(before)) else []
        after = ["eos_token"] if flag(file, "tokenizer.ggml.add_eos_token", False) else []
    before, after = ([name for name in names if name in special] for names in (before, after))
    if not before and not after:
        return
    first, second = [*before, "$A", *after], ["$B:1", *(f"{name}:1" for name in after)]
    if not built.after:
        second = [*(f"{name}:1" for name in before), *second]
    used = [{"id": name, "ids": [special[name]], "tokens": [tokens[special[name]]]} for name in {*before, *after}]
    built.tokenizer.post_processor = processors.TemplateProcessing(first, [*first, *second], used)
