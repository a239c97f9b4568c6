"""Generated tasks: small worlds whose rules are new in every episode and follow from its support set."""

from fewshot_jax.data.tasks import World
from fewshot_jax.data.worlds.languages import language_task
from fewshot_jax.data.worlds.personas import persona_task
from fewshot_jax.data.worlds.readings import reading_task

WORLDS: dict[str, World] = {  # by the application whose tasks they are
    "question_answering": reading_task,
    "translation": language_task,
    "dialogue": persona_task,
}
