"""Episodes: a pure function of (seed, step, task), and a fair and disjoint draw."""

import hashlib

import jax
import numpy as np
import pytest
from scipy import stats

import fewshot_jax as fsj
from fewshot_jax.data.episodes import EpisodeSampler, EpisodeSize, Items, Naming, check_enough, gather

CLASSES, PER_CLASS = 12, 9
LABEL = np.random.default_rng(0).permutation(np.repeat(np.arange(CLASSES), PER_CLASS))
GROUP = LABEL // 4  # three groups of four classes
SIZES = {"ways": 3, "shots": 2, "queries": 4}


def sampler(**keywords):
    sizes = {name: keywords.pop(name) for name in list(keywords) if name in EpisodeSize.__dataclass_fields__}
    return EpisodeSampler(LABEL, EpisodeSize(**{**SIZES, **sizes}), **{"seed": 5, **keywords})


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def test_a_task_is_a_function_of_seed_step_and_index_in_any_order():
    first = sampler()
    places = [(step, index) for step in range(4) for index in range(5)]
    forwards = {place: first.task(*place) for place in places}
    fresh = sampler()
    backwards = {place: fresh.task(*place) for place in reversed(places)}
    assert all(same(forwards[place], backwards[place]) for place in places)


@pytest.mark.parametrize(
    ("keywords", "digest"),
    [
        ({}, "c482689366c5fce4"),
        ({"ways": 5, "shots": 4, "queries": 3, "min_ways": 2, "min_shots": 1}, "fa00e5dc8ee3c58f"),
        ({"group": GROUP, "min_ways": 2}, "f7793416d8ff2f89"),
    ],
)
def test_the_episodes_stay_what_they_are(keywords, digest):
    # Published results rest on them.
    drawn = [sampler(**keywords).batch(step, 4, offset=1) for step in range(20)]
    content = b"".join(np.ascontiguousarray(leaf).tobytes() for leaf in jax.tree.leaves(drawn))
    assert hashlib.sha256(content).hexdigest()[:16] == digest


def test_a_batch_with_an_offset_is_a_part_of_the_whole_batch():
    whole, part = sampler().batch(7, 6), sampler().batch(7, 2, offset=3)
    assert same(jax.tree.map(lambda leaf: leaf[3:5], whole), part)
    assert same(jax.tree.map(lambda leaf: leaf[1], part), sampler().task(7, 4))


def test_steps_tasks_and_seeds_differ():
    tasks = [sampler(seed=seed).task(step, index) for seed in (5, 6) for step in range(3) for index in range(3)]
    drawn = {tuple(task.support.position.tolist()) for task in tasks}
    assert len(drawn) == len(tasks)


def test_support_and_query_share_no_item_and_no_item_is_drawn_twice():
    for step in range(50):
        support, query = sampler().task(step, 0)
        items = np.concatenate([support.position, query.position])
        assert len(items) == 3 * (2 + 4) == len(set(items.tolist()))


def test_every_label_has_its_shots_and_queries_and_stands_for_one_class():
    for step in range(20):
        support, query = sampler().task(step, 1)
        assert np.bincount(support.label).tolist() == [2, 2, 2]
        assert np.bincount(query.label).tolist() == [4, 4, 4]
        assert support.mask.all()
        assert query.mask.all()
        classes = []
        for label in range(3):
            here = set(LABEL[support.position[support.label == label]].tolist())
            assert here == set(LABEL[query.position[query.label == label]].tolist())
            assert len(here) == 1
            classes += here
        assert len(set(classes)) == 3


def test_a_class_gets_another_label_from_episode_to_episode():
    labels = {c: set() for c in range(CLASSES)}
    for step in range(100):
        support, _ = sampler().task(step, 0)
        for position, label in zip(support.position, support.label, strict=True):
            labels[int(LABEL[position])].add(int(label))
    assert all(seen == {0, 1, 2} for seen in labels.values())


