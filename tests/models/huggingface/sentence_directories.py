"""Small directories in the format of sentence-transformers, one for each thing that such a directory can say."""

import dataclasses
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertTokenizerFast, PreTrainedTokenizerFast

import fewshot_jax as fsj
from tests.models.huggingface.tiny import VOCABULARY, tiny

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["red", "green", "blue", "query", "text", "is", "the", ":", "a", "b", "c", "on", "off", "light"]
TEXTS = [
    "the light is red",
    "green",
    "",
    "The LIGHT is Off on the blue green a b c on off the red light",
    "a b",
    "query : is the light blue",
]
HIDDEN = 16
_ACTIVATION = "torch.nn.modules.{}"
DENSE = {
    "in_features": 16,
    "out_features": 6,
    "bias": True,
    "activation_function": _ACTIVATION.format("activation.Tanh"),
}
PLAIN = {
    "in_features": 6,
    "out_features": 4,
    "bias": False,
    "activation_function": _ACTIVATION.format("linear.Identity"),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A directory: the transformer's kind and folder, and what the JSON files say."""

    pooling: dict
    steps: tuple = ()  # "Normalize", or the config of a Dense
    model: str = "bert"
    folder: str = ""
    body: str = "sentence_bert_config.json"
    limits: dict = dataclasses.field(default_factory=dict)
    prompts: dict = dataclasses.field(default_factory=dict)
    vocabulary_alone: bool = False


def old(*kinds):
    """The fields of old releases."""
    return {f"pooling_mode_{kind}": True for kind in kinds} | {"word_embedding_dimension": HIDDEN}


def new(*kinds, **more):
    """The fields of new releases."""
    return {"embedding_dimension": HIDDEN, "pooling_mode": kinds[0] if len(kinds) == 1 else list(kinds), **more}


PROMPTS = {"prompts": {"query": "query : ", "none": ""}, "default_prompt_name": "query"}
CASES = {
    "cls": Case(old("cls_token")),
    "mean": Case(old("mean_tokens")),
    "max": Case(new("max")),
    "mean_sqrt_len": Case(old("mean_sqrt_len_tokens")),
    "weightedmean": Case(new("weightedmean")),
    "lasttoken": Case(old("lasttoken")),
    "several, old": Case(old("mean_tokens", "cls_token", "max_tokens", "lasttoken"), ("Normalize",)),
    "several, own order": Case(new("weightedmean", "cls")),
    "nothing chosen": Case({"word_embedding_dimension": HIDDEN}),
    "normalize": Case(old("mean_tokens"), ("Normalize",)),
    "dense": Case(old("mean_tokens"), (DENSE,)),
    "two dense, normalize": Case(new("mean"), ("Normalize", DENSE, PLAIN, "Normalize")),
    **{
        f"dense, {name}": Case(
            new("mean"), ({**DENSE, "activation_function": _ACTIVATION.format(f"activation.{name}")},)
        )
        for name in ("ReLU", "GELU", "SiLU", "Sigmoid")
    },
    "prompt": Case(old("mean_tokens"), prompts=PROMPTS),
    "prompt left out, mean": Case(new("mean", include_prompt=False), prompts=PROMPTS),
    "prompt left out, others": Case(
        new("cls", "max", "weightedmean", "lasttoken", include_prompt=False), prompts=PROMPTS
    ),
    "longest": Case(old("mean_tokens"), limits={"max_seq_length": 6}),
    "lower case": Case(old("mean_tokens"), limits={"max_seq_length": None, "do_lower_case": True}),
    "some numbers": Case(new("mean"), ("Normalize",), prompts={"truncate_dim": 5}),
    "old layout": Case(
        old("mean_tokens"),
        folder="0_Transformer",
        body="sentence_roberta_config.json",
        limits={"max_seq_length": 8},
        vocabulary_alone=True,
    ),
    "decoder": Case(new("lasttoken"), ("Normalize",), model="llama"),
}


def write_directory(directory, case):
    """Write the directory of a case."""
    fsj.save_pretrained(directory / case.folder, tiny(case.model, None))
    return write_description(directory, case)


def write_description(directory, case):
    """Write all but the transformer."""
    body = directory / case.folder
    body.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(body, case)
    (body / case.body).write_text(json.dumps(case.limits), encoding="utf-8")
    modules = [(case.folder, "Transformer"), ("1_Pooling", "Pooling")]
    _write(directory / "1_Pooling", case.pooling)
    for i, step in enumerate(case.steps, 2):
        modules.append((f"{i}_Normalize", "Normalize") if step == "Normalize" else (f"{i}_Dense", "Dense"))
        if step != "Normalize":
            _write(directory / f"{i}_Dense", step)
            save_file(_dense_weights(step), directory / f"{i}_Dense" / "model.safetensors")
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(modules)
    ]
    (directory / "modules.json").write_text(json.dumps(listed), encoding="utf-8")
    (directory / "config_sentence_transformers.json").write_text(json.dumps(case.prompts), encoding="utf-8")
    return directory


def _write(folder: Path, content):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")


def _dense_weights(config):
    rng = np.random.default_rng(0)
    shapes = {"linear.weight": (config["out_features"], config["in_features"])}
    shapes |= {"linear.bias": (config["out_features"],)} if config["bias"] else {}
    return {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


def _write_tokenizer(body: Path, case):
    vocabulary = [*SPECIAL, *WORDS, *(f"word{i}" for i in range(VOCABULARY - len(SPECIAL) - len(WORDS)))]
    if case.model == "bert":
        (body / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
        if not case.vocabulary_alone:
            lower = not case.limits.get("do_lower_case", False)
            BertTokenizerFast(str(body / "vocab.txt"), do_lower_case=lower).save_pretrained(str(body))
        return
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A [SEP]", special_tokens=[("[SEP]", 3)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", eos_token="[SEP]", model_max_length=20
    ).save_pretrained(str(body))
