"""The model and the outer loop that trains it."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from fewshot_jax.config.learner import check_pattern
from fewshot_jax.errors import require

LoraTarget = Literal["query", "key", "value", "out", "gate", "up", "down"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The model: a transformer that reads or writes texts, convolutions of images, a perceptron of numbers.

    Attributes:
        width: features of a token, filters of a convolution, or units of a hidden layer.
        layers: transformer blocks, convolutions, or hidden layers.
        heads: attention heads; divides width.
        mlp_width: hidden width of the feed-forward layers.
        norm: "pre" or "post" LayerNorm.
        dropout: rate, in training and for metric learners only.
        feature_scale: length of a text's feature vector before training.
        ngram_width: columns of hashed n-grams, weighted beside the encoder's features; 0 for none.
        context_width: context parameters of a task (cavia).
        lora_rank: rank of a change beside some of the matrices, for ``inner.params: lora_|head``; 0 for none.
        lora_targets: which matrices of each block: of the attention "query", "key", "value" and "out", of the
            feed-forward layers "up", "down" and, where they have one, "gate".
        compute_dtype: of the encoder or the convolutions, on parameters that stay float32 as heads and losses do;
            "bfloat16" saves memory and, on accelerators, time (texts, images).
        classifier: of texts: a "head" on the features of an encoder, or a decoder that scores "label_names".
        architecture: what writes: a "decoder" that reads the source first (Llama), or an "encoder_decoder" (T5); or,
            of answers, an "encoder" that points to them in the text (ModernBERT).
        pretrained: the model whose weights and tokenizer to start from, by its name: a Hugging Face or
            sentence-transformers directory, a .gguf file, org/name or org/name@revision of the Hugging Face hub,
            package:NAME, default, or a run of 'fewshot-jax pretrain'. Its sizes count. None for a new model.
        downsample: of images: convolutions of stride 2, or max-pooling after each.
        conv_norm: of convolutions: by the "batch" at hand (the items of a query set then see each other), or by
            "layer" or "group", each image for itself.
    """

    width: int = 64
    layers: int = 2
    heads: int = 4
    mlp_width: int = 128
    norm: Literal["pre", "post"] = "pre"
    dropout: float = 0.0
    feature_scale: float = 4.0
    ngram_width: int = 0
    context_width: int = 0
    lora_rank: int = 0
    lora_targets: tuple[LoraTarget, ...] = ("query", "value")
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    classifier: Literal["head", "label_names"] = "head"
    architecture: Literal["encoder", "decoder", "encoder_decoder"] = "decoder"
    pretrained: str | None = None
    downsample: Literal["stride", "max_pool"] = "stride"
    conv_norm: Literal["batch", "layer", "group"] = "batch"

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads", "mlp_width"):
            require(getattr(self, name) >= 1, f"model.{name}={getattr(self, name)}: expected at least 1")
        for name in ("ngram_width", "context_width", "lora_rank"):
            require(getattr(self, name) >= 0, f"model.{name}={getattr(self, name)}: expected zero or more")
        require(
            len(set(self.lora_targets)) == len(self.lora_targets) > 0,
            f"model.lora_targets={list(self.lora_targets)}: expected one matrix at least, and none twice",
        )
        require(0 <= self.dropout < 1, f"model.dropout={self.dropout}: expected 0 <= rate < 1")
        require(self.feature_scale > 0, f"model.feature_scale={self.feature_scale}: expected a positive number")


@dataclass(frozen=True, kw_only=True)
class OuterConfig:
    """The outer loop: AdamW with linear warm-up, cosine decay and clipping.

    Attributes:
        steps: outer steps.
        tasks: tasks in a meta-batch.
        rate: peak learning rate.
        warmup: share of the steps that warm up.
        weight_decay: of AdamW, decoupled.
        clip: global norm that the meta-gradient is clipped to.
        params: regular expression on the paths of the leaves that are meta-learned, such as "lora_|head"; None for all.
            The others are frozen: they have no gradient and no optimizer state, and no inner loop adapts them.
    """

    steps: int = 1000
    tasks: int = 8
    rate: float = 1e-3
    warmup: float = 0.06
    weight_decay: float = 0.01
    clip: float = 1.0
    params: str | None = None

    def __post_init__(self) -> None:
        check_pattern("outer.params", self.params)
        for name in ("steps", "tasks"):
            require(getattr(self, name) >= 1, f"outer.{name}={getattr(self, name)}: expected at least 1")
        check_adamw(self, "outer")


def check_adamw(config: Any, section: str) -> None:
    """Check ``rate``, ``warmup``, ``weight_decay`` and ``clip`` of a section that trains by AdamW."""
    for name in ("rate", "clip"):
        value = getattr(config, name)
        require(0 < value < math.inf, f"{section}.{name}={value}: expected a positive number")
    require(0 <= config.warmup <= 1, f"{section}.warmup={config.warmup}: expected a share of the steps, 0 to 1")
    require(config.weight_decay >= 0, f"{section}.weight_decay={config.weight_decay}: expected zero or more")