def test_classes_are_drawn_uniformly():
    counts = np.zeros(CLASSES)
    for step in range(400):
        support, _ = sampler().task(step, 0)
        counts[np.unique(LABEL[support.position])] += 1
    assert counts.sum() == 3 * 400
    # Drawing without replacement varies less than a multinomial, so the test is conservative.
    assert stats.chisquare(counts).pvalue > 1e-3


def test_items_of_a_class_are_drawn_uniformly():
    counts = np.zeros(len(LABEL))
    for step in range(600):
        for items in sampler().task(step, 0):
            np.add.at(counts, items.position, 1)
    assert stats.chisquare(counts[LABEL == 0]).pvalue > 1e-3


def test_within_group_the_classes_of_an_episode_come_from_one_group_and_all_groups_serve():
    grouped = sampler(group=GROUP)
    seen = set()
    for step in range(40):
        support, query = grouped.task(step, 0)
        groups = set(GROUP[np.concatenate([support.position, query.position])].tolist())
        assert len(groups) == 1
        seen |= groups
    assert seen == {0, 1, 2}


def test_a_group_with_too_few_classes_is_left_out():
    group = np.where(LABEL < 2, 0, 1)  # group 0 has two classes, and an episode takes three
    for step in range(30):
        support, _ = sampler(group=group).task(step, 0)
        assert set(LABEL[support.position].tolist()).isdisjoint({0, 1})


def test_smaller_episodes_are_padded_on_the_right_and_masked():
    varied = sampler(ways=5, shots=4, queries=3, min_ways=2, min_shots=1)
    sizes = set()
    for step in range(80):
        support, query = varied.task(step, 0)
        assert support.position.shape == (20,)
        assert query.position.shape == (15,)
        support_mask, query_mask = support.mask.reshape(5, 4), query.mask.reshape(5, 3)
        ways, shots = int(support_mask[:, 0].sum()), int(support_mask[0].sum())
        expected = (np.arange(5) < ways)[:, None] & (np.arange(4) < shots)
        np.testing.assert_array_equal(support_mask, expected)
        np.testing.assert_array_equal(query_mask, np.repeat((np.arange(5) < ways)[:, None], 3, 1))
        assert set(support.label[support.mask].tolist()) == set(range(ways)) == set(query.label[query.mask].tolist())
        for items in (support, query):
            assert not items.position[~items.mask].any()
            assert not items.label[~items.mask].any()
        sizes.add((ways, shots))
    assert sizes == {(ways, shots) for ways in range(2, 6) for shots in range(1, 5)}


def test_uneven_classes_draw_their_shots_independently_and_are_padded():
    varied = sampler(ways=4, shots=4, queries=3, min_shots=2, uneven=True)
    shots = []
    for step in range(300):
        support, query = varied.task(step, 0)
        mask = support.mask.reshape(4, 4)
        shots.append(mask.sum(1))
        np.testing.assert_array_equal(mask, np.arange(4) < shots[-1][:, None])
        assert not support.position[~support.mask].any()
        assert not support.label[~support.mask].any()
        assert query.mask.all()
        items = np.concatenate([support.position[support.mask], query.position])
        assert len(set(items.tolist())) == len(items)
    counts = np.stack(shots)
    for place in range(4):
        assert stats.chisquare(np.bincount(counts[:, place], minlength=5)[2:]).pvalue > 1e-3
    assert stats.chi2_contingency(np.histogram2d(counts[:, 0], counts[:, 1], bins=3)[0]).pvalue > 1e-3
    assert same(varied.task(7, 3), sampler(ways=4, shots=4, queries=3, min_shots=2, uneven=True).task(7, 3))


NAMES = len(LABEL)  # the names of the classes stand behind the items


