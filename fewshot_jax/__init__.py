"""fewshot_jax: turn language models into few-shot learners.

The algorithms (`maml`, `protonet` and their relatives) are imported at once; what reads data,
trains or predicts is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from fewshot_jax.algorithms.anil import anil, boil
from fewshot_jax.algorithms.cavia import cavia
from fewshot_jax.algorithms.imaml import imaml
from fewshot_jax.algorithms.learned_rates import learned_rates
from fewshot_jax.algorithms.maml import fomaml, maml
from fewshot_jax.algorithms.maml_plus_plus import maml_plus_plus
from fewshot_jax.algorithms.matching_network import matching_network
from fewshot_jax.algorithms.meta_sgd import meta_sgd
from fewshot_jax.algorithms.metaicl import metaicl
from fewshot_jax.algorithms.metric import protonet
from fewshot_jax.algorithms.multi_task import multi_task
from fewshot_jax.algorithms.proto_maml import proto_maml
from fewshot_jax.algorithms.r2d2 import r2d2
from fewshot_jax.algorithms.reptile import reptile
from fewshot_jax.data.examples import Example
from fewshot_jax.data.records import Record
from fewshot_jax.errors import UserError
from fewshot_jax.types import Episode, MetaLearner

if TYPE_CHECKING:
    from fewshot_jax.adaptation.adapt import adapt
    from fewshot_jax.adaptation.classifier import load
    from fewshot_jax.config import Config
    from fewshot_jax.config_file import read_config
    from fewshot_jax.data.episodes import episodes
    from fewshot_jax.models.huggingface.load import load_pretrained
    from fewshot_jax.models.huggingface.peft import load_adapter, save_adapter
    from fewshot_jax.models.huggingface.save import save_pretrained
    from fewshot_jax.planning.plan import plan
    from fewshot_jax.pretraining.pretrain import pretrain
    from fewshot_jax.search.study import tune
    from fewshot_jax.training.evaluate import evaluate
    from fewshot_jax.training.loop import train

__all__ = [
    "Config",
    "Episode",
    "Example",
    "MetaLearner",
    "Record",
    "UserError",
    "adapt",
    "anil",
    "boil",
    "cavia",
    "episodes",
    "evaluate",
    "fomaml",
    "imaml",
    "learned_rates",
    "load",
    "load_adapter",
    "load_pretrained",
    "maml",
    "maml_plus_plus",
    "matching_network",
    "meta_sgd",
    "metaicl",
    "multi_task",
    "plan",
    "pretrain",
    "proto_maml",
    "protonet",
    "r2d2",
    "read_config",
    "reptile",
    "save_adapter",
    "save_pretrained",
    "train",
    "tune",
]

__version__ = "0.1.0"

_LAZY = {
    "Config": "fewshot_jax.config",
    "adapt": "fewshot_jax.adaptation.adapt",
    "episodes": "fewshot_jax.data.episodes",
    "evaluate": "fewshot_jax.training.evaluate",
    "load": "fewshot_jax.adaptation.classifier",
    "load_adapter": "fewshot_jax.models.huggingface.peft",
    "load_pretrained": "fewshot_jax.models.huggingface.load",
    "plan": "fewshot_jax.planning.plan",
    "pretrain": "fewshot_jax.pretraining.pretrain",
    "read_config": "fewshot_jax.config_file",
    "save_adapter": "fewshot_jax.models.huggingface.peft",
    "save_pretrained": "fewshot_jax.models.huggingface.save",
    "train": "fewshot_jax.training.loop",
    "tune": "fewshot_jax.search.study",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'fewshot_jax' has no attribute '{name}'")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return __all__
