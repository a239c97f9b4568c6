"""Questions from SQuAD's JSON and from flat rows: what is accepted, and how mistakes read."""

import copy
import gzip
import json
import re

import pytest

from fewshot_jax.data.squad import Answer, Question, read_questions, read_squad
from fewshot_jax.errors import UserError

CONTEXT = "  Die Stadt Ulm liegt an der Donau. 🌊 Ulm hat ein Münster."
SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Ulm",
            "paragraphs": [
                {
                    "context": CONTEXT,
                    "qas": [
                        {
                            "id": "q1",
                            "question": " Welche Stadt? ",
                            "answers": [{"text": "Ulm", "answer_start": 12}, {"text": "Ulm", "answer_start": 38}],
                            "is_impossible": False,
                        },
                        {
                            "id": 2,
                            "question": "Wer?",
                            "answers": [],
                            "plausible_answers": [{"text": "Donau", "answer_start": 29}],
                            "is_impossible": True,
                        },
                    ],
                }
            ],
        }
    ],
}
EXPECTED = [
    Question(CONTEXT, "Welche Stadt?", (Answer("Ulm", 12), Answer("Ulm", 38)), "Ulm", "q1"),
    Question(CONTEXT, "Wer?", (), "Ulm", "2"),
]
REMOVED = object()


