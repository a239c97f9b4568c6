"""The configuration of a pretraining run: a language model trained on raw texts."""

import math
from dataclasses import dataclass, field
from typing import Literal

from fewshot_jax.config.model import check_adamw
from fewshot_jax.config.running import ParallelConfig, RecoveryConfig
from fewshot_jax.errors import require

Objective = Literal["causal_lm", "masked_lm", "span_corruption"]


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """Where the texts come from.

    Attributes:
        source: "files", "tfds", or "generated" (ships with the package).
        path: "files": a .jsonl, .csv, .tsv or .txt file (or a .gz of one), or a folder of them; "tfds": its data_dir.
        files: "files": names under `path` to read together; empty for `path` itself, or all files in that folder.
        name: "tfds": the data set's name; "generated": the application whose generated tasks the texts come from.
        tfds_split: "tfds": which of its splits to read.
        text_field: field (JSONL), column (CSV, TSV) or feature (tfds) of the text; a row is a document.
        documents: "generated": most texts; they repeat themselves, those held out too. Sources and targets stand
            apart, so that nothing tells which are pairs.
        txt_documents: what is a document in a .txt file: what stands between "blank_lines", or the whole "file".
        validation_share: share of the documents that is never trained on, at least one document.
        split_seed: of that division; "generated": of the texts too. With the seed of a run on generated intents, its
            classes are not among them.
    """

    source: Literal["files", "tfds", "generated"] = "files"
    path: str | None = None
    files: tuple[str, ...] = ()
    name: str | None = None
    tfds_split: str = "train"
    text_field: str = "text"
    documents: int = 20_000
    txt_documents: Literal["blank_lines", "file"] = "blank_lines"
    validation_share: float = 0.05
    split_seed: int = 0

    def __post_init__(self) -> None:
        share = self.validation_share
        require(0 < share < 1, f"corpus.validation_share={share}: expected a share between 0 and 1")
        require(self.split_seed >= 0, f"corpus.split_seed={self.split_seed}: expected zero or more")
        require(
            self.source != "generated" or (self.path is None and not self.files),
            f"corpus.path={self.path}: the texts are generated; set corpus.source to files, or leave it out",
        )
        require(self.documents >= 2, f"corpus.documents={self.documents}: expected at least 2")


@dataclass(frozen=True, kw_only=True)
class CorpusTokenizerConfig:
    """The tokenizer: a given one, or one trained on the training documents.

    Attributes:
        kind: "bpe" for pairs of bytes, "wordpiece", or "word" for whole words.
        vocab_size: most entries.
        path: directory of a tokenizer as transformers saves it, or the name of a model that has one; None to train
            one, or to take that of `model.pretrained`.
    """

    kind: Literal["bpe", "wordpiece", "word"] = "bpe"
    vocab_size: int = 8192
    path: str | None = None

    def __post_init__(self) -> None:
        require(self.vocab_size >= 8, f"tokenizer.vocab_size={self.vocab_size}: expected at least 8")


@dataclass(frozen=True, kw_only=True)
class LanguageModelConfig:
    """The model: a Llama decoder (causal_lm), a ModernBERT encoder (masked_lm) or a T5 (span_corruption).

    Attributes:
        width: features of a token.
        layers: transformer blocks; of span_corruption in each of two stacks.
        heads: attention heads; divides width.
        mlp_width: hidden width of the gated feed-forward layers.
        dropout: rate (masked_lm and span_corruption).
        compute_dtype: on parameters that stay float32 as the loss does; "bfloat16" saves memory and time.
        pretrained: the model that is trained further, by its name (a directory, a .gguf file, org/name of the hub,
            package:NAME) or that of a pretraining run; its sizes count.
    """

    width: int = 256
    layers: int = 4
    heads: int = 4
    mlp_width: int = 704
    dropout: float = 0.0
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    pretrained: str | None = None

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads", "mlp_width"):
            require(getattr(self, name) >= 1, f"model.{name}={getattr(self, name)}: expected at least 1")
        require(
            self.width % (2 * self.heads) == 0,  # rotary positions turn pairs of features
            f"model.width={self.width}: expected a multiple of twice model.heads={self.heads}",
        )
        require(0 <= self.dropout < 1, f"model.dropout={self.dropout}: expected 0 <= rate < 1")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with linear warm-up, cosine decay and clipping.

    Attributes:
        steps: optimizer steps.
        rate: peak learning rate.
        warmup: share of the steps that warm up.
        weight_decay: of AdamW, decoupled.
        clip: global norm that the gradient is clipped to.
    """

    steps: int = 1000
    rate: float = 1e-3
    warmup: float = 0.06
    weight_decay: float = 0.1
    clip: float = 1.0

    def __post_init__(self) -> None:
        require(self.steps >= 1, f"optimizer.steps={self.steps}: expected at least 1")
        check_adamw(self, "optimizer")


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """Windows of packed documents.

    Attributes:
        sequences: windows in a batch.
        length: tokens of a window; of span_corruption, of the encoder's input.
        workers: processes that prepare batches; 0 for threads of this one. The batches are the same.
        mask_rate: share of the tokens that masked_lm and span_corruption hide.
        span_length: mean length, in tokens, of what span_corruption hides.
    """

    sequences: int = 32
    length: int = 128
    workers: int = 0
    mask_rate: float = 0.15
    span_length: float = 3.0

    def __post_init__(self) -> None:
        require(self.sequences >= 1, f"batch.sequences={self.sequences}: expected at least 1")
        require(self.length >= 8, f"batch.length={self.length}: expected at least 8 tokens")
        require(self.workers >= 0, f"batch.workers={self.workers}: expected zero or more")
        require(0 < self.mask_rate < 1, f"batch.mask_rate={self.mask_rate}: expected a share between 0 and 1")
        require(1 <= self.span_length < math.inf, f"batch.span_length={self.span_length}: expected at least 1 token")


@dataclass(frozen=True, kw_only=True)
class HeldOutConfig:
    """The validation on documents that are not trained on.

    Attributes:
        every: steps between validations, each of which saves a checkpoint.
        batches: batches of each validation, always the same; fewer where there are not so many.
    """

    every: int = 100
    batches: int = 10

    def __post_init__(self) -> None:
        for name in ("every", "batches"):
            require(getattr(self, name) >= 1, f"evaluation.{name}={getattr(self, name)}: expected at least 1")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """One pretraining run: objective, corpus, tokenizer, model, optimizer, batches, evaluation, devices.

    Attributes:
        seed: of parameters, order and masks.
        objective: "causal_lm" (the next token), "masked_lm" (BERT's, masked anew in every epoch) or
            "span_corruption" (T5's).
    """

    seed: int = 0
    objective: Objective = "causal_lm"
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    tokenizer: CorpusTokenizerConfig = field(default_factory=CorpusTokenizerConfig)
    model: LanguageModelConfig = field(default_factory=LanguageModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    evaluation: HeldOutConfig = field(default_factory=HeldOutConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    recovery: RecoveryConfig = field(default_factory=RecoveryConfig)

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**32, f"seed={self.seed}: expected zero or more, below 2**32")
        require(
            self.model.dropout == 0 or self.objective != "causal_lm",
            f"model.dropout={self.model.dropout}: the decoder of causal_lm has none; leave it out",
        )
