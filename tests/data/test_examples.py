"""When two texts are the same, and when a text names a value."""

import pytest

from fewshot_jax.data.examples import folded, names


def test_case_and_white_space_do_not_tell_texts_apart():
    assert folded(" Zwei\tHunde\n auf der STRASSE ") == folded("zwei hunde auf der Straße")
    assert folded("two dogs") != folded("two dogs.")


@pytest.mark.parametrize(
    ("text", "value", "named"),
    [
        ("A table for 2 at Sino.", "sino", True),
        ("A table for 12 at a casino.", "2", False),
        ("A table for 12 at a casino.", "Sino", False),
        ("12 or 2?", "2", True),  # not the first place, but the second
        ("It costs $2.", "$2", True),
        ("Call 408-247-8880.", "408-247-8880", True),
        ("In San\n Jose", "san jose", True),
        ("room_2", "2", False),
        ("Große Straße", "grosse STRASSE", True),
        ("anything", " ", False),
        ("", "a", False),
    ],
)
def test_a_value_is_named_as_whole_words(text, value, named):
    assert names(text, value) is named
