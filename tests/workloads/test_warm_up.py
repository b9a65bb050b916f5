from enginebench_workloads.warm_up import WarmUp


def noted(paces: list[int], *, until_steady: bool = True) -> WarmUp:
    made = WarmUp(until_steady=until_steady)
    for pace in paces:
        made.note(pace * 8, 8)
    return made


def test_it_is_over_when_three_answers_in_a_row_came_at_one_pace() -> None:
    assert not noted([]).over and not noted([100, 100]).over
    assert not noted([900, 100, 100]).over
    assert noted([900, 300, 100, 105, 109]).over
    assert not noted([100, 105, 111]).over
    assert str(noted([900, 100, 100, 100])) == "warm-up: steady after 4 answers"
    assert str(noted([900])) == "warm-up: not steady yet after 1 answers"


def test_answers_without_content_tell_nothing_and_a_number_is_a_number() -> None:
    made = noted([100, 100])
    made.note(800, 0)
    assert not made.over
    assert not noted([100] * 9, until_steady=False).over
