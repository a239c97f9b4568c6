"""Images: the application from files to a run, learners of each kind on the small convolutional network."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fewshot_jax as fsj
from fewshot_jax.applications.image_classification import ImageClassification
from fewshot_jax.applications.table import build_application
from fewshot_jax.config_file import from_dict
from fewshot_jax.training.run_directory import RunDirectory

CLASSES, ITEMS, SIZE = 12, 5, 8
FLOORS = [
    *("pixel centroid", "untrained, prototypes", "multi-task, prototypes"),
    *("untrained, fine-tuned", "multi-task, fine-tuned"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A class is a pattern, an item the pattern with a few pixels changed."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 2, (CLASSES, 1, SIZE, SIZE))
    images = 255 * (patterns ^ (rng.random((CLASSES, ITEMS, SIZE, SIZE)) < 0.05))
    path = tmp_path_factory.mktemp("images")
    np.savez(path / "images.npz", images=images.astype(np.uint8), names=[f"pattern{i:02d}" for i in range(CLASSES)])
    return path


def config_of(folder, name="maml", *, at_end=False, **sections):
    values = {
        "application": "image_classification",
        "data": {"source": "files", "path": str(folder), "files": ["images.npz"], "rotations": True},
        "episodes": {"ways": 3, "shots": 1, "queries": 2},
        "model": {"width": 4, "layers": 2},
        "learner": {"name": name},
        "inner": {"steps": 2, "rate": 0.1},
        "outer": {"steps": 2, "tasks": 2},
        "evaluation": {
            **{"every": 1, "validation_episodes": 2, "episodes": 4, "ways": 3, "shots": [1], "queries": 2, "tasks": 2},
            "at_end": at_end,
        },
        "baselines": {"steps": 2, "rates": [0.01], "episodes": 2},
    }
    return from_dict({**values, **sections})


def test_a_run_is_evaluated_beside_its_floors(folder, tmp_path):
    evaluation = fsj.train(config_of(folder, at_end=True), tmp_path / "run", quiet=True)
    assert list(evaluation.scores) == ["maml", *FLOORS, "chance"]
    assert list(evaluation.gains) == FLOORS
    assert evaluation.choices.keys() == {"untrained, fine-tuned", "multi-task, fine-tuned"}
    # The patterns differ in half of their pixels, so the pixels alone tell them apart.
    assert evaluation.scores["pixel centroid"][1].mean > 0.9
    run = RunDirectory(tmp_path / "run")
    labels = run.labels()
    assert {name.split("/")[1] for name in labels["test"]} == {"rot0", "rot90", "rot180", "rot270"}
    originals = {split: {name.split("/")[0] for name in names} for split, names in labels.items()}
    assert sum(map(len, originals.values())) == len(set.union(*originals.values())) == CLASSES, "a turn stays there"
    assert json.loads((run.multi_task().path / "labels.json").read_text()) == labels


# One of each kind; the others are made of the same functions, and tests/training tries them on texts.
@pytest.mark.parametrize("name", ["boil", "proto_maml", "matching_network"])
def test_learners_train_on_images(folder, tmp_path, name):
    fsj.train(config_of(folder, name), tmp_path / "run", quiet=True)
    assert RunDirectory(tmp_path / "run").result()["steps"] == 2


def test_episodes_hold_the_images_at_the_positions_that_were_drawn(folder):
    application = build_application(config_of(folder, "multi_task"))
    support, query = application.training_stream()(0, 3)
    assert support["image"].shape == (3, 3, SIZE, SIZE)
    assert query["image"].dtype == np.uint8
    split = application.splits["train"]
    for batch in (support, query):
        for image, class_id in zip(batch["image"].reshape(-1, SIZE, SIZE), batch["class_id"].reshape(-1), strict=True):
            of_class = split.images[split.label == class_id]
            assert (of_class == image).all((1, 2)).any()


def test_joint_training_knows_all_training_classes(folder):
    application = build_application(config_of(folder, "multi_task"))
    functions = application.functions(training=True)
    params = functions.init_params(jax.random.key(0))
    classes = len(application.splits["train"].classes)
    assert params["joint_head"]["kernel"].shape == (4, classes)
    batch = jax.tree.map(lambda leaf: leaf[0], application.training_stream()(0, 1).support)
    loss, _ = functions.joint_loss_fn(params, batch, jax.random.key(0))
    assert float(loss) == pytest.approx(np.log(classes), rel=1e-5), "a zero head knows nothing"


def test_other_data_is_another_fingerprint(folder, tmp_path):
    arrays = dict(np.load(folder / "images.npz"))
    arrays["images"][0, 0, 0, 0] ^= 255
    np.savez(tmp_path / "images.npz", **arrays)
    one, other = (ImageClassification.build(config_of(path)).fingerprint() for path in (folder, tmp_path))
    assert sum(one[split] != other[split] for split in one) == 1


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": {"source": "generated"}}, "has no generated images; set it to files or tfds"),
        ({"data": {"source": "files"}}, "needs a file or a folder"),
        ({"data": {"source": "files", "path": "nowhere"}}, "nowhere: no such file or folder"),
        ({"data": {"source": "tfds"}}, "needs the name of a data set"),
        ({"model": {"ngram_width": 8}}, "model.ngram_width=8: image_classification has no use for it"),
        ({"episodes": {"ways": 100}}, "100 ways"),
    ],
)
def test_a_wrong_config_is_refused(folder, sections, message):
    with pytest.raises(fsj.UserError, match=message):
        build_application(config_of(folder, **sections))


def test_bf16_is_an_option_of_a_run(folder, tmp_path):
    fsj.train(
        config_of(folder, "protonet", model={"width": 4, "compute_dtype": "bfloat16"}), tmp_path / "run", quiet=True
    )
    run = RunDirectory(tmp_path / "run")
    application = ImageClassification.build(run.config())
    functions = application.functions(training=True)
    params = functions.init_params(jax.random.key(0))
    episode = application.training_stream()(0, 1)
    support = jax.tree.map(lambda leaf: leaf[0], episode.support)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert functions.embed_fn(params, support, None).dtype == jnp.float32
    assert "bf16" in str(jax.make_jaxpr(functions.embed_fn)(params, support, None))
