"""The config: what is read is what was meant, and a mistake is named with its place."""

import dataclasses
from pathlib import Path
from typing import get_args

import pytest
import yaml

import fewshot_jax as fsj
from fewshot_jax.config import APPLIES, ApplicationName, Config, EpisodeConfig, OuterConfig
from fewshot_jax.config.learners import LEARNER_RECORDS
from fewshot_jax.config_file import differences, from_dict, to_dict, write_config

CONFIGS = sorted(
    path for path in (Path(__file__).parents[1] / "configs").glob("*.y*ml") if not path.name.startswith("pretrain")
)

# A value other than the default for every field of every section.
OTHER = {
    "seed": 3,
    "parallel": {"fsdp": 2, "tensor": 2, "rules": [["kernel$", "-,fsdp"]]},
    "recovery": {"checkpoint_every": 7, "keep": 3, "skip_limit": 2, "spike_factor": 4.0},
    "data": {
        "source": "files",
        "path": "somewhere",
        "files": ["a.csv", "b.csv"],
        "sets": ["one.csv", "two"],
        "name": "clinc",
        "tfds_split": "test",
        "text_field": "utterance",
        "label_field": "intent",
        "group_field": "domain",
        "class_split": "split.json",
        "class_split_name": "split_1",
        "split_by": "group",
        "fractions": [0.5, 0.25, 0.25],
        "split_seed": 4,
        "groups": 9,
        "texts_per_class": 7,
        "smlmt_words": 7,
        "smlmt_length": 9,
    },
    "episodes": {
        "ways": 4,
        "shots": 3,
        "queries": 2,
        "min_ways": 2,
        "min_shots": 1,
        "uneven": True,
        "label_names": True,
        "within_group": True,
        "domain_power": 1.0,
        "token_dropout": 0.1,
        "token_remap": 0.5,
        "ngram_dropout": 0.25,
    },
    "tokenizer": {"kind": "word", "vocab_size": 100, "max_length": 8, "buckets": [4, 8]},
    "model": {
        "width": 12,
        "layers": 1,
        "heads": 3,
        "mlp_width": 5,
        "norm": "post",
        "dropout": 0.2,
        "feature_scale": 2.0,
        "ngram_width": 6,
        "context_width": 3,
        "lora_rank": 2,
        "lora_targets": ["query", "up"],
        "compute_dtype": "bfloat16",
    },
    "learner": {
        "name": "cavia",
        "gradient": "reverse",
        "keep": "carry",
        "keep_blocks": "matmul",
        "share_first_step": True,
        "plan": True,
        "memory_budget": 100.0,
        "task_chunk": 2,
        "distance": "cosine",
        "temperature": 0.5,
        "proximal": 2.0,
        "cg_steps": 7,
        "multi_step_share": 0.2,
        "first_order_share": 0.4,
    },
    "inner": {"optimizer": "adam", "rate": 0.01, "steps": 1, "test_steps": 9, "params": "head", "batch_size": 5},
    "outer": {"steps": 10, "tasks": 2, "rate": 0.5, "warmup": 0.0, "weight_decay": 0.0, "clip": 9.0, "params": "head"},
    "evaluation": {
        "every": 2,
        "validation_episodes": 3,
        "episodes": 4,
        "ways": 6,
        "shots": [2],
        "queries": 7,
        "uneven": True,
        "inner_steps": [0, 2],
        "tune_rates": [0.5, 1.0],
        "tune_steps": [3],
        "validation_shots": [2],
        "tasks": 8,
        "at_end": False,
    },
    "baselines": {
        "fine_tuning": False,
        "multi_task": False,
        "in_context": False,
        "rates": [0.5],
        "steps": 3,
        "episodes": 7,
    },
}
# What a config of texts may not set.
IMAGES = {
    "application": "image_classification",
    "data": {"source": "tfds", "image_field": "picture", "image_size": 14, "invert": True, "rotations": True},
    "model": {"downsample": "max_pool", "conv_norm": "layer"},
}
# What neither may.
WRITING = {
    "application": "translation",
    "data": {
        "source": "files",
        "files": ["a.jsonl", "b.jsonl", "c.jsonl"],
        "source_field": "en",
        "target_field": "yo",
        "task_field": "pair",
        "split_files": True,
    },
    "tokenizer": {"target_max_length": 8, "target_buckets": [4, 8], "too_long": "refuse"},
    "model": {"pretrained": "somewhere"},
    "learner": {"name": "metaicl"},
    "evaluation": {"write": False, "beams": 4},
}
SCORED = {"model": {"classifier": "label_names"}, "learner": {"name": "metaicl", "channel": True}}
DIALOGUE = {
    "application": "dialogue",
    "data": {"history": 2, "folds": 4, "fold": 2},
    "tokenizer": {"kind": "bpe"},
    "model": {"architecture": "encoder_decoder"},
}
POINTING = {
    "application": "question_answering",
    "tokenizer": {"windows": 3, "stride": 8},
    "model": {"architecture": "encoder"},
    "evaluation": {"null_threshold": 0.5},
}
LANGUAGES = {
    "application": "translation",
    "tokenizer": {"source_language": "eng_Latn", "target_language": "fra_Latn"},
    "model": {"pretrained": "somewhere", "architecture": "encoder_decoder"},
}
ALL = (OTHER, IMAGES, WRITING, DIALOGUE, SCORED, POINTING, LANGUAGES)
# What a value needs beside it, to be a value at all.
BESIDE = {
    "buckets": {"max_length": 8},
    "max_length": {"buckets": [4, 8]},
    "target_buckets": {"target_max_length": 8},
    "target_max_length": {"target_buckets": [4, 8]},
    "sets": {"source": "files"},
    "fold": {"folds": 4},
    "uneven": {"min_shots": 1},
    "split_files": {"files": ["a", "b", "c"]},
}


