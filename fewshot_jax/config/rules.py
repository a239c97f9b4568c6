"""Cross-section validation of a config. Each broken rule ends in one message.

`check_data` and `check_model` are of every config; the records of the applications name the others.
"""

from typing import TYPE_CHECKING

from fewshot_jax.config.data import DataConfig, EpisodeConfig, TokenizerConfig
from fewshot_jax.errors import require

if TYPE_CHECKING:
    from fewshot_jax.config import Config


def check_data(config: "Config") -> None:
    """Check data, episodes and tokenizer."""
    data, episodes, tokenizer = config.data, config.episodes, config.tokenizer
    require(
        bool(data.sets) or episodes.domain_power == EpisodeConfig().domain_power,
        f"episodes.domain_power={episodes.domain_power}: there is one data set; set data.sets, or leave it out",
    )
    record = config.record
    require(
        (record.labelled and record.texts) or not data.record.labelled_only,
        f"data.source={data.source}: makes labelled texts, which {config.application} does not read; take files",
    )
    for name in ("class_split", "class_split_name", "fractions", "split_seed", "folds"):
        value = getattr(data, name)
        require(
            not data.split_files or value == getattr(DataConfig(), name),
            f"data.{name}={value}: the files are the splits (data.split_files); leave one of the two out",
        )
    for name in ("windows", "stride"):
        value = getattr(tokenizer, name)
        require(
            config.model.architecture == "encoder" or value == getattr(TokenizerConfig(), name),
            f"tokenizer.{name}={value}: only an encoder points to answers in windows; set "
            "model.architecture=encoder, or leave it out",
        )


def check_pairs(config: "Config") -> None:
    """Check the data of an application that reads a text and writes another."""
    check_languages(config)
    data, model = config.data, config.model
    require(
        data.source != "generated" or not (data.files or data.split_files),
        f"data.files={data.files}: tasks are generated; set data.source to files, or leave it out",
    )
    require(
        model.architecture == "encoder" or config.tokenizer.kind != "wordpiece" or model.pretrained is not None,
        "tokenizer.kind=wordpiece: forgets case and spaces of what is written; take bpe, or word for generated tasks",
    )


def check_languages(config: "Config") -> None:
    """Check that a model may have languages where a config names some."""
    model = config.model
    for name in ("source_language", "target_language"):
        value = getattr(config.tokenizer, name)
        require(
            value is None or (model.pretrained is not None and model.architecture == "encoder_decoder"),
            f"tokenizer.{name}={value}: only a pretrained model of two stacks knows languages; set model.pretrained "
            "and model.architecture=encoder_decoder, or leave it out",
        )


def check_model(config: "Config") -> None:
    """Check the model, its n-grams and its context."""
    model = config.model
    require(
        model.ngram_width > 0 or config.episodes.ngram_dropout == 0,
        f"episodes.ngram_dropout={config.episodes.ngram_dropout}: the model has no n-grams; set model.ngram_width",
    )
    require(
        model.architecture != "encoder" or config.record.when[1] == "architecture",
        f"model.architecture=encoder: points to answers in a text, and writes nothing; {config.application} takes "
        "decoder or encoder_decoder",
    )


def check_transformer(config: "Config") -> None:
    """Check the width of a transformer."""
    model = config.model
    require(
        model.width % model.heads == 0,
        f"model.width={model.width}: expected a multiple of model.heads={model.heads}",
    )


def check_pretrained_encoder(config: "Config") -> None:
    """Check what a pretrained encoder excludes."""
    if config.model.pretrained is None:
        return
    for name in ("token_remap", "token_dropout"):
        value = getattr(config.episodes, name)
        require(value == 0, f"episodes.{name}={value}: a pretrained model knows its words; leave it out")
    width = config.model.context_width
    require(width == 0, f"model.context_width={width}: a pretrained model takes no context; leave it out")


def check_answers(config: "Config") -> None:
    """Check how answers are found: written, or pointed to by an encoder."""
    evaluation, encoder = config.evaluation, config.model.architecture == "encoder"
    require(
        encoder or evaluation.null_threshold == 0,
        f"evaluation.null_threshold={evaluation.null_threshold}: only an encoder points to answers; set "
        "model.architecture=encoder, or leave it out",
    )
    require(
        not encoder or evaluation.beams == 1,
        f"evaluation.beams={evaluation.beams}: an encoder points to answers without a search; leave it out",
    )


def check_tokens(config: "Config") -> None:
    """Check a model that predicts tokens."""
    model = config.model
    require(
        model.architecture != "decoder" or model.dropout == 0,
        f"model.dropout={model.dropout}: a decoder has none; leave it out",
    )
    require(
        model.pretrained is not None or model.width % (2 * model.heads) == 0,
        f"model.width={model.width}: expected a multiple of twice model.heads={model.heads}",
    )
