"""Dialogues in both shapes: what is accepted, how mistakes read, and the replies made of them."""

import gzip
import json
import re

import pytest

from fewshot_jax.data.dialogues import ASSISTANT, USER, Conversation, Turn, marked, read_dialogues, replies, reply
from fewshot_jax.data.examples import Example
from fewshot_jax.errors import UserError


def frame(service, *actions):
    """A frame; each action is (values, canonical values)."""
    return {
        "service": service,
        "actions": [{"act": "X", "slot": "y", "values": v, "canonical_values": c} for v, c in actions],
    }


SGD = {
    "dialogue_id": "1_00000",
    "services": ["Hotels_1", "Taxis_2"],
    "turns": [
        {"speaker": "USER", "utterance": " A room in Ulm? ", "frames": [frame("Hotels_1", (["Ulm"], ["Ulm"]))]},
        {
            "speaker": "SYSTEM",
            "utterance": "The Krone, at half past 3, for 2 in ulm. Ulm?",
            "frames": [
                frame(
                    "Hotels_1",
                    (["Krone"], ["Hotel Krone"]),
                    (["3:30 pm"], ["half past 3"]),
                    (["Ulm"], ["Ulm"]),
                    (["ULM"], ["Ulm"]),
                    (["True"], ["True"]),
                    ([], []),
                )
            ],
        },
        {"speaker": "USER", "utterance": "And a cab.", "frames": [frame("Taxis_2"), frame("Hotels_1")]},
        {"speaker": "SYSTEM", "utterance": "How many seats?", "frames": [frame("Taxis_2")]},
    ],
}
TURNS = (
    Turn(USER, "A room in Ulm?", ("Ulm",), "Hotels_1"),
    Turn(ASSISTANT, "The Krone, at half past 3, for 2 in ulm. Ulm?", ("Krone", "half past 3", "Ulm"), "Hotels_1"),
    Turn(USER, "And a cab.", (), "Taxis_2"),
    Turn(ASSISTANT, "How many seats?", (), "Taxis_2"),
)
PLAIN = {"turns": [{"speaker": "user", "text": "Hi"}, {"speaker": "assistant", "text": "Hello 2"}], "task": "chat"}


@pytest.fixture
def write(tmp_path):
    """Writes rows as JSONL, gzipped where the name says so, and returns the path."""

    def write_file(name, *rows):
        content = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows).encode()
        path = tmp_path / name
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return path

    return write_file


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_a_turn_has_its_service_and_the_values_it_names(write, name, tmp_path):
    assert read_dialogues(write(name, SGD)) == [Conversation(TURNS, "Hotels_1+Taxis_2", f"{tmp_path / name}: 1_00000")]


def test_the_plain_shape_needs_no_task_and_no_id(write, tmp_path):
    turns = [{**PLAIN["turns"][0], "speaker": "User"}, {**PLAIN["turns"][1], "values": ["2", "3"]}]
    dialogues = read_dialogues(write("a.jsonl", PLAIN, "", {"turns": turns, "id": 7}))
    assert dialogues == [
        Conversation(
            (Turn(USER, "Hi", (), "chat"), Turn(ASSISTANT, "Hello 2", (), "chat")),
            "chat",
            f"{tmp_path / 'a.jsonl'}: line 1",
        ),
        Conversation(
            (Turn(USER, "Hi", (), "a"), Turn(ASSISTANT, "Hello 2", ("2",), "a")), "a", f"{tmp_path / 'a.jsonl'}: 7"
        ),
    ]


def test_speakers_can_have_other_names(write):
    turns = [{"speaker": "Customer", "text": "Hi"}, {"speaker": "agent", "text": "Hello"}]
    (dialogue,) = read_dialogues(write("a.jsonl", {"turns": turns}), speakers={"customer": USER, "agent": ASSISTANT})
    assert [turn.speaker for turn in dialogue.turns] == [USER, ASSISTANT]


def test_a_goodbye_without_words_is_left_out(write):
    silent = {"speaker": "SYSTEM", "utterance": "", "frames": []}
    (dialogue,) = read_dialogues(write("a.jsonl", {**SGD, "turns": [*SGD["turns"], silent]}))
    assert dialogue.turns == TURNS


def test_every_reply_reads_the_turns_before_it(write, tmp_path):
    dialogues = read_dialogues(write("a.jsonl", SGD))
    assert replies(dialogues) == [
        Example(
            "[USER] A room in Ulm?",
            TURNS[1].text,
            "Hotels_1",
            values=("Krone", "half past 3", "Ulm"),
            key=f"{tmp_path / 'a.jsonl'}: 1_00000",
        ),
        Example(
            f"[USER] A room in Ulm? [SYSTEM] {TURNS[1].text} [USER] And a cab.",
            "How many seats?",
            "Taxis_2",
            key=f"{tmp_path / 'a.jsonl'}: 1_00000",
        ),
    ]


