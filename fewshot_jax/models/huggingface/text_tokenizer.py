"""The tokenizer of a directory that transformers' save_pretrained wrote."""

from pathlib import Path
from typing import TYPE_CHECKING

from fewshot_jax.errors import UserError, require
from fewshot_jax.models.huggingface.pretrained import TOKENIZER_FILES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_text_tokenizer(path: Path, field: str) -> "PreTrainedTokenizerBase":
    """Read the tokenizer of a directory, as transformers does.

    Args:
        path: the directory.
        field: of the config that names it, for messages.

    Raises:
        UserError: there is none, or it cannot be read, or is of the slow kind.
    """
    if not any((path / name).is_file() for name in TOKENIZER_FILES):
        what = "holds no tokenizer (no tokenizer.json)" if path.is_dir() else "no such directory"
        raise UserError(f"{path}: {what}; {field} takes a directory that transformers' save_pretrained wrote")
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever a stranger's file raises in there
        raise UserError(f"{path}: the tokenizer cannot be read ({error}); see {field}") from error
    require(tokenizer.is_fast, f"{path}: this tokenizer has no tokenizer.json; save a fast one and give it as {field}")
    return tokenizer
