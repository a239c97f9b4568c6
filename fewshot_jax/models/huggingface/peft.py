"""LoRA in the format of peft: ``adapter_config.json`` and ``adapter_model.safetensors``, both ways."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from fewshot_jax import strict_json
from fewshot_jax.atomic_write import cannot_write
from fewshot_jax.errors import UserError, require
from fewshot_jax.models.adapters import Adapter, combined, only
from fewshot_jax.models.huggingface.lora_matrices import (
    ROOT,
    Layout,
    describe_matrices,
    fits,
    layout_of,
    leaves_of_pairs,
    matrix_parts,
    shapes_of,
    stacked,
    taken,
)
from fewshot_jax.models.huggingface.mapping import Rule
from fewshot_jax.models.huggingface.pretrained import Pretrained, misfit, prefix_of
from fewshot_jax.models.huggingface.read_json import read_model_json
from fewshot_jax.models.huggingface.tensors import Checkpoint
from fewshot_jax.models.huggingface.writer import TensorSource, atomic_checkpoint, write_checkpoint
from fewshot_jax.models.lora import A, B, lora, lora_of
from fewshot_jax.types import Params

_STEM, _CONFIG = "adapter_model", "adapter_config.json"
_TASKS = {"classification": "SEQ_CLS", "span": "QUESTION_ANS", "causal_lm": "CAUSAL_LM"}
# Fields of a config that would mean more than plain LoRA, and what they may be.
_PLAIN: dict[str, Any] = {
    **{"peft_type": "LORA", "use_dora": False, "bias": "none", "lora_bias": False, "use_qalora": False},
    **dict.fromkeys(("alora_invocation_tokens", "layer_replication", "target_parameters", "use_bdlora")),
    **dict.fromkeys(("kasa_config", "monteclora_config", "velora_config", "arrow_config", "megatron_config")),
}
# Initialisations that leave the base model's weights alone; the others change them when peft loads the adapter.
_STARTS = (True, False, None, "gaussian", "orthogonal", "eva", "mica")


def save_adapter(path: str | Path, pretrained: Pretrained, trained: Params, adapter: Adapter) -> None:
    """Write trained LoRA matrices and the head as peft reads them.

    An ``AutoPeftModel`` looks for the base model where ``pretrained`` was read from; for one with a created head
    write that with `save_pretrained` first, and load it. The head is written always: the trained one, or that
    of ``pretrained``; but for a head of a language model that was not trained and is in the base
    model's checkpoint. Where the checkpoint has one matrix for several layers of ours (queries, keys and
    values of GPT-2), their changes become one, whose rank is the sum of theirs.

    Args:
        path: the directory, made if need be; files of the same names are replaced.
        pretrained: the base model.
        trained: LoRA leaves, and perhaps the head's, as `Adapter.split` gives them.
        adapter: what they were trained with.

    Raises:
        ValueError: ``trained`` holds no LoRA leaves, or others than those of the body and the head's, or is
            not the adapter's: all that do not fit are named.
        UserError: the directory cannot be written.

    References:
        The format: https://huggingface.co/docs/peft, "Checkpoint format".
    """
    path, flat, own = Path(path), flatten_dict(trained, sep="/"), lora_of(adapter)
    layout = layout_of(pretrained)
    _check(layout, flat, own.rank)
    adapter.check(trained)
    pairs = {
        dense: stacked(dense, flat)
        for dense in layout.dense
        if any(f"{target}/{A}" in flat for target in dense.targets)
    }
    tensors = [
        _tensor(f"{name}.lora_{side}.weight", array[i])
        for dense, pair in pairs.items()
        for side, array in zip("AB", pair, strict=True)
        for i, name in dense.each()
    ]
    head = _head(pretrained, layout.head, flat)
    tensors += [_tensor(name, array) for name, array in head.items()]
    ranks = {dense.regex: a.shape[1] for dense, (a, _) in pairs.items()}
    ((rank, _),) = Counter(ranks.values()).most_common(1)
    other = {regex: r for regex, r in ranks.items() if r != rank}
    config = {
        "peft_type": "LORA",
        "task_type": "SEQ_2_SEQ_LM" if _writes_answers(pretrained) else _TASKS.get(pretrained.head or ""),
        **_base_of(pretrained),
        "r": rank,
        "lora_alpha": _whole(own.alpha * rank / own.rank),
        "rank_pattern": other,
        "alpha_pattern": {regex: _whole(own.alpha * r / own.rank) for regex, r in other.items()},
        "target_modules": "|".join(f"({regex})" for regex in ranks),
        "modules_to_save": sorted({_module(pretrained, name) for name in head}) or None,
        "fan_in_fan_out": pretrained.config.model_type == "gpt2",
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }
    try:
        with atomic_checkpoint(path, stem=_STEM, key=_CONFIG) as partial:
            (partial / _CONFIG).write_text(strict_json.dumps(config, indent=2) + "\n", encoding="utf-8")
            write_checkpoint(partial, tensors, stem=_STEM, max_shard_bytes=2**62)  # peft reads no shards
    except OSError as error:
        raise cannot_write(path, error) from error


def _base_of(pretrained: Pretrained) -> dict[str, str | None]:
    """Where peft finds the base model: its directory, or its name on the hub and the commit."""
    if pretrained.name is None or pretrained.revision is None:
        return {"base_model_name_or_path": None if pretrained.path is None else str(pretrained.path)}
    return {"base_model_name_or_path": pretrained.name.partition("@")[0], "revision": pretrained.revision}


def load_adapter(path: str | Path, pretrained: Pretrained) -> tuple[Params, Adapter]:
    """Read LoRA matrices, and the head saved with them, that peft or `save_adapter` wrote.

    Args:
        path: the directory.
        pretrained: the base model, with the head that the adapter has.

    Returns:
        The trained parameters, and their adapter: ``adapter.bind(pretrained.module)`` computes with them,
        over what ``pretrained.split(adapter)`` says is frozen. In layers that peft left out the matrices are
        zero, and stay so in training.

    Raises:
        UserError: the files are not what they should be, or ask for more than LoRA; all tensors that are
            missing, left over or of another shape are named at once.
    """
    path = Path(path)
    config, layout = _read_config(path / _CONFIG), layout_of(pretrained)
    with Checkpoint(path, stem=_STEM) as checkpoint:
        found = {name: checkpoint.view(name) for name in checkpoint.tensors}
        problems: list[str] = []
        pairs = {dense: taken(dense, config, found, problems) for dense in layout.dense}
        pairs = {dense: of_layer for dense, of_layer in pairs.items() if of_layer}
        head = _read_head(pretrained, layout, found, problems)  # what is left in `found` nobody knows
        problems += [
            f"{name} {list(array.shape)} is not LoRA of the model's body, nor its head" for name, array in found.items()
        ]
        if problems:
            raise misfit(
                f"{path}: does not fit the model, which is {pretrained.config.model_type} with head="
                f"{pretrained.head!r} (it was made for {config['made_for']}, task {config['task']}); load the base "
                "model with the adapter's head (head=, num_labels=)",
                problems,
            )
        require(bool(pairs), f"{path}: holds no LoRA matrices")
        ours = [(dense, *part) for dense, of_layer in pairs.items() for part in matrix_parts(dense, of_layer).items()]
        every = [pair for _, _, of_layer in ours for pair in of_layer.values()]
        rank = max(len(pair.a) for pair in every)
        ((scale, _),) = Counter(pair.scale for pair in every).most_common(1)
        flat = dict(head)
        for dense, target, of_layer in ours:
            flat |= leaves_of_pairs(dense, target, of_layer, rank, scale)
    targets = sorted(target for _, target, _ in ours)
    adapter = lora(
        rank=rank, alpha=_whole(scale * rank), targets="|".join(f"^{re.escape(target)}$" for target in targets)
    )
    if head:
        adapter = combined(adapter, only("|".join(f"^{re.escape(name)}$" for name in sorted(head))))
    return unflatten_dict({name: jnp.asarray(leaf) for name, leaf in flat.items()}, sep="/"), adapter


def _check(layout: Layout, flat: Mapping[str, Any], rank: int) -> None:
    """Raise a ValueError that names all leaves that are not the model's, are missing or of another shape."""
    expected = {rule.target: layout.leaves[rule.target].shape for rule in layout.head}
    for dense in layout.dense:
        expected |= shapes_of(dense, rank)
    problems = []
    for name, leaf in sorted(flat.items()):
        other = {A: B, B: A}.get(name.rpartition("/")[2])
        if name not in expected:
            kind = "LoRA of the head" if other and name.startswith("head/") else "not LoRA of this model or its head"
            problems.append(f"{name} ({kind})")
        elif leaf.shape != expected[name]:
            problems.append(f"{name} (shape {leaf.shape}, expected {expected[name]}; one task's tree is saved)")
        elif other and f"{name.rpartition('/')[0]}/{other}" not in flat:
            problems.append(f"{name} (without its {other})")
    if problems:
        raise ValueError(f"peft's format takes LoRA of the model's body and the whole head, not {', '.join(problems)}")
    if not any(name.endswith(f"/{A}") for name in flat):
        raise ValueError("trained has no LoRA leaves")


