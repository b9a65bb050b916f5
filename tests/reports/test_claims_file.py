"""Claims files: the one that is shipped, and what is wrong in others."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginebench.errors import UsageError
from enginebench_reports.claims_file import RatioTest, Selector, built_in_claims, read_claims

HEAD = '[[claim]]\nid = "a"\naspect = ""\nclaim = ""\n'
TEST = '[[claim.test]]\nkind = "figure"\nmetric = "m"\nof = {}\n'


def test_the_shipped_file_holds_the_eleven_claims() -> None:
    claims = built_in_claims()
    assert len(claims) == 11
    assert all(claim.test and claim.claim and claim.aspect for claim in claims)
    second = claims[1].test[0]
    assert isinstance(second, RatioTest)
    assert (second.of.engine, second.over.engine, second.at_least) == ("paged", "quant", 1.25)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[claim", "not valid TOML"),
        ("", "missing required field `claim`"),
        (HEAD, "missing required field `test`"),
        (HEAD + "test = []", "at least one"),
        (HEAD + TEST, "either at_least or below"),
        (HEAD + TEST + "at_least = 1\nbelow = 2", "either at_least or below"),
        (HEAD + TEST + "below = 1\nbellow = 2", "unknown field `bellow`"),
        (HEAD + TEST.replace("figure", "guess") + "below = 1", "Invalid value 'guess'"),
        (HEAD + TEST.replace("{}", '{ users = "many" }') + "below = 1", "must be a number"),
        (HEAD + TEST + "below = 1\n" + HEAD + TEST + "below = 1", "two claims have the id 'a'"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "claims.toml").write_text(text)
    with pytest.raises(UsageError, match=r"claims\.toml") as caught:
        read_claims(tmp_path / "claims.toml")
    assert message in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the claims"):
        read_claims(tmp_path / "nothing.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_claims(tmp_path / "binary.toml")


@given(st.integers(0, 64), st.integers(0, 64))
def test_numbers_are_compared_as_they_are_written(wanted: int, users: int) -> None:
    assert Selector(users=wanted).allows("users", users) == (users == wanted)
    assert Selector(users=f">={wanted}").allows("users", users) == (users >= wanted)
    assert Selector(users=f"<= {wanted}").allows("users", users) == (users <= wanted)
    assert Selector(users=f">{wanted}").allows("users", users) == (users > wanted)
    assert Selector(gpus=f"<{wanted}").allows("gpus", users) == (users < wanted)


def test_an_open_loop_has_no_users() -> None:
    assert Selector().allows("users", None)
    assert not Selector(users=">=0").allows("users", None)
