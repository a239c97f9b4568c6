"""The directories of sentence-transformers: what makes one vector of a text, read from the files that say it.

modules.json                       the modules, in order: a transformer, its pooling, and what follows
config.json, model.safetensors     the transformer, in the directory itself or in a folder of it
1_Pooling/config.json              kinds of pooling
2_Dense/config.json, model.safetensors
sentence_bert_config.json          beside the transformer: most tokens of a text, lower case
config_sentence_transformers.json  prompts, and how vectors are compared

The format has no specification; these are the files and fields that sentence-transformers 6.2 and the releases before
it read (https://github.com/huggingface/sentence-transformers, ``load`` of each module).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import MappingProxyType
from typing import Any, NamedTuple

from fewshot_jax.errors import UserError, require
from fewshot_jax.models.gguf.architectures import pooling_of
from fewshot_jax.models.gguf.file import is_gguf, read_file
from fewshot_jax.models.huggingface.read_json import JsonObject, read_model_json, read_object
from fewshot_jax.models.pooling import POOLING_KINDS, DenseActivation, DenseLayer, PoolingKind, VectorShape, VectorStep

MODULES, PROMPTS, POOLING = "modules.json", "config_sentence_transformers.json", "config.json"
BODY_CONFIG = "sentence_bert_config.json"
_BODY_CONFIGS = (
    BODY_CONFIG,
    *(f"sentence_{kind}_config.json" for kind in ("roberta", "distilbert", "camembert", "albert", "xlm-roberta")),
)
_BODIES = ("Transformer", "BERT", "RoBERTa", "DistilBERT", "ALBERT", "CamemBERT", "XLMRoBERTa")  # 0.2 had many names
NO_LIMIT = 10**6  # a tokenizer that knows no limit says 10**30
# The fields of 1_Pooling/config.json before ``pooling_mode``, in the order in which several are joined.
OLD_POOLING: Mapping[str, PoolingKind] = MappingProxyType(
    {
        "pooling_mode_cls_token": "cls",
        "pooling_mode_max_tokens": "max",
        "pooling_mode_mean_tokens": "mean",
        "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
        "pooling_mode_weightedmean_tokens": "weightedmean",
        "pooling_mode_lasttoken": "lasttoken",
    }
)
ACTIVATIONS: Mapping[str, DenseActivation] = MappingProxyType(
    {
        "torch.nn.modules.linear.Identity": "identity",
        "torch.nn.modules.activation.Tanh": "tanh",
        "torch.nn.modules.activation.ReLU": "relu",
        "torch.nn.modules.activation.GELU": "gelu",
        "torch.nn.modules.activation.SiLU": "silu",
        "torch.nn.modules.activation.Sigmoid": "sigmoid",
    }
)


@dataclass(frozen=True, kw_only=True)
class TextVectors:
    """How a text becomes one vector; the default, of a directory that does not say it, is the mean of hidden states.

    Attributes:
        shape: from hidden states to the vector.
        include_prompt: whether the pooling counts the tokens of a prompt.
        prompts: texts that are put before others, by name.
        default_prompt: the name of the one that is meant where none is named; None for no prompt.
        max_length: most tokens of a text, those of the tokenizer included; None where nothing is said.
        lower_case: whether texts are made lower case before the tokenizer reads them.
        similarity: how vectors are meant to be compared (``"cosine"``, ``"dot"``, ...); None where nothing is said.
        stated: whether a directory said all this.
    """

    shape: VectorShape = field(default_factory=VectorShape)
    include_prompt: bool = True
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    max_length: int | None = None
    lower_case: bool = False
    similarity: str | None = None
    stated: bool = False

    def prompt(self, given: str | None) -> str:
        """The text that is put before others: of a name, the default one's for None, or the given text itself."""
        name = self.default_prompt if given is None else given
        return "" if name is None else self.prompts.get(name, name)


class VectorFiles(NamedTuple):
    """What a directory says of its vectors.

    Attributes:
        vectors: the description.
        body: the folder of the transformer: config.json, weights and tokenizer.
        dense: the folders of the dense layers, in order.
    """

    vectors: TextVectors
    body: Path
    dense: tuple[Path, ...] = ()


def holds_model(directory: Path) -> bool:
    """Whether a directory has the config of a model, of transformers or sentence-transformers."""
    return any((directory / name).is_file() for name in ("config.json", MODULES))