def flat(values, prefix=""):
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def test_the_default_config_is_valid_and_an_empty_mapping_gives_it():
    assert from_dict({}) == Config()
    assert from_dict({"model": {}}) == Config()


def test_every_field_survives_the_round_trip():
    default, given = dict(flat(to_dict(Config()))), [pair for values in ALL for pair in flat(values)]
    assert dict(given).keys() == default.keys(), "together they have every field"
    assert all(default[name] != value for name, value in given)
    for values in ALL:
        config = from_dict(values)
        found = dict(flat(to_dict(config)))
        assert all(found[name] == value for name, value in flat(values))
        assert from_dict(to_dict(config)) == config


def test_a_field_of_another_application_is_refused():
    for section, fields in APPLIES.items():
        for name, applications in fields.items():
            value = next(values[section][name] for values in ALL if name in values.get(section, {}))
            given = {name: value} | BESIDE.get(name, {})
            for application in set(get_args(ApplicationName)) - set(applications):
                if section == "evaluation" and name == "uneven":
                    given = {name: value}
                with pytest.raises(fsj.UserError, match=rf"{section}\.\w+=.*{application} has no use for it"):
                    from_dict({"application": application, section: given})


def test_every_field_survives_the_file(tmp_path):
    config = from_dict(OTHER)
    write_config(config, tmp_path / "config.yaml")
    assert fsj.read_config(tmp_path / "config.yaml") == config
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == to_dict(config)


def test_sections_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().seed = 1


@pytest.mark.parametrize(
    ("values", "place", "nearest"),
    [
        ({"sead": 1}, "sead", "seed"),
        ({"outter": {}}, "outter", "outer"),
        ({"inner": {"step": 3}}, "inner.step", "steps"),
        ({"evaluation": {"validation_episode": 3}}, "evaluation.validation_episode", "validation_episodes"),
        ({"data": {"texts_per_clas": 3}}, "data.texts_per_clas", "texts_per_class"),
    ],
)
def test_an_unknown_field_is_named_with_the_nearest_one(values, place, nearest):
    with pytest.raises(fsj.UserError) as error:
        from_dict(values, source="my.yaml")
    assert str(error.value) == f"my.yaml: unknown field '{place}'; did you mean '{nearest}'?"


