from recording_runner import RecordingRunner

from linux.netfilter import BATCH_SETS, Netfilter, batches
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


def test_many_new_sets_are_made_in_batches_that_keep_each_set_whole() -> None:
    text = "".join(f"create s{n} hash:net\nadd s{n} 10.0.{n}.0/24\n" for n in range(2 * BATCH_SETS + 1))
    found = list(batches(text))
    assert "".join(found) == text
    assert [one.count("create ") for one in found] == [BATCH_SETS, BATCH_SETS, 1]
    assert all(one.startswith("create ") for one in found)
    assert list(batches("add a 10.0.0.0/24\n")) == ["add a 10.0.0.0/24\n"]
    assert list(batches("")) == []