def read_vectors(path: Path) -> VectorFiles:
    """Read what makes one vector of a text in a directory, or of a GGUF file.

    A directory without modules.json is the transformer itself.

    Raises:
        UserError: a file is missing or damaged, or asks for what is not here.
    """
    if is_gguf(path):
        pooling_kind = pooling_of(read_file(path))
        stated = None if pooling_kind is None else TextVectors(shape=VectorShape(pooling=(pooling_kind,)), stated=True)
        return VectorFiles(stated or TextVectors(), path)
    file = path / MODULES
    if not file.is_file():
        return VectorFiles(TextVectors(), path)
    modules = _modules(file)
    kinds = [kind for kind, _ in modules]
    require(
        kinds[:2] == ["Transformer", "Pooling"] and not {"Transformer", "Pooling"} & set(kinds[2:]),
        f"{file}: names the modules {', '.join(kinds) or 'none'}; expected a Transformer, a Pooling, then Dense and "
        "Normalize in any number. Without modules.json the directory is read as a plain transformer with mean pooling",
    )
    (_, body), (_, pooling) = modules[:2]
    names, include_prompt, hidden = _pooling(pooling / POOLING)
    steps: list[VectorStep] = []
    for kind, folder in modules[2:]:
        if kind == "Dense":
            steps.append(_dense(folder / "config.json"))
        elif kind == "Normalize":
            _check_normalize(folder / "config.json")
            steps.append("normalize")
    dense = tuple(folder for kind, folder in modules if kind == "Dense")
    text = _prompts(path / PROMPTS)
    shape = VectorShape(pooling=names, steps=tuple(steps), outputs=text.pop("outputs"))
    _check_widths(pooling / POOLING, shape, hidden, dense)
    vectors = TextVectors(shape=shape, include_prompt=include_prompt, stated=True, **text, **_body(body))
    return VectorFiles(vectors, body, dense)


def check_hidden(path: Path, shape: VectorShape, hidden: int) -> None:
    """Raise a UserError if a transformer's hidden states are not as wide as its pooling and dense layers expect."""
    if shape.dense and shape.dense[0].inputs != len(shape.pooling) * hidden:
        raise UserError(
            f"{path}: the transformer gives {len(shape.pooling)} x {hidden} numbers to its first Dense module, which "
            f"takes {shape.dense[0].inputs}; copy modules.json and the folders that it names again from where the "
            "model came from"
        )


def _modules(file: Path) -> list[tuple[str, Path]]:
    """The kind and the folder of each module that computes something.

    Raises:
        UserError: a module is of a kind that is not here, or lies elsewhere.
    """
    listed = read_model_json(file)
    again = "copy it again from where the model came from"
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise UserError(f"{file}: is no list of modules; {again}")
    modules = []
    for one in listed:
        kind, folder = one.get("type"), one.get("path", "")
        if not isinstance(kind, str) or not isinstance(folder, str):
            raise UserError(f"{file}: a module has no type or path that is a text; {again}")
        package, _, name = kind.rpartition(".")
        known = package.split(".")[0] == "sentence_transformers"
        name = "Transformer" if name in _BODIES else name
        if not known or name not in ("Transformer", "Pooling", "Dense", "Normalize", "Dropout"):
            code = "" if known else ". Code that comes with a model is never run"
            raise UserError(
                f"{file}: the module '{kind}' is not supported, only Transformer, Pooling, Dense and Normalize of "
                f"sentence_transformers{code}. Take a model of these, or give a copy without modules.json, which is "
                "read as a plain transformer with mean pooling"
            )
        parts = (*PurePosixPath(folder).parts, *PureWindowsPath(folder).parts)
        inside = not (PurePosixPath(folder).is_absolute() or PureWindowsPath(folder).anchor or ".." in parts)
        require(inside and folder.isprintable(), f"{file}: the path {folder[:100]!r} leads out of the directory")
        if name != "Dropout":  # of training alone
            modules.append((name, file.parent / folder))
    return modules


