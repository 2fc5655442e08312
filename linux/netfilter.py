"""iptables-legacy and ipset as text: restore whole, save whole.

The legacy backend is named outright: a machine where the nft backend is the default would otherwise end up with two
rule sets, and per-packet cost differs by a factor of four.
"""

from collections.abc import Iterator, Sequence

from linux.runner import Runner

#: Seconds that iptables may wait for another writer's lock.
LOCK_WAIT_S = 5
#: New sets that one ipset makes.
BATCH_SETS = 50

#: What ipset writes when it takes commands one by one.
_PROMPT = "ipset> "


class Netfilter:
    """The packet filter of the network namespace this process lives in, for one IP version."""

    def __init__(self, runner: Runner, *, version: int = 4) -> None:
        self._runner = runner
        self._program = "iptables-legacy" if version == 4 else "ip6tables-legacy"

    def restore_rules(self, text: str, *, keep_others: bool = True) -> None:
        """Apply iptables-restore text; each table in it changes in one kernel transaction or not at all.

        With ``keep_others`` chains that the text does not name stay as they are (``--noflush``).
        """
        argv = [f"{self._program}-restore", "--wait", str(LOCK_WAIT_S)]
        if keep_others:
            argv.append("--noflush")
        self._runner.run(argv, stdin=text, timeout_s=60)

    def save_rules(self, table: str = "filter") -> str:
        """The table's chains and rules in iptables-save form."""
        return self._runner.run([f"{self._program}-save", "-t", table]).stdout

    def restore_sets(self, text: str) -> None:
        """Apply ipset-restore text. Not a transaction: a failure can leave a part, so write new names only.

        A text that makes many sets is cut in batches, two of which run at a time: each set's lines stay together, and
        those of different sets in order only within a batch.
        """
        found = list(batches(text))
        if len(found) == 1:
            self._restore_sets(found[0])
        elif found:
            from concurrent.futures import ThreadPoolExecutor  # a router has few sets

            with ThreadPoolExecutor(max_workers=2) as pool:
                for _ in pool.map(self._restore_sets, found):
                    pass

    def _restore_sets(self, text: str) -> None:
        self._runner.run(["ipset", "restore"], stdin=text, timeout_s=60)

    def set_names(self) -> list[str]:
        """Names of the sets that exist, sorted."""
        return sorted(self._runner.run(["ipset", "list", "-name"]).stdout.split())

    def list_headings(self) -> str:
        """All sets without their entries, as ``ipset list -terse`` shows them."""
        return self._runner.run(["ipset", "list", "-terse"], timeout_s=60).stdout

    def save_sets(self, names: Sequence[str] | None = None) -> str:
        """Sets with their entries in ipset-restore form: all, or these. One that is not there ends the listing."""
        if names is None:
            return self._runner.run(["ipset", "save"], timeout_s=60).stdout
        asked = "".join(f"save {name}\n" for name in names)
        answer = self._runner.run(["ipset", "-"], stdin=asked, timeout_s=60, check=False).stdout
        return answer.replace(_PROMPT, "")


def batches(text: str) -> Iterator[str]:
    """ipset-restore text in pieces of BATCH_SETS new sets: ipset looks each name up in a list of those it has met."""
    begin = count = 0
    position = text.find("create ")
    while position >= 0:
        if position == 0 or text[position - 1] == "\n":
            if count == BATCH_SETS:
                yield text[begin:position]
                begin, count = position, 0
            count += 1
        position = text.find("create ", position + 1)
    if text[begin:]:
        yield text[begin:]