@pytest.fixture
def write(tmp_path):
    """Writes a file and returns its path."""

    def write_file(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_file


def changed(path, value):
    """SQuAD's JSON with one place set to a value, or removed."""
    content = copy.deepcopy(SQUAD)
    *parents, last = path
    place = content
    for step in parents:
        place = place[step]
    if value is REMOVED:
        del place[last]
    else:
        place[last] = value
    return json.dumps(content)


def test_both_versions_read_and_answers_stand_where_they_say(write):
    for path in (write("a.json", json.dumps(SQUAD)), write("A.JSON.gz", gzip.compress(json.dumps(SQUAD).encode()))):
        questions = read_squad(path)
        assert questions == EXPECTED == read_questions(path)
        for question in questions:
            for text, start in question.answers:
                assert question.context[start : start + len(text)] == text
    version_1 = changed(["data", 0, "paragraphs", 0, "qas"], [{"id": "q", "question": "Wer?", "answers": []}])
    assert read_squad(write("b.json", version_1)) == [Question(CONTEXT, "Wer?", (), "Ulm", "q")]


def test_an_article_without_a_title_has_a_number(write):
    assert read_squad(write("a.json", changed(["data", 0, "title"], REMOVED)))[0].article == "article 1"


PARAGRAPH = ["data", 0, "paragraphs", 0]
FIRST = [*PARAGRAPH, "qas", 0]
ANSWER = [*FIRST, "answers", 0]


@pytest.mark.parametrize(
    ("path", "value", "place", "message"),
    [
        (["data"], REMOVED, "", "no field 'data'; there are 'version'. Add it."),
        (["data"], {}, "", "'data' is an object where a list of objects is needed. Write [{...}]."),
        (["data"], [], "", "no questions ('qas') in its articles. Give it at least one."),
        (["data", 0], "Ulm", "", "member 1 of 'data' is a string where an object is needed. Write {...}."),
        (["data", 0, "title"], ["Ulm"], ", article 1", "'title' is a list where a string is needed."),
        (["data", 0, "paragraphs"], REMOVED, ", article 'Ulm'", "no field 'paragraphs'; there are 'title'. Add it."),
        ([*PARAGRAPH, "context"], REMOVED, ", article 'Ulm', paragraph 1", "no field 'context'; there are 'qas'. Add"),
        (
            [*PARAGRAPH, "context"],
            " \n",
            ", article 'Ulm', paragraph 1",
            "'context' is empty. Fill it in or remove the",
        ),
        ([*PARAGRAPH, "context"], 3, ", article 'Ulm', paragraph 1", "'context' is a number where a string is needed."),
        ([*PARAGRAPH, "qas"], None, ", article 'Ulm', paragraph 1", "'qas' is null where a list of objects is needed."),
        ([*FIRST, "id"], REMOVED, ", article 'Ulm', paragraph 1, question 1", "no field 'id'; there are 'question', "),
        ([*FIRST, "id"], "2", ", question '2'", "the 'id' is taken twice, in article 'Ulm' and in article 'Ulm'. Give"),
        ([*FIRST, "question"], REMOVED, ", article 'Ulm', question 'q1'", "no field 'question'; there are 'id', "),
        ([*FIRST, "question"], "", ", article 'Ulm', question 'q1'", "'question' is empty. Fill it in or remove the q"),
        ([*FIRST, "answers"], REMOVED, ", article 'Ulm', question 'q1'", "no field 'answers'; there are 'id', "),
        ([*FIRST, "answers"], "Ulm", ", article 'Ulm', question 'q1'", "'answers' is a string where a list of objects"),
        (
            [*FIRST, "answers"],
            [],
            ", article 'Ulm', question 'q1'",
            "'is_impossible' is false but there are 0 'answers'",
        ),
        (
            [*FIRST, "is_impossible"],
            True,
            ", article 'Ulm', question 'q1'",
            "'is_impossible' is true but there are 2 '",
        ),
        (
            [*ANSWER, "text"],
            REMOVED,
            ", article 'Ulm', question 'q1'",
            "no field 'text'; there are 'answer_start'. Add",
        ),
        ([*ANSWER, "text"], " ", ", article 'Ulm', question 'q1'", "'text' is empty. Fill it in or remove the answer."),
        (
            [*ANSWER, "answer_start"],
            REMOVED,
            ", article 'Ulm', question 'q1'",
            "no field 'answer_start'; there are 'text",
        ),
        (
            [*ANSWER, "answer_start"],
            True,
            ", article 'Ulm', question 'q1'",
            "'answer_start' is a boolean where a whole n",
        ),
        (
            [*ANSWER, "text"],
            "ulm",
            ", article 'Ulm', question 'q1'",
            "the answer 'ulm' does not occur in the context. Copy it as it stands there",
        ),
        (
            [*ANSWER, "answer_start"],
            39,  # where it stands in UTF-16
            ", article 'Ulm', question 'q1'",
            "the answer 'Ulm' does not stand at its 'answer_start' 39, where the context has 'lm '. It occurs at 12, "
            "38: correct 'answer_start', which counts characters (not bytes) from 0.",
        ),
        ([*ANSWER, "answer_start"], -48, ", article 'Ulm', question 'q1'", "the answer 'Ulm' does not stand at its"),
        ([*ANSWER, "answer_start"], 999, ", article 'Ulm', question 'q1'", "the answer 'Ulm' does not stand at its"),
    ],
)
def test_a_mistake_names_the_question_the_field_and_the_remedy(write, path, value, place, message):
    file = write("a.json", changed(path, value))
    with pytest.raises(UserError, match="^" + re.escape(f"{file}{place}: {message}")):
        read_squad(file)


@pytest.mark.parametrize(
    ("content", "place", "message"),
    [
        ('{"data": [\n{"title": }]}', ", line 2", "broken JSON at column 11 (Expecting value). Write one object"),
        ('{"question": "a"}\n{"question": "b"}', ", line 2", "broken JSON at column 1 (Extra data). Write one object"),
        ("[" * 100_000, "", "broken JSON (maximum recursion depth exceeded"),
        ("[]", "", 'a list where an object is needed. Write {"data": [...]}.'),
        ("", "", "the file is empty"),
    ],
)
def test_broken_json_names_the_line(write, content, place, message):
    path = write("a.json", content)
    with pytest.raises(UserError, match="^" + re.escape(f"{path}{place}: {message}")):
        read_questions(path)


@pytest.mark.parametrize(
    ("field", "answers", "expected"),
    [
        ("answer", "Ulm", [("Ulm", 12)]),
        ("answers", ["Donau", " Ulm "], [("Donau", 29), ("Ulm", 12)]),
        ("answers", {"text": "Ulm", "answer_start": 38}, [("Ulm", 38)]),
        ("answers", [{"text": "Ulm", "answer_start": 38}], [("Ulm", 38)]),
        ("answers", {"text": ["Ulm", "Donau"], "answer_start": [38, 29]}, [("Ulm", 38), ("Donau", 29)]),
        ("answers", {"text": [], "answer_start": []}, []),
        ("answers", [], []),
    ],
)
def test_flat_rows_take_answers_in_several_forms(write, field, answers, expected):
    row = {"question": "Wo?", "context": CONTEXT, field: answers}
    found = [Answer(*answer) for answer in expected]
    path = write("a.jsonl", "\n" + json.dumps(row))
    assert read_questions(path) == [Question(CONTEXT, "Wo?", tuple(found), path.name.partition(".")[0], "line 2")]


def test_columns_can_be_renamed(write):
    path = write("a.tsv", "q\tabout\ta\ttopic\tid\nWer?\tUlm hat.\tUlm\tStadt\t7\n")
    expected = [Question("Ulm hat.", "Wer?", (Answer("Ulm", 0),), "Stadt", "7")]
    assert read_questions(path, question="q", context="about", answer="a", task="topic") == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": " "}, "'question' is empty. Fill it in or remove the line."),
        ({"context": ""}, "'context' is empty. Fill it in or remove the line."),
        ({"context": None}, "'context' is null where a string is needed."),
        ({"question": REMOVED}, "no field 'question'; there are 'context', 'answer'. Rename it in the file."),
        ({"answer": REMOVED}, "no field 'answer'; there are 'question', 'context'. Rename it in the file."),
        ({"answer": ""}, "'answer' is empty. Fill it in or remove the line."),
        ({"answer": 1890}, "'answer' is a number where a string is needed."),
        ({"answer": ["Ulm", 3]}, "'answer' is a number where a string is needed."),
        ({"answer": "Rhein"}, "the answer 'Rhein' does not occur in the context. Copy it"),
        ({"answer": "x" * 99}, f"the answer '{'x' * 57}...' does not occur"),
        ({"answer": {"text": "Ulm"}}, "no field 'answer_start'; there are 'text'. Add it."),
        ({"answer": {"text": ["Ulm"], "answer_start": []}}, "'answer' needs as many 'answer_start' as 'text' (1)."),
        ({"answer": {"text": ["Ulm"], "answer_start": ["3"]}}, "'answer_start' is a string where a whole number"),
        ({"task": ""}, "'task' is empty. Fill it in or remove the line."),
    ],
)
def test_a_mistake_in_a_flat_row_names_the_line(write, change, message):
    row = {"question": "Wo?", "context": CONTEXT, "answer": "Ulm", **change}
    path = write("a.jsonl", json.dumps({key: value for key, value in row.items() if value is not REMOVED}))
    with pytest.raises(UserError, match="^" + re.escape(f"{path}, line 1: {message}")):
        read_questions(path)


def test_flat_rows_have_ids_of_their_own(write):
    row = json.dumps({"question": "Wo?", "context": CONTEXT, "answer": "Ulm", "id": 7})
    with pytest.raises(UserError, match=r"a\.jsonl, question '7': the 'id' is taken twice"):
        read_questions(write("a.jsonl", f"{row}\n{row}"))


def test_other_types_of_file_are_refused(write):
    with pytest.raises(UserError, match=r"a\.txt: cannot read files of type '\.txt'"):
        read_questions(write("a.txt", "Wo?"))
    with pytest.raises(UserError, match=r"none\.json: no such file"):
        read_questions("none.json")
