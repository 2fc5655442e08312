"""Licences out of Debian's copyright files (DEP-5) as SPDX words. Pure.

What a file does not say in a form for machines stays unsaid (NOASSERTION): nothing is guessed from its text.
"""

import re
from collections.abc import Iterable

NO_ASSERTION = "NOASSERTION"

#: DEP-5's short names (section 7.1) and those that Debian's maintainers use -> SPDX's (https://spdx.org/licenses/).
_SPDX = {
    "apache-2.0": "Apache-2.0", "artistic": "Artistic-1.0", "artistic-2.0": "Artistic-2.0",
    "bsd-2-clause": "BSD-2-Clause", "bsd-3-clause": "BSD-3-Clause", "bsd-4-clause": "BSD-4-Clause",
    "bsl-1.0": "BSL-1.0", "cc0": "CC0-1.0", "cc0-1.0": "CC0-1.0", "expat": "MIT", "mit": "MIT", "isc": "ISC",
    "curl": "curl", "zlib": "Zlib", "openssl": "OpenSSL", "openldap-2.8": "OLDAP-2.8",
    "public-domain": "LicenseRef-public-domain", "fsfap": "FSFAP", "fsful": "FSFUL", "fsfullr": "FSFULLR",
    "unlicense": "Unlicense", "x11": "X11", "psf-2": "PSF-2.0", "beerware": "Beerware",
}  # fmt: skip
_GNU = re.compile(r"(a|l)?gpl-?v?([123])(?:\.([0-9]))?(?:\.0)?(\+|-or-later|-only)?\Z")
_GFDL = re.compile(r"gfdl-([0-9]\.[0-9])(\+)?\Z")
_GNU_MINOR = {("", "1"): "0", ("", "2"): "0", ("", "3"): "0", ("L", "2"): "0", ("L", "3"): "0", ("A", "3"): "0"}
_NOT_A_WORD = re.compile(r"[^A-Za-z0-9.-]+")


def declared(copyright_text: str) -> str:
    """All licences of a package as one SPDX expression, or NOASSERTION."""
    if not copyright_text.lstrip().lower().startswith(("format:", "format-specification:")):
        return NO_ASSERTION
    names: dict[str, None] = {}
    for line in copyright_text.splitlines():
        if line.lower().startswith("license:"):
            for word in re.split(
                r"\s+(?:and|or|and/or)\s+|,\s*|\|", line.partition(":")[2].strip(), flags=re.IGNORECASE
            ):
                if word.strip():
                    names[word.strip()] = None
    found = sorted({spdx(name) for name in names})
    return " AND ".join(found) if found else NO_ASSERTION


def spdx(name: str) -> str:
    """One licence's name as SPDX has it; one that SPDX does not know becomes a LicenseRef."""
    plain = name.lower().strip("()")
    base, _, exception = plain.partition(" with ")
    known = _SPDX.get(base)
    if known is None and (match := _GNU.match(base)):
        family, major, minor, later = (match[1] or "").upper(), match[2], match[3], match[4]
        minor = minor or _GNU_MINOR.get((family, major), "0")
        known = f"{family}GPL-{major}.{minor}-{'or-later' if later in ('+', '-or-later') else 'only'}"
    if known is None and (match := _GFDL.match(base)):
        known = f"GFDL-{match[1]}-{'or-later' if match[2] else 'only'}"
    if known is None or exception:
        return "LicenseRef-" + _NOT_A_WORD.sub("-", name).strip("-.")[:100]
    return known


def references(expressions: Iterable[str]) -> list[str]:
    """Every LicenseRef in these expressions: a document has to say what each is."""
    return sorted(
        {word for text in expressions for word in re.split(r"[ ()]+", text) if word.startswith("LicenseRef-")}
    )
