"""`--set`: syntax, types, choices, near matches, sweeps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginebench.errors import UnknownNameError, UsageError
from enginebench.settings import Setting, combinations, parse_setting, typed_value
from enginebench.types import Option

OPTIONS = (
    Option("block_size", int, 16, "tokens in a block"),
    Option("dtype", str, "float32", "", choices=("float32", "bfloat16")),
    Option("prefix_cache", bool, True, ""),
    Option("share", float, 0.5, ""),
    Option("path", str, None, ""),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("paged.block_size=16", Setting("paged", "block_size", ("16",))),
        ("paged.block_size=16, 32", Setting("paged", "block_size", ("16", "32"))),
        ("url.url=http://host:1/v1?a=b", Setting("url", "url", ("http://host:1/v1?a=b",))),
        (r"e.path=a\,b,c\d", Setting("e", "path", ("a,b", r"c\d"))),
    ],
)
def test_reads(text: str, expected: Setting) -> None:
    assert parse_setting(text) == expected


@pytest.mark.parametrize("text", ["", "paged", "paged=1", "paged.x", ".x=1", "paged.=1", "=1"])
def test_bad_syntax_shows_the_right_one(text: str) -> None:
    with pytest.raises(UsageError, match=r"paged\.block_size=16,32"):
        parse_setting(text)


@pytest.mark.parametrize("text", ["paged.x=", "paged.x=1,", "paged.x=,1"])
def test_empty_value(text: str) -> None:
    with pytest.raises(UsageError, match="a value is empty"):
        parse_setting(text)


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        (OPTIONS[0], "16", 16),
        (OPTIONS[1], "bfloat16", "bfloat16"),
        (OPTIONS[2], "off", False),
        (OPTIONS[2], "True", True),
        (OPTIONS[3], "1e-3", 0.001),
        (OPTIONS[4], "1", "1"),
    ],
)
def test_values_have_the_options_type(option: Option, text: str, value: object) -> None:
    found = typed_value("paged", option, text)
    assert found == value
    assert type(found) is option.type


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        (OPTIONS[0], "many", "paged.block_size='many': must be a value of type int"),
        (OPTIONS[0], "1.5", "type int"),
        (OPTIONS[0], "9" * 5000, "type int"),
        (OPTIONS[2], "2", "true or false"),
        (OPTIONS[3], "nan", "type float"),
        (OPTIONS[3], "inf", "type float"),
        (OPTIONS[1], "bfloat61", "did you mean bfloat16"),
    ],
)
def test_values_of_another_type_are_refused(option: Option, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        typed_value("paged", option, text)


def test_sweep_is_every_combination_in_order() -> None:
    settings = [
        Setting("paged", "block_size", ("16", "32")),
        Setting("quant", "threads", ("1",)),
        Setting("paged", "prefix_cache", ("on", "off")),
    ]
    assert combinations("paged", OPTIONS, settings) == [
        {"block_size": 16, "prefix_cache": True},
        {"block_size": 16, "prefix_cache": False},
        {"block_size": 32, "prefix_cache": True},
        {"block_size": 32, "prefix_cache": False},
    ]
    assert combinations("echo", (), settings) == [{}]


def test_unknown_option_offers_near_ones() -> None:
    with pytest.raises(UnknownNameError, match="did you mean block_size"):
        combinations("paged", OPTIONS, [Setting("paged", "blocksize", ("1",))])
    with pytest.raises(UnknownNameError, match="takes no options"):
        combinations("echo", (), [Setting("echo", "speed", ("1",))])


def test_a_value_given_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="comes twice"):
        combinations("paged", OPTIONS, [Setting("paged", "share", ("0.5", "0.50"))])


values = st.lists(
    st.text(min_size=1, max_size=8).filter(lambda v: v == v.strip() and not v.endswith("\\")),
    min_size=1,
    max_size=4,
)


@given(values)
def test_reading_undoes_writing(expected: list[str]) -> None:
    text = ",".join(value.replace(",", "\\,") for value in expected)
    if any("\\," in value for value in expected):
        return  # a backslash before a comma cannot be written
    assert parse_setting(f"e.path={text}").values == tuple(expected)


@given(st.text(max_size=20))
def test_any_text_is_read_or_refused_as_a_user_error(text: str) -> None:
    for option in OPTIONS:
        try:
            assert type(typed_value("paged", option, text)) is option.type
        except UsageError:
            continue
