"""Both real engines over one tiny F32 model, behind one server, as its two models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch
from openai_fakes import Running, link_to

from enginebench_models import ChatTemplate, Model, open_model
from enginebench_openai.process import OfferedModel
from enginebench_openai.protocol import TokenEngine
from enginebench_paged.engine import PagedEngine
from enginebench_quant.load import load_engine
from enginebench_quant.options import QuantOptions

TEMPLATE = ChatTemplate(
    "{% if tools %}<tool_call> {{ tools | length }}\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}{{ more }}"
)


def paged(model: Model) -> TokenEngine:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setenv("OMP_NUM_THREADS", "1")  # two would wait for each other
        return PagedEngine(model, {"dtype": "f32", "max_batch": 4})


def quant(model: Model) -> TokenEngine:
    options = QuantOptions.resolve({"threads": 1}, model.config)
    return load_engine(model, options, log=lambda message: None)


@contextmanager
def serving_both(path: Path) -> Iterator[str]:
    """The server's address; "paged" and "quant" are its models."""
    model = open_model(str(path))
    running = Running({})
    running.process.models = [
        OfferedModel(
            name=build.__name__,
            vocab_size=model.config.vocab_size,
            tokenizer=model.tokenizer,
            chat_template=TEMPLATE,
            make_link=link_to(partial(build, model)),
        )
        for build in (paged, quant)
    ]
    running.start()
    try:
        yield running.url
    finally:
        running.process.stop()
        assert running.join() == 0
