"""The shape of a tree in figures: ``python tests/project/measures.py [FOLDER ...]``; two folders are put side by side.

A report and no judge: ``make lint`` prints it so that whoever changes much sees where it goes. A folder is a package
or any other folder of Python files; this checkout's package if none is given.

- code lines: lines that hold Python, without blank lines, comments and docstrings
- a function's lines: the code lines of its body, those of functions within it included
- documented: the part of public modules, classes, functions and methods that has a docstring. Public is what no name
  on the way to it begins with an underscore, and what no function contains.
- comments: lines with a comment, own lines and ends of lines alike, beside the code lines
"""

from __future__ import annotations

import ast
import io
import statistics
import sys
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

LONG_MODULE = 500
LONG_FUNCTION = 40


@dataclass(frozen=True)
class Module:
    """The figures of one file."""

    name: str
    lines: int
    code: int
    comments: int
    functions: Sequence[int]
    documented: Sequence[bool]

    @classmethod
    def of(cls, path: Path, folder: Path) -> Module:
        """Reads a file below a folder."""
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        code, comments = _lines_of(text, tree)
        return cls(
            name=str(path.relative_to(folder)),
            lines=text.count("\n"),
            code=len(code),
            comments=len(comments),
            functions=[
                len(code.intersection(range(node.body[0].lineno, (node.end_lineno or 0) + 1)))
                for node in ast.walk(tree)
                if isinstance(node, _FUNCTIONS)
            ],
            documented=[ast.get_docstring(node) is not None for node in _public(tree)],
        )


def _lines_of(text: str, tree: ast.Module) -> tuple[set[int], set[int]]:
    """The numbers of the lines that hold code, and of those that hold a comment."""
    code: set[int] = set()
    comments: set[int] = set()
    layout = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER, tokenize.ENCODING)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            comments.add(token.start[0])
        elif token.type not in layout:
            code.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree):
        if _is_bare_string(node):
            code.difference_update(range(node.lineno, node.end_lineno + 1))  # type: ignore[attr-defined]
    return code, comments


def _is_bare_string(node: ast.AST) -> bool:
    """True for a docstring, that of an attribute included."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _public(node: Definition) -> Iterator[Definition]:
    """The module or class itself, and what is public in it."""
    yield node
    for inner in node.body:
        if isinstance(inner, (*_FUNCTIONS, ast.ClassDef)) and not inner.name.startswith("_"):
            if isinstance(inner, ast.ClassDef):
                yield from _public(inner)
            else:
                yield inner


@dataclass(frozen=True)
class Tree:
    """The figures of a folder."""

    modules: Sequence[Module]

    @classmethod
    def of(cls, folder: Path) -> Tree:
        """Reads every Python file of a folder."""
        return cls([Module.of(path, folder) for path in sorted(folder.rglob("*.py"))])

    def figures(self) -> dict[str, str]:
        """Each figure by what it says."""
        lines = [module.lines for module in self.modules if module.code]
        functions = sorted(size for module in self.modules for size in module.functions)
        documented = [one for module in self.modules for one in module.documented]
        code = sum(module.code for module in self.modules)
        comments = sum(module.comments for module in self.modules)
        return {
            "modules with code": f"{len(lines)}",
            "lines": f"{sum(lines):,}",
            "lines of a module, median": f"{statistics.median(lines):.0f}",
            "lines of the longest module": f"{max(lines):,}",
            f"modules above {LONG_MODULE} lines": f"{sum(size > LONG_MODULE for size in lines)}",
            "code lines": f"{code:,}",
            "functions": f"{len(functions):,}",
            "code lines of a function, median": f"{statistics.median(functions):.0f}",
            "code lines of a function, 95th percentile": f"{functions[int(0.95 * (len(functions) - 1))]}",
            f"functions above {LONG_FUNCTION} code lines": f"{sum(size > LONG_FUNCTION for size in functions)}",
            "documented public names": f"{sum(documented) / len(documented):.1%}",
            "comments beside code lines": f"{comments / code:.1%}",
        }

    def long_modules(self) -> list[Module]:
        """The modules above ``LONG_MODULE`` lines, the longest first."""
        found = [module for module in self.modules if module.lines > LONG_MODULE]
        return sorted(found, key=lambda module: -module.lines)


def report(folders: Sequence[Path]) -> str:
    """The figures of some folders, a column for each, and the long modules of the last."""
    trees = [Tree.of(folder) for folder in folders]
    columns = [tree.figures() for tree in trees]
    width = max(map(len, columns[0]))
    lines = [f"{name:{width}}" + "".join(f"{column[name]:>12}" for column in columns) for name in columns[0]]
    lines += [f"  {module.name}: {module.lines} lines" for module in trees[-1].long_modules()]
    return "\n".join(lines)


if __name__ == "__main__":
    here = Path(__file__).resolve().parents[2] / "person_repo"
    print(report([Path(name) for name in sys.argv[1:]] or [here]))
