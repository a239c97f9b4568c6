"""The applications, and which fields of a config say something about which of them."""

from typing import Literal

from fewshot_jax.config.learner import METRIC

Application = Literal[
    "text_classification", "image_classification", "question_answering", "translation", "dialogue", "regression"
]
WRITES: tuple[Application, ...] = ("question_answering", "translation", "dialogue")  # read a text and write another
OF_CLASSES = (*METRIC, "proto_maml")  # learners that compare embeddings of classes

# An application, or "label_scoring" for text classification by a decoder that scores the names of the classes.
Kind = Application | Literal["label_scoring"]
HEADS: tuple[Kind, ...] = ("text_classification",)
LABELS: tuple[Kind, ...] = (*HEADS, "label_scoring")
IMAGES: tuple[Kind, ...] = ("image_classification",)
CHAT: tuple[Kind, ...] = (
    "dialogue",
)  # written by a chat template where there is one; what is too long loses its beginning
WRITERS: tuple[Kind, ...] = (*WRITES, "label_scoring")  # their model predicts tokens
_CLASSES, TEXTS, _DATA = (*LABELS, *IMAGES), (*LABELS, *WRITES), (*LABELS, *IMAGES, *WRITES)
# Of the fields that say something about some applications only: which those are. To set them elsewhere is a mistake.
APPLIES: dict[str, dict[str, tuple[Kind, ...]]] = {
    "data": {
        **dict.fromkeys(("source", "path", "files"), _DATA),
        **dict.fromkeys(("class_split", "class_split_name", "fractions", "split_seed", "folds", "fold"), _DATA),
        **dict.fromkeys(("name", "tfds_split", "label_field"), _CLASSES),
        **dict.fromkeys(("text_field", "group_field", "split_by", "sets", "groups", "texts_per_class"), LABELS),
        **dict.fromkeys(("smlmt_words", "smlmt_length"), LABELS),
        **dict.fromkeys(("image_field", "image_size", "invert", "rotations"), IMAGES),
        **dict.fromkeys(("task_field", "split_files"), WRITES),
        **dict.fromkeys(("source_field", "target_field"), ("translation",)),
        "history": ("dialogue",),
    },
    "episodes": {
        **dict.fromkeys(("ways", "min_ways", "uneven"), _CLASSES),
        "min_shots": _DATA,
        **dict.fromkeys(("within_group", "domain_power"), LABELS),
        **dict.fromkeys(("label_names", "token_dropout", "token_remap", "ngram_dropout"), HEADS),
    },
    "tokenizer": {
        **dict.fromkeys(("kind", "vocab_size", "max_length", "buckets"), TEXTS),
        **dict.fromkeys(("target_max_length", "target_buckets", "too_long"), WRITERS),
        **dict.fromkeys(("windows", "stride"), ("question_answering",)),
    },
    "model": {
        **dict.fromkeys(("heads", "mlp_width", "dropout", "lora_rank"), TEXTS),
        **dict.fromkeys(("norm", "feature_scale", "ngram_width"), HEADS),
        "classifier": LABELS,
        "context_width": (*HEADS, "regression"),
        "compute_dtype": _DATA,
        **dict.fromkeys(("downsample", "conv_norm"), IMAGES),
        "architecture": WRITERS,
        "pretrained": (*HEADS, *WRITERS),
    },
    "learner": {"channel": ("label_scoring",)},
    "evaluation": {
        **dict.fromkeys(("ways", "uneven"), _CLASSES),
        **dict.fromkeys(("write", "beams"), WRITES),
        "null_threshold": ("question_answering",),
    },
}
