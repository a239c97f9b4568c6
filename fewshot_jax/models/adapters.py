"""Small trainable trees over frozen shared weights: LoRA, prefixes, bottlenecks, norms, heads.

An `Adapter` says which parameters are trained and what a model computes with those that are new.
`lora.lora`, `prefix.prefix`, `bottleneck.bottleneck` and `only` make one, `combined` joins several:

    adapter = combined(lora(rank=8), only("^head/"))
    trained, frozen = adapter.split(params, init)      # two trees of arrays
    apply = adapter.bind(module)                       # apply(trained, frozen, ...) is module.apply(...)
    print(trainable(trained, frozen))

``trained`` is what a learner adapts and meta-learns, ``frozen`` goes by ``frozen=``: under a ``vmap``
over tasks it stays one shared copy, and no optimizer updates it.
"""

import contextlib
import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from fewshot_jax.models.dense import Param, changed_dense
from fewshot_jax.types import Params


@dataclass(frozen=True, kw_only=True)
class Addition:
    """Parameters that are added to a model.

    Attributes:
        order: of several in one model; no two of one kind.
        leaves: regular expression that the names of its leaves match in full.
    """

    order: ClassVar[int]
    leaves: ClassVar[str]

    def has(self, path: str) -> bool:
        """Whether a leaf is one of its own."""
        return re.fullmatch(self.leaves, path.rpartition("/")[2]) is not None

    def misfit(self, layer: str, leaf: str, shape: tuple[int, ...]) -> str | None:
        """Why it would not use a leaf of one of its names in a layer; None if it does."""
        raise NotImplementedError

    def change(self, path: str, x: jax.Array, y: jax.Array, param: Param) -> jax.Array:
        """The output of a dense layer, given its path, input ``[..., in]`` and own output ``[..., out]``."""
        del path, x, param
        return y


_active = jax.make_user_context(())  # a part of jit's cache key: no trace from outside is met inside


def current_adapter() -> tuple[Addition, ...]:
    """What is added to a module that is traced now, in order."""
    return _active.value


@dataclass(frozen=True)
class Adapter:
    """Which parameters are trained, and what is added to a model to have them.

    Attributes:
        name: as in ``"lora(rank=8)"``.
        added: what is added, in order.
        own: regular expressions searched in the paths of the model's own trained leaves.
    """

    name: str
    added: tuple[Addition, ...] = ()
    own: tuple[str, ...] = ()

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """A context; modules that are initialised or applied inside it have the new parameters, and no others."""
        with _active(self.added), changed_dense([addition.change for addition in self.added]):
            yield

    def is_new(self, path: str) -> bool:
        """Whether a leaf is one of those added."""
        return any(addition.has(path) for addition in self.added)

    def is_trained(self, path: str) -> bool:
        """Whether a leaf is trained."""
        return self.is_new(path) or any(re.search(pattern, path) for pattern in self.own)

    def split(self, params: Params, init: Callable[[], Params]) -> tuple[Params, Params]:
        """Trained and frozen parameters, the new ones initialised.

        Args:
            params: of the base model, a nested dict; it may hold more than that.
            init: initialises the same model or a part of it; only what is new is computed.

        Returns:
            Two nested dicts that share no leaf; `join` makes one of them. The trained leaves are copies.

        Raises:
            ValueError: a part of the adapter trains nothing, or ``params`` is not of the model that ``init`` makes.
        """
        flat = flatten_dict(params, sep="/")
        with self.active():
            shapes = flatten_dict(jax.eval_shape(init), sep="/")
            new = shapes.keys() - flat.keys()
            made = jax.jit(lambda: {path: leaf for path, leaf in flatten_dict(init(), sep="/").items() if path in new})
            problems = [f"lacks {path}" for path in sorted(new) if not self.is_new(path)]
            problems += [
                f"has {path} of shape {flat[path].shape}, not {leaf.shape}"
                for path, leaf in shapes.items()
                if path in flat and flat[path].shape != leaf.shape
            ]
            if problems:
                raise ValueError(f"{self.name}: params is not of this model, it {', '.join(problems)}")
            whole = {**flat, **made()}
        unused = [str(addition) for addition in self.added if not any(map(addition.has, whole))]
        unused += [repr(pattern) for pattern in self.own if not any(re.search(pattern, path) for path in whole)]
        if unused:
            layers = sorted({path.rpartition("/")[0] for path in flat})
            raise ValueError(f"{self.name}: {' and '.join(unused)} match no layer; there are {', '.join(layers)}")
        trained = {path for path in whole if self.is_trained(path)}
        # Copies, because a training step may donate what it trains.
        first = {path: jnp.copy(whole[path]) for path in sorted(trained)}
        second = {path: leaf for path, leaf in whole.items() if path not in trained}
        return unflatten_dict(first, sep="/"), unflatten_dict(second, sep="/")

    def check(self, trained: Params) -> None:
        """Raise a ValueError that names all leaves of a trained tree that are not this adapter's."""
        problems = []
        for path, leaf in flatten_dict(trained, sep="/").items():
            layer, _, name = path.rpartition("/")
            addition = next((addition for addition in self.added if addition.has(path)), None)
            if addition is not None:
                reason = addition.misfit(layer, name, leaf.shape)
            else:
                reason = None if self.is_trained(path) else "not trained by it"
            if reason is not None:
                problems.append(f"{path} ({reason})")
        if problems:
            raise ValueError(f"{self.name} did not make these parameters: {', '.join(problems)}")

    def bind(self, model: nn.Module | Callable[..., Any]) -> Callable[..., Any]:
        """A model as a function of trained and frozen parameters.

        Args:
            model: a module, or a function ``(params, *args, **keywords)`` of its parameters, such as
                ``functools.partial(generate, module)``.

        Returns:
            ``(trained, frozen, *args, **keywords)``: what ``module.apply({"params": ...}, *args, **keywords)``
            or the function gives. It raises a ValueError if the trained tree is not this adapter's.
        """
        fn = functools.partial(_apply, model) if isinstance(model, nn.Module) else model

        def apply(trained: Params, frozen: Params, *args: Any, **keywords: Any) -> Any:
            self.check(trained)
            with self.active():
                return fn(join(trained, frozen), *args, **keywords)

        return apply