def test_the_history_is_cut_at_its_beginning():
    dialogue = Conversation(TURNS, "", "x")
    assert replies([dialogue], history=2)[1].source == f"[SYSTEM] {TURNS[1].text} [USER] And a cab."
    assert replies([dialogue], history=1)[1].source == "[USER] And a cab."
    assert replies([dialogue], history=99) == replies([dialogue])
    with pytest.raises(ValueError, match="history=0: expected at least one turn"):
        replies([dialogue], history=0)


def test_a_dialogue_that_the_assistant_opens_gives_no_example_of_it():
    turns = (Turn(ASSISTANT, "Welcome"), Turn(ASSISTANT, "How can I help?"), Turn(USER, "Bye"))
    assert replies([Conversation(turns, "", "x")]) == [Example("[SYSTEM] Welcome", "How can I help?", key="x")]


def test_turns_can_be_written_in_another_way():
    def render(turns):
        return json.dumps([{"role": turn.speaker, "content": turn.text} for turn in turns])

    assert replies([Conversation(TURNS, "", "x")], history=1, render=render)[1] == reply(
        TURNS[2:3], TURNS[3], key="x", render=render
    )
    assert marked(TURNS[2:], {USER: "U:", ASSISTANT: "A:"}) == "U: And a cab. A: How many seats?"


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        ({"text": "Hi"}, "no field 'speaker'; there are 'text'. Add it."),
        ({"speaker": "user"}, "no field 'text'; there are 'speaker'. Add it."),
        ({"speaker": "user", "texts": "a"}, "no field 'text'; there are 'speaker', 'texts'. Did you mean 'texts'?"),
        ({"speaker": "user", "text": " "}, "'text' is empty. Fill it in or remove the turn."),
        ({"speaker": "user", "utterance": " "}, "'utterance' is empty. Fill it in or remove the turn."),
        ({"speaker": "user", "text": ["a"]}, "'text' is a list where a string is needed."),
        ({"speaker": 1, "text": "a"}, "'speaker' is a number where a string is needed."),
        ({"speaker": "bot", "text": "a"}, "unknown 'speaker' 'bot'. Use one of 'user', 'assistant', 'system'."),
        ({"speaker": "user", "text": "a", "values": "a"}, "'values' is a string where a list of strings is needed."),
        ({"speaker": "user", "text": "a", "values": ["a", 2]}, "'values[1]' is a number where a string is needed."),
        ({"speaker": "user", "text": "a", "frames": {}}, "'frames' is an object where a list of objects is needed."),
        ({"speaker": "user", "text": "a", "frames": [{}]}, "no field 'service'; there are none. Add it."),
        (
            {"speaker": "user", "text": "a", "frames": [{"service": "x", "actions": [{"values": [""]}]}]},
            "'values[0]' is empty. Fill it in or remove the value.",
        ),
    ],
)
def test_a_mistake_names_the_line_the_turn_and_the_field(write, turn, message):
    path = write("a.jsonl", PLAIN, {"turns": [PLAIN["turns"][0], turn, PLAIN["turns"][1]]})
    with pytest.raises(UserError, match="^" + re.escape(f"{path}, line 2, turn 2: {message}")):
        read_dialogues(path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"task": "a"}, "no field 'turns'; there are 'task'. Add it."),
        ({"turns": []}, "'turns' is empty. Give the dialogue at least one turn, or remove the line."),
        ({"turns": "Hi"}, "'turns' is a string where a list of objects is needed. Write [{...}]."),
        ({"turns": ["Hi"]}, "member 1 of 'turns' is a string where an object is needed. Write {...}."),
        ({**PLAIN, "task": None}, "'task' is null where a string is needed."),
        ({**PLAIN, "services": "a"}, "'services' is a string where a list of strings is needed."),
        ('{"turns": [', 'broken JSON at column 12 (Expecting value). Write one object per line, such as {"turns": [{'),
        ("[]", "a list where an object is needed. Write one object per line"),
    ],
)
def test_a_mistake_in_a_dialogue_names_the_line(write, row, message):
    path = write("a.jsonl", PLAIN, row)
    with pytest.raises(UserError, match="^" + re.escape(f"{path}, line 2: {message}")):
        read_dialogues(path)


def test_other_types_of_file_are_refused(write, tmp_path):
    with pytest.raises(UserError, match=r"a\.json: cannot read dialogues from files of type '\.json'"):
        read_dialogues(write("a.json", PLAIN))
    with pytest.raises(UserError, match=r"none\.jsonl: no such file"):
        read_dialogues(tmp_path / "none.jsonl")
    with pytest.raises(UserError, match=r"b\.jsonl: the file is empty"):
        read_dialogues(write("b.jsonl", ""))
