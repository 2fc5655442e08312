"""Draws how figures grow with the number of sites, as an SVG that can be read on light and on dark pages."""

from collections.abc import Mapping, Sequence
from math import ceil, floor, log10

WIDTH, HEIGHT = 720, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 190, 30, 50
#: Distinct without colour too: each line has its own dashes and its name at its end.
_LINES = (("#0b7285", ""), ("#d9480f", "7 4"), ("#5f3dc4", "2 3"))
_INK = "#808080"


def svg(title: str, unit: str, rows: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Log-log. ``rows``: a line's name -> (sites, value)."""
    points = [point for row in rows.values() for point in row]
    left, right = _decades([x for x, _ in points])
    low, high = _decades([y for _, y in points])

    def place(x: float, y: float) -> tuple[float, float]:
        across = (log10(x) - left) / (right - left) * (WIDTH - _LEFT - _RIGHT) + _LEFT
        up = (log10(y) - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM)
        return round(across, 1), round(HEIGHT - _BOTTOM - up, 1)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="13" role="img" aria-label="{title}">',
        f'<text x="{_LEFT}" y="18" fill="{_INK}" font-weight="bold">{title} ({unit}, both axes logarithmic)</text>',
    ]
    for power in range(low, high + 1):
        across, up = place(10**left, 10**power)
        out.append(f'<path d="M{across} {up}H{WIDTH - _RIGHT}" stroke="{_INK}" stroke-opacity=".3"/>')
        out.append(f'<text x="{across - 8}" y="{up + 4}" text-anchor="end" fill="{_INK}">{10.0**power:g}</text>')
    for x in sorted({x for x, _ in points}):
        across, up = place(x, 10**low)
        out.append(f'<path d="M{across} {_TOP}V{up}" stroke="{_INK}" stroke-opacity=".3"/>')
        out.append(f'<text x="{across}" y="{up + 18}" text-anchor="middle" fill="{_INK}">{x:,.0f}</text>')
    out.append(f'<text x="{WIDTH - _RIGHT}" y="{HEIGHT - 10}" text-anchor="end" fill="{_INK}">sites</text>')
    for (name, row), (colour, dashes) in zip(rows.items(), _LINES, strict=False):
        places = [place(*point) for point in sorted(row)]
        path = "L".join(f"{across} {up}" for across, up in places)
        out.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2.5" stroke-dasharray="{dashes}"/>')
        out += [f'<circle cx="{across}" cy="{up}" r="4" fill="{colour}"/>' for across, up in places]
        out.append(
            f'<text x="{places[-1][0] + 12}" y="{places[-1][1] + 4}" fill="{colour}" font-weight="bold">{name}</text>'
        )
    return "\n".join([*out, "</svg>", ""])


def _decades(values: Sequence[float]) -> tuple[int, int]:
    low, high = floor(log10(min(values))), ceil(log10(max(values)))
    return low, max(high, low + 1)