def _whole(number: float) -> float:
    """Without the error of a division; an int where it is one, as peft writes it."""
    number = float(f"{number:.12g}")
    return int(number) if number == int(number) else number


def _tensor(name: str, array: np.ndarray) -> TensorSource:
    return TensorSource(ROOT + name, array.dtype, array.shape, lambda: array)


def _head(pretrained: Pretrained, rules: Sequence[Rule], flat: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The head's tensors that are saved, by their names."""
    base = flatten_dict(pretrained.params, sep="/")
    trained = {rule for rule in rules if rule.target in flat}
    if pretrained.head in ("causal_lm", "masked_lm") and not trained and not pretrained.created:
        return {}
    buffers = {rule for rule in rules if "." not in rule.source}  # BART's final_logits_bias: part of no module
    if moved := sorted(rule.target for rule in buffers & trained):
        raise ValueError(f"peft's format has no place for {', '.join(moved)}; freeze it")
    saved = {
        rule.source: rule.to_stored(np.asarray(flat.get(rule.target, base[rule.target])))
        for rule in rules
        if rule not in buffers
    }
    return {**saved, **_copies(pretrained, saved)}


def _copies(pretrained: Pretrained, head: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What torch's modules of a head hold beside its tensors: an output layer that is the embedding, a bias twice."""
    family, kind = pretrained.family, pretrained.head
    both = [*family.copies.items(), *((name, copy) for copy, name in family.copies.items())]
    copies = {copy: head[name] for copy, name in both if name in head and copy not in head}
    own = pretrained.module.shape.head
    if head and kind is not None and own is not None and own.kind in ("causal_lm", "masked_lm") and own.tied:
        outputs = [rule.source for rule in family.heads[kind] if rule.target == "head/output/kernel"]
        copies |= dict.fromkeys(outputs, np.asarray(pretrained.params["token_embedding"]["embedding"]))
    return copies


def _module(pretrained: Pretrained, name: str) -> str:
    """The module of a head's tensor that peft copies: the outermost one, or, in the body, the tensor's own."""
    prefix = prefix_of(pretrained.family, pretrained.head)
    return name.rpartition(".")[0] if prefix and name.startswith(prefix) else name.partition(".")[0]


def _writes_answers(pretrained: Pretrained) -> bool:
    return pretrained.head == "causal_lm" and pretrained.module.shape.encoder is not None


def _read_config(file: Path) -> dict[str, Any]:
    """The fields of a config that are used, checked."""
    raw = read_model_json(file)
    require(isinstance(raw, dict), f"{file}: is not a JSON object")
    for name, plain in _PLAIN.items():
        require(
            raw.get(name, plain) in (plain, None), f"{file}: {name}={raw.get(name)!r} is not supported, only {plain!r}"
        )
    start = raw.get("init_lora_weights")
    require(
        any(start is known or (isinstance(known, str) and start == known) for known in _STARTS),
        f"{file}: init_lora_weights={start!r} changes the base model's weights, which is not supported; save it from "
        "peft with path_initial_model_for_weight_conversion, which makes plain LoRA of it",
    )
    numbers = [("r", raw.get("r")), ("lora_alpha", raw.get("lora_alpha"))]
    patterns = {name: raw.get(name) or {} for name in ("rank_pattern", "alpha_pattern")}
    for name, pattern in patterns.items():
        require(isinstance(pattern, dict), f"{file}: {name} is not a JSON object")
        numbers += [(f"{name}[{key!r}]", value) for key, value in pattern.items()]
        for key in pattern:
            try:
                re.compile(key)
            except re.error as error:
                raise UserError(f"{file}: {name}: {key!r} is not a regular expression ({error})") from None
    for name, value in numbers:
        whole = name == "r" or name.startswith("rank")
        kinds = (int,) if whole else (int, float)
        good = type(value) in kinds and math.isfinite(value) and value > 0
        require(good, f"{file}: {name}={value!r}: expected a positive {'integer' if whole else 'number'}")
    source = {"made_for": raw.get("base_model_name_or_path"), "task": raw.get("task_type")}
    return {"r": raw["r"], "lora_alpha": raw["lora_alpha"], "rslora": bool(raw.get("use_rslora")), **patterns, **source}


def _read_head(
    pretrained: Pretrained, layout: Layout, found: dict[str, np.ndarray], problems: list[str]
) -> dict[str, np.ndarray]:
    """The head's leaves, taken out of what was found."""
    head: dict[str, np.ndarray] = {}
    stored: dict[str, np.ndarray] = {}
    for rule in layout.head:
        array, shape = found.pop(ROOT + rule.source, None), layout.leaves[rule.target].shape
        if array is None:
            continue
        if fits(array, rule.stored_shape(shape)):
            stored[rule.source], head[rule.target] = array, rule.to_leaf(array, shape).astype(np.float32)
        else:
            problems.append(
                f"{ROOT}{rule.source} has {describe_matrices(array)}, expected shape {list(rule.stored_shape(shape))}"
            )
    for name, copy in _copies(pretrained, stored).items():
        array = found.pop(ROOT + name, None)
        if array is not None and not np.array_equal(array, copy):
            problems.append(f"{ROOT}{name} is not what it copies in the base model")
    return head
