"""Families of transformers that cannot be read here, and the closest one that can."""

import difflib
import re
from collections.abc import Collection

# The model_type of a family that can be read: those that are built most like it, or serve the same languages.
_RELATIVES: dict[str, str] = {
    "bart": "bigbird_pegasus blenderbot blenderbot-small encoder-decoder led mbart mvp pegasus pegasus_x plbart "
    "prophetnet",
    "bert": "albert big_bird canine convbert ernie funnel layoutlm megatron-bert mobilebert nezha rembert roformer "
    "roc_bert squeezebert xlnet",
    "camembert": "flaubert",
    "deberta-v2": "deberta",
    "gemma2": "gemma paligemma recurrent_gemma vaultgemma",
    "gemma3_text": "gemma3 gemma3n gemma3n_text gemma4 gemma4_text",
    "gpt2": "biogpt ctrl gpt_bigcode gpt_neo imagegpt openai-gpt opt xglm",
    "gpt_neox": "bloom codegen falcon gpt_neox_japanese gptj mamba mamba2 mpt persimmon phi rwkv stablelm",
    "llama": "apertus arcee baichuan bitnet cohere cohere2 dbrx deepseek_v2 deepseek_v3 ernie4_5 exaone exaone4 glm "
    "glm4 gpt_oss granite helium internlm2 jais2 lfm2 llava llama4 llama4_text minicpm mllama nemotron olmo olmo2 "
    "olmo3 phi3 seed_oss",
    "m2m_100": "nllb-moe seamless_m4t",
    "marian": "fsmt",
    "mistral": "ministral mistral3 mixtral pixtral starcoder2",
    "modernbert": "eurobert jina_embeddings_v3 modernbert-decoder nomic_bert",
    "mt5": "umt5",
    "qwen2": "qwen2_5_vl qwen2_moe qwen2_vl",
    "qwen3": "qwen3_5 qwen3_moe qwen3_next qwen3_vl",
    "roberta": "data2vec-text ibert layoutlmv3 longformer luke nystromformer roberta-prelayernorm yoso",
    "t5": "longt5 pop2piano switch_transformers t5gemma t5gemma2",
    "xlm-roberta": "ernie_m xlm xmod",
}
# A well-known model of each family on the Hugging Face hub.
_EXAMPLES = {
    "bart": "facebook/bart-base",
    "bert": "google-bert/bert-base-uncased",
    "camembert": "almanach/camembert-base",
    "deberta-v2": "microsoft/deberta-v3-small",
    "gemma2": "google/gemma-2-2b",
    "gemma3_text": "google/gemma-3-270m",
    "gpt2": "openai-community/gpt2",
    "gpt_neox": "EleutherAI/pythia-160m",
    "llama": "HuggingFaceTB/SmolLM2-135M",
    "m2m_100": "facebook/m2m100_418M",
    "marian": "Helsinki-NLP/opus-mt-en-de",
    "mistral": "mistralai/Mistral-7B-v0.1",
    "modernbert": "answerdotai/ModernBERT-base",
    "mt5": "google/mt5-small",
    "qwen2": "Qwen/Qwen2.5-0.5B",
    "qwen3": "Qwen/Qwen3-0.6B",
    "roberta": "FacebookAI/roberta-base",
    "t5": "google-t5/t5-small",
    "xlm-roberta": "FacebookAI/xlm-roberta-base",
}


def closest_family(model_type: str, known: Collection[str]) -> str | None:
    """Return the family among ``known`` that is built most like an unknown one, or else is called most like it."""
    plain = model_type.lower().replace("_", "-")
    relative = next((family for family, others in _RELATIVES.items() if model_type.lower() in others.split()), None)
    if relative in known:
        return relative
    spelled = {name.replace("_", "-"): name for name in known}
    versions = [name for name in spelled if _stem(name) == _stem(plain)]  # of one name, such as qwen2 and qwen4
    found = difflib.get_close_matches(plain, versions, n=1, cutoff=0) if versions else []
    found = found or difflib.get_close_matches(plain, spelled, n=1, cutoff=0.85)  # less close: bark is no bart
    return spelled[found[0]] if found else None


def _stem(name: str) -> str:
    """The letters before the first digit or hyphen; of a name that has few of them, the name."""
    letters = re.match(r"[a-z]*", name)
    return letters[0] if letters and len(letters[0]) > 2 else name


def suggestion(model_type: str, known: Collection[str]) -> str:
    """Return words on the closest family, to go into a message; "" where none is close."""
    family = closest_family(model_type, known)
    if family is None:
        return ""
    example = f" (such as {_EXAMPLES[family]})" if family in _EXAMPLES else ""
    return f"closest: '{family}'{example}; "