def _pooling(file: Path) -> tuple[tuple[PoolingKind, ...], bool, int | None]:
    """The kinds of pooling, whether a prompt counts, and how wide hidden states are; None where it is not said."""
    record = read_object(file)
    given = record.values.get("pooling_mode")
    if given is None:
        old = [kind for name, kind in OLD_POOLING.items() if record.boolean(name, False)]
        kinds: list[Any] = [*old] or ["mean"]
    else:
        kinds = given if isinstance(given, list) else [given]
    if not kinds or any(kind not in POOLING_KINDS for kind in kinds):
        raise UserError(f"{file}: pooling_mode={given!r}: expected one or several of {', '.join(POOLING_KINDS)}")
    hidden = record.number("embedding_dimension", record.number("word_embedding_dimension", None))
    return tuple(kinds), record.boolean("include_prompt", True), hidden


def _dense(file: Path) -> DenseLayer:
    record = read_object(file)
    inputs, outputs = record.number("in_features", None), record.number("out_features", None)
    if inputs is None or outputs is None:
        raise UserError(f"{file}: lacks in_features or out_features; copy it again from where the model came from")
    _check_names(record)
    record.expect("use_residual", False)
    name = record.values.get("activation_function", "torch.nn.modules.activation.Tanh")
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise UserError(f"{file}: activation_function={name!r} is not supported, only {', '.join(ACTIVATIONS)}")
    return DenseLayer(inputs=inputs, outputs=outputs, bias=record.boolean("bias", True), activation=ACTIVATIONS[name])


def _check_normalize(file: Path) -> None:
    if file.is_file():
        _check_names(read_object(file))


def _check_names(record: JsonObject) -> None:
    """Refuse a module that reads or writes something else than the vector of a text."""
    record.expect("module_input_name", "sentence_embedding")
    record.expect("module_output_name", "sentence_embedding", None)


def _check_widths(file: Path, shape: VectorShape, hidden: int | None, dense: tuple[Path, ...]) -> None:
    """Refuse dense layers that do not take what stands before them."""
    width = None if hidden is None else len(shape.pooling) * hidden
    for layer, folder in zip(shape.dense, dense, strict=True):
        require(
            width in (None, layer.inputs),
            f"{folder / 'config.json'}: in_features={layer.inputs}, but the module before it gives {width} numbers "
            f"({file}); copy both again from where the model came from",
        )
        width = layer.outputs


def _prompts(file: Path) -> dict[str, Any]:
    """What is said of prompts, similarity and the kept numbers of a vector."""
    if not file.is_file():
        return {"outputs": None}
    record = read_object(file)
    record.expect("model_type", "SentenceTransformer", None)
    prompts = record.values.get("prompts") or {}
    name, similarity = (record.values.get(field) for field in ("default_prompt_name", "similarity_fn_name"))
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values() if text is not None):
        raise UserError(f"{file}: prompts: expected texts by name")
    prompts = {name: text or "" for name, text in prompts.items()}
    if name is not None and (not isinstance(name, str) or name not in prompts):
        raise UserError(f"{file}: default_prompt_name={name!r} is none of the prompts ({', '.join(prompts) or 'none'})")
    if similarity is not None and not isinstance(similarity, str):
        raise UserError(f"{file}: similarity_fn_name={similarity!r}: expected a text")
    return {
        "prompts": prompts,
        "default_prompt": name,
        "similarity": similarity,
        "outputs": record.number("truncate_dim", None),
    }


def _body(folder: Path) -> dict[str, Any]:
    """What is said beside the transformer: the longest text, and whether texts are made lower case."""
    file = next((folder / name for name in _BODY_CONFIGS if (folder / name).is_file()), None)
    record = JsonObject(folder, {}) if file is None else read_object(file)
    record.expect("transformer_task", "feature-extraction")
    record.expect("module_output_name", "token_embeddings", None)
    modalities = record.values.get("modality_config", {"text": {}})
    if not isinstance(modalities, dict) or "text" not in modalities or "message" in modalities:
        raise UserError(f"{file}: modality_config: only models that read plain texts are supported")
    longest = record.number("max_seq_length", None)
    if longest is None and (folder / "tokenizer_config.json").is_file():
        # Newer releases write the limit there alone.
        given = read_object(folder / "tokenizer_config.json").values.get("model_max_length")
        longest = given if isinstance(given, int) and 0 < given < NO_LIMIT else None
    return {"max_length": longest, "lower_case": record.boolean("do_lower_case", False)}
