"""Small trainable trees over frozen shared weights: LoRA, prefixes, bottlenecks, norms, heads.

An `Adapter` says which parameters are trained and what a model computes with those that are new.
`lora.lora`, `prefix.prefix`, `bottleneck.bottleneck` and `only` make one, `combined` joins several:

    adapter = combined(lora(rank=8), only("^head/"))
    trained, frozen = adapter.split(params, init)      # two trees of arrays
    apply = adapter.bind(module)                       # apply(trained, frozen, ...) is module.apply(...)
    print(trainable(trained, frozen))

``trained`` is what a learner adapts and meta-learns, ``frozen`` goes by ``frozen=``: under a ``vmap``
over tasks it stays one shared copy, and no optimizer sees it.
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from fewshot_jax.types import Params


class Adapter(NamedTuple):
    """Which parameters are trained, and what they do.

    Attributes:
        name: as in ``"lora(rank=8)"``.
        trained: regular expression searched in the paths of the trained leaves.
        active: a new context; modules that are initialised or applied inside it have the new parameters.
        scale: what LoRA's products are multiplied by; None for an adapter without LoRA.
    """

    name: str
    trained: str
    active: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
    scale: float | None = None

    def split(self, params: Params, init: Callable[[], Params]) -> tuple[Params, Params]:
        """Trained and frozen parameters, the new ones initialised.

        Args:
            params: of the base model, a nested dict; it may hold more than that.
            init: initialises the same model or a part of it; only what is new is computed.

        Returns:
            Two nested dicts that share no leaf; `join` makes one of them.

        Raises:
            ValueError: nothing would be trained, or ``params`` is not of the model that ``init`` makes.
        """
        flat = flatten_dict(params, sep="/")
        with self.active():
            new = flatten_dict(jax.eval_shape(init), sep="/").keys() - flat.keys()
            made = jax.jit(lambda: {path: leaf for path, leaf in flatten_dict(init(), sep="/").items() if path in new})
            flat |= made()
        if strange := sorted(path for path in new if not re.search(self.trained, path)):
            raise ValueError(f"{self.name}: params lacks {', '.join(strange)}, which the model has")
        trained = {path for path in flat if re.search(self.trained, path)}
        if not trained:
            layers = sorted({path.rpartition("/")[0] for path in flat})
            raise ValueError(f"{self.name}: nothing to train; the layers are {', '.join(layers)}")
        parts = ({path: leaf for path, leaf in flat.items() if (path in trained) is side} for side in (True, False))
        first, second = (unflatten_dict(part, sep="/") for part in parts)
        return first, second

    def bind(self, module: nn.Module) -> Callable[..., Any]:
        """``(trained, frozen, *args, **keywords)`` to ``module.apply({"params": ...}, *args, **keywords)``."""

        def apply(trained: Params, frozen: Params, *args: Any, **keywords: Any) -> Any:
            with self.active():
                return module.apply({"params": join(trained, frozen)}, *args, **keywords)

        return apply


def join(trained: Params, frozen: Params) -> Params:
    """The whole tree of two parts.

    Raises:
        ValueError: they share a leaf.
    """
    first, second = flatten_dict(trained, sep="/"), flatten_dict(frozen, sep="/")
    if both := first.keys() & second.keys():
        raise ValueError(f"trained and frozen parameters share {', '.join(sorted(both))}")
    return unflatten_dict({**second, **first}, sep="/")


def checked_pattern(pattern: str, name: str) -> re.Pattern[str]:
    """A regular expression.

    Raises:
        ValueError: it is none.
    """
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{name}={pattern!r}: not a regular expression ({error})") from None


def only(pattern: str) -> Adapter:
    """Train some of the model's own parameters.

    Args:
        pattern: regular expression on paths: ``"^head/"`` for the head alone, ``"norm"`` for the norms,
            ``"bias"`` for the biases.

    References:
        Zhao et al. Tuning LayerNorm in Attention: Towards Efficient Multi-Modal LLM Finetuning. ICLR 2024.
        Ben Zaken, Ravfogel, Goldberg. BitFit. ACL 2022 (biases).
    """
    checked_pattern(pattern, "pattern")
    return Adapter(f"only({pattern!r})", pattern)


def combined(*adapters: Adapter) -> Adapter:
    """Several adapters at once: LoRA and the head, say.

    Raises:
        ValueError: there is none, or more than one LoRA, whose leaves have the same names.
    """
    if not adapters:
        raise ValueError("combined() needs at least one adapter")
    scales = [adapter.scale for adapter in adapters if adapter.scale is not None]
    if len(scales) > 1:
        raise ValueError("combined() takes one lora(): give it the targets of both")

    @contextlib.contextmanager
    def active() -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for adapter in adapters:
                stack.enter_context(adapter.active())
            yield

    names = ", ".join(adapter.name for adapter in adapters)
    pattern = "|".join(f"({adapter.trained})" for adapter in adapters)
    return Adapter(f"combined({names})", pattern, active, *scales)


class Counts(NamedTuple):
    """Numbers of parameters. Attributes: ``trained``, and ``total`` of the model with them."""

    trained: int
    total: int

    def __str__(self) -> str:
        return f"{self.trained:,} of {self.total:,} parameters are trained ({100 * self.trained / self.total:.3g}%)"


def trainable(trained: Params, frozen: Params) -> Counts:
    """How many parameters are trained; print it."""
    own, rest = (sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (trained, frozen))
    return Counts(own, own + rest)