@pytest.mark.parametrize(
    ("section", "field", "close", "near"),
    [("learner", "name", "mamml", "maml"), ("data", "source", "file", "files")],
)
def test_a_name_is_of_the_table_or_a_function_of_ones_own(section, field, close, near):
    for name in (close, "my module:build", "my_module:", ":build"):
        with pytest.raises(
            fsj.UserError, match=f"{section}.{field}: '{name}' is not one of '.*package.module:function"
        ):
            from_dict({section: {field: name}})
    with pytest.raises(fsj.UserError, match=f"did you mean '{near}'"):
        from_dict({section: {field: close}})
    options = {"rate": 0.1, "names": ["a", "b"], "deep": {"n": 2}}
    config = from_dict({section: {field: "my_package.my_module:made", "options": options}})
    assert to_dict(config)[section]["options"] == options
    assert from_dict(to_dict(config)) == config
    with pytest.raises(fsj.UserError, match=f"{section}.options=.*of your own; leave them out"):
        from_dict({section: {"options": options}})
    with pytest.raises(fsj.UserError, match=f"{section}.options: expected a mapping of names to values, got 3"):
        from_dict({section: {field: "a:b", "options": 3}})


def test_options_are_compared_one_by_one_and_absent_where_there_are_none():
    old, new = (from_dict({"learner": {"name": "a:b", "options": options}}) for options in ({"x": 1, "y": 2}, {"x": 3}))
    assert differences(old, new) == ["learner.options.x: 1 -> 3", "learner.options.y: 2 -> absent"]
    assert "options" not in {*to_dict(Config())["learner"], *to_dict(Config())["data"]}


def test_an_unknown_field_like_no_other_comes_with_the_known_ones():
    with pytest.raises(fsj.UserError, match=r"unknown field 'inner\.zzz'; known: optimizer, rate, steps"):
        from_dict({"inner": {"zzz": 1}})


@pytest.mark.parametrize(
    ("section", "name", "value", "expected"),
    [
        ("inner", "steps", "three", "expected int, got 'three'"),
        ("inner", "steps", 1.5, "expected int, got 1.5"),
        ("inner", "steps", True, "expected int, got True"),
        ("inner", "steps", None, "expected int, got None"),
        ("inner", "rate", "fast", "expected float, got 'fast'"),
        ("inner", "rate", False, "expected float, got False"),
        ("inner", "rate", [0.1], "expected float"),
        ("episodes", "within_group", 1, "expected bool, got 1"),
        ("data", "path", 3, "expected str, got 3"),
        ("data", "files", "a.csv", "expected a list, got 'a.csv'"),
        ("data", "fractions", [0.5, 0.5], "expected 3 values, got 2"),
        ("evaluation", "shots", [1, "x"], r"shots\[1\]: expected int, got 'x'"),
        ("learner", "name", "mmal", "'mmal' is not one of 'maml', 'fomaml', "),
        ("tokenizer", "buckets", {"a": 1}, "expected a list"),
    ],
)
def test_a_value_of_a_wrong_type_is_named(section, name, value, expected):
    with pytest.raises(fsj.UserError, match=expected) as error:
        from_dict({section: {name: value}}, source="my.yaml")
    assert str(error.value).startswith(f"my.yaml: {section}.{name}")


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("episodes", "ways", 0),
        ("episodes", "min_ways", 6),
        ("episodes", "min_shots", 0),
        ("episodes", "token_dropout", 1.0),
        ("tokenizer", "vocab_size", 3),
        ("tokenizer", "buckets", [16]),
        ("tokenizer", "buckets", []),
        ("tokenizer", "buckets", [0, 32]),
        ("tokenizer", "max_length", 64),
        ("model", "width", 0),
        ("model", "width", 65),
        ("model", "heads", 3),
        ("model", "dropout", 1.0),
        ("model", "feature_scale", 0),
        ("model", "ngram_width", -1),
        ("learner", "task_chunk", 0),
        ("learner", "temperature", 0),
        ("inner", "rate", 0),
        ("inner", "steps", -1),
        ("inner", "test_steps", -1),
        ("inner", "batch_size", 0),
        ("outer", "steps", 0),
        ("outer", "rate", -1),
        ("outer", "warmup", 1.5),
        ("outer", "weight_decay", -0.1),
        ("outer", "clip", 0),
        ("evaluation", "every", 0),
        ("evaluation", "shots", []),
        ("evaluation", "shots", [0]),
        ("data", "fractions", [0.5, 0.5, 0.5]),
        ("data", "groups", 2),
        ("data", "folds", 1),
        ("data", "fold", 1),
        ("data", "texts_per_class", 0),
    ],
)
def test_a_value_out_of_range_is_named_with_what_is_expected(section, name, value):
    with pytest.raises(fsj.UserError, match="expected") as error:
        from_dict({section: {name: value}}, source="my.yaml")
    assert str(error.value).startswith("my.yaml: ")
    assert f"{section}.{name}=" in str(error.value)


