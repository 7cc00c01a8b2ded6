"""The table of a run: endpoint by endpoint what was checked, and the SDKs' scenarios.

One row for each operation and one for each SDK. The same rows go to the terminal, into
``--report-markdown`` and into ``--report-json``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


@dataclass(frozen=True)
class Check:
    """One test of one subject, an operation or an SDK."""

    subject: str
    name: str
    outcome: str
    reason: str = ""


@dataclass
class Row:
    """All checks of one subject."""

    subject: str
    answers: int = 0
    """How many of its answers were held against the specification."""
    checks: list[Check] = field(default_factory=list)

    def count(self, outcome: str) -> int:
        """Return how many checks came out so."""
        return sum(check.outcome == outcome for check in self.checks)

    @property
    def remarks(self) -> str:
        """What failed, by its name, and why something was skipped, each once."""
        told = [check.name for check in self.checks if check.outcome == FAILED]
        told += [check.reason for check in self.checks if check.outcome == SKIPPED]
        return "; ".join(dict.fromkeys(told))


def rows_of(subjects: Iterable[str], checks: Sequence[Check], answers: dict[str, int]) -> list[Row]:
    """Return a row for each subject, in order, also for those that nothing checked."""
    rows = {name: Row(name, answers.get(name, 0)) for name in subjects}
    for check in checks:
        rows.setdefault(check.subject, Row(check.subject)).checks.append(check)
    return list(rows.values())


def as_markdown(rows: Sequence[Row]) -> str:
    """Return the table as Markdown."""
    lines = ["| Endpoint or SDK | Answers checked | Passed | Failed | Skipped | Remarks |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        counts = " | ".join(str(row.count(outcome)) for outcome in (PASSED, FAILED, SKIPPED))
        remarks = row.remarks.replace("|", "\\|")
        lines.append(f"| `{row.subject}` | {row.answers or ''} | {counts} | {remarks} |")
    return "\n".join([*lines, "", summary(rows), ""])


def as_text(rows: Sequence[Row]) -> str:
    """Return the table for a terminal."""
    width = max((len(row.subject) for row in rows), default=0)
    lines = [f"{'':{width}}  answers  passed  failed  skipped"]
    for row in rows:
        numbers = f"{row.answers:7}  {row.count(PASSED):6}  {row.count(FAILED):6}"
        lines.append(f"{row.subject:{width}}  {numbers}  {row.count(SKIPPED):7}  {row.remarks}")
    return "\n".join([*lines, summary(rows)])


def as_json(rows: Sequence[Row], target: dict[str, str]) -> str:
    """Return the table with every single check, for programs."""
    table = {"target": target, "rows": [asdict(row) for row in rows]}
    return json.dumps(table, indent=1, ensure_ascii=False) + "\n"


def summary(rows: Sequence[Row]) -> str:
    """Return the run in one sentence."""
    passed, failed, skipped = (
        sum(row.count(outcome) for row in rows) for outcome in (PASSED, FAILED, SKIPPED)
    )
    answers = sum(row.answers for row in rows)
    return (
        f"{passed} checks passed, {failed} failed, {skipped} skipped; "
        f"{answers} answers held against the specification."
    )


def write(path: str | None, text: str) -> None:
    """Write a report where one was asked for."""
    if path:
        Path(path).write_text(text, encoding="utf-8")
