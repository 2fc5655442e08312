"""The result page says what held and what did not, and the matrix shows each disagreement."""

import io

from rich.console import Console

from lab.demo.matrix import Answer, Outcome, table
from lab.demo.report import Line, print_page


def shown(lines: list[Line]) -> str:
    stream = io.StringIO()
    print_page(Console(file=stream, width=120), lines)
    return stream.getvalue()


def test_a_page_where_all_held() -> None:
    text = shown([Line("tunnels up", True, "4 of 4"), Line("mail", True, "250")])
    assert "All 2 held." in text
    assert "FELL" not in text


def test_a_page_names_what_fell() -> None:
    text = shown([Line("tunnels up", True, "4 of 4"), Line("mail", False, "not delivered [b]")])
    assert "1 of 2 did not hold: mail" in text
    assert "not delivered [b]" in text, "what was measured is no markup"


def test_the_matrix_counts_and_shows_disagreements() -> None:
    answers = (
        Answer("a", "b", "tcp/80", expected=True, passed=True),
        Answer("a", "b", "ping", expected=False, passed=False),
        Answer("b", "a", "tcp/80", expected=False, passed=True),
        Answer("b", "a", "ping", expected=True, passed=False),
    )
    outcome = Outcome(answers)
    assert (outcome.probes, outcome.allowed) == (4, 2)
    assert outcome.disagreements == answers[2:]
    stream = io.StringIO()
    Console(file=stream, width=120, force_terminal=True, color_system="standard").print(table(outcome))
    assert stream.getvalue().count("\x1b[1;31m") == 2, "each disagreement in red"
