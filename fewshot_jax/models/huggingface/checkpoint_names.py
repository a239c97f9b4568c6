"""The names of a checkpoint's tensors: prefixes of wrappers, of a body under a head, and what may be left unread."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from fewshot_jax.errors import UserError
from fewshot_jax.models.huggingface.family import Family, FamilyConfig
from fewshot_jax.models.huggingface.mapping import LAYER, Rule
from fewshot_jax.models.language_head import HeadKind
from fewshot_jax.models.mapped_files import Tensors

_WRAPPED = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


def modern_names(path: Path, checkpoint: Tensors, family: Family) -> tuple[dict[str, str], str]:
    """Names as they are today to names in the file, and the prefix of a wrapper that is taken off, "" for none.

    The first BERTs called a norm's scale and bias gamma and beta. Wrappers put their names before all others, or
    (a compiled or checkpointed part of a model) between them.

    Raises:
        UserError: several prefixes stand before the body of a model: nobody can say which is meant.
    """
    renamed = {"gamma": "weight", "beta": "bias"}
    modern = {
        name: re.sub(r"(?<=LayerNorm\.)(gamma|beta)$", lambda found: renamed[found[0]], name)
        for name in checkpoint.tensors
    }
    inner = {name: _WRAPPED.sub("", now) for name, now in modern.items()}
    wrappers = _wrappers(family, inner.values())
    if len(wrappers) > 1:
        raise UserError(
            f"{path}: holds {len(wrappers)} models, whose tensors' names begin with "
            f"{', '.join(map(repr, wrappers))}; expected one: save the one that is meant alone, with transformers' "
            "save_pretrained"
        )
    wrapper = wrappers[0] if wrappers else ""
    inner = {name: now.removeprefix(wrapper) for name, now in inner.items()}
    if len(set(inner.values())) < len(inner):  # two models in one file: nobody can say which is meant
        return {now: name for name, now in modern.items()}, ""
    between = next((found[0] for now in modern.values() if (found := _WRAPPED.search(now))), "")
    return {now: name for name, now in inner.items()}, wrapper or between


def _wrappers(family: Family, names: Iterable[str]) -> list[str]:
    """What stands before the names of a body and is no prefix of the family, as ``module.`` of torch's DDP.

    Nothing where one body has names of the family, whatever else is in the file. One name alone is no body.
    """
    sources = {rule.source.replace(LAYER, "0") for rule in family.body}
    own = sorted({family.prefix, *family.prefixes.values(), ""}, key=len, reverse=True)
    found = Counter(
        before.removesuffix(next(prefix for prefix in own if before.endswith(prefix)))
        for name in names
        for source in sources
        if name.endswith(f".{source}") or name == source
        for before in [name.removesuffix(source)]
    )
    bodies = sorted(wrapper for wrapper, count in found.items() if count > 1)
    return [] if "" in bodies else bodies


def body_prefix(family: Family, names: dict[str, str]) -> str:
    """The prefix under which most of the body's names are found: with a head there is one, without there is none."""
    sources = [rule.source.replace(LAYER, "0") for rule in family.body]
    candidates = dict.fromkeys((family.prefix, *family.prefixes.values(), ""))
    return max(candidates, key=lambda prefix: sum(prefix + source in names for source in sources))


def tensor_of(rule: Rule, names: dict[str, str], index: tuple[int, ...]) -> str | None:
    """The tensor of a rule in the file."""
    candidates = (name.format(*index) for name in (rule.source, *rule.others))
    return next((names[name] for name in candidates if name in names), None)


def left_over(
    family: Family, config: FamilyConfig, kind: HeadKind | None, names: dict[str, str], *, other_head: bool
) -> tuple[list[str], list[str]]:
    """Tensors that nothing was read from: those that may be left, and those that nobody knows.

    Where the head is not the checkpoint's own, all that is outside of the body is another head's.
    """
    prefixes = {family.prefix, *family.prefixes.values(), ""}
    heads = {name for rules in family.heads.values() for rule in rules for name in (rule.source, *rule.others)}
    body = {rule.source for rule in (*family.body, *family.more(config))}
    again = {prefix + name for prefix in prefixes for rule in family.body for name in rule.others}
    patterns = [*family.ignored, *map(re.escape, sorted(heads | again))]
    if kind == "encoder":
        patterns += [rf"{re.escape(prefix)}decoder\..*" for prefix in prefixes]
    known = re.compile("|".join(patterns))
    roots = tuple(f"{prefix}{source.split('.')[0]}." for prefix in prefixes for source in body)
    ignored: list[str] = []
    unknown: list[str] = []
    for modern, name in sorted(names.items()):
        foreign = (kind is None or other_head) and not modern.startswith(roots)
        (ignored if foreign or known.fullmatch(modern) else unknown).append(name)
    return ignored, unknown
