"""Errors as people and programs see them: a sentence on standard error, or one JSON object; and the exit status."""

import json
import os
import sys
import tempfile
import traceback
from collections.abc import Iterable
from pathlib import Path

from cloudside.errors import InputError, InputErrors, KyotenError
from cloudside.messages import error_text, text

#: Exit status of a bug of ours.
BUG = 1


def report(error: KyotenError, *, as_json: bool) -> int:
    """Say it; the exit status. An error of several problems has each on a line of its own."""
    problems = list(_problems(error))
    if as_json:
        document: dict[str, object] = _document(error)
        if problems:  # the whole repeats the parts: it is left as a count
            document = {"key": error.key, "params": {"count": len(problems)}, "text": error_text(error)}
            document["problems"] = [_document(problem) for problem in problems]
        _write(json.dumps({"error": document}, ensure_ascii=False))
    else:
        for problem in problems or [error]:
            _write(f"{text('cli.error')}: {text(problem.key, problem.params)}")
    return error.exit_code


def report_usage(message: str, *, as_json: bool, status: int) -> int:
    """A command line that cannot be read. A command that needs another word after it answers with its help."""
    if not as_json and message.startswith("Usage:"):
        _write(message)
    else:
        report(InputError("cli.usage", message=message.rstrip(".")), as_json=as_json)
    return status


def report_bug(error: BaseException, *, as_json: bool) -> int:
    """One sentence and where the rest is; the whole traceback only when KYOTEN_DEBUG is set."""
    if os.environ.get("KYOTEN_DEBUG"):
        traceback.print_exception(error)
        return BUG
    path = _keep("".join(traceback.format_exception(error)))
    return report(KyotenError("cli.bug", kind=type(error).__name__, path=str(path)), as_json=as_json)


def _problems(error: KyotenError) -> Iterable[KyotenError]:
    return error.problems if isinstance(error, InputErrors) else ()


def _document(error: KyotenError) -> dict[str, object]:
    return {"key": error.key, "params": dict(error.params), "text": text(error.key, error.params)}


def _keep(details: str) -> Path:
    descriptor, path = tempfile.mkstemp(prefix="kyoten-error-", suffix=".log")  # mode 0600
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(details)
    return Path(path)


def _write(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
