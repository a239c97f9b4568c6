"""Each architecture: what is read from a GGUF file is the model that was converted into it."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from gguf import GGMLQuantizationType, quants
from safetensors.numpy import load_file, save_file

import fewshot_jax as fsj
from fewshot_jax.errors import UserError
from fewshot_jax.models.positions import Rotary
from tests.models.gguf.tiny_gguf import MODELS, architecture_of, parts_of, write

_FREE = {"architectures", "dtype", "transformers_version", "_name_or_path"}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A function from the name of a tiny model to the model, the metadata and the tensors of its file, made once."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = parts_of(name, tmp_path_factory.mktemp(name))
        return made[name]

    return get


@pytest.fixture
def file(parts, tmp_path):
    """A function that writes the file of a tiny model, some metadata and tensors changed."""

    def make(name, metadata=None, tensors=None, **options):
        _, usual, arrays = parts(name)
        return write(
            tmp_path / "model.gguf",
            architecture_of(name),
            {**usual, **(metadata or {})},
            {own: array for own, array in {**arrays, **(tensors or {})}.items() if array is not None},
            **options,
        )

    return make


def same_leaves(ours, theirs, *, atol=0.0):
    ours, theirs = flatten_dict(ours, sep="/"), flatten_dict(theirs, sep="/")
    assert ours.keys() == theirs.keys()
    for path, leaf in theirs.items():
        np.testing.assert_allclose(ours[path], leaf, rtol=0, atol=atol, err_msg=path)


@pytest.mark.parametrize("name", MODELS)
def test_config_and_parameters_are_those_that_were_converted(name, parts, file):
    theirs, path = parts(name)[0], file(name)
    ours = fsj.load_pretrained(path)
    expected, found = ({k: v for k, v in one.config.to_dict().items() if k not in _FREE} for one in (theirs, ours))
    assert {key: found.get(key) for key in expected} == expected
    params = dict(theirs.params)
    if name == "bert":
        assert ours.head is None and params.pop("head")
    else:
        assert ours.head == "causal_lm"
    same_leaves(ours.params, params, atol=1e-7 if name.startswith("gemma") else 0)  # which adds one and takes it away
    assert ours.ignored == () and ours.created == () and ours.path == path


@pytest.mark.parametrize("name", ["gemma3", "gpt2", "llama-tied"])
def test_what_is_saved_is_a_directory_with_the_same_model(name, file, tmp_path):
    ours = fsj.load_pretrained(file(name))
    fsj.save_pretrained(tmp_path / "saved", ours)
    again = fsj.load_pretrained(tmp_path / "saved")
    same_leaves(again.params, ours.params)
    assert again.module == ours.module and again.head == ours.head


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "BF16"])
def test_quantised_matrices_are_those_that_the_gguf_package_dequantises(kind, parts, file, tmp_path):
    theirs, _, tensors = parts("llama-wide")
    path = file("llama-wide", kinds={own: kind for own, array in tensors.items() if array.ndim == 2})
    fsj.save_pretrained(tmp_path / "expected", theirs)
    kind = GGMLQuantizationType[kind]
    arrays = {
        name: quants.dequantize(quants.quantize(array, kind), kind) if array.ndim == 2 else array
        for name, array in load_file(tmp_path / "expected" / "model.safetensors").items()
    }
    save_file(arrays, tmp_path / "expected" / "model.safetensors")
    same_leaves(fsj.load_pretrained(path).params, fsj.load_pretrained(tmp_path / "expected").params)


def test_devices_get_their_parts_of_dequantised_tensors(parts, file):
    path = file("llama-wide", kinds={own: "Q4_0" for own, array in parts("llama-wide")[2].items() if array.ndim == 2})
    mesh = jax.make_mesh((2,), ("parts",))

    def half(_, shape):
        axis = next((axis for axis, length in enumerate(shape) if length > 1 and length % 2 == 0), None)
        spec = [None] * len(shape) if axis is None else [*[None] * axis, "parts"]
        return jax.NamedSharding(mesh, jax.P(*spec))

    ours = fsj.load_pretrained(path, sharding=half, dtype="bfloat16")
    assert not ours.params["token_embedding"]["embedding"].is_fully_replicated
    same_leaves(ours.params, fsj.load_pretrained(path, dtype="bfloat16").params)


def test_heads_are_created_and_left_out_as_for_a_directory(file):
    path = file("qwen2")
    made = fsj.load_pretrained(path, head="classification", num_labels=3)
    assert made.created == ("head/output/kernel",) and made.params["head"]["output"]["kernel"].shape[-1] == 3
    assert fsj.load_pretrained(file("llama"), head=None).ignored == ("lm_head.weight",)


def test_an_output_layer_that_equals_the_embedding_is_tied(parts, file):
    table = parts("gpt2")[2]["token_embd.weight"]
    tied = fsj.load_pretrained(file("gpt2", tensors={"output.weight": table}))
    assert tied.config.tie_word_embeddings and "head" not in tied.params
    untied = fsj.load_pretrained(file("gpt2", tensors={"output.weight": table + 1}))
    np.testing.assert_array_equal(untied.params["head"]["output"]["kernel"], table.T + 1)


def rotary_of(pretrained):
    return pretrained.module.shape.decoder.kinds[0].rotary


def test_factors_of_frequencies_that_are_not_those_of_llama_3_stay_as_they_are(file, tmp_path):
    factors = np.array([1.0, 1.5, 3.0], np.float32)
    ours = fsj.load_pretrained(file("llama", tensors={"rope_freqs.weight": factors}))
    plain = Rotary(theta=rotary_of(ours).theta)
    np.testing.assert_allclose(rotary_of(ours).frequencies(6) * factors, plain.frequencies(6), rtol=1e-6)
    fsj.save_pretrained(tmp_path / "saved", ours)
    assert fsj.load_pretrained(tmp_path / "saved").module == ours.module


def test_the_factors_of_llama_3_give_its_parameters(parts, file):
    theirs, _, tensors = parts("llama-tied")
    assert not np.isin(tensors["rope_freqs.weight"], (1, 4)).all()
    assert rotary_of(fsj.load_pretrained(file("llama-tied"))) == rotary_of(theirs)


BAD = {
    "no layers": ("llama", {"llama.block_count": None}, {}, "the metadata lacks llama.block_count"),
    "too many layers": (
        "llama",
        {"llama.block_count": 2**31 - 1},
        {},
        "block_count=2147483647, but it holds 21 tensors",
    ),
    "size of another kind": (
        "llama",
        {"llama.embedding_length": "16"},
        {},
        "embedding_length='16': expected an integer",
    ),
    "heads of each layer": (
        "llama",
        {"llama.attention.head_count_kv": [2, 2]},
        {},
        "head_count_kv=.*: expected an integer",
    ),
    "no heads": ("qwen3", {"qwen3.attention.head_count": 0}, {}, "head_count=0: expected an integer of at least 1"),
    "a part of a head rotated": (
        "llama",
        {"llama.rope.dimension_count": 2},
        {},
        "rope.dimension_count=2 is not supported, only",
    ),
    "experts": ("llama", {"llama.expert_count": 8}, {}, "a mixture of experts"),
    "yarn": (
        "qwen2",
        {"qwen2.rope.scaling.type": "yarn"},
        {},
        "rope.scaling.type='yarn' is not supported, only none and",
    ),
    "no embedding": ("llama", {}, {"token_embd.weight": None}, "no matrix token_embd.weight"),
    "missing tensor": (
        "llama",
        {},
        {"blk.1.ffn_up.weight": None},
        r"tensors do not fit its metadata.*model.layers.1.mlp.up_proj.weight \[24, 16\] is missing",
    ),
    "unknown tensor": (
        "llama",
        {},
        {"blk.0.extra.weight": np.ones(3, np.float32)},
        r"blk.0.extra.weight \[3\] is not a part of the model",
    ),
    "other shape": (
        "llama",
        {},
        {"blk.0.attn_q.weight": np.ones((18, 16), np.float32)},
        r"q_proj.weight has shape \[18, 16\], expected \[24, 16\]",
    ),
    "integers": (
        "llama",
        {},
        {"output_norm.weight": np.ones(16, np.int32)},
        "norm.weight holds int32, expected floating-point",
    ),
    "too few factors": (
        "llama",
        {},
        {"rope_freqs.weight": np.ones(2, np.float32)},
        "rope_freqs.weight: expected 3 positive",
    ),
    "negative epsilon": (
        "llama",
        {"llama.attention.layer_norm_rms_epsilon": -1.0},
        {},
        "epsilon=-1.0: expected a number",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_what_does_not_fit_is_refused(what, file):
    name, metadata, tensors, message = BAD[what]
    with pytest.raises(UserError, match=f"(?s)model.gguf: .*{message}"):
        fsj.load_pretrained(file(name, metadata, tensors))


def test_an_unknown_architecture_is_refused_with_the_known_ones(tmp_path):
    path = write(tmp_path / "model.gguf", "falcon", {}, {"a": np.ones(3, np.float32)})
    with pytest.raises(UserError, match="architecture 'falcon' is not one of bert, gemma2, gemma3, gpt2, llama"):
        fsj.load_pretrained(path)


@pytest.mark.parametrize(("number", "kind"), [(None, "mean"), (0, "mean"), (1, "mean"), (2, "cls"), (3, "lasttoken")])
def test_the_pooling_is_what_the_file_says(number, kind, file):
    vectors = fsj.load_pretrained(file("bert", {"bert.pooling_type": number})).vectors
    assert vectors.shape.pooling == (kind,) and vectors.stated == bool(number)
