"""Dialogues between a user and an assistant, turn by turn, and the replies to learn from them.

Rastogi et al., Towards Scalable Multi-domain Conversational Agents: The Schema-Guided
Dialogue Dataset (SGD), AAAI 2020.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from fewshot_jax.data.examples import Example, folded, names
from fewshot_jax.data.fields import listed, name, objects, required, string, strings, task_of
from fewshot_jax.data.files import Problems, each, jsonl_rows, read_text, suffix_of
from fewshot_jax.data.names import normal_name
from fewshot_jax.errors import UserError

# The two roles, as chat templates call them.
USER, ASSISTANT = "user", "assistant"
SPEAKERS: Mapping[str, str] = {"user": USER, "assistant": ASSISTANT, "system": ASSISTANT}
MARKERS: Mapping[str, str] = {USER: "[USER]", ASSISTANT: "[SYSTEM]"}

_LINE = '{"turns": [{"speaker": "user", "text": "..."}, {"speaker": "assistant", "text": "..."}], "task": "..."}'


class Turn(NamedTuple):
    """What one speaker says at a time.

    Attributes:
        speaker: `USER` or `ASSISTANT`.
        text: what is said, stripped and not empty.
        values: the slot values that ``text`` names, as they are written in the file.
        task: the service it belongs to, or the task of the dialogue.
    """

    speaker: str
    text: str
    values: tuple[str, ...] = ()
    task: str = ""


class Conversation(NamedTuple):
    """A dialogue.

    Attributes:
        turns: at least one.
        task: its task; several services are joined by "+".
        id: the file's path and the dialogue's own id in it (or its line): SGD numbers each split anew.
    """

    turns: tuple[Turn, ...]
    task: str
    id: str


def read_dialogues(
    path: str | PurePath,
    *,
    speakers: Mapping[str, str] = SPEAKERS,
    task: str = "task",
    problems: Problems | None = None,
) -> list[Conversation]:
    """Read dialogues from a `.jsonl` file, or a `.gz` of one: one a line, in one of two shapes.

    Plain: ``{"turns": [{"speaker": "user", "text": "..."}], "task": "..."}``; a turn may
    list slot ``values``; ``task`` and ``id`` need not be given.
    SGD: ``{"dialogue_id", "services": [...], "turns": [{"speaker", "utterance", "frames":
    [{"service", "actions": [{"values", "canonical_values"}]}]}]}``. A turn belongs to the
    service of its first frame. Of each value the wording that the text holds is taken.
    A last turn without words is left out: the data set ends two dialogues so.

    Args:
        path: the file.
        speakers: a speaker's name in the file, in lower case -> `USER` or `ASSISTANT`.
        task: the field of the task; a dialogue without it and without services has the file's name.
        problems: gets what is wrong with single dialogues; None to raise the first.

    Returns:
        The dialogues in the order of the file; at least one.

    Raises:
        UserError: the file, or a turn in it, cannot be read.
    """
    path = Path(path).expanduser()
    if suffix_of(path) != ".jsonl":
        raise UserError(
            f"{path}: cannot read dialogues from files of type '{suffix_of(path)}'. Use .jsonl (one dialogue per line) "
            "or .jsonl.gz."
        )
    rows = jsonl_rows(path, read_text(path), {}, _LINE, problems)
    return each(rows, lambda line, row: _dialogue(path, line, row, speakers, task), problems)


def replies(
    dialogues: Iterable[Conversation],
    *,
    history: int | None = None,
    render: Callable[[Sequence[Turn]], str] | None = None,
) -> list[Example]:
    """Make an example of every turn of the assistant that answers something.

    A dialogue's first turn answers nothing and makes none.

    Args:
        dialogues: the dialogues.
        history: how many turns before the reply are read; None for all.
        render: turns -> the source text; by default `marked`.

    Raises:
        ValueError: ``history`` is less than one.
    """
    if history is not None and history < 1:
        raise ValueError(f"history={history}: expected at least one turn, or None for all")
    examples = []
    for dialogue in dialogues:
        for position, turn in enumerate(dialogue.turns):
            if turn.speaker == ASSISTANT and position:
                before = dialogue.turns[0 if history is None else max(0, position - history) : position]
                examples.append(reply(before, turn, key=dialogue.id, render=render or marked))
    return examples


def reply(
    before: Sequence[Turn], turn: Turn, *, key: str = "", render: Callable[[Sequence[Turn]], str] | None = None
) -> Example:
    """Return the example that reads the turns ``before`` and writes ``turn``."""
    return Example((render or marked)(before), turn.text, turn.task, values=turn.values, key=key)


def marked(turns: Sequence[Turn], markers: Mapping[str, str] = MARKERS) -> str:
    """Write turns as one text, each behind its speaker's marker: ``[USER] ... [SYSTEM] ...``."""
    return " ".join(f"{markers[turn.speaker]} {turn.text}" for turn in turns)


def _dialogue(path: Path, line: int, row: Mapping[str, Any], speakers: Mapping[str, str], field: str) -> Conversation:
    place = f"{path}, line {line}"
    entries = objects(place, "turns", required(place, row, "turns"))
    if not entries:
        raise UserError(f"{place}: 'turns' is empty. Give the dialogue at least one turn, or remove the line.")
    if len(entries) > 1 and entries[-1].get("utterance") == "":
        entries = entries[:-1]
    if "services" in row:
        task = "+".join(map(normal_name, strings(place, "services", row["services"])))
    else:
        task = task_of(place, row, field, path)
    key = "dialogue_id" if "dialogue_id" in row else "id"
    identity = name(place, key, row[key]) if key in row else f"line {line}"
    turns = (_turn(f"{place}, turn {number}", entry, task, speakers) for number, entry in enumerate(entries, start=1))
    return Conversation(tuple(turns), task, f"{path.resolve()}: {identity}")


def _turn(place: str, entry: Mapping[str, Any], task: str, speakers: Mapping[str, str]) -> Turn:
    speaker = string(place, "speaker", required(place, entry, "speaker"), "turn")
    if (role := speakers.get(speaker.casefold())) is None:
        raise UserError(f"{place}: unknown 'speaker' '{speaker}'. Use one of {listed(speakers)}.")
    field = "utterance" if "utterance" in entry else "text"
    text = string(place, field, required(place, entry, field), "turn")
    wordings: list[tuple[str, ...]] = [(value,) for value in strings(place, "values", entry.get("values", []), "value")]
    frames = objects(place, "frames", entry.get("frames", []))
    for frame in frames:
        for action in objects(place, "actions", frame.get("actions", [])):
            wordings += _wordings(place, action)
    if frames:
        task = normal_name(name(place, "service", required(place, frames[0], "service"), "frame"))
    return Turn(role, text, _named(text, wordings), task)


def _wordings(place: str, action: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the values of an action; each in the user's words and in the service's, where both are given."""
    spoken, canonical = (
        strings(place, field, action.get(field, []), "value") for field in ("values", "canonical_values")
    )
    if len(spoken) == len(canonical):
        return list(zip(spoken, canonical, strict=True))
    return [(value,) for value in spoken or canonical]


def _named(text: str, wordings: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """Return, for each value that the text names, its first wording in the text; each once."""
    found: dict[str, str] = {}
    for wording in wordings:
        if value := next((value for value in wording if names(text, value)), None):
            found.setdefault(folded(value), value)
    return tuple(found.values())
