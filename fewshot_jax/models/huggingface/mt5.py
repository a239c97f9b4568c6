"""mT5 (Xue et al., NAACL 2021): T5 in many languages, whose output layer reads hidden states that are not scaled."""

from dataclasses import replace

from fewshot_jax.models.huggingface.t5 import T5

MT5 = replace(T5, architectures={kind: f"M{name}" for kind, name in T5.architectures.items()})
