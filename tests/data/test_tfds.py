"""Reading TensorFlow Datasets: names for numbers, no TensorFlow, readable mistakes."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from fewshot_jax.data.records import Record
from fewshot_jax.data.tfds import read_tfds
from fewshot_jax.errors import UserError


class LittleIntents(tfds.core.GeneratorBasedBuilder):
    """Three records with every type of feature; the test split withholds its labels."""

    # tfds looks for the files of a builder in a package, but a test module is in none.
    __module__ = "test_tfds"
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "text": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=["greet", "leave"]),
            "number": np.int64,
            "vector": tfds.features.Tensor(shape=(2,), dtype=np.float32),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(True), "test": self._generate_examples(False)}

    def _generate_examples(self, labelled):
        for n, text in enumerate(["hellö ", "bye", " "]):
            label = n % 2 if labelled else -1
            yield n, {"text": text, "label": label, "number": n, "vector": np.zeros(2, np.float32)}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    LittleIntents(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def test_class_numbers_become_names_and_bytes_become_text(data_dir):
    records = read_tfds("little_intents", data_dir=data_dir, group="number")
    assert sorted(records) == [Record("bye", "leave", "1"), Record("hellö", "greet", "0")]
    numbered = read_tfds("little_intents", data_dir=data_dir, split="train", label="number")
    assert sorted(record.label for record in numbered) == ["0", "1"]


def test_a_slice_is_the_start_of_its_split(data_dir):
    whole = read_tfds("little_intents", data_dir=data_dir, split="test", label="number")
    part = read_tfds("little_intents", data_dir=data_dir, split="test[:2]", label="number")
    assert 1 <= len(part) <= 2 and part == whole[: len(part)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "test"}, r"split 'test', record \d: not a labelled text.*number is -1"),
        ({"label": "vector"}, r"record 0: not a labelled text"),
        ({"split": "dev"}, r"no split 'dev'.*Set data\.tfds_split to one of train, test"),
        ({"split": "train[x"}, r"no split 'train\[x'"),
        ({"text": "txt"}, r"no feature 'txt'.*Did you mean 'text'\? Set data\.text_field"),
        ({"label": "intent"}, r"no feature 'intent'; there are .*Set data\.label_field"),
    ],
)
def test_a_mistake_names_the_data_set_and_the_remedy(data_dir, options, message):
    with pytest.raises(UserError, match=f"^tfds 'little_intents'.*{message}"):
        read_tfds("little_intents", data_dir=data_dir, **options)


def test_an_unknown_data_set_gets_the_nearest_name(tmp_path):
    with pytest.raises(UserError, match=r"no such data set.*Did you mean 'ag_news_subset'\?"):
        read_tfds("ag_new_subset", data_dir=tmp_path)


def test_an_unprepared_data_set_is_not_downloaded(tmp_path):
    with pytest.raises(UserError, match=r"no files that can be read.*download_and_prepare\(\)"):
        read_tfds("ag_news_subset", data_dir=tmp_path, text="description")
    assert not list(tmp_path.rglob("*.*record*"))


def test_a_missing_package_names_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match="pip install tensorflow-datasets"):
        read_tfds("ag_news_subset")


def test_reading_does_not_import_tensorflow(tmp_path):
    # A TensorFlow that can be found (etils looks for it), but ends whoever imports it.
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("import os; os._exit(3)")
    program = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import fewshot_jax.data.tfds
assert "tensorflow_datasets" not in sys.modules
import tensorflow_datasets as tfds
with tfds.testing.mock_data(num_examples=5):
    records = fewshot_jax.data.tfds.read_tfds("ag_news_subset", text="description")
assert len(records) == 5, records
assert all(r.label in ("World", "Sports", "Business", "Sci/Tech") for r in records), records
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
