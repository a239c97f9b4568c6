"""RoBERTa's architecture in other languages, under names of their own.

XLM-RoBERTa (Conneau et al., ACL 2020, arXiv:1911.02116) and CamemBERT (Martin et al., ACL 2020, arXiv:1911.03894).
"""

from dataclasses import replace

from fewshot_jax.models.huggingface.bert import ROBERTA
from fewshot_jax.models.huggingface.family import Family


def _called(name: str) -> Family:
    """RoBERTa, whose classes of transformers begin with another name."""
    classes = {kind: name + one.removeprefix("Roberta") for kind, one in ROBERTA.architectures.items()}
    return replace(ROBERTA, architectures=classes)


XLM_ROBERTA = _called("XLMRoberta")
CAMEMBERT = _called("Camembert")
