"""A run's model as a Hugging Face directory: the meta-learned initialisation, in the format of a known family.

What reads and writes texts has the format already. The text encoder of our own is, up to names, XLM-RoBERTa-XL with
norms before the layers and BERT with norms after them. What stands around it has no counterpart and is left out.
"""

import json
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp

from fewshot_jax import strict_json
from fewshot_jax.algorithms.gradient_based import RATES
from fewshot_jax.applications.text_codec import TOKENIZER
from fewshot_jax.applications.text_functions import text_task_of
from fewshot_jax.applications.text_model import TextModel
from fewshot_jax.atomic_write import atomic_directory, cannot_write
from fewshot_jax.config import Config
from fewshot_jax.data.tokenization import SPECIAL_TOKENS
from fewshot_jax.errors import UserError
from fewshot_jax.models.huggingface.families import reading_head
from fewshot_jax.models.huggingface.fresh import new_module
from fewshot_jax.models.huggingface.load import load_pretrained
from fewshot_jax.models.huggingface.pretrained import Pretrained, build, read_model_config
from fewshot_jax.models.huggingface.save import write_pretrained
from fewshot_jax.models.huggingface.text_encoder import exported_text_encoder
from fewshot_jax.models.lora import lora_of_config, merge_lora
from fewshot_jax.models.sources.names import MODEL_OF_A_RUN
from fewshot_jax.runs.directory import check_writable
from fewshot_jax.training.experiment import Experiment, model_of_run
from fewshot_jax.training.run_directory import RunDirectory
from fewshot_jax.types import MetaParams, Params

# Of a tokenizer of our own, by the names of a config of transformers.
TOKENS = {"bos_token_id": SPECIAL_TOKENS.index("[CLS]"), "eos_token_id": SPECIAL_TOKENS.index("[SEP]")}
EXPORT = "fewshot_jax_export.json"  # in an exported directory: the names of all that was written there


class Exported(NamedTuple):
    """A run's model.

    Attributes:
        model: as `save_pretrained` takes it.
        notes: what is left out, and how its texts are to be written.
    """

    model: Pretrained
    notes: list[str]


def export(run_dir: str | Path, output: str | Path, *, force: bool = False) -> list[str]:
    """Write a run's model as a new directory that transformers and `load_pretrained` read.

    Args:
        run_dir: of 'fewshot-jax train' (its best checkpoint: the meta-learned initialisation) or of
            'fewshot-jax pretrain'.
        output: the directory, written whole or not at all.
        force: replace a model that `export` wrote there, if nothing else is in its directory.

    Returns:
        What is left out, and how the model's texts are to be written.

    Raises:
        UserError: there is no run, its model is none of texts, or the output already exists or cannot be written.
    """
    output = Path(output)
    _check_output(output, force)
    model, notes = exported(RunDirectory(run_dir))
    try:
        with atomic_directory(output, replace=True) as partial:
            write_pretrained(partial, model)
            (partial / EXPORT).write_text(
                strict_json.dumps({"files": _names(partial)}, indent=2) + "\n", encoding="utf-8"
            )
            _check_output(output, force)  # again: what came meanwhile is not replaced either
    except OSError as error:
        raise cannot_write(output, error, "--output") from None
    return notes


def _check_output(output: Path, force: bool) -> None:
    """Raise a UserError unless a model can be written as a directory; only what `export` wrote is ever replaced."""
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        if not force:
            raise UserError(f"{output}: already exists; give another --output, or --force to replace it")
        try:
            written = {EXPORT, *json.loads((output / EXPORT).read_text(encoding="utf-8"))["files"]}
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(
                f"{output}: was not written by export ({EXPORT} is not there, or says nothing), and is not replaced; "
                "give another --output"
            ) from None
        if others := [name for name in _names(output) if name not in written]:
            raise UserError(
                f"{output}: holds what export did not write ({', '.join(others[:3])}{', ...' if others[3:] else ''}), "
                "and is not replaced; move that away, or give another --output"
            )
    check_writable(output, flag="--output")


def _names(directory: Path) -> list[str]:
    """All that is in a directory, folders too, by their paths in it."""
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*"))


