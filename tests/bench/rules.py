"""``make bench NAME=rules``: reachability at 10,000 sites. The last line is one JSON object.

compile_s                     read, verify, compile to the kernel's vectors; processor seconds, median of 3
apply_full_s                  Enforcement.apply into an empty kernel, median of 3
apply_one_site_ms_p95         commit in the registry until `ipset test` shows it; real daemon, 102 changes
apply_one_statement_ms_p95    the same for a policy with one more statement, until the tenant's gate leads elsewhere
packets_lost_unaffected       of a stream of 3,000 a second, half of them new flows, during 100 applies
first_packet_us_over_empty    first packet of a flow, against an empty FORWARD chain, worst class
speedup_vs_linear             the same policy as one chain: its worst class's cost over ours
explain_ms_p95, peak_rss_mib  2,000 random questions; a process that reads, compiles and renders
probes, probe_disagreements   real packets beside the evaluator; mutants, mutants_caught: faults put into the kernel

Each part is a process of its own, so that none is slower for what another holds; with
``--only PART`` one is run: compile, memory, explain, apply, gateway, packets, proof or growth.
"""

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.parts import Figures, part
from tests.bench.rules_growth import svg

SITES = 10_000
GROWTH = (100, 1_000, 10_000, 30_000)
CHANGES = 102
PICTURE = Path("docs/rules-growth.svg")
#: What the number of sites makes a difference to.
GROWING = ("compile_s", "apply_full_s", "apply_one_site_ms_p50", "apply_one_site_ms_p95", "gateway_rss_mib")
#: The bars: figure -> (limit, whether more is better).
BARS = {
    "compile_s": (3.0, False),
    "apply_full_s": (1.5, False),
    "apply_one_site_ms_p95": (50, False),
    "packets_lost_unaffected": (0, False),
    "first_packet_us_over_empty": (2.0, False),
    "speedup_vs_linear": (15, True),
    "explain_ms_p95": (5, False),
    "peak_rss_mib": (500, False),
    "probes": (2000, True),
    "probe_disagreements": (0, False),
    "read_back_disagreements": (0, False),
    "mutants": (50, True),
}


def growth(known: Figures) -> dict[int, Figures]:
    """The figures that depend on the number of sites, at each."""
    found: dict[int, Figures] = {}
    for sites in GROWTH:
        if sites == SITES and all(name in known for name in GROWING):
            found[sites] = {name: known[name] for name in GROWING}
            continue
        rounds = 3 if sites < SITES else 1
        found[sites] = part("rules_compile", sites, rounds, core=1)
        found[sites] |= part("rules_compile", sites, "apply", rounds)
        found[sites] |= part("rules_gateway", sites, 30, 0)
    return found


def draw(grown: dict[int, Figures]) -> None:
    """The picture for the documentation."""
    lines = {
        "compile": "compile_s",
        "apply all": "apply_full_s",
        "apply one site (p95)": "apply_one_site_ms_p95",
    }
    rows = {
        name: [(sites, _number(found[key]) / (1000 if "_ms_" in key else 1)) for sites, found in grown.items()]
        for name, key in lines.items()
    }
    PICTURE.write_text(svg("Rules: how compile and apply grow", "seconds", rows))


def _number(value: object) -> float:
    assert isinstance(value, int | float)
    return float(value)


def show(figures: Figures, grown: dict[int, Figures]) -> None:
    """The tables for people."""
    console = Console(width=110)
    table = Table(title=f"bench rules: {SITES:,} sites, 200 tenants, 50,000 statements", title_justify="left")
    for column in ("figure", "value", "bar"):
        table.add_column(column, justify="left" if column == "figure" else "right")
    for name, value in figures.items():
        bar, more = BARS.get(name, (None, False))
        if not isinstance(value, dict):
            text = f"{value:.3g}" if isinstance(value, float) else str(value)
            table.add_row(name, text, "" if bar is None else f"{'>=' if more else '<='} {bar:g}")
    console.print(table)
    classes = figures.get("classes")
    if isinstance(classes, dict):
        table = Table(title="first packet of a flow, microseconds, median of rounds (best)", title_justify="left")
        for column in ("class", "empty", "ours", "ours over empty", "linear"):
            table.add_column(column, justify="left" if column == "class" else "right")
        for name, kinds in classes.items():
            cells = [f"{kinds[kind]['median']:.2f} ({kinds[kind]['best']:.2f})" for kind in ("empty", "ours", "linear")]
            over = kinds["ours"]["median"] - kinds["empty"]["median"]
            table.add_row(name, cells[0], cells[1], f"{over:.2f}", cells[2])
        console.print(table)
    if grown:
        table = Table(title="growth", title_justify="left")
        for column in ("sites", *GROWING):
            table.add_column(column, justify="right")
        for sites, found in grown.items():
            table.add_row(f"{sites:,}", *(f"{_number(found[column]):.3g}" for column in GROWING))
        console.print(table)


def missed(figures: Figures) -> list[str]:
    """The bars that are not reached."""
    found = [
        name
        for name, (bar, more) in BARS.items()
        if name in figures and (_number(figures[name]) < bar if more else _number(figures[name]) > bar)
    ]
    if figures.get("mutants_caught") != figures.get("mutants"):
        found.append("mutants_caught")
    return found


def main() -> int:
    """Measure, print the tables, then the JSON line. The status is 1 if a bar is missed."""
    only = sys.argv[2] if sys.argv[1:2] == ["--only"] else ""
    parts = {
        "compile": lambda: part("rules_compile", SITES, 3, core=1),
        "memory": lambda: part("rules_compile", SITES, "rss"),
        "explain": lambda: part("rules_compile", SITES, "explain", core=1),
        "apply": lambda: part("rules_compile", SITES, "apply", 3),
        "gateway": lambda: part("rules_gateway", SITES, CHANGES, 30),
        "packets": lambda: part("rules_forwarding", SITES, 4_000, 25, 100, core=1),
        "proof": lambda: part("rules_proof"),
    }
    figures: Figures = {}
    for name, run in parts.items():
        if only in ("", name):
            figures |= run()
    grown: dict[int, Figures] = {}
    if only in ("", "growth"):
        grown = growth(figures)
        draw(grown)
        figures["growth"] = {str(sites): found for sites, found in grown.items()}
    show(figures, grown)
    if bad := missed(figures):
        sys.stdout.write(f"bars missed: {', '.join(bad)}\n")
    sys.stdout.write(json.dumps(_rounded(figures)) + "\n")
    sys.stdout.flush()
    return 1 if bad else 0


def _rounded(value: object) -> object:
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return round(value, 3) if isinstance(value, float) else value


if __name__ == "__main__":
    sys.exit(main())