@pytest.mark.parametrize("value", ["inf", "nan", ".inf", ".nan"])
@pytest.mark.parametrize(("section", "name"), [("inner", "rate"), ("outer", "rate")])
def test_a_rate_that_is_no_finite_number_is_refused(section, name, value):
    with pytest.raises(fsj.UserError, match=rf"{section}\.{name}"):
        from_dict({section: {name: yaml.safe_load(value)}})


def test_a_negative_seed_is_refused():
    with pytest.raises(fsj.UserError, match="seed=-1: expected zero or more"):
        from_dict({"seed": -1})


def test_a_section_built_in_python_is_checked_too():
    with pytest.raises(fsj.UserError, match=r"episodes\.ways=0: expected at least 2"):
        EpisodeConfig(ways=0)


def test_numbers_as_yaml_reads_them(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("inner: {rate: 1e-3}\nouter: {rate: 2, clip: 1.5e+0}\n")
    assert yaml.safe_load("1e-3") == "1e-3", "YAML 1.1 reads this as a string"
    config = fsj.read_config(path)
    assert (config.inner.rate, config.outer.rate, config.outer.clip) == (1e-3, 2.0, 1.5)
    assert isinstance(config.outer.rate, float)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("seed: 1\ninner:\n  rate: [0.1\nouter: 3\n", r" line 4: not valid YAML"),
        ("seed: 1\n\tinner: 3\n", r" line 2: not valid YAML"),
        ("- seed\n", r" the file should be a mapping"),
        ("# nothing\n", r" the file is empty"),
        ("inner: 3\n", r" inner should be a mapping, got 3"),
        ("inner:\nouter: {steps: 3}\n", r" inner is empty"),
        ("seed: 1\nouter: {steps: 3}\nseed: 2\n", r" line 3: not valid YAML \('seed' stands twice\)"),
        ("inner:\n  steps: many\n", r" inner\.steps: expected int, got 'many'"),
    ],
)
def test_a_broken_file_is_named_with_line_or_field(tmp_path, content, message):
    path = tmp_path / "config.yaml"
    path.write_text(content)
    with pytest.raises(fsj.UserError, match=message) as error:
        fsj.read_config(path)
    assert str(error.value).startswith(f"{path}:")
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(fsj.UserError, match=r"absent\.yaml: no such config file"):
        fsj.read_config(tmp_path / "absent.yaml")
    with pytest.raises(fsj.UserError, match="cannot read the config"):
        fsj.read_config(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"seed: 1 # caf\xe9\n")
    with pytest.raises(fsj.UserError, match=r"latin\.yaml: the config is not UTF-8"):
        fsj.read_config(tmp_path / "latin.yaml")
    (tmp_path / "nul.yaml").write_bytes(b"seed: \x00\n")
    with pytest.raises(fsj.UserError, match=r"nul\.yaml"):
        fsj.read_config(tmp_path / "nul.yaml")


def test_differences_name_the_fields():
    old = Config()
    new = dataclasses.replace(old, seed=2, outer=OuterConfig(rate=0.5))
    assert differences(old, old) == []
    assert differences(old, new) == ["seed: 0 -> 2", "outer.rate: 0.001 -> 0.5"]
    assert differences(old, new, ignore=("outer",)) == ["seed: 0 -> 2"]


def test_there_are_configs():
    assert "quickstart.yaml" in [path.name for path in CONFIGS]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_config_of_the_repository_reads(path):
    config = fsj.read_config(path)
    assert from_dict(to_dict(config)) == config


@pytest.mark.parametrize("name", [name for name in LEARNER_RECORDS if name not in ("cavia", "metaicl")])
def test_one_word_of_the_first_config_changes_the_learner(name):
    """cavia alone needs more, the size of its context; and metaicl a model that writes."""
    config = fsj.read_config(Path(__file__).parents[1] / "configs" / "quickstart.yaml")
    changed = dataclasses.replace(config, learner=dataclasses.replace(config.learner, name=name))
    assert changed.learner.name == name
