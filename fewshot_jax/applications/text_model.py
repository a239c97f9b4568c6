"""The model of a run that reads texts: its config, tokenizer and weights as one value."""

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from fewshot_jax import strict_json
from fewshot_jax.applications.application import Functions
from fewshot_jax.applications.text_codec import CODEC, TARGET_TOKENIZER, TOKENIZER, Render, codec_of_model, open_codec
from fewshot_jax.applications.text_functions import text_task_of
from fewshot_jax.atomic_write import atomic_files, write_text
from fewshot_jax.config import Config
from fewshot_jax.config.model import LoraTarget
from fewshot_jax.data.loader import EncodedTexts
from fewshot_jax.data.ngrams import hashed_ngrams
from fewshot_jax.data.sequences import Codec
from fewshot_jax.data.tokenization import save_tokenizer
from fewshot_jax.errors import UserError
from fewshot_jax.models.huggingface.families import reading_head
from fewshot_jax.models.huggingface.fresh import new_module, new_params
from fewshot_jax.models.huggingface.pretrained import build, leaves_of, read_model_config, write_model_config
from fewshot_jax.models.huggingface.sentence_transformers import TextVectors, read_vectors
from fewshot_jax.models.huggingface.text_tokenizer import copied_files, load_text_tokenizer
from fewshot_jax.models.huggingface.vector_files import write_vectors
from fewshot_jax.models.lora import lora_of_config
from fewshot_jax.models.sources.names import MODEL_OF_A_RUN, ModelFiles, find_files
from fewshot_jax.models.text_encoder import text_encoder
from fewshot_jax.models.transformer import Transformer
from fewshot_jax.types import Key, Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextModel:
    """The model of a run, without its data.

    Attributes:
        config: of the run.
        codec: its tokenizer, and the tokens around texts.
        module: the transformer.
        init_params: ``rng -> params`` of the module: those of the checkpoint, where there is one.
        scratch_params: the same, initialised; None where `init_params` is that.
        render: its chat template; None where it has none, or none is asked for.
        home: the directory of a pretrained model's config and tokenizer; None of a new model.
        vectors: how a classifier makes one vector of a text, as a pretrained model's directory describes it.
        dense: the pretrained parameters of the dense layers of these vectors; {} for none.
        joint_classes: training classes, which a head of joint training tells apart; 0 where they are not known.
    """

    config: Config
    codec: Codec
    module: Transformer
    init_params: Callable[[Key], Params]
    scratch_params: Callable[[Key], Params] | None = None
    render: Render | None = None
    home: Path | None = None
    vectors: TextVectors = dataclasses.field(default_factory=TextVectors)
    dense: Params = dataclasses.field(default_factory=dict)
    joint_classes: int = 0

    @classmethod
    def open(
        cls,
        config: Config,
        directory: Path | None = None,
        *,
        texts: Callable[[], Sequence[str]] = list,
        weights: bool = True,
        joint_classes: int = 0,
    ) -> Self:
        """Open the model of a config.

        Args:
            config: of the run.
            directory: of the run, or of a model that was adapted from one; None where there is none yet.
            texts: to train a tokenizer on, called only if that is needed.
            weights: read the checkpoint that ``model.pretrained`` names; without them `init_params` gives initial
                values, for shapes.
            joint_classes: see the attribute.

        Raises:
            UserError: the checkpoint or the tokenizer cannot be used.
        """
        home, vectors = None, TextVectors()
        if config.model.pretrained is not None:
            given = files_of_model(config, weights=weights).path if directory is None else directory / MODEL_OF_A_RUN
            described = read_vectors(given)
            home = described.body
            vectors = described.vectors if config.record.head else vectors
            read_model_config(home)  # what is wrong with it tells more than what is wrong with the tokenizer beside it
        codec, render = open_codec(config, directory, home, texts, vectors)
        module, loaded, dense = _module(config, codec.tokenizer.get_vocab_size(), home, weights)
        if home is not None:
            codec = codec_of_model(codec, config, module.shape, home)
        codec.check_size()
        if not vectors.include_prompt:
            shape = dataclasses.replace(vectors.shape, skipped=codec.prompt_tokens)
            vectors = dataclasses.replace(vectors, shape=shape)
        start, scratch = _starts(config, module, loaded)
        return cls(
            config=config,
            codec=codec,
            module=module,
            init_params=start,
            scratch_params=scratch,
            render=render,
            home=home,
            vectors=vectors,
            dense=dense if vectors.shape.dense else {},
            joint_classes=joint_classes,
        )

    def with_config(self, config: Config, *, joint_classes: int | None = None) -> Self:
        """Return the same model for another learner or inner loop."""
        classes = self.joint_classes if joint_classes is None else joint_classes
        return dataclasses.replace(self, config=config, joint_classes=classes)

    def functions(self, ways: int | None = None, *, training: bool) -> Functions:
        """Return the functions of a learner.

        Args:
            ways: classes of an episode's head; None for those of the config. Models that write have none.
            training: with dropout, where the learner takes it.
        """
        if ways is None:
            ways = self.config.episodes.ways if training else self.config.evaluation.ways
        return text_task_of(self.config).functions(self, ways, training)

    def encode(self, texts: Sequence[str]) -> EncodedTexts:
        """Encode texts as a classifier reads them."""
        rows = self.codec.sources(texts)
        lengths = np.array([len(row) for row in rows], np.int32)
        ids = np.full((len(rows), lengths.max(initial=0)), self.codec.pad, np.int32)
        for position, row in enumerate(rows):
            ids[position, : len(row)] = row
        width = self.config.model.ngram_width
        return EncodedTexts(ids, lengths, hashed_ngrams(texts, width) if width else None)

    def save(self, directory: Path) -> None:
        """Write the tokenizer, the tokens around texts, and a pretrained model's config and templates.

        Weights are not among it: a checkpoint or a saved model has them.
        """
        folder = directory / TOKENIZER
        if self.home is None:
            save_tokenizer(self.codec.tokenizer, folder)
            if self.config.record.head:
                return
        else:
            with atomic_files(folder) as partial:
                self.codec.tokenizer.save(str(partial / "tokenizer.json"))
                if self.codec.target_tokenizer is not None:
                    (partial / TARGET_TOKENIZER).mkdir()
                    self.codec.target_tokenizer.save(str(partial / TARGET_TOKENIZER / "tokenizer.json"))
            with atomic_files(directory / MODEL_OF_A_RUN, last="config.json") as partial:
                files = copied_files(self.home)
                if not files:
                    load_text_tokenizer(self.home).save_pretrained(str(partial))
                for name in files:
                    shutil.copyfile(self.home / name, partial / name)
                write_model_config(self.home, partial)
                write_vectors(partial, self.vectors, self.module.shape.last.block.width)
        around = {name: getattr(self.codec, name) for name in ("begin", "middle", "target_begin", "end", "pad")}
        if self.codec.prompt:
            around["prompt"] = self.codec.prompt
        write_text(folder / CODEC, strict_json.dumps(around) + "\n")


