"""Every flag that a message, an example or a help text names is one that the command takes."""

import ast
import re
from pathlib import Path

import fewshot_jax
from fewshot_jax.cli.completion import PARTS, flags_of
from fewshot_jax.cli.main import COMMANDS

PACKAGE = Path(fewshot_jax.__file__).parent
# The commands that show what a file or folder of the package says; those of cli/NAME.py are NAME's.
SAID_BY = {
    "adaptation": ("adapt",),
    "adaptation/saving.py": ("adapt",),
    "adaptation/card.py": ("predict",),
    "applications": ("train",),
    "cli/examples.py": ("tune",),  # all but its key "tune --inner" name their command
    "cli/holdout.py": ("evaluate",),
    "data/detect.py": ("adapt", "data validate", "data preview"),
    "data/files.py": ("adapt", "data validate", "data preview"),
    "data/pretraining": ("pretrain",),
    "data/validate.py": ("data validate", "data preview"),
    "data/sources.py": ("train",),
    "applications/image_classification.py": ("evaluate",),
    "applications/labelled_texts.py": ("evaluate",),
    "applications/optional.py": ("evaluate",),
    "applications/writing.py": ("evaluate",),
    "evaluation/leakage.py": ("evaluate",),
    "parallel/processes.py": ("train", "pretrain"),
    "reporting": ("report",),
    "search": ("tune",),
    "runs": ("train",),
    "training": ("train",),
    "training/compare.py": ("evaluate",),
    "pretraining/corpus.py": ("pretrain",),
    "training/estimate.py": ("plan",),
    "training/export.py": ("export",),
    "training/generalisation.py": ("evaluate",),
    "training/holdout.py": ("evaluate",),
    "runs/interruption.py": ("train", "pretrain"),
    "runs/weights_and_biases.py": ("train", "pretrain"),
    "pretraining/pretrain.py": ("pretrain",),
    "pretraining/directory.py": ("pretrain",),
}
OF_OTHERS = {"--help", "--version", "--xla_force_host_platform_device_count", "--local-dir"}
OF_OTHERS |= {"--no-deps", "--force-reinstall"}  # pip's
FLAG = re.compile(r"(?<![\w-])--[a-z][\w.-]*[a-z]")
COMMAND = re.compile(r"fewshot-jax ((?:data|models) \w+|\w+)")


def texts_of(tree):
    """The strings of a module without its docstrings, but with those of the arguments, which are help texts."""
    bodies = (ast.Module, ast.ClassDef, ast.FunctionDef)
    skipped = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, bodies) and node.body and isinstance(node.body[0], ast.Expr)
        if not (isinstance(node, ast.ClassDef) and "Arguments" in node.name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in node.values}
            yield "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield node.value


def test_the_flags_that_texts_name_are_taken_by_their_commands():
    taken = {name: set(flags_of(module, [])) for name, (module, _) in COMMANDS.items() if name not in PARTS}
    for name, parts in PARTS.items():
        taken |= {f"{name} {part}": set(flags_of(COMMANDS[name][0], [part])) for part in parts}
        taken[name] = set().union(*(taken[f"{name} {part}"] for part in parts))
    taken["tune"] |= {"--inner", *flags_of(COMMANDS["tune"][0], ["--inner"])}
    taken["evaluate"] |= set(flags_of(COMMANDS["evaluate"][0], ["config.yaml"]))
    checked, wrong = 0, []
    for file in sorted(PACKAGE.rglob("*.py")):
        name = file.relative_to(PACKAGE).as_posix()
        for text in texts_of(ast.parse(file.read_text(encoding="utf-8"))):
            for found in FLAG.finditer(text):
                if found.group() in OF_OTHERS or name == "cli/completion.py":
                    continue
                before = [one for one in COMMAND.findall(text[: found.start()]) if one in taken]
                own = (file.stem,) if name.startswith("cli/") else SAID_BY.get(str(Path(name).parent), ())
                commands = tuple(before[-1:]) or SAID_BY.get(name, own)
                if not commands:
                    wrong.append(f"{name}: say in SAID_BY which commands show {found.group()}")
                for command in commands:
                    if command not in taken:  # shared by all commands
                        continue
                    checked += 1
                    if found.group().replace("_", "-") not in taken[command]:
                        wrong.append(f"{name}: {command} has no {found.group()}")
    assert not wrong
    assert checked > 100