@pytest.mark.parametrize(
    "keywords", [{}, {"group": GROUP}, {"ways": 5, "shots": 4, "min_ways": 2, "min_shots": 1, "uneven": True}]
)
def test_each_class_has_its_name_in_the_support_set_and_nothing_else_changes(keywords):
    plain, named = sampler(**keywords), sampler(**keywords, names_from=NAMES)
    for step in range(30):
        without, (support, query) = plain.task(step, 1), named.task(step, 1)
        assert same(query, without.query)
        rows = Items(*(field.reshape(plain.size.ways, plain.size.shots + 1) for field in support))
        assert same(Items(*(field[:, :-1].reshape(-1) for field in rows)), without.support)
        name = Items(*(field[:, -1] for field in rows))
        np.testing.assert_array_equal(name.mask, rows.mask[:, 0], "a class has a name where it has a text")
        assert not name.position[~name.mask].any()
        for position, label in zip(name.position[name.mask], name.label[name.mask], strict=True):
            of_class = LABEL[query.position[query.mask & (query.label == label)]]
            assert set(of_class.tolist()) == {position - NAMES}


DOMAIN = np.array([0, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2])[LABEL]  # three data sets of 1, 3 and 8 classes


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_a_data_set_is_drawn_in_proportion_to_a_power_of_its_classes(power):
    drawing = sampler(group=DOMAIN, domain_power=power)
    counts = np.zeros(3)
    for step in range(600):
        support, query = drawing.task(step, 0)
        (domain,) = set(DOMAIN[np.concatenate([support.position, query.position])].tolist())
        counts[domain] += 1
    assert counts[0] == 0, "one class does not fill three ways"
    expected = np.array([3, 8]) ** power
    assert stats.chisquare(counts[1:], 600 * expected / expected.sum()).pvalue > 1e-3
    assert same(drawing.task(9, 2), sampler(group=DOMAIN, domain_power=power).task(9, 2))


def test_data_sets_too_small_for_an_episode_are_refused():
    with pytest.raises(fsj.UserError, match=r"train split: no data set has 9 classes \(the largest has 8\); lower"):
        sampler(ways=9, group=DOMAIN, domain_power=0.5, naming=Naming("train"))


def test_fewer_classes_than_ways_names_split_counts_and_remedy():
    with pytest.raises(fsj.UserError, match=r"^validation split: 12 classes.*13 ways.*lower episodes\.ways"):
        sampler(ways=13, naming=Naming("validation"))


def test_a_class_with_too_few_items_is_named():
    names = [f"intent {i}" for i in range(CLASSES)]
    label = np.concatenate([LABEL, [CLASSES] * 3])
    with pytest.raises(fsj.UserError) as error:
        EpisodeSampler(label, EpisodeSize(**SIZES), naming=Naming("train", classes=[*names, "rare"]))
    message = str(error.value)
    assert message.startswith("train split: class 'rare' has 3 examples,")
    assert "2 shots + 4 queries = 6" in message
    assert "lower episodes.shots or episodes.queries" in message


def test_the_smallest_class_is_named_and_the_others_counted():
    with pytest.raises(fsj.UserError, match=r"class 'b' has 1 examples \(and 1 more classes\)"):
        check_enough({"a": 3, "b": 1, "c": 9}, ways=2, shots=2, queries=2, split="test", groups=None)


def test_no_group_with_enough_classes():
    with pytest.raises(fsj.UserError, match=r"test split: no group has 5 classes \(the largest has 4\).*within_group"):
        sampler(ways=5, group=GROUP, naming=Naming("test"))


@pytest.mark.parametrize(
    "wrong", [{"min_ways": 4}, {"min_shots": 0}, {"min_shots": 3}, {"queries": 0}, {"ways": 0}, {"shots": 0}]
)
def test_sizes_out_of_range(wrong):
    with pytest.raises(fsj.UserError, match="min_ways"):
        sampler(**wrong)


def test_gather_takes_every_field_at_the_positions():
    items = Items(np.array([[2, 0]]), np.array([[1, 0]]), np.array([[True, False]]))
    batch = gather({"x": np.arange(6).reshape(3, 2), "y": np.array([10.0, 11.0, 12.0])}, items)
    np.testing.assert_array_equal(batch["x"], [[[4, 5], [0, 1]]])
    np.testing.assert_array_equal(batch["y"], [[12.0, 10.0]])
    assert batch["label"] is items.label
    assert batch["mask"] is items.mask


