"""An engine's command line: what plugins write is what its server reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginebench.types import EngineSpec, Hardware, ModelInfo, Option
from enginebench_openai.launch import parse_arguments, server_launch

OPTIONS = (
    Option("block_size", int, 16, "tokens in a block", choices=(16, 32)),
    Option("cuda_graphs", bool, True, "100% of steps as graphs"),
    Option("kv_type", str, "f16", "cache type"),
    Option("share", float, 0.9, "of memory"),
    Option("limit", int, None, "no limit by default"),
)
MODEL = ModelInfo("a/model", "hf")


def parse(*argv: str):
    return parse_arguments(argv, program="p", description="d", options=OPTIONS)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "block_size": st.sampled_from([16, 32]),
            "cuda_graphs": st.booleans(),
            # a value of just "--" is lost by argparse before Python 3.13
            "kv_type": st.text("-ab =é", max_size=5).filter(lambda text: text != "--"),
            "share": st.floats(-1, 1),
            "limit": st.integers(-5, 5),
        },
    )
)
def test_options_arrive_as_they_were_written(options):
    spec = EngineSpec("e", "a/model", Hardware(), options)
    launch = server_launch("some.module", spec, MODEL, 8123)
    assert launch.argv[1:3] == ("-m", "some.module")
    found = parse(*launch.argv[3:])
    defaults = {"block_size": 16, "cuda_graphs": True, "kv_type": "f16", "share": 0.9}
    assert found.options == {**defaults, **options}
    assert (found.models, found.port) == ((("a/model", "a/model"),), 8123)
    assert found.host == "127.0.0.1"


def test_a_launched_server_asks_for_no_key_whatever_the_environment_holds():
    launch = server_launch("m", EngineSpec("e", "a/model", Hardware()), MODEL, 1)
    assert launch.env == {}


def test_the_name_is_the_models_own_unless_told():
    assert parse("--model", "a").models == (("a", "a"),)
    assert parse("--model", "a", "--served-model-name", "b").models == (("b", "a"),)


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ([], "--model"),
        (["--model", "a", "--port", "70000"], "70000"),
        (["--model", "a", "--port", "x"], "--port"),
        (["--model", "a", "--block-size", "17"], "--block-size"),
        (["--model", "a", "--block-size", "many"], "--block-size"),
        (["--model", "a", "--drain-s", "nan"], "nan"),
        (["--model", "a", "--max-body-mib", "0"], "--max-body-mib"),
        (["--model", "a", "--block", "16"], "--block"),
        (["--model", "a", "--nothing"], "--nothing"),
    ],
)
def test_wrong_arguments_are_code_2_and_named(capsys, argv, named):
    with pytest.raises(SystemExit) as ended:
        parse(*argv)
    assert ended.value.code == 2 and named in capsys.readouterr().err


def test_help_shows_every_option_and_its_default(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert "--block-size" in text and "tokens in a block (default: 16)" in text
    assert "--no-cuda-graphs" in text and "100% of steps" in text
