"""Reading and writing models without torch: what fits, what does not, what a bad directory is told."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file
from transformers import CONFIG_MAPPING

import fewshot_jax as fsj
from fewshot_jax.models.huggingface.families import FAMILIES
from fewshot_jax.models.huggingface.fresh import LANGUAGE_MODEL
from fewshot_jax.models.huggingface.pretrained import Pretrained, build, prefix_of
from fewshot_jax.notes import Note
from tests.models.huggingface.tiny import CONFIGS, VOCABULARY, tiny

IDS = jnp.array([[3, 9, 4, 2], [7, 5, 2, 0]])
MASK = jnp.array([[1, 1, 1, 1], [1, 1, 1, 0]])


@pytest.fixture
def saved(tmp_path):
    fsj.save_pretrained(tmp_path / "model", tiny())
    return tmp_path / "model"


def kinds_of(name):
    return FAMILIES[CONFIGS[name][0]].architectures


def edit_config(directory, **changes):
    file = directory / "config.json"
    config = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))


def edit_tensors(directory, change):
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name, (m, _) in CONFIGS.items() for kind in FAMILIES[m].architectures]
)
def test_every_number_comes_back(name, kind, tmp_path):
    ours = tiny(name, kind)
    fsj.save_pretrained(tmp_path, ours)
    again = fsj.load_pretrained(tmp_path)
    assert (again.head, again.created) == (kind, ())
    family = ours.family
    constants = {prefix_of(family, kind) + one for one in family.constants(ours.config)}
    assert set(again.ignored) <= family.copies.keys() | constants
    equal(again.params, ours.params)


def test_shards_hold_the_same_model(tmp_path):
    ours = tiny()
    fsj.save_pretrained(tmp_path, ours, max_shard_bytes=4000)
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 2
    equal(fsj.load_pretrained(tmp_path).params, ours.params)


def test_parameters_have_the_dtype_asked_for(saved):
    low = fsj.load_pretrained(saved, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(low.params)} == {jnp.dtype(jnp.bfloat16)}
    exact = fsj.load_pretrained(saved)
    equal(low.params, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), exact.params))


NAMES = {CONFIGS[name][0]: name for name in reversed(CONFIGS)}  # of one tiny model of each family


@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_files_of_half_precision_are_cast_when_they_are_read(family, dtype, tmp_path):
    ours = tiny(NAMES[family], next(iter(kinds_of(NAMES[family]))))
    fsj.save_pretrained(tmp_path, ours, dtype=dtype)
    assert {str(leaf.dtype) for leaf in load_file(tmp_path / "model.safetensors").values()} == {jnp.dtype(dtype).name}
    read = fsj.load_pretrained(tmp_path)
    equal(read.params, jax.tree.map(lambda leaf: leaf.astype(dtype).astype(jnp.float32), ours.params))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_config_without_a_field_that_its_family_needs_is_told_which(family, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    with pytest.raises(fsj.UserError, match=f"lacks {', '.join(FAMILIES[family].required)}, which model_type"):
        fsj.load_pretrained(tmp_path)


def test_bfloat16_computes_on_float32_parameters_and_gives_float32_logits(saved):
    exact, low = fsj.load_pretrained(saved), fsj.load_pretrained(saved, compute_dtype=jnp.bfloat16)
    equal(exact.params, low.params)
    logits = [jax.jit(one.module.apply)({"params": one.params}, IDS, MASK).logits for one in (exact, low)]
    assert logits[1].dtype == jnp.float32
    difference = jnp.abs(logits[0] - logits[1]).max()
    assert 0 < difference < 0.05 * jnp.abs(logits[0]).max()


def test_leaves_lie_where_the_sharding_says(saved):
    mesh = jax.make_mesh((len(jax.devices()),), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))

    def rule(path, shape):
        return NamedSharding(mesh, PartitionSpec("fsdp") if path == "token_embedding/embedding" else PartitionSpec())

    placed = fsj.load_pretrained(saved, sharding=rule)
    assert placed.params["token_embedding"]["embedding"].sharding.spec == PartitionSpec("fsdp")
    equal(jax.tree.map(np.asarray, placed.params), jax.tree.map(np.asarray, fsj.load_pretrained(saved).params))


def test_a_classifier_can_be_put_on_a_language_model(saved):
    plain = fsj.load_pretrained(saved)
    made = fsj.load_pretrained(saved, head="classification", num_labels=5)
    assert made.created == ("head/output/kernel",)
    assert made.ignored == ("lm_head.weight",)
    equal(made.params["decoder"], plain.params["decoder"])
    assert made.module.apply({"params": made.params}, IDS, MASK).logits.shape == (2, 5)
    assert (
        fsj.load_pretrained(saved, head="classification", num_labels=5, seed=1).params["head"]["output"]["kernel"][0, 0]
        != (made.params["head"]["output"]["kernel"][0, 0])
    )


def test_a_classifier_of_another_size_is_created_and_one_of_the_same_is_read(tmp_path):
    ours = tiny("bert", "classification", num_labels=3)
    fsj.save_pretrained(tmp_path, ours)
    assert fsj.load_pretrained(tmp_path, num_labels=3).created == ()
    other = fsj.load_pretrained(tmp_path, num_labels=4)
    assert other.created == ("head/output/bias", "head/output/kernel")
    equal(other.params["head"]["dense"], ours.params["head"]["dense"])


def test_without_a_head_there_are_hidden_states_alone(saved):
    bare = fsj.load_pretrained(saved, head=None)
    assert bare.head is None and bare.ignored == ("lm_head.weight",)
    out = bare.module.apply({"params": bare.params}, IDS, MASK)
    assert out.logits is None and out.last_hidden_state.shape == (2, 4, 16)


def test_an_unknown_architecture_is_refused_unless_no_head_is_asked_for(saved):
    edit_config(saved, architectures=["LlamaForTokenClassification"])
    with pytest.raises(fsj.UserError, match=r"'LlamaForTokenClassification' is not one of .*head=None"):
        fsj.load_pretrained(saved)
    assert fsj.load_pretrained(saved, head=None).head is None


@pytest.mark.parametrize(
    ("name", "output", "table"),
    [
        ("llama-tied", "lm_head.weight", "model.embed_tokens.weight"),
        ("t5-gated", "lm_head.weight", "shared.weight"),
        ("bart", "lm_head.weight", "model.shared.weight"),
        ("mpnet", "lm_head.decoder.weight", "mpnet.embeddings.word_embeddings.weight"),
        ("electra", "generator_lm_head.weight", "electra.embeddings.word_embeddings.weight"),
        ("deberta", "cls.predictions.decoder.weight", "deberta.embeddings.word_embeddings.weight"),
    ],
)
def test_two_different_matrices_are_not_tied_whatever_the_config_says(name, output, table, tmp_path):
    fsj.save_pretrained(tmp_path, tiny(name, next(kind for kind in LANGUAGE_MODEL.values() if kind in kinds_of(name))))
    edit_tensors(tmp_path, lambda t: t.update({output: t[table]}))
    assert fsj.load_pretrained(tmp_path).ignored == (output,)
    edit_tensors(tmp_path, lambda t: t.update({output: t[table] + 1}))
    again = fsj.load_pretrained(tmp_path)
    np.testing.assert_array_equal(
        again.params["head"]["output"]["kernel"], again.params["token_embedding"]["embedding"].T + 1
    )
    fsj.save_pretrained(tmp_path / "copy", again)
    equal(fsj.load_pretrained(tmp_path / "copy").params, again.params)


@pytest.mark.parametrize("head", ["auto", None, "classification", "span"])
def test_the_first_berts_called_scale_and_bias_gamma_and_beta(head, tmp_path):
    ours = tiny("bert", "masked_lm")
    fsj.save_pretrained(tmp_path, ours)

    def rename(tensors):
        for name in [name for name in tensors if "LayerNorm" in name]:
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            tensors[old] = tensors.pop(name)

    edit_tensors(tmp_path, rename)
    again = fsj.load_pretrained(tmp_path, head=head)
    equal(again.params["encoder"], ours.params["encoder"])
    assert head != "auto" or (again.ignored, again.created) == ((), ())


def test_the_pooler_of_a_base_model_serves_its_classifier(tmp_path):
    ours = tiny("bert", "pooler")
    fsj.save_pretrained(tmp_path, ours)
    made = fsj.load_pretrained(tmp_path, head="classification", num_labels=3)
    assert made.created == ("head/output/bias", "head/output/kernel")
    equal(made.params["head"]["dense"], ours.params["head"]["dense"])


@pytest.mark.parametrize(("name", "kind"), [("mpnet", "pooler"), ("deberta", None), ("distilbert", None)])
@pytest.mark.parametrize("named", ["masked_lm", "classification"])
def test_a_head_that_a_config_names_and_the_file_does_not_hold_is_left_out(named, name, kind, tmp_path):
    ours = tiny(name, kind)
    fsj.save_pretrained(tmp_path, ours)
    edit_config(tmp_path, architectures=[kinds_of(name)[named]])  # as sentence-transformers/all-mpnet-base-v2 has it
    with pytest.warns(Note, match=f"names {kinds_of(name)[named]}, but the file holds nothing of its head"):
        read = fsj.load_pretrained(tmp_path)
    assert read.head == kind
    equal(read.params, ours.params)


def test_a_discriminator_is_read_without_its_head(tmp_path):
    ours = tiny("electra", None)
    fsj.save_pretrained(tmp_path, ours)

    def discriminator(tensors):
        for name in list(tensors):
            tensors[f"electra.{name}"] = tensors.pop(name)
        tensors["discriminator_predictions.dense.weight"] = np.zeros((16, 16), np.float32)

    edit_tensors(tmp_path, discriminator)
    edit_config(tmp_path, architectures=["ElectraForPreTraining"])
    read = fsj.load_pretrained(tmp_path)
    assert (read.head, read.ignored) == (None, ("discriminator_predictions.dense.weight",))
    equal(read.params, ours.params)
    made = fsj.load_pretrained(tmp_path, head="classification", num_labels=3)
    assert {name.split("/")[1] for name in made.created} == {"dense", "output"}


def test_the_head_that_deberta_was_pretrained_with_is_read_whatever_its_config_says(tmp_path):
    ours = tiny("deberta-new", "masked_lm")
    fsj.save_pretrained(tmp_path, ours)
    edit_tensors(tmp_path, lambda t: t.update({"mask_predictions.dense.weight": np.zeros((16, 16), np.float32)}))
    edit_config(tmp_path, legacy=..., architectures=...)  # as microsoft/deberta-v3-base has it
    assert fsj.load_pretrained(tmp_path).head is None
    read = fsj.load_pretrained(tmp_path, head="masked_lm")
    assert (read.created, read.ignored) == ((), ("mask_predictions.dense.weight",))
    equal(read.params, ours.params)
    fsj.save_pretrained(tmp_path / "copy", read)
    assert "cls.predictions.transform.dense.weight" in load_file(tmp_path / "copy" / "model.safetensors")
    equal(fsj.load_pretrained(tmp_path / "copy").params, ours.params)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "deberta",
            {"conv_kernel_size": 3},
            "conv_kernel_size=3: a convolution .*deberta-v2-xlarge and .*deberta-v3-large",
        ),
        ("deberta", {"embedding_size": 8}, "embedding_size=8 is not supported, only 16"),
        ("deberta", {"norm_rel_ebd": None}, "norm_rel_ebd=None: expected 'layer_norm' or 'none'"),
        ("deberta", {"pos_att_type": []}, r"pos_att_type=\[\]: expected 'c2p'"),
        ("mpnet", {"pad_token_id": 0}, "pad_token_id=0 is not supported, only 1"),
        ("mpnet", {"relative_attention_num_buckets": 16}, "relative_attention_num_buckets=16 is not supported"),
    ],
)
def test_what_a_family_does_not_have_here_is_named(name, changes, message, tmp_path):
    fsj.save_pretrained(tmp_path, tiny(name, "span"))
    edit_config(tmp_path, **changes)
    with pytest.raises(fsj.UserError, match=rf"config.json: {message}"):
        fsj.load_pretrained(tmp_path)


def test_an_encoder_can_be_read_alone(tmp_path):
    ours = tiny("t5", "causal_lm")
    fsj.save_pretrained(tmp_path, ours)
    alone = fsj.load_pretrained(tmp_path, head="encoder")
    equal(alone.params["encoder"], ours.params["encoder"])
    assert all(name.startswith("decoder.") for name in alone.ignored)


def test_a_head_that_is_not_known_can_be_left_behind(tmp_path):
    fsj.save_pretrained(tmp_path, tiny("roberta", "masked_lm"))
    edit_tensors(tmp_path, lambda t: t.update({"classifier.weight": np.zeros((2, 16), np.float32)}))
    edit_config(tmp_path, architectures=["RobertaForTokenClassification"])
    assert "classifier.weight" in fsj.load_pretrained(tmp_path, head=None).ignored


def test_an_empty_row_of_a_batch_has_a_finite_gradient():
    ours = tiny("modernbert-mean", "classification")
    mask = MASK.at[1].set(0)

    def loss(params):
        return ours.module.apply({"params": params}, IDS, mask).logits[0].sum()

    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(ours.params)))


def test_an_argument_that_is_none_of_the_models_is_refused(saved):
    model = fsj.load_pretrained(saved)
    for extra in ({"token_type_ids": IDS}, {"decoder_input_ids": IDS}, {"decoder_attention_mask": MASK}):
        with pytest.raises(ValueError, match="this model"):
            model.module.apply({"params": model.params}, IDS, MASK, **extra)


def test_all_that_does_not_fit_is_named_at_once(saved):
    def spoil(tensors):
        del tensors["model.norm.weight"]
        tensors["model.layers.1.mlp.up_proj.weight"] = np.zeros((23, 16), np.float32)
        tensors["model.layers.0.input_layernorm.weight"] = np.zeros(16, np.int32)
        tensors["stray"] = np.zeros(2, np.float32)

    edit_tensors(saved, spoil)
    with pytest.raises(fsj.UserError) as error:
        fsj.load_pretrained(saved)
    for part in (
        r"model.norm.weight [16] is missing",
        "model.layers.1.mlp.up_proj.weight has shape [23, 16], expected [24, 16]",
        "model.layers.0.input_layernorm.weight holds int32",
        "stray [2] is not a part of the model",
    ):
        assert part in str(error.value)


BAD_CONFIGS = {
    "unknown": ({"model_type": "mamba"}, "'mamba' is not supported; .* families bart, bert"),
    "code": ({"model_type": "own", "auto_map": {"AutoModel": "own.Model"}}, "is never run"),
    "none": ({"model_type": ...}, "names no model_type"),
    "missing": ({"hidden_size": ..., "num_hidden_layers": ...}, "lacks hidden_size, num_hidden_layers"),
    "text": ({"hidden_size": "wide"}, "hidden_size"),
    "negative": ({"num_hidden_layers": -1}, "config.json"),
    "heads": ({"num_attention_heads": 5}, "config.json"),
    "zero": ({"num_attention_heads": 0}, "config.json"),
    "huge": ({"hidden_size": 2**40}, "config.json"),
    "groups": ({"num_key_value_heads": 3}, "heads=4 is not a multiple of kv_heads=3"),
    "activation": ({"hidden_act": "snake"}, "'snake' is not one of"),
    "rope": ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1.0, "factor": 2.0}}, "yarn"),
    "layers": ({"num_hidden_layers": 4}, r"model.layers.3.self_attn.q_proj.weight \[24, 16\] is missing"),
    "fewer layers": ({"num_hidden_layers": 2}, "model.layers.2.mlp.down_proj.weight .* is not a part of the model"),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_a_bad_config_is_told_what_is_wrong(case, saved):
    changes, message = BAD_CONFIGS[case]
    edit_config(saved, **changes)
    with pytest.raises(fsj.UserError, match=message):
        fsj.load_pretrained(saved)


def test_a_directory_that_is_none_is_told_so(tmp_path, saved):
    for path, message in ((tmp_path / "no", "no such"), (saved / "config.json", "a file"), (tmp_path, "holds model")):
        with pytest.raises(fsj.UserError, match=message):
            fsj.load_pretrained(path)
    (saved / "config.json").write_text("{")
    with pytest.raises(fsj.UserError, match="is not JSON"):
        fsj.load_pretrained(saved)


def test_a_pickle_is_refused_with_a_hint(saved):
    (saved / "model.safetensors").rename(saved / "pytorch_model.bin")
    with pytest.raises(fsj.UserError, match="save_pretrained"):
        fsj.load_pretrained(saved)


@pytest.mark.parametrize("options", [{"head": "poetry"}, {"head": "masked_lm"}, {"num_labels": 0}, {"num_labels": 5}])
def test_an_argument_that_cannot_be_is_refused(options, saved):
    with pytest.raises(fsj.UserError, match=r"head|num_labels"):
        fsj.load_pretrained(saved, **options)


def test_parameters_that_are_not_the_modules_are_not_written(tmp_path):
    ours = tiny()
    params = {key: value for key, value in ours.params.items() if key != "head"}
    params["token_embedding"] = {"embedding": jnp.zeros((3, 16)), "other": jnp.zeros(1)}
    with pytest.raises(ValueError, match=r"head/output/kernel is missing; .*other is not .*; .*shape \(3, 16\)"):
        fsj.save_pretrained(tmp_path, Pretrained(**{**vars(ours), "params": params}))
    assert not list(tmp_path.iterdir())


def test_a_model_without_a_tokenizer_has_none(saved):
    assert fsj.load_pretrained(saved).tokenizer is None


def test_the_tokenizer_is_read_and_written_with_the_model(tmp_path, saved):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0").save_pretrained(saved)
    pretrained = fsj.load_pretrained(saved)
    fsj.save_pretrained(tmp_path / "copy", pretrained)
    copy = fsj.load_pretrained(tmp_path / "copy").tokenizer
    assert copy("w3 w7 other")["input_ids"] == pretrained.tokenizer("w3 w7 other")["input_ids"] == [3, 7, 0]


def test_a_tokenizer_that_cannot_be_read_goes_along_as_it_is(tmp_path):
    """A package may be missing that it needs: no reason to lose the weights."""
    fsj.save_pretrained(tmp_path / "base", tiny("gpt2", "causal_lm"))
    (tmp_path / "base" / "tokenizer.json").write_text("{ no tokenizer")
    pretrained = fsj.load_pretrained(tmp_path / "base")
    with pytest.raises(fsj.UserError, match="the tokenizer cannot be read"):
        _ = pretrained.tokenizer
    fsj.save_pretrained(tmp_path / "again", pretrained)
    assert (tmp_path / "again" / "tokenizer.json").read_text() == "{ no tokenizer"
    assert len(repr(pretrained)) < 300
    assert repr(pretrained).startswith("Pretrained(gpt2, head='causal_lm', ")


def test_a_decoder_starts_with_the_token_of_its_config_also_if_its_id_is_zero():
    model_type, fields = CONFIGS["t5"]
    for start, expected in ((0, 0), (1, 1), (None, 3)):
        config = CONFIG_MAPPING[model_type](**{**fields, "decoder_start_token_id": start, "pad_token_id": 3})
        assert build(config, "causal_lm", jnp.float32).shape.start_id == expected


def rename_tensors(directory, rename):
    def change(tensors):
        renamed = {rename(name): array for name, array in tensors.items()}
        tensors.clear()
        tensors.update(renamed)

    edit_tensors(directory, change)


TIED = {
    "llama-tied": ("causal_lm", "model.embed_tokens.weight", "lm_head.weight"),
    "gpt2": ("causal_lm", "transformer.wte.weight", "lm_head.weight"),
    "t5": ("causal_lm", "shared.weight", "lm_head.weight"),
    "bert": ("masked_lm", "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
}


@pytest.mark.parametrize("name", TIED)
def test_a_tied_embedding_is_read_under_the_name_of_the_output_layer(name, tmp_path):
    kind, embedding, output = TIED[name]
    ours = tiny(name, kind)
    fsj.save_pretrained(tmp_path, ours)
    rename_tensors(tmp_path, lambda name: output if name == embedding else name)
    equal(fsj.load_pretrained(tmp_path).params, ours.params)
    body = fsj.load_pretrained(tmp_path, head=None).params
    equal(body, {part: leaf for part, leaf in ours.params.items() if part != "head"})


def test_an_embedding_that_is_not_tied_is_missed(tmp_path):
    fsj.save_pretrained(tmp_path, tiny("llama"))
    edit_tensors(tmp_path, lambda tensors: tensors.pop("model.embed_tokens.weight"))
    with pytest.raises(fsj.UserError, match=r"model.embed_tokens.weight \[40, 16\] is missing"):
        fsj.load_pretrained(tmp_path)


WRAPPERS = {
    "DDP": (lambda name: f"module.{name}", "module."),
    "compile": (lambda name: f"_orig_mod.{name}", "_orig_mod."),
    "both": (lambda name: f"module._orig_mod.{name}", "module."),
    "layers": (lambda name: name.replace("layers.0.", "layers.0._orig_mod."), "_orig_mod."),
    "another module": (lambda name: f"net.encoder.{name}", "net.encoder."),
}


@pytest.mark.parametrize("case", WRAPPERS)
def test_the_prefix_of_a_wrapper_is_taken_off_with_a_warning(case, saved):
    rename, prefix = WRAPPERS[case]
    rename_tensors(saved, rename)
    with pytest.warns(Note, match=f"read without '{prefix}'") as warned:
        equal(fsj.load_pretrained(saved).params, tiny().params)
    assert [warning.filename for warning in warned] == [__file__]


def doubled(first, second):
    def change(tensors):
        for name in list(tensors):
            tensors[first + name] = tensors.pop(name)
            tensors[second + name] = tensors[first + name] + 1

    return change


@pytest.mark.parametrize("head", ["auto", None, "classification"])
def test_a_file_that_holds_two_models_is_refused_with_the_prefix_of_each(head, saved):
    edit_tensors(saved, doubled("student.", "teacher."))
    with pytest.raises(fsj.UserError, match=r"holds 2 models, whose .* 'student\.', 'teacher\.'; expected one"):
        fsj.load_pretrained(saved, head=head)


def test_beside_the_names_of_the_family_another_model_takes_no_place(saved):
    edit_tensors(saved, doubled("", "aux."))  # in the file it stands first
    with pytest.raises(fsj.UserError, match=r"aux\..* is not a part of the model"):
        fsj.load_pretrained(saved)
    body = {part: leaf for part, leaf in tiny().params.items() if part != "head"}
    equal(fsj.load_pretrained(saved, head=None).params, body)


def test_one_name_of_a_body_under_another_prefix_is_no_second_model(saved):
    edit_tensors(saved, lambda tensors: tensors.update({"vision.norm.weight": np.ones(4, np.float32)}))
    rename_tensors(saved, lambda name: name if name.startswith("vision.") else f"module.{name}")
    body = {part: leaf for part, leaf in tiny().params.items() if part != "head"}
    with pytest.warns(Note, match=r"'module\.'"):
        equal(fsj.load_pretrained(saved, head=None).params, body)


def test_a_checkpoint_of_other_names_is_told_what_it_has_beside_what_is_missing(saved):
    rename_tensors(saved, lambda name: name.replace("self_attn.", "attention.").replace("embed_tokens", "words"))
    for head in ("auto", None):
        with pytest.raises(fsj.UserError) as error:
            fsj.load_pretrained(saved, head=head)
        message = str(error.value)
        assert "model.embed_tokens.weight [40, 16] is missing" in message
        assert "model.layers.0.attention.k_proj.weight [12, 16]" in message
        assert "give the config.json that was saved with these weights" in message


def test_the_weights_of_another_family_are_shown_where_no_name_fits(saved, tmp_path):
    fsj.save_pretrained(tmp_path / "gpt2", tiny("gpt2"))
    (tmp_path / "gpt2" / "model.safetensors").replace(saved / "model.safetensors")
    with pytest.raises(fsj.UserError) as error:
        fsj.load_pretrained(saved, head=None)
    assert "transformer.h.0.attn.c_attn.weight [16, 48]" in str(error.value)


def test_a_directory_without_a_config_is_told_what_it_holds(tmp_path):
    with pytest.raises(fsj.UserError, match="holds nothing, which is no model; give a Hugging Face"):
        fsj.load_pretrained(tmp_path)
    (tmp_path / "weights.npz").touch()
    with pytest.raises(fsj.UserError, match=r"holds weights\.npz, which is no model; give a Hugging Face"):
        fsj.load_pretrained(tmp_path)
    (tmp_path / "adapter_config.json").touch()
    with pytest.raises(fsj.UserError, match=r"an adapter in peft's format; give the directory of its base model"):
        fsj.load_pretrained(tmp_path)


def test_an_output_layer_has_the_name_that_transformers_gives_it_in_files(tmp_path):
    pretrained = tiny("gpt-neox", "causal_lm")
    fsj.save_pretrained(tmp_path, pretrained)
    tensors = load_file(tmp_path / "model.safetensors")
    assert "embed_out.weight" in tensors and "lm_head.weight" not in tensors
    np.testing.assert_array_equal(tensors["embed_out.weight"], pretrained.params["head"]["output"]["kernel"].T)
