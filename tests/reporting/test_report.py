"""The report of runs: whole, self-contained, escaped, and with the numbers of the run's own files."""

import json
import re
import shutil
from html.parser import HTMLParser

import pytest

import fewshot_jax as fsj
from fewshot_jax.cli.main import main
from fewshot_jax.errors import UserError
from fewshot_jax.evaluation.statistics import Estimate
from fewshot_jax.reporting.report import report
from tests.small_run import RUN, config_of, merged

TITLES = [
    "Accuracy against shots",
    "Learning curves",
    "Accuracy against inner steps",
    "Accuracy of each test episode",
    "Confusion of classes",
    "Calibration",
    "Support and query features",
    "To run it again",
]
VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """The parts of a page; its tags are balanced."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.open, self.text, self.tables, self.headings = [], [], "", {}, []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.row = []
        if tag in ("caption", "th", "td", "h3"):
            self.text = ""

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "caption":
            self.rows = self.tables.setdefault(self.text, [])
        elif tag in ("th", "td"):
            self.row.append(self.text)
        elif tag == "h3":
            self.headings.append(self.text)
        if tag == "tr":
            self.rows.append(self.row)

    def handle_data(self, data):
        self.text += data

    def attributes(self, name):
        return [attributes[name] for _, attributes in self.tags if name in attributes]


Page.handle_startendtag = Page.handle_starttag


def odd(number):
    return rf"<script>alert({number})</script> & $\frac{{{number}$ =1+1 'x' " + '"y"'


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A MAML run on texts of classes with odd names, evaluated."""
    folder = tmp_path_factory.mktemp("trained")
    rows = [{"text": f"word{c} word{c + i} other", "label": odd(c)} for c in range(12) for i in range(5)]
    data = folder / "texts.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = merged(
        RUN,
        data={"source": "files", "path": str(data), "split_by": "label"},
        episodes={"within_group": False},
        learner={"name": "maml", "gradient": "first_order"},
        inner={"steps": 1, "test_steps": 2, "rate": 0.1},
        outer={"steps": 4, "tasks": 2},
        evaluation={"every": 2, "shots": [1, 2], "at_end": True},
    )
    run = folder / "run"
    fsj.train(config_of(settings), run, quiet=True)
    return run


@pytest.fixture(scope="module")
def made(trained):
    return report([trained], trained.parent / "out", episodes=4, quiet=True)


@pytest.fixture(scope="module")
def page(made):
    return Page(made.page)


@pytest.fixture
def unfinished(trained, tmp_path):
    """A copy of the run as it is before its first checkpoint."""
    run = tmp_path / "unfinished"
    shutil.copytree(trained, run)
    for name in ("result.json", "evaluation.json", "episode_scores.json"):
        (run / name).unlink()
    shutil.rmtree(run / "checkpoints")
    return run


def test_every_section_and_every_picture_is_there(made, page):
    assert page.headings == TITLES
    names = {path.name for path in made.pictures}
    assert names == {
        *("shots.png", "training_loss.png", "validation_score.png", "inner_steps.png"),
        *("features_before.png", "features_after.png"),
        *(f"{kind}_{k}_shot.png" for kind in ("episode_scores", "confusion", "reliability") for k in (1, 2)),
    }
    assert len(page.attributes("src")) == len(names)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in made.pictures)
    assert "missing" not in page.attributes("class")


def test_the_page_loads_nothing(made, page):
    loaded = [value for name in ("src", "href", "action", "data", "poster") for value in page.attributes(name)]
    assert loaded and all(value.startswith(("data:", "#")) for value in loaded)
    assert not {tag for tag, _ in page.tags} & {"script", "iframe", "object", "embed", "base", "form"}
    style = re.findall(r"<style>(.*?)</style>", made.page.read_text(encoding="utf-8"), re.DOTALL)
    assert len(style) == 1 and "url(" not in style[0] and "@import" not in style[0]


def test_pictures_have_words_and_tables_have_heads(page):
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in page.tags if tag == "th")
    places = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert {place.removeprefix("#") for place in places} <= set(page.attributes("id"))