def _starts(
    config: Config, module: Transformer, loaded: Params | None
) -> tuple[Callable[[Key], Params], Callable[[Key], Params] | None]:
    """Return where training starts, and where it starts from nothing if that is another place."""
    rank = config.model.lora_rank
    if rank:
        _check_lora(config, module)
    adapted = lora_of_config(config.model).active

    def scratch(rng: Key) -> Params:
        with adapted():
            return new_params(module, rng)

    def start(rng: Key) -> Params:
        given = jax.tree.map(jnp.array, loaded)  # a copy: the first step of training gives its buffers away
        return unflatten_dict({**flatten_dict(scratch(rng)), **flatten_dict(given)}) if rank else given

    return (scratch, None) if loaded is None else (start, scratch)


def _check_lora(config: Config, module: Transformer) -> None:
    """Refuse a LoRA of matrices that the model does not have, which would add nothing.

    Raises:
        UserError: it has none of them.
    """
    targets = config.model.lora_targets
    matrices = {path.split("/")[-2] for path in leaves_of(module) if path.endswith("/kernel")}
    if not matrices.intersection(targets):
        there = ", ".join(name for name in get_args(LoraTarget) if name in matrices)
        raise UserError(f"model.lora_targets={list(targets)}: the model has none of them; set it to some of {there}")


def _module(config: Config, tokens: int, home: Path | None, weights: bool) -> tuple[Transformer, Params | None, Params]:
    """Return the module of a config, and the parameters of checkpoint and dense layers where they are read."""
    model, dtype = config.model, jnp.dtype(config.model.compute_dtype)
    classifies, head = config.record.head, text_task_of(config).head  # classifiers have a head of their own
    if model.pretrained is None and classifies:
        return text_encoder(model, vocab_size=tokens, max_length=config.tokenizer.max_length).transformer, None, {}
    if model.pretrained is None:
        sizes = {name: getattr(model, name) for name in ("width", "layers", "heads", "mlp_width", "dropout")}
        made = new_module(model.architecture, vocab_size=tokens, head=head, compute_dtype=dtype, **sizes)
        return made[1], None, {}
    assert home is not None
    head = reading_head(read_model_config(home)) if classifies else head
    dense: Params = {}
    if weights:
        from fewshot_jax.models.huggingface.load import load_pretrained

        pretrained = load_pretrained(model.pretrained, head=head, dtype=jnp.float32, compute_dtype=dtype)
        module, loaded, dense = pretrained.module, pretrained.params, pretrained.dense_params
    else:
        module, loaded = build(read_model_config(home), head, dtype), None
    found = module.shape.architecture
    if classifies and found == "encoder_decoder":
        raise UserError(f"{model.pretrained}: a classifier reads with one stack; give an encoder or a decoder")
    if not classifies and found != model.architecture:
        raise UserError(
            f"{model.pretrained}: this model is of architecture '{found}', not '{model.architecture}'; "
            "set model.architecture to it"
        )
    return module, loaded, dense


def files_of_model(config: Config, *, weights: bool = True) -> ModelFiles:
    """Find the files that ``model.pretrained`` names.

    Raises:
        UserError: as of `find_files`; it names the field.
    """
    assert config.model.pretrained is not None
    try:
        return find_files(config.model.pretrained, weights=weights)
    except UserError as error:
        raise UserError(f"{error} (model.pretrained)") from error


def fingerprint_of_model(config: Config) -> dict[str, str]:
    """A hash of the weights and the tokenizer that ``model.pretrained`` names, or their commit; {} for none."""
    if config.model.pretrained is None:
        return {}
    record = files_of_model(config).record()
    return {"model.pretrained": str(record["sha256"] or record["revision"])}
