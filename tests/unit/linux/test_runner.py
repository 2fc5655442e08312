"""One contract, held by the real runner and by the one that other tests use in its place."""

from pathlib import Path

import pytest
from recording_runner import RecordingRunner

from linux.errors import LinuxError, ProgramFailedError, ProgramMissingError, ProgramTimeoutError
from linux.runner import DETAIL_MAX_CHARS, Finished, Runner, SubprocessRunner


@pytest.fixture(params=["real", "recording"])
def runner(request: pytest.FixtureRequest) -> Runner:
    if request.param == "real":
        return SubprocessRunner()
    return RecordingRunner(
        {
            "cat": lambda argv, stdin: Finished(0, stdin, ""),
            "printf": lambda argv, stdin: Finished(0, argv[2], ""),
            "false": lambda argv, stdin: Finished(1, "", ""),
            "python3": lambda argv, stdin: Finished(3, "some", "x" * 1000 + " the end\n"),
            "sleep": lambda argv, stdin: None,
        }
    )


def test_standard_input_comes_back(runner: Runner) -> None:
    assert runner.run(["cat"], stdin="拠点\n") == Finished(0, "拠点\n", "")


def test_argv_meets_no_shell(runner: Runner) -> None:
    assert runner.run(["printf", "%s", "$HOME; exit 9"]).stdout == "$HOME; exit 9"


def test_program_that_is_not_installed(runner: Runner) -> None:
    with pytest.raises(ProgramMissingError) as caught:
        runner.run(["/opt/none/kyoten-nothing", "--secret"])
    assert caught.value.program == "kyoten-nothing"
    assert "--secret" not in str(caught.value)


def test_failure_keeps_status_and_the_end_of_the_complaint(runner: Runner) -> None:
    complain = "import sys; sys.stdout.write('some'); sys.stderr.write('x' * 1000 + ' the end\\n'); sys.exit(3)"
    with pytest.raises(ProgramFailedError) as caught:
        runner.run(["python3", "-c", complain])
    assert (caught.value.program, caught.value.status) == ("python3", 3)
    assert caught.value.detail.endswith(" the end")
    assert len(caught.value.detail) == DETAIL_MAX_CHARS
    unchecked = runner.run(["python3", "-c", complain], check=False)
    assert (unchecked.status, unchecked.stdout) == (3, "some")


def test_failure_without_a_word(runner: Runner) -> None:
    assert runner.run(["false"], check=False).status == 1
    with pytest.raises(LinuxError):
        runner.run(["false"])


def test_program_that_does_not_end_is_stopped(runner: Runner) -> None:
    with pytest.raises(ProgramTimeoutError) as caught:
        runner.run(["sleep", "60"], timeout_s=0.1)
    assert (caught.value.program, caught.value.timeout_s) == ("sleep", 0.1)


def test_prefix_comes_before_each_argv(tmp_path: Path) -> None:
    assert SubprocessRunner(["env", "-C", str(tmp_path)]).run(["pwd"]).stdout == f"{tmp_path}\n"