def test_names_of_classes_are_text_and_never_tags(made, page):
    content = made.page.read_text(encoding="utf-8")
    assert "<script" not in content
    tested = json.loads((made.page.parent.parent / "run" / "labels.json").read_text())["test"]
    features = next(alt for alt in page.attributes("alt") if alt.startswith("Features before"))
    assert all(name in features for name in tested)


def test_the_numbers_of_the_table_are_those_of_the_evaluation(trained, made, page):
    evaluation = json.loads((trained / "evaluation.json").read_text())
    head, *rows = (row for row in page.tables["accuracy (%), test episodes"] if row)
    found = {row[0]: row[1:] for row in rows}
    expected = {
        name: [Estimate(**of[k]).text() if name != "chance" else f"{100 * of[k]['mean']:.1f}" for k in ("1", "2")]
        for name, of in evaluation["accuracy"].items()
    }
    assert head == ["row", "1-shot", "2-shot"]
    assert found == expected
    assert made.numbers["runs"]["run"]["shots"] == evaluation["accuracy"]


def test_the_measured_scores_are_those_of_the_evaluation_at_its_number_of_steps(trained, made):
    scores = json.loads((trained / "episode_scores.json").read_text())["rows"]
    numbers = made.numbers["runs"]["run"]
    assert numbers["episodes"]["maml"] == scores["maml"]
    steps = numbers["inner_steps"]
    assert steps["steps"] == [0, 1, 2]
    assert steps["scores"]["1"][0]["mean"] == pytest.approx(1 / 3)  # a zero head: always the same of three classes
    for k, found in numbers["calibration"].items():
        right = sum(n * a for n, a in zip(found["items"], found["accuracy"], strict=True) if n)
        assert right / sum(found["items"]) == pytest.approx(sum(scores["maml"][k]) / 4)


