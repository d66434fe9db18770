"""Checks the size of rooms and the uniqueness of names; `make lint` runs it: python tests/check_layout.py.

Fails on a folder with more than 14 Python files, a file over 300 lines, a class over 200, a function over 60, a public
class name twice, a basename twice outside sibling families, or a folder whose name tools take for generated output.
"""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

FILES_A_FOLDER, LINES_A_FILE, LINES_A_CLASS, LINES_A_FUNCTION = 14, 300, 200, 60
GENERATED = {"build", "dist", "lib", "env", "venv"}  # pytest, ruff and other tools skip them
FAMILIES = {
    "mkd/recipes",
    "mkd/recipes/mapping",
    "mkd/recipes/data_choice",
    "mkd/recipes/tables",
    "mkd/train/steps",
}  # the same verb at each level of the way to a run
FAMILY_OF_BENCHMARKS = "mkd/benchmarks/"


def tracked(root: Path) -> list[Path]:
    """List the Python files that git tracks, or that are new and not ignored, as paths below the root."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "-z", "*.py"]
    names = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.split("\0")
    return sorted(Path(name) for name in names if name and (root / name).is_file())


def faults(root: Path, files: list[Path]) -> Iterator[str]:
    """Yield one line for each fault."""
    folders, classes, basenames = defaultdict(list), defaultdict(list), defaultdict(list)
    for path in files:
        folders[path.parent].append(path)
        if bad := GENERATED & set(path.parts[:-1]):
            yield f"{path}: lies in a folder called {bad.pop()}; name it after its subject"
        text = (root / path).read_text(encoding="utf-8")
        if (lines := text.count("\n")) > LINES_A_FILE:
            yield f"{path}: {lines} lines, at most {LINES_A_FILE}; cut it into two subjects"
        # Commands of launch/ are named by what one types, which may be a subject of a package.
        if path.parts[0] not in ("tests", "launch") and path.name not in ("__init__.py", "__main__.py"):
            basenames[path.name].append(path)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                limit = LINES_A_CLASS if isinstance(node, ast.ClassDef) else LINES_A_FUNCTION
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > limit:
                    yield f"{path}:{node.lineno}: {node.name} has {length} lines, at most {limit}"
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and path.parts[0] != "tests":
                classes[node.name].append(path)
    for folder, inside in folders.items():
        if len(inside) > FILES_A_FOLDER:
            yield f"{folder}: {len(inside)} Python files, at most {FILES_A_FOLDER}; which two subjects are these?"
    for name, places in classes.items():
        if len(places) > 1:
            yield f"class {name} in {', '.join(map(str, places))}; a name stands for one thing"
    for name, places in basenames.items():
        homes = {str(p.parent) for p in places}
        if len(places) > 1 and not (
            homes <= FAMILIES or all(h.startswith(FAMILY_OF_BENCHMARKS) for h in homes)
        ):
            yield f"{name} is {', '.join(map(str, places))}; a basename stands for one subject"


if __name__ == "__main__":
    here = Path(__file__).resolve().parents[1]
    found = list(faults(here, tracked(here)))
    print("\n".join(found) or "layout: all rooms are in order")
    sys.exit(1 if found else 0)
