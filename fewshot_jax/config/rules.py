"""What the sections of a config ask of each other. Each rule that is broken ends in one message."""

from typing import TYPE_CHECKING

from fewshot_jax.config.applications import HEADS, IMAGES, LABELS, OF_CLASSES, TEXTS, WRITERS, WRITES
from fewshot_jax.config.data import DataConfig, EpisodeConfig, TokenizerConfig
from fewshot_jax.config.learner import WITHOUT_A_LOOP
from fewshot_jax.errors import require

if TYPE_CHECKING:
    from fewshot_jax.config import Config


def check_data(config: "Config") -> None:
    """Data, episodes and tokenizer."""
    data, episodes, tokenizer = config.data, config.episodes, config.tokenizer
    require(
        bool(data.sets) or episodes.domain_power == EpisodeConfig().domain_power,
        f"episodes.domain_power={episodes.domain_power}: there is one data set; set data.sets, or leave it out",
    )
    require(
        config.kind in LABELS or data.source != "smlmt",
        f"data.source=smlmt: makes labelled texts, which {config.application} does not read; take files",
    )
    require(
        config.kind not in WRITES or data.source == "files" or not (data.files or data.split_files),
        f"data.files={data.files}: tasks are generated; set data.source to files, or leave it out",
    )
    for name in ("class_split", "class_split_name", "fractions", "split_seed", "folds"):
        value = getattr(data, name)
        require(
            not data.split_files or value == getattr(DataConfig(), name),
            f"data.{name}={value}: the files are the splits (data.split_files); leave one of the two out",
        )
    encoder = config.model.architecture == "encoder"
    for name in ("windows", "stride"):
        value = getattr(tokenizer, name)
        require(
            encoder or value == getattr(TokenizerConfig(), name),
            f"tokenizer.{name}={value}: only an encoder points to answers in windows; set "
            "model.architecture=encoder, or leave it out",
        )
    require(
        config.kind not in WRITES or encoder or tokenizer.kind != "wordpiece" or config.model.pretrained is not None,
        "tokenizer.kind=wordpiece: forgets case and spaces of what is written; take bpe, or word for generated tasks",
    )


def check_model(config: "Config") -> None:
    """The model, for the application."""
    model, writes = config.model, config.kind in WRITERS
    require(
        config.application not in TEXTS or model.width % model.heads == 0,
        f"model.width={model.width}: expected a multiple of model.heads={model.heads}",
    )
    require(
        model.ngram_width > 0 or config.episodes.ngram_dropout == 0,
        f"episodes.ngram_dropout={config.episodes.ngram_dropout}: the model has no n-grams; set model.ngram_width",
    )
    for name in ("token_remap", "token_dropout"):
        value = getattr(config.episodes, name)
        require(
            value == 0 or model.pretrained is None,
            f"episodes.{name}={value}: a pretrained model knows its words; leave it out",
        )
    require(
        model.context_width == 0 or model.pretrained is None,
        f"model.context_width={model.context_width}: a pretrained model takes no context; leave it out",
    )
    require(
        model.architecture != "encoder" or config.application == "question_answering",
        f"model.architecture=encoder: points to answers in a text, and writes nothing; {config.application} takes "
        "decoder or encoder_decoder",
    )
    threshold = config.evaluation.null_threshold
    require(
        model.architecture == "encoder" or threshold == 0,
        f"evaluation.null_threshold={threshold}: only an encoder points to answers; set model.architecture=encoder, or "
        "leave it out",
    )
    require(
        model.architecture != "encoder" or config.evaluation.beams == 1,
        f"evaluation.beams={config.evaluation.beams}: an encoder points to answers without a search; leave it out",
    )
    require(
        not writes or model.architecture != "decoder" or model.dropout == 0,
        f"model.dropout={model.dropout}: a decoder has none; leave it out",
    )
    require(
        not writes or model.pretrained is not None or model.width % (2 * model.heads) == 0,
        f"model.width={model.width}: expected a multiple of twice model.heads={model.heads}",
    )


def check_learner(config: "Config") -> None:
    """The learner and its inner loop, for application and model."""
    name, kind, model = config.learner.name, config.kind, config.model
    require(
        kind not in IMAGES or name != "cavia",
        "learner.name=cavia: the convolutions of images take no context; take maml or one of its relatives",
    )
    require(
        kind not in WRITERS or name != "cavia",
        "learner.name=cavia: a language model takes no context; take maml or one of its relatives",
    )
    require(  # multi_task as the baseline of cavia has its model, whose context stays at zero
        (model.context_width > 0) == (name == "cavia") or name == "multi_task",
        f"model.context_width={model.context_width}: cavia needs a positive number, other learners zero",
    )
    require(
        kind in (*HEADS, *IMAGES) or name not in OF_CLASSES,
        f"learner.name={name}: compares embeddings of classes, of which {kind} has none; "
        "take maml or one of its relatives",
    )
    require(
        name != "metaicl" or (kind in WRITERS and model.architecture == "decoder"),
        "learner.name=metaicl: reads its examples before it writes; take an application that writes "
        f"({', '.join(WRITES)}), or model.classifier=label_names, with model.architecture=decoder",
    )
    require(
        not config.learner.channel or name == "metaicl",
        f"learner.channel={config.learner.channel}: is a form of metaicl; leave it out with {name}",
    )
    for field in ("inner_steps", "tune_rates"):
        value = getattr(config.evaluation, field)
        require(
            not value or name not in WITHOUT_A_LOOP,
            f"evaluation.{field}={value}: {name} has no inner loop; leave it out",
        )
    require(
        config.outer.params is None or name != "boil",
        f"outer.params={config.outer.params}: boil adapts the whole body; leave it out, or take maml",
    )
    require(
        config.inner.params is None or name not in ("anil", "boil"),
        f"inner.params: {name} chooses itself what adapts; leave it out, or take maml",
    )
    require(
        config.inner.optimizer == "sgd" or name != "meta_sgd",
        f"inner.optimizer={config.inner.optimizer}: the inner step of meta_sgd is SGD's; take maml_plus_plus",
    )
