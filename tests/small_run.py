"""A run of seconds, for tests of what is around the learning: its config, and what it left."""

import zlib
from types import SimpleNamespace

import jax

from fewshot_jax.applications.table import build_application
from fewshot_jax.applications.text_model import TextModel
from fewshot_jax.config_file import from_dict
from fewshot_jax.models.text_encoder import text_encoder
from fewshot_jax.runs.checkpoints import Checkpoints
from fewshot_jax.runs.metrics import MetricsFile
from fewshot_jax.training import loop
from fewshot_jax.training.experiment import Experiment
from fewshot_jax.training.run_directory import RunDirectory

DATA = {
    "data": {"groups": 8, "texts_per_class": 8, "split_by": "group", "fractions": [0.5, 0.25, 0.25]},
    "episodes": {"ways": 3, "shots": 1, "queries": 2, "within_group": True},
    "tokenizer": {"kind": "word", "max_length": 12, "buckets": [12]},
}
RUN = {
    **DATA,
    "model": {"width": 16, "layers": 1, "heads": 2, "mlp_width": 16},
    "learner": {"name": "protonet"},
    "evaluation": {
        "validation_episodes": 2,
        "episodes": 4,
        "ways": 3,
        "shots": [1],
        "queries": 2,
        "tasks": 2,
        "at_end": False,
    },
    "baselines": {"fine_tuning": False, "multi_task": False},
}


def merged(values, **sections):
    """Values of a config with some fields of some sections replaced."""
    return {**values, **{name: {**values.get(name, {}), **fields} for name, fields in sections.items()}}


def last_state(run, step):
    """The state of a run's checkpoint, on the host."""
    application = loop.build_application(run.config(), run.path)
    like = Experiment(application).initial_state()
    checkpoints = Checkpoints(run.checkpoints, application.score, read_only=True)
    try:
        return jax.device_get(checkpoints.restore(step, like))
    finally:
        checkpoints.close()


def initial_state(config, functions):
    """The state of an experiment of some functions, which need no data."""
    return Experiment(SimpleNamespace(config=config, functions=lambda *, training: functions)).initial_state()


def text_functions(config, *, vocab_size, ways, training=True, joint_classes=0):
    """The functions of a new encoder, which need no tokenizer."""
    module = text_encoder(config.model, vocab_size=vocab_size, max_length=config.tokenizer.max_length).transformer
    model = TextModel(config=config, codec=None, module=module, init_params=None, joint_classes=joint_classes)
    return model.functions(ways, training=training)


def config_of(values, **sections):
    return from_dict(merged(values, **sections))


def saved_run(folder, values):
    """The path of a run with one checkpoint, of parameters moved at random: training some would take longer."""
    config = config_of(values)
    run, application = RunDirectory(folder / "run"), build_application(config)
    run.start(application, application.fingerprint())
    experiment = Experiment(application)

    def moved(path, leaf):
        key = jax.random.fold_in(jax.random.key(1), zlib.crc32(jax.tree_util.keystr(path).encode()))
        return leaf + 0.2 * jax.random.normal(key, leaf.shape, leaf.dtype)

    @jax.jit
    def moved_state():
        state = experiment.initial_state()
        meta_params = jax.tree_util.tree_map_with_path(moved, state.meta_params)
        return state._replace(step=state.step + 1, meta_params=meta_params)

    state = moved_state()
    checkpoints = Checkpoints(run.checkpoints, application.score)
    checkpoints.save(state, {}, {application.score.metric: 0.5})
    checkpoints.close()
    MetricsFile(run.metrics).write({"step": 1, application.score.metric: 0.5})
    run.write("result.json", {"steps": 1})
    return run.path
