"""The report on the tree's shape counts what it says."""

from __future__ import annotations

from pathlib import Path

from project.measures import Module, report

SOURCE = '''"""A module."""

# A comment of its own.
LIMIT = 3  # seconds
"""The docstring of a constant."""


class Shop:
    def open(
        self,
        day: int,
    ) -> bool:
        """Two lines
        of a docstring.
        """

        def inner() -> int:
            return day

        return inner() > LIMIT

    def _close(self) -> None: ...
'''


def test_code_lines_leave_out_blank_lines_comments_and_docstrings(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SOURCE)

    module = Module.of(tmp_path / "shop.py", tmp_path)

    assert module.lines == 22
    assert module.code == 10
    assert module.comments == 2
    assert sorted(module.functions) == [1, 1, 3]  # _close, inner, open
    assert module.documented == [True, False, True]  # the module, Shop, Shop.open


def test_two_trees_stand_side_by_side(tmp_path: Path) -> None:
    for name, copies in (("old", 1), ("new", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "shop.py").write_text("def open() -> None: ...\n" * copies)

    lines = report([tmp_path / "old", tmp_path / "new"]).splitlines()

    assert next(line.split() for line in lines if line.startswith("functions  ")) == ["functions", "1", "2"]
