import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnsplitter.errors import SettingsError
from cnnsplitter.models.references import (
    Scalar,
    as_options,
    is_factory,
    is_library_model,
    parse_arguments,
)


@pytest.mark.parametrize(
    ("name", "library", "factory"),
    [
        ("resnet20", False, False),
        ("torchvision:resnet18", True, False),
        ("timm:resnet18", True, False),
        ("torchvision", False, False),
        ("nets:make", False, True),
        ("my.nets:Net.small", False, True),
        ("my.torchvision:net", False, True),
        ("nets:", False, False),
        (":make", False, False),
        ("a/b:make", False, False),
        ("nets:make;rm", False, False),
        ("nets:make\n", False, False),
        ("nets:make:again", False, False),
        ("C:\\nets", False, False),
    ],
)
def test_the_grammar(name: str, library: bool, factory: bool) -> None:
    assert (is_library_model(name), is_factory(name)) == (library, factory)


def test_values_are_json_or_python_words_or_texts() -> None:
    texts = ["a=1", "b=0.5", "c=false", "d=False", "e=null", "f=None", "g=relu", 'h="1"', "i="]
    expected = {"a": 1, "b": 0.5, "c": False, "d": False, "e": None, "f": None, "g": "relu"}
    assert parse_arguments(texts) == expected | {"h": "1", "i": ""}
    assert parse_arguments(["a=b=c", "n=NaN"]) == {"a": "b=c", "n": "NaN"}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["depth"], "'depth' must be NAME=VALUE"),
        (["=3"], "'=3' must be NAME=VALUE"),
        (["two words=3"], "must be NAME=VALUE"),
        (["a=1", "a=2"], "'a' is given twice"),
        (["a=[1, 2]"], r"'a' is \[1, 2\], but must be a number"),
        (["a={}"], "write a factory"),
        (["a=1e999"], "must be finite"),
        ([f"a={'x' * 201}"], "a text of 201 characters"),
    ],
)
def test_other_values_are_refused(texts: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_arguments(texts)


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**9), 10**9),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.sampled_from(["1", "true", "None", "$(rm)", "a b", "'", "\x1b[31m", "\u202e"]),
)


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), scalars, max_size=4))
def test_options_are_read_as_what_they_were_made_of(arguments: dict[str, Scalar]) -> None:
    text = as_options("my.nets:make", arguments)
    assert text.isprintable()
    words = shlex.split(text)
    assert words[:2] == ["--model", "my.nets:make"]
    assert set(words[2::2]) <= {"--model-arg"}
    found = parse_arguments(words[3::2])
    assert found == arguments
    assert [type(v) for v in found.values()] == [type(v) for v in arguments.values()]