NO_ADAPTER = Adapter("no adapter")


def _apply(module: nn.Module, params: Params, *args: Any, **keywords: Any) -> Any:
    return module.apply({"params": params}, *args, **keywords)


def join(trained: Params, frozen: Params) -> Params:
    """The whole tree of two parts.

    Raises:
        ValueError: they share a leaf.
    """
    first, second = flatten_dict(trained, sep="/"), flatten_dict(frozen, sep="/")
    if both := first.keys() & second.keys():
        raise ValueError(f"trained and frozen parameters share {', '.join(sorted(both))}")
    return unflatten_dict({**second, **first}, sep="/")


def checked_pattern(pattern: str, name: str) -> str:
    """The pattern.

    Raises:
        ValueError: it is no regular expression.
    """
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{name}={pattern!r}: not a regular expression ({error})") from None
    return pattern


def only(pattern: str) -> Adapter:
    """Train some of the model's own parameters.

    Args:
        pattern: regular expression on paths: ``"^head/"`` for the head alone, ``"norm"`` for the norms,
            ``"bias"`` for the biases.

    References:
        Zhao et al. Tuning LayerNorm in Attention: Towards Efficient Multi-Modal LLM Finetuning. ICLR 2024.
        Ben Zaken, Ravfogel, Goldberg. BitFit. ACL 2022 (biases).
    """
    return Adapter(f"only({pattern!r})", own=(checked_pattern(pattern, "pattern"),))


def combined(*adapters: Adapter) -> Adapter:
    """Several adapters at once: LoRA and the head, say. The order of the arguments says nothing.

    Raises:
        ValueError: there is none, or two add parameters of one kind.
    """
    if not adapters:
        raise ValueError("combined() needs at least one adapter")
    name = f"combined({', '.join(adapter.name for adapter in adapters)})"
    added = sorted((addition for adapter in adapters for addition in adapter.added), key=lambda one: one.order)
    if len({addition.order for addition in added}) < len(added):
        raise ValueError(f"{name}: two of one kind; take one, with the targets of both")
    return Adapter(name, tuple(added), tuple(pattern for adapter in adapters for pattern in adapter.own))


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
