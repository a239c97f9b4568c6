"""What the README and the pages of docs show works: snippets, commands, flags, files, links, messages."""

import ast
import dataclasses
import importlib
import inspect
import json
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest
import tyro
import yaml

from fewshot_jax.cli.arguments import parse
from fewshot_jax.cli.main import COMMANDS
from fewshot_jax.config import Config
from fewshot_jax.config.pretraining import PretrainConfig
from fewshot_jax.config_file import flat, from_dict
from fewshot_jax.errors import UserError

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in (README, *DOCS)}
ALL = "\n".join(PAGES.values())
_BLOCK = re.compile(r"(?:^<!-- (not run|file): (.+?) -->\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PATH = re.compile(r"\b(?:benchmarks|configs|docs|fewshot_jax|tests)/[\w./-]+\.(?:json|md|png|py|sh|yaml)\b")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


class Block(NamedTuple):
    """A block of code: "not run" or "file" with a reason or a name, the language, the code."""

    mark: str
    said: str
    language: str
    code: str


BLOCKS = {page: [Block(*found) for found in _BLOCK.findall(text)] for page, text in PAGES.items()}
SPANS = re.findall(r"`([^`\n]+)`", _BLOCK.sub("", ALL))
of_each_page = pytest.mark.parametrize("page", PAGES)


def blocks(page, language, *, marked=None):
    return [block for block in BLOCKS[page] if block.language == language and (marked is None or block.mark == marked)]


def files():
    """The files that the pages show, by name."""
    return {block.said: block.code for found in BLOCKS.values() for block in found if block.mark == "file"}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with what the snippets load: a run, a model adapted from a file, a pretrained model."""
    from fewshot_jax.adaptation.simple import SimpleClassifier
    from fewshot_jax.data.files import read_records
    from fewshot_jax.data.splits import text_split
    from tests.small_run import RUN, saved_run

    folder = tmp_path_factory.mktemp("docs")
    for name, content in files().items():
        (folder / name).write_text(content, encoding="utf-8")
    data = text_split(read_records(folder / "examples.csv"))
    SimpleClassifier.fit(data.texts, data.label, data.classes).save(folder / "my-model")
    write_gpt2(folder / "my-gpt2")
    (folder / "runs").mkdir()
    saved_run(folder, RUN).rename(folder / "runs/quickstart")
    return folder


def write_gpt2(directory):
    """A tiny one with random numbers."""
    import jax
    import jax.numpy as jnp
    from transformers import GPT2Config

    import fewshot_jax as fsj
    from fewshot_jax.models.huggingface.pretrained import Pretrained, build, initial_params

    config = GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=32)
    module = build(config, "causal_lm", jnp.float32)
    params = initial_params(module, jax.random.key(0))
    fsj.save_pretrained(directory, Pretrained(config=config, module=module, params=params, head="causal_lm"))


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_the_python_blocks_of_a_page_run_in_the_order_in_which_they_are_read(page, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    names = {"__name__": "page"}
    for number, block in enumerate(blocks(page, "python")):
        code = compile(block.code, f"{page}, block {number}", "exec")
        if block.mark != "not run":
            exec(code, names)


def test_few_blocks_are_not_run():
    every = [block for page in PAGES for block in blocks(page, "python")]
    assert sum(block.mark == "not run" for block in every) < len(every) / 4


def test_the_python_blocks_use_public_names():
    import fewshot_jax as fsj

    code = "\n".join(block.code for page in PAGES for block in blocks(page, "python"))
    assert set(re.findall(r"\bfsj\.(\w+)", code)) <= set(fsj.__all__)


def commands(code):
    """The arguments of each fewshot-jax command of a shell block."""
    for line in code.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        command = []
        for token in [*lexer, ";"]:
            if set(token) <= set("|&;<>"):
                if command[:1] == ["fewshot-jax"]:
                    yield command[1:]
                command = []
            else:
                command.append(token)


class ParsedError(Exception):
    """Ends a command whose arguments have been read."""


@of_each_page
def test_the_commands_of_a_page_are_read_by_their_own_parsers(page, monkeypatch):
    read = tyro.cli

    def stop(*args, **options):
        read(*args, **options)
        raise ParsedError

    monkeypatch.setattr(tyro, "cli", stop)
    monkeypatch.chdir(ROOT)
    for name, *arguments in (one for block in blocks(page, "sh") for one in commands(block.code)):
        with pytest.raises(ParsedError):
            importlib.import_module(COMMANDS[name][0]).run(arguments)


def test_commands_are_found_in_a_shell_block():
    code = 'pip install x && fewshot-jax env  # which\necho "a b" | fewshot-jax predict M > out\n'
    assert list(commands(code)) == [["env"], ["predict", "M"]]


def test_the_commands_that_are_named_exist():
    assert set(re.findall(r"fewshot-jax ([a-z]+)\b", ALL)) == COMMANDS.keys()


def test_the_readme_has_a_line_for_each_command():
    lines = re.findall(r"^\| `fewshot-jax ([a-z]+)", PAGES["README.md"], re.MULTILINE)
    assert sorted(lines) == sorted(COMMANDS)


def test_the_flags_of_config_fields_are_read_as_they_stand_there():
    spans = [span for span in SPANS if re.match(r"--[a-z_]+\.", span)]
    assert spans
    for span in spans:
        kind = PretrainConfig if re.match(r"--(corpus|optimizer|batch)\.", span) else Config
        if span.removeprefix("--").replace("-", "_") not in flat(kind()):  # a field alone, without a value
            parse(kind, "train", span.split(), default=kind())


def test_the_other_flags_belong_to_a_command():
    modules = [importlib.import_module(name) for name, _ in COMMANDS.values()]
    modules.append(importlib.import_module("fewshot_jax.cli.holdout"))
    kinds = [kind for module in modules for kind in vars(module).values() if inspect.isclass(kind)]
    known = {field.name for kind in kinds if dataclasses.is_dataclass(kind) for field in dataclasses.fields(kind)}
    known |= {field.name for field in dataclasses.fields(PretrainConfig)} | {"json", "help", "inner"}
    named = {flag.replace("-", "_") for span in SPANS for flag in re.findall(r"^--([a-z-]+)(?![\w.-])", span)}
    assert named <= known


@of_each_page
def test_the_configs_in_yaml_are_read(page):
    for block in blocks(page, "yaml"):
        from_dict(yaml.safe_load(block.code))


def test_the_files_that_are_shown_are_read_for_their_application(workplace):
    from fewshot_jax.data.dialogues import read_dialogues, replies
    from fewshot_jax.data.files import read_records
    from fewshot_jax.data.parallel import read_pairs
    from fewshot_jax.data.splits import read_class_split
    from fewshot_jax.data.squad import read_questions

    intents = read_records(workplace / "intents.csv", group="domain")
    assert [one.label for one in intents] == ["card", "balance", "music"]
    assert [one.group for one in intents] == ["banking", "banking", "home"]
    assert [len(one.answers) for one in read_questions(workplace / "questions.jsonl")] == [1, 2, 0]
    assert [one.task for one in read_pairs(workplace / "pairs.csv")] == ["en-de", "en-de", "en-fr"]
    assert [one.values for one in replies(read_dialogues(workplace / "dialogues.jsonl"))] == [(), ("ten",)]
    assert read_class_split(workplace / "split.json")["validation"] == ["music"]


@of_each_page
def test_the_files_that_a_page_names_exist(page):
    for name in _PATH.findall(PAGES[page]):
        assert (ROOT / name).is_file(), name


def anchors(text):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", _BLOCK.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@of_each_page
def test_the_links_of_a_page_lead_somewhere(page):
    for target in _LINK.findall(_BLOCK.sub("", PAGES[page])):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path.read_text(encoding="utf-8")), target


def test_the_readme_leads_to_every_page():
    assert {path.name for path in DOCS} <= set(re.findall(r"\]\(docs/([\w.]+)", PAGES["README.md"]))


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_a_page_begins_with_whom_it_is_for(path):
    title, empty, first, *_ = path.read_text(encoding="utf-8").splitlines()
    assert title.startswith("# ") and not empty and first.startswith("For ")


def messages():
    """The texts in the package's code, with ``...`` for what is filled in."""
    for path in (ROOT / "fewshot_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "..." for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_the_messages_of_the_troubleshooting_page_are_those_of_the_code():
    rows = re.findall(r"^\| (`[^|]+) \|", PAGES["docs/troubleshooting.md"], re.MULTILINE)
    shown = [message for row in rows for message in re.findall(r"`([^`]+)`", row)]
    patterns = {one: re.compile(".*".join(map(re.escape, one.split("..."))), re.DOTALL) for one in shown}
    texts = [text for text in messages() if len(text) > 10]
    assert len(shown) > 30
    assert [one for one, pattern in patterns.items() if not any(map(pattern.search, texts))] == []


def test_the_seconds_of_the_learners_are_those_of_the_benchmark():
    results = json.loads((ROOT / "benchmarks/results/text_learners.json").read_text(encoding="utf-8"))
    seconds = {name.split("/")[2]: round(one["seconds"]) for name, one in results.items() if "/split 01/" in name}
    section = PAGES["docs/learners.md"].partition("Seconds of training")[2].partition("\n## ")[0]
    shown = {name: int(value) for name, value in re.findall(r"\| (\w+) \| (\d+) (?=\|)", section)}
    assert shown == seconds


def test_a_mistake_in_a_page_would_be_found():
    with pytest.raises(UserError):
        from_dict({"data": {"sauce": "files"}})
    with pytest.raises(SystemExit):
        parse(Config, "train", ["--inner.stepps", "3"], default=Config())