def exported(run: RunDirectory) -> Exported:
    """The model of a run's best checkpoint.

    Raises:
        UserError: there is no run, it has no checkpoint, or its model is none of texts.
    """
    if (pretrained := _pretrained_here(run)) is not None:
        return Exported(pretrained, [])
    config = run.config()
    if not (config.record.head or config.record.tokens):
        raise UserError(
            f"{run.path}: is a run of {config.application}, whose model no class of transformers has; export serves "
            "models of texts"
        )
    model = model_of_run(run)
    made = _classifier(run, model) if config.record.head else _writer(run, model)
    if run.result() is None:
        made.notes.append(f"{run.path} is unfinished; this is its best checkpoint so far")
    return made


def _pretrained_here(run: RunDirectory) -> Pretrained | None:
    """The model of a pretraining run, which has weights in its directory; None of others."""
    directory = run.path / MODEL_OF_A_RUN
    return load_pretrained(directory) if any(directory.glob("*.safetensors")) else None


def _writer(run: RunDirectory, model: TextModel) -> Exported:
    config, head = model.config, text_task_of(model.config).head
    meta_params, _ = Experiment(model).restore_best(run)
    sizes = {name: getattr(config.model, name) for name in ("width", "layers", "heads", "mlp_width", "dropout")}
    if model.home is not None:
        given = read_model_config(model.home)
    else:
        vocabulary = model.codec.tokenizer.get_vocab_size()
        given, _, _ = new_module(config.model.architecture, vocab_size=vocabulary, head=head, **sizes)
    made = Pretrained(
        config=given,
        module=build(given, head, jnp.float32),
        params=_merged(meta_params["params"], config),
        head=head,
        path=model.home or run.path / TOKENIZER,
    )
    return Exported(made, [_written_as(model), *_extras(meta_params)])


def _written_as(model: TextModel) -> str:
    """The tokens around a text, which a tokenizer of transformers does not all put there."""
    codec = model.codec
    before, after = (" ".join(str(codec.tokenizer.id_to_token(i)) for i in ids) for ids in (codec.begin, codec.middle))
    read, end = f"{before} SOURCE {after}".strip(), codec.tokenizer.id_to_token(codec.end)
    first = " ".join(str(codec.tokenizer.id_to_token(i)) for i in codec.target_begin)
    begun = f"; a target begins with {first} (forced_bos_token_id of transformers' generate)" if first else ""
    return f"a source is read as {read}; {end} ends a text{begun}"


def _classifier(run: RunDirectory, model: TextModel) -> Exported:
    config = model.config
    meta_params, _ = Experiment(model).restore_best(run)
    features = _merged(meta_params["params"]["features"], config)
    notes = [
        "hidden states are exported; what makes one vector of a text (pooling, scale, n-grams) and labels of "
        "vectors has no counterpart: 'fewshot-jax adapt' keeps all of it"
    ]
    if model.vectors.stated:
        notes = [
            "vectors are exported as the pretrained model's directory describes them; what else makes features "
            "(learned weights of tokens, scale, n-grams) and labels of vectors has no counterpart: 'fewshot-jax adapt' "
            "keeps all of it"
        ]
    if model.home is not None:
        given = read_model_config(model.home)
        made = Pretrained(
            config=given,
            module=build(given, reading_head(given), jnp.float32),
            head=reading_head(given),
            params=features["encoder"]["transformer"],
            path=model.home,
            vectors=model.vectors,
            dense_params=features.get("vectors", {}),
        )
    else:
        made = exported_text_encoder(model.module, features["encoder"], tokens=TOKENS, path=run.path / TOKENIZER)
        if made.tokenizer is not None:
            made.tokenizer.model_max_length = config.tokenizer.max_length
    if config.model.context_width:
        notes.append("the context of a task is left out; at its start it is zero and changes nothing")
    return Exported(made, [*notes, *_extras(meta_params)])


def _merged(params: Params, config: Config) -> Params:
    """The parameters with a low-rank change folded in, where the run has one."""
    return merge_lora(params, lora_of_config(config.model)) if config.model.lora_rank else params


def _extras(meta_params: MetaParams) -> list[str]:
    """What the learner learned beside the initialisation."""
    others = sorted(meta_params.keys() - {"params"})
    named = ["inner rates" if name == RATES else name for name in others]
    return [f"left out: the learned {', '.join(named)}"] if named else []
