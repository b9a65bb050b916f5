from __future__ import annotations

import pytest

from enginebench_reports.cost import cost


@pytest.mark.parametrize(
    ("rate", "price", "expected"),
    [(100.0, 3.6, 10.0), (None, 3.6, None), (0.0, 3.6, None), (100.0, None, None)],
)
def test_the_machine_is_paid_for_while_tokens_come(
    rate: float | None, price: float | None, expected: float | None
) -> None:
    assert cost(rate, price)["cost_per_million_tokens"] == pytest.approx(expected)
