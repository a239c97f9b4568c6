"""Labelled images: two forms of .npz, tfds without TensorFlow, splits of classes and of their turns."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from fewshot_jax.data.images import image_splits, read_npz, read_vinyals_split
from fewshot_jax.data.tfds_images import area_average, read_tfds_images
from fewshot_jax.errors import UserError


def drawings(*shape):
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize("array", ["names", "character"])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_a_file_of_classes_becomes_images_one_class_after_the_other(tmp_path, array, channels):
    images = drawings(3, 2, 4, 5, *channels)
    np.savez(tmp_path / "a.npz", images=images, **{array: np.array(["b", "a", "ü"])})
    read, label, classes = read_npz(tmp_path / "a.npz")
    np.testing.assert_array_equal(read, images.reshape(6, 4, 5, *channels))
    assert label.dtype == np.int32 and label.tolist() == [0, 0, 1, 1, 2, 2] and classes == ["b", "a", "ü"]


@pytest.mark.parametrize(
    ("arrays", "label", "classes"),
    [
        ({"label": np.array([7, 3, 7])}, [1, 0, 1], ["3", "7"]),
        ({"label": np.array(["x", "a", "x"])}, [1, 0, 1], ["a", "x"]),
        ({"label": np.array([1, 0, 1], np.uint8), "names": np.array(["p", "q"])}, [1, 0, 1], ["p", "q"]),
    ],
)
def test_a_file_of_labelled_images_keeps_their_order(tmp_path, arrays, label, classes):
    images = drawings(3, 4, 5, 1)
    np.savez_compressed(tmp_path / "a.npz", images=images, **arrays)
    read = read_npz(str(tmp_path / "a.npz"))
    np.testing.assert_array_equal(read[0], images)
    assert read[1].dtype == np.int32 and read[1].tolist() == label and read[2] == classes


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": drawings(2, 3, 4, 4)}, r"no array 'images'.*np\.savez"),
        ({"images": drawings(2, 3, 4, 4)}, "without classes.*'names'.*'label'"),
        ({"images": drawings(2, 3, 4, 4) / 255, "names": ["a", "b"]}, r"dtype float64\. Scale it to 0\.\.255"),
        ({"images": drawings(2, 3, 4), "names": ["a", "b"]}, r"shape \(2, 3, 4\): expected \[classes, items, H, W\]"),
        ({"images": drawings(2, 0, 4, 4), "names": ["a", "b"]}, "none of them zero"),
        ({"images": drawings(2, 3, 4, 4), "names": ["a", "b", "c"]}, "3 names for images of 2 classes"),
        ({"images": drawings(2, 3, 4, 4), "names": ["a", "a"]}, "no two alike"),
        ({"images": drawings(2, 3, 4, 4), "names": [1, 2]}, "dtype int64: expected one string"),
        ({"images": drawings(2, 3, 4, 4), "names": np.array(["a", "b"], object)}, "not as objects"),
        ({"images": drawings(1, 3, 4, 4), "names": ["a"]}, "only one class, 'a'"),
        ({"images": drawings(2, 4), "label": [0, 1]}, r"shape \(2, 4\): expected \[n, H, W\]"),
        ({"images": drawings(2, 4, 4), "label": [0, 1, 1]}, r"label has shape \(3,\).*each of the 2 images"),
        ({"images": drawings(2, 4, 4), "label": [0.0, 1.0]}, "dtype float64"),
        ({"images": drawings(2, 4, 4), "label": [0, 2], "names": ["a", "b"]}, "0 to 2, but names has 2 entries"),
        ({"images": drawings(2, 4, 4), "label": [0, -1], "names": ["a", "b"]}, "-1 to 0"),
    ],
)
def test_a_malformed_file_is_named_with_the_remedy(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match=f"^{tmp_path}/a.npz: .*{message}"):
        read_npz(tmp_path / "a.npz")


def _write_array(path):
    with path.open("wb") as file:
        np.save(file, drawings(2, 3, 4, 4))


def _write_half(path):
    np.savez(path, images=drawings(2, 3, 4, 4), names=["a", "b"])
    path.write_bytes(path.read_bytes()[:300])


def _write_damaged(path):
    np.savez_compressed(path, images=drawings(2, 30, 4, 4), names=["a", "b"])
    content = bytearray(path.read_bytes())
    content[150:250] = bytes(100)
    path.write_bytes(content)


@pytest.mark.parametrize(
    "write",
    [_write_array, _write_half, _write_damaged, lambda path: path.write_text("text"), lambda path: path.touch()],
    ids=["npy", "half", "damaged", "text", "empty"],
)
def test_a_file_that_is_no_npz_is_named_with_the_remedy(tmp_path, write):
    write(tmp_path / "a.npz")
    with pytest.raises(UserError, match=r"a\.npz: not an \.npz file .*np\.savez_compressed"):
        read_npz(tmp_path / "a.npz")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"a\.npz: cannot be read \(No such file"):
        read_npz(tmp_path / "a.npz")


MEMBERS = {"train": ["c", "a"], "validation": ["d"], "test": ["b"]}
CLASSES = ["a", "b", "c", "d"]


def test_classes_are_distributed_and_numbered_in_order():
    images, label = drawings(8, 3, 3), np.array([3, 2, 1, 0, 0, 1, 2, 0])
    splits = image_splits(images, label, CLASSES, MEMBERS)
    assert list(splits) == ["train", "validation", "test"]
    train = splits["train"]
    assert train.classes == ["a", "c"] and train.label.tolist() == [0, 0, 0, 1, 1] and train.label.dtype == np.int32
    np.testing.assert_array_equal(train.images, images[[3, 4, 7, 1, 6]])
    np.testing.assert_array_equal(splits["test"].images, images[[2, 5]])


@pytest.mark.parametrize("channels", [(), (2,)])
def test_turned_images_are_classes_of_their_originals_split(channels):
    images, label = drawings(5, 3, 3, *channels), np.array([3, 2, 1, 0, 0])
    splits = image_splits(images, label, CLASSES, MEMBERS, rotations=True)
    assert splits["test"].classes == ["b/rot0", "b/rot90", "b/rot180", "b/rot270"]
    assert splits["test"].label.tolist() == [0, 1, 2, 3]
    b, turned = images[2], splits["test"].images
    for i in range(3):
        for j in range(3):
            # A quarter against the clock: the last column becomes the first row.
            np.testing.assert_array_equal(turned[0, i, j], b[i, j])
            np.testing.assert_array_equal(turned[1, 2 - j, i], b[i, j])
            np.testing.assert_array_equal(turned[2, 2 - i, 2 - j], b[i, j])
            np.testing.assert_array_equal(turned[3, j, 2 - i], b[i, j])
    assert splits["train"].classes[3:5] == ["a/rot270", "c/rot0"]
    assert np.bincount(splits["train"].label).tolist() == [2, 2, 2, 2, 1, 1, 1, 1]
    np.testing.assert_array_equal(splits["train"].images[:2], images[[3, 4]])


@pytest.mark.parametrize(
    ("members", "shape", "message"),
    [
        ({"train": ["a"], "test": ["b", "z"]}, (3, 3), "test split: no image has the class 'z'"),
        ({"train": ["a"], "test": ["e"]}, (3, 3), "test split: no image has the class 'e'"),
        ({"train": ["a", "b"], "test": ["b"]}, (3, 3), "class 'b' is in train and in test"),
        ({"train": ["a"], "test": ["b"]}, (3, 4), "3 x 4 pixels cannot be turned"),
    ],
)
def test_a_wrong_split_is_named(members, shape, message):
    with pytest.raises(UserError, match=message):
        image_splits(drawings(4, *shape), np.arange(4), [*CLASSES, "e"], members, rotations=True)


def _write_vinyals(folder, **changes):
    parts = {"train": ["x", "y"], "val": ["z"], "test": ["w"], **changes}
    for part, characters in parts.items():
        content = {"background": {"Greek": characters}, "evaluation": {"Runes": [f"{part}1"]}}
        (folder / f"vinyals_{part}.json").write_text(json.dumps(content))


def test_the_characters_of_both_parts_belong_to_a_split(tmp_path):
    _write_vinyals(tmp_path)
    assert read_vinyals_split(tmp_path) == {
        "train": ["Greek/x", "Greek/y", "Runes/train1"],
        "validation": ["Greek/z", "Runes/val1"],
        "test": ["Greek/w", "Runes/test1"],
    }


def test_a_wrong_class_split_is_named(tmp_path):
    with pytest.raises(UserError, match=r"vinyals_train\.json: cannot read"):
        read_vinyals_split(tmp_path)
    _write_vinyals(tmp_path, test=["w", "y"])
    with pytest.raises(UserError, match="class 'Greek/y' is in train and in test"):
        read_vinyals_split(tmp_path)
    for content in ('["x"]', '{"background": ["x"]}', '{"background": {"Greek": "x"}}'):
        (tmp_path / "vinyals_val.json").write_text(content)
        with pytest.raises(UserError, match=r"vinyals_val\.json: expected \{part: \{alphabet"):
            read_vinyals_split(tmp_path)


def test_averaging_counts_pixels_by_their_area():
    image = drawings(6, 9).astype(float)
    np.testing.assert_allclose(area_average(image, 3), image.reshape(3, 2, 3, 3).mean((1, 3)))
    # 15 pixels to 4 cells: repeat each pixel 4 times, then 15 sub-pixels are one cell.
    image = drawings(15, 15).astype(float)
    fine = image.repeat(4, 0).repeat(4, 1)
    np.testing.assert_allclose(area_average(image, 4), fine.reshape(4, 15, 4, 15).mean((1, 3)))


class LittleDrawings(tfds.core.GeneratorBasedBuilder):
    """Black strokes on white, of one bit as in the Omniglot of tfds; the test split withholds its labels."""

    # tfds looks for the files of a builder in a package, but a test module is in none.
    __module__ = "test_images"
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=["bar", "dot", "arc"]),
            "array": tfds.features.Tensor(shape=(8, 8, 3), dtype=np.uint8),
            "vector": tfds.features.Tensor(shape=(2,), dtype=np.float32),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {name: self._generate_examples(name) for name in ("train", "mixed", "test")}

    def _generate_examples(self, split):
        for n in range(3):
            image = np.full((8, 8 + 2 * n * (split == "mixed"), 3), 255, np.uint8)
            image[2 * n : 2 * n + 2, :2] = 0
            label = -1 if split == "test" else 2 - n
            file = io.BytesIO()
            Image.fromarray(image).convert("1").save(file, "png")
            file.seek(0)
            yield n, {"image": file, "label": label, "array": image[:, :8], "vector": np.zeros(2, np.float32)}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    LittleDrawings(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def test_drawings_of_tfds_are_averaged_and_inverted(data_dir):
    images, label, classes = read_tfds_images("little_drawings", data_dir=data_dir, size=4, invert=True)
    assert images.shape == (3, 4, 4) and images.dtype == np.uint8 and label.dtype == np.int32
    assert classes == ["arc", "bar", "dot"]
    for image, name in zip(images, (classes[i] for i in label), strict=True):
        expected = np.zeros((4, 4))
        expected[{"arc": 0, "dot": 1, "bar": 2}[name], 0] = 255
        np.testing.assert_array_equal(image, expected)


def test_images_of_several_splits_are_joined_and_those_of_several_sizes_averaged(data_dir):
    images, label, _ = read_tfds_images("little_drawings", data_dir=data_dir, split="train+mixed", size=2)
    assert images.shape == (6, 2, 2) and np.bincount(label).tolist() == [2, 2, 2]

    whole = read_tfds_images("little_drawings", data_dir=data_dir)[0]
    assert whole.shape == (3, 8, 8) and set(np.unique(whole)) == {0, 255}
    array = read_tfds_images("little_drawings", data_dir=data_dir, image="array")[0]
    np.testing.assert_array_equal(array, whole)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "test"}, r"split 'test', record \d: not a labelled image.*number is -1"),
        ({"split": "mixed"}, r"images of 3 sizes.*Set data\.image_size"),
        ({"size": 9}, r"record 0: not a labelled image \(8 x 8 pixels cannot be averaged to 9 x 9\)"),
        ({"image": "vector"}, r"record 0: not a labelled image \(an array of shape \(2,\) and dtype float32\)"),
        ({"split": "dev"}, r"no split 'dev'.*Set data\.tfds_split to one of "),
        ({"split": "train[:0]"}, r"no split 'train\[:0\]'"),
        ({"image": "imag"}, r"no feature 'imag'.*Did you mean 'image'\? Set data\.image_field"),
    ],
)
def test_a_mistake_names_the_data_set_and_the_remedy(data_dir, options, message):
    with pytest.raises(UserError, match=f"^tfds 'little_drawings'.*{message}"):
        read_tfds_images("little_drawings", data_dir=data_dir, **options)


def test_an_unknown_data_set_and_a_missing_package_are_named(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"tfds 'omniglott': no such data set.*Did you mean 'omniglot'"):
        read_tfds_images("omniglott", data_dir=tmp_path)
    with pytest.raises(UserError, match=r"tfds 'omniglot': no files that can be read.*download_and_prepare\(\)"):
        read_tfds_images("omniglot", data_dir=tmp_path)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match="pip install tensorflow-datasets"):
        read_tfds_images("omniglot")


def test_reading_does_not_import_tensorflow(tmp_path):
    # A TensorFlow that can be found (etils looks for it), but ends whoever imports it.
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("import os; os._exit(3)")
    program = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import fewshot_jax.data.tfds_images
assert "tensorflow_datasets" not in sys.modules
import tensorflow_datasets as tfds
with tfds.testing.mock_data(num_examples=5):
    images, label, classes = fewshot_jax.data.tfds_images.read_tfds_images("omniglot", size=28)
assert images.shape == (5, 28, 28) and label.shape == (5,), images.shape
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
