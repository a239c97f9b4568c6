"""All families, by the ``model_type`` of their config.json."""

from fewshot_jax.models.huggingface.bart import BART
from fewshot_jax.models.huggingface.bert import BERT, DISTILBERT, ROBERTA
from fewshot_jax.models.huggingface.deberta import DEBERTA
from fewshot_jax.models.huggingface.electra import ELECTRA
from fewshot_jax.models.huggingface.family import Family, FamilyConfig
from fewshot_jax.models.huggingface.gemma3 import GEMMA3
from fewshot_jax.models.huggingface.gpt2 import GPT2
from fewshot_jax.models.huggingface.gpt_neox import GPT_NEOX
from fewshot_jax.models.huggingface.llama import GEMMA2, LLAMA, MISTRAL, QWEN2, QWEN3
from fewshot_jax.models.huggingface.m2m_100 import M2M_100
from fewshot_jax.models.huggingface.marian import MARIAN
from fewshot_jax.models.huggingface.modernbert import MODERNBERT
from fewshot_jax.models.huggingface.mpnet import MPNET
from fewshot_jax.models.huggingface.mt5 import MT5
from fewshot_jax.models.huggingface.smollm3 import SMOLLM3
from fewshot_jax.models.huggingface.t5 import T5
from fewshot_jax.models.huggingface.xlm_roberta import CAMEMBERT, XLM_ROBERTA
from fewshot_jax.models.huggingface.xlm_roberta_xl import XLM_ROBERTA_XL
from fewshot_jax.models.language_head import HeadKind

FAMILIES: dict[str, Family] = {
    "bart": BART,
    "bert": BERT,
    "camembert": CAMEMBERT,
    "deberta-v2": DEBERTA,
    "distilbert": DISTILBERT,
    "electra": ELECTRA,
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA3,
    "gpt2": GPT2,
    "gpt_neox": GPT_NEOX,
    "llama": LLAMA,
    "m2m_100": M2M_100,
    "marian": MARIAN,
    "mistral": MISTRAL,
    "modernbert": MODERNBERT,
    "mpnet": MPNET,
    "mt5": MT5,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "roberta": ROBERTA,
    "smollm3": SMOLLM3,
    "t5": T5,
    "xlm-roberta": XLM_ROBERTA,
    "xlm-roberta-xl": XLM_ROBERTA_XL,
}


def reading_head(config: FamilyConfig) -> HeadKind | None:
    """What stands for a model that only reads: the encoder of T5 without its decoder, or any model without a head."""
    return "encoder" if "encoder" in FAMILIES[config.model_type].heads else None


def family_of(config: FamilyConfig) -> Family:
    """The family of a config, with the names that its checkpoints have."""
    family = FAMILIES[config.model_type]
    return family if family.form is None else family.form(config)
