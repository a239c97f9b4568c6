"""What a learner asks of the other sections of a config. Each broken rule ends in one message."""

from typing import TYPE_CHECKING

from fewshot_jax.config.applications import WRITES
from fewshot_jax.config.learners import LEARNER_RECORDS
from fewshot_jax.config.names import is_function
from fewshot_jax.errors import require

if TYPE_CHECKING:
    from fewshot_jax.config import Config


def check_learner(config: "Config") -> None:
    """Check the learner and its inner loop, for application and model."""
    name, record, application = config.learner.name, config.learner.record, config.record
    _check_context(config)
    require(
        application.compares_classes or not record.compares_classes,
        f"learner.name={name}: compares embeddings of classes, of which {config.kind} has none; "
        "take maml or one of its relatives",
    )
    require(
        not record.reads_examples or (application.tokens and config.model.architecture == "decoder"),
        f"learner.name={name}: reads its examples before it writes; take an application that writes "
        f"({', '.join(WRITES)}), or model.classifier=label_names, with model.architecture=decoder",
    )
    for other, its in LEARNER_RECORDS.items():
        for field in its.only:
            value = getattr(config.learner, field)
            require(
                not value or field in record.only,
                f"learner.{field}={value}: is a form of {other}; leave it out with {name}",
            )
    for field in ("inner_steps", "tune_rates"):
        value = getattr(config.evaluation, field)
        why = "has an inner loop that a config cannot change" if is_function(name) else "has no inner loop"
        require(not value or record.has_loop, f"evaluation.{field}={value}: {name} {why}; leave it out")
    for place, why in record.refuses.items():
        section, field = place.split(".")
        given = getattr(config, section)
        value = getattr(given, field)
        require(value == getattr(type(given)(), field), f"{place}={value}: {why.format(name=name)}")


def _check_context(config: "Config") -> None:
    """Check that a learner has the context parameters that it needs, and no others."""
    name, wanted, width = config.learner.name, config.learner.record.context, config.model.context_width
    takes = "context_width" in config.record.fields.get("model", ())
    require(
        takes or not wanted,
        f"learner.name={name}: {config.record.no_context}; take maml or one of its relatives",
    )
    context = ", ".join(other for other, record in LEARNER_RECORDS.items() if record.context)
    require(
        wanted is None or (width > 0) == wanted,
        f"model.context_width={width}: {context} needs a positive number, other learners zero",
    )
