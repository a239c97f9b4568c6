"""What a config knows of each learner: plain data, read before anything heavy is imported.

A new learner is its file in `algorithms/`, a record here, and a line in `training/learners.py`, which builds it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fewshot_jax.config.names import is_function


@dataclass(frozen=True, kw_only=True)
class LearnerRecord:
    """What a config knows of a learner.

    Attributes:
        has_loop: it has an inner loop, whose rate and number of steps an evaluation may change.
        second_order: it differentiates that loop, by the rule that `learner.gradient` chooses.
        compares_classes: it compares embeddings of classes, so the model needs some.
        chooses_params: it chooses what adapts where `inner.params` is absent.
        context: it needs context parameters (`model.context_width`); None where it works with and without.
        reads_examples: it reads the support set before the query, which a decoder alone can do.
        joint: it trains on all classes together, and learns nothing about adapting.
        fields: the fields of `learner` that its factory takes as keywords of the same name.
        only: the fields of `learner` that other learners refuse.
        refuses: fields of other sections that must keep their defaults, and why.
    """

    has_loop: bool = True
    second_order: bool = False
    compares_classes: bool = False
    chooses_params: bool = False
    context: bool | None = False
    reads_examples: bool = False
    joint: bool = False
    fields: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    refuses: Mapping[str, str] = field(default_factory=dict)


_CHOOSES_ITSELF = "{name} chooses itself what adapts; leave it out, or take maml"
LEARNER_RECORDS: dict[str, LearnerRecord] = {
    "maml": LearnerRecord(second_order=True),
    "fomaml": LearnerRecord(),
    "anil": LearnerRecord(second_order=True, chooses_params=True, refuses={"inner.params": _CHOOSES_ITSELF}),
    "boil": LearnerRecord(
        second_order=True,
        chooses_params=True,
        refuses={
            "outer.params": "boil adapts the whole body; leave it out, or take maml",
            "inner.params": _CHOOSES_ITSELF,
        },
    ),
    "reptile": LearnerRecord(),
    "meta_sgd": LearnerRecord(
        second_order=True,
        refuses={"inner.optimizer": "the inner step of meta_sgd is SGD's; take maml_plus_plus"},
    ),
    "maml_plus_plus": LearnerRecord(second_order=True, fields=("multi_step_share", "first_order_share")),
    "imaml": LearnerRecord(fields=("proximal", "cg_steps")),
    "cavia": LearnerRecord(second_order=True, chooses_params=True, context=True),
    "proto_maml": LearnerRecord(second_order=True, compares_classes=True),
    "protonet": LearnerRecord(has_loop=False, compares_classes=True, fields=("distance", "temperature")),
    "matching_network": LearnerRecord(has_loop=False, compares_classes=True, fields=("temperature",)),
    "r2d2": LearnerRecord(has_loop=False, compares_classes=True),
    "metaicl": LearnerRecord(has_loop=False, reads_examples=True, only=("channel",)),
    # The baseline of cavia has its model, whose context stays at zero.
    "multi_task": LearnerRecord(joint=True, context=None),
}
_OPTIONS = "{name} gets its options alone; leave it out, and put what your function needs into learner.options"
# Of a function of the user's own, of which nothing is known.
_OWN = LearnerRecord(
    has_loop=False,
    context=None,
    refuses={
        **dict.fromkeys(("inner.optimizer", "inner.rate", "inner.params", "inner.batch_size"), _OPTIONS),
        "learner.task_chunk": _OPTIONS,
        "outer.params": "{name} may adapt what the outer loop leaves out; leave it out, or freeze leaves yourself",
    },
)

WITHOUT_A_LOOP = tuple(name for name, one in LEARNER_RECORDS.items() if not one.has_loop)
METRIC = tuple(name for name, one in LEARNER_RECORDS.items() if one.compares_classes and not one.has_loop)
SECOND_ORDER = tuple(name for name, one in LEARNER_RECORDS.items() if one.second_order)


def learner_record(name: str) -> LearnerRecord:
    """Return what a config knows of a learner, by its name."""
    return _OWN if is_function(name) else LEARNER_RECORDS[name]