def test_without_stored_episodes_and_confusions_they_are_measured(trained, made, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (run / "episode_scores.json").unlink()
    evaluation = json.loads((run / "evaluation.json").read_text())
    del evaluation["confusion"]
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    numbers = report([run], tmp_path / "report.html", episodes=4, quiet=True).numbers["runs"]["run"]
    stored = made.numbers["runs"]["run"]
    for k in ("1", "2"):
        assert numbers["episodes"]["maml"][k] == pytest.approx(stored["episodes"]["maml"][k])
    assert numbers["confusion"] == stored["confusion"]


def test_what_an_unfinished_run_lacks_is_a_sentence(unfinished, tmp_path):
    made = report([unfinished], tmp_path / "early.html", quiet=True)
    page = Page(made.page)
    assert page.headings == TITLES
    content = made.page.read_text(encoding="utf-8")
    assert "was not evaluated yet" in content and "has no checkpoint yet" in content
    assert {path.name for path in made.pictures} == {"early_training_loss.png", "early_validation_score.png"}


@pytest.mark.parametrize(
    "torn",
    ['{"accuracy": ', '{"accuracy": 3}', '{"accuracy": {"protonet": {"1": 0.5}}}', '{"more": {"loss": {}}}', "3"],
)
def test_damaged_files_are_sentences_too(unfinished, tmp_path, torn):
    (unfinished / "evaluation.json").write_text(torn)
    (unfinished / "episode_scores.json").write_text("[]")
    (unfinished / "metrics.jsonl").unlink()
    content = report([unfinished], tmp_path / "out", quiet=True).page.read_text(encoding="utf-8")
    assert "evaluation.json cannot be read" in content and "holds no scores of episodes" in content
    assert "metrics.jsonl has no steps yet" in content


def test_a_run_without_classes_says_so(tmp_path):
    settings = {
        "application": "regression",
        "model": {"width": 8},
        "inner": {"steps": 1, "rate": 0.01},
        "outer": {"steps": 2, "tasks": 2},
        "evaluation": {"every": 2, "validation_episodes": 2, "episodes": 4, "shots": [5], "tasks": 2},
        "baselines": {"fine_tuning": False, "multi_task": False},
    }
    run = tmp_path / "run"
    fsj.train(config_of(settings), run, quiet=True)
    made = report([run], tmp_path / "out", episodes=4, quiet=True)
    page, evaluation = Page(made.page), json.loads((run / "evaluation.json").read_text())
    names = {path.stem for path in made.pictures}
    assert names == {"shots", "training_loss", "validation_score", "inner_steps", "episode_scores_5_shot"}
    assert made.page.read_text(encoding="utf-8").count("This application has no classes.") == 2
    head, *rows = (row for row in page.tables["mean squared error, test episodes"] if row)
    assert head == ["row", "5 examples"]
    of = {name: Estimate(**row["5"]).text(percent=False) for name, row in evaluation["mean_squared_error"].items()}
    assert dict(rows) == of and "mean of the support set" in of


def test_several_runs_share_a_table_and_keep_their_pictures_apart(trained, unfinished, tmp_path):
    other = tmp_path / "run"
    shutil.copytree(trained, other)
    made = report([trained, other, unfinished], tmp_path / "out", episodes=0, quiet=True)
    page = Page(made.page)
    rows = [row[0] for row in page.tables["accuracy (%), test episodes"] if row]
    names = list(made.numbers["runs"])
    assert len(names) == 3 and all(f"maml ({name})" in rows for name in names[:2])
    compared = made.numbers["comparison"]["accuracy"]
    assert sum(name.startswith("TF-IDF") for name in compared) == 1
    assert sum(name.startswith("untrained, prototypes") for name in compared) == 2
    assert "Not evaluated yet, so not compared" in made.page.read_text(encoding="utf-8")
    assert len({path.name for path in made.pictures}) == len(page.attributes("src"))


def test_an_existing_report_is_kept_unless_forced(unfinished, tmp_path):
    target = tmp_path / "out" / "report.html"
    target.parent.mkdir()
    target.write_text("mine")
    with pytest.raises(UserError, match="exists; give another --output, or --force"):
        report([unfinished], tmp_path / "out", quiet=True)
    assert target.read_text() == "mine"
    report([unfinished], tmp_path / "out", force=True, quiet=True)
    assert target.read_text().startswith("<!DOCTYPE html>")


def test_a_picture_of_that_name_is_kept_too(unfinished, tmp_path):
    (tmp_path / "training_loss.png").write_text("mine")
    with pytest.raises(UserError, match=r"training_loss\.png: already exists"):
        report([unfinished], tmp_path, quiet=True)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.faults
def test_a_report_that_cannot_be_written_leaves_nothing(unfinished, tmp_path, monkeypatch):
    kind, written = type(tmp_path), []
    write = kind.write_bytes

    def full(self, content):
        written.append(self)
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        return write(self, content)

    monkeypatch.setattr(kind, "write_bytes", full)
    with pytest.raises(UserError, match=r"report.html: cannot write here \(No space.*free disk space.*--output"):
        report([unfinished], tmp_path / "out", quiet=True)
    assert len(written) == 2 and list(tmp_path.iterdir()) == [unfinished]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "x"], "report needs a run"),
        (["nowhere", "--output", "x"], "nowhere: does not exist"),
        ([".", "--output", "x"], "is not a run directory"),
        (["nowhere", "--output", "x", "--episodes", "-1"], "--episodes -1"),
        (["nowhere", "--output", "file.txt"], "does not end in .html"),
    ],
)
def test_mistakes_end_in_one_message(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("")
    assert main(["report", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "x").exists()


def test_the_command_prints_the_numbers(unfinished, tmp_path, capsys):
    assert main(["report", str(unfinished), "--output", str(tmp_path / "out"), "--json", "--quiet"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["report"] == str(tmp_path / "out" / "report.html")
    rows = [json.loads(line) for line in (unfinished / "metrics.jsonl").read_text().splitlines()]
    expected = [[row["step"], row["loss"]] for row in rows if "loss" in row]
    assert printed["runs"]["unfinished"]["learning_curves"]["loss"] == expected
