"""A training episode as a reader sees it: its texts and their labels."""

from fewshot_jax.applications.optional import Shown
from fewshot_jax.applications.table import build_application
from fewshot_jax.config import APPLICATION_NAMES, APPLICATION_RECORDS, Config
from fewshot_jax.errors import require


def training_episode(config: Config) -> list[Shown]:
    """Return the first task of the first meta-batch of a run: its support set, then its query set.

    Texts are shown before the tokens are cut, dropped or remapped.

    Args:
        config: of the run.

    Raises:
        UserError: the application has no texts, or its data cannot be used.
    """
    served = [name for name in APPLICATION_NAMES if APPLICATION_RECORDS[name].texts]
    require(
        config.record.texts,
        f"application={config.application}: has no texts to show; preview serves {', '.join(served)}",
    )
    return build_application(config).first_episode()