def test_episodes_draws_a_meta_batch_from_arrays():
    fields = {"x": np.stack([LABEL, np.arange(len(LABEL))], 1).astype(np.float32)}
    drawn = fsj.episodes(fields, LABEL, step=3, tasks=4, seed=1, group=GROUP, **SIZES)
    assert drawn.support["x"].shape == (4, 3 * 2, 2)
    assert drawn.query["x"].shape == (4, 3 * 4, 2)
    assert drawn.support["label"].shape == drawn.support["mask"].shape == (4, 6)
    assert drawn.query["label"].shape == drawn.query["mask"].shape == (4, 12)
    for task in range(4):
        of_label = {}
        for batch in drawn:
            for x, label in zip(batch["x"][task], batch["label"][task], strict=True):
                assert of_label.setdefault(int(label), x[0]) == x[0]
        assert sorted(of_label) == [0, 1, 2]
        assert len({int(c) // 4 for c in of_label.values()}) == 1
    again = fsj.episodes(fields, LABEL, step=3, tasks=4, seed=1, group=GROUP, **SIZES)
    assert same(drawn, again)
    assert not same(drawn, fsj.episodes(fields, LABEL, step=4, tasks=4, seed=1, group=GROUP, **SIZES))


@pytest.mark.parametrize("labels", [23, 25])
def test_rows_and_labels_of_unequal_number_are_refused_with_both_numbers(labels):
    x, label = np.zeros((24, 1), np.float32), np.arange(labels) % 4
    sizes = {"step": 0, "tasks": 1, "ways": 3, "shots": 2, "queries": 2}
    with pytest.raises(ValueError, match=f"'x' has 24 entries, but 'label' has {labels}"):
        fsj.episodes({"x": x}, label, **sizes)
    with pytest.raises(ValueError, match=f"'group' has {labels} entries, but 'label' has 24"):
        fsj.episodes({"x": x}, np.arange(24) % 4, group=np.zeros(labels, int), **sizes)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (np.array([0.0, 0, 1, np.nan]), "'label' of item 3 is nan"),
        (np.array(["a", None, "b", "c"], object), "item 1 is None, of the type NoneType"),
        (np.zeros((4, 1)), r"shape \(4, 1\)"),
    ],
)
def test_what_can_be_no_label_of_an_item_is_refused(label, message):
    with pytest.raises(fsj.UserError, match=message):
        fsj.episodes({"x": np.zeros(4)}, label, step=0, tasks=1, ways=1, shots=1, queries=1)


NAMED = np.array([f"class {c:02}" for c in LABEL])
TABLE = {
    "strings of Python": (NAMED.astype(object), NAMED),
    "numpy's strings of any length": (NAMED.astype(np.dtypes.StringDType()), NAMED),
    "integers of Python": (LABEL.astype(object), LABEL),
}


@pytest.mark.parametrize("kind", TABLE)
def test_a_column_of_objects_gives_the_episodes_of_an_array_of_its_type(kind):
    given, plain = TABLE[kind]
    drawn = [
        fsj.episodes({"x": np.arange(len(LABEL))}, label, step=1, tasks=2, group=group, **SIZES)
        for label, group in ((given, NAMED.astype("U7").astype(object)), (plain, NAMED.astype("U7")))
    ]
    assert same(*drawn)


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ([*NAMED[:-1], float("nan")], "'label' of item 107 is nan, of the type float"),
        ([*NAMED[:2], 3, *NAMED[3:]], "'label' of item 2 is 3, of the type int"),
        ([*LABEL[:2].tolist(), True, *LABEL[3:].tolist()], "'label' of item 2 is True, of the type bool"),
    ],
)
def test_an_item_of_another_type_is_named(column, words):
    with pytest.raises(fsj.UserError, match=words):
        EpisodeSampler(np.array(column, object), EpisodeSize(**SIZES))
