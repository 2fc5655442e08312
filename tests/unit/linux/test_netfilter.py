from recording_runner import RecordingRunner

from linux.netfilter import Netfilter
from linux.runner import Finished


def _runner() -> RecordingRunner:
    return RecordingRunner(
        {
            "iptables-legacy-restore": lambda argv, stdin: Finished(0, "", ""),
            "iptables-legacy-save": lambda argv, stdin: Finished(0, f"*{argv[2]}\nCOMMIT\n", ""),
            "ipset": lambda argv, stdin: Finished(0, "zz\naa\n" if "-name" in argv else "", ""),
        }
    )


def test_rules_go_in_on_standard_input_and_spare_other_chains() -> None:
    runner = _runner()
    Netfilter(runner).restore_rules("*filter\nCOMMIT\n")
    Netfilter(runner).restore_rules("*filter\nCOMMIT\n", keep_others=False)
    assert [call[0][0] for call in runner.calls] == ["iptables-legacy-restore"] * 2
    assert ["--noflush" in call[0] for call in runner.calls] == [True, False]
    assert {call[1] for call in runner.calls} == {"*filter\nCOMMIT\n"}


def test_reading_back() -> None:
    runner = _runner()
    assert Netfilter(runner).save_rules("nat") == "*nat\nCOMMIT\n"
    assert Netfilter(runner).set_names() == ["aa", "zz"]


def test_no_sets_no_program() -> None:
    runner = _runner()
    Netfilter(runner).restore_sets("")
    assert runner.calls == []
    Netfilter(runner).restore_sets("create a hash:net\n")
    assert runner.calls == [(("ipset", "restore"), "create a hash:net\n")]
