"""The table of what the tests have run on: ``python tests/project/matrix.py FOLDER`` writes it into the README.

FOLDER has the files that runs of the tests leave there (``--report``, see ``tests/support/runs.py``). Each server has a
row for each pair of Python and SQLAlchemy that it was run with; of several runs the last one counts.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[2] / "README.md"

_TABLE = re.compile(r"(?<=<!-- matrix -->\n)(.*?)(?=<!-- end of matrix -->)", re.DOTALL)
_HEAD = "| server | Python | SQLAlchemy | tests | passed | on | commit |\n|---|---|---|---:|---:|---|---|\n"


def reports(folder: Path) -> list[dict[str, Any]]:
    """The reports of a folder, the oldest first."""
    found = [json.loads(file.read_text(encoding="utf-8")) for file in folder.glob("*.json")]
    return sorted(found, key=lambda report: str(report["at"]))


def table(reports: Iterable[Mapping[str, Any]]) -> str:
    """The table of reports, the oldest first."""
    rows = {key: row for report in reports for key, row in _rows(report)}
    return _HEAD + "".join(f"| {' | '.join(rows[key])} |\n" for key in sorted(rows))


def _rows(report: Mapping[str, Any]) -> Iterator[tuple[object, list[str]]]:
    python, sqlalchemy = report["python"], report["packages"]["SQLAlchemy"]
    commit = report["commit"] + (" and changes" if report["changed"] else "")
    for server, counts in report["servers"].items():
        name, version = server.rsplit(" ", 1)
        # 9.7.4 is 9.7 with more mended, and no row of its own. Of memcached each version is.
        series = _numbers(version)[: 3 if name == "memcached" else 2]
        key = (name.casefold(), series, _numbers(python)[:2], _numbers(sqlalchemy)[:2])
        amounts = f"{sum(counts.values()):,}", f"{counts.get('passed', 0):,}"
        yield key, [server, python, sqlalchemy, *amounts, report["at"][:10], commit]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))


def written(page: str, table: str) -> str:
    """The page with this table. Raises ``ValueError`` if it has no place for one."""
    if not _TABLE.search(page):
        raise ValueError("the page has no <!-- matrix --> and <!-- end of matrix -->")
    return _TABLE.sub(lambda _: table, page)


def write(folder: Path) -> None:
    """Writes the table of the reports in a folder into the README, which stays as it is if there are none."""
    if found := reports(folder):
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), table(found)), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
