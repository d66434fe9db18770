"""The pages say what is there: sizes, links, files, commands and keys."""

import argparse
import re
import shlex
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mkd.benchmarks import settings
from mkd.config import schema
from mkd.config.load import _keys, parse
from shards.command_line import build_parser

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
LIMITS = {"README.md": (120, 110), "CONTRIBUTING.md": (80, 110)}  # lines, characters of a line
SCRIPTS = {
    "launch/kd.py": schema.KdRun,
    "launch/semi.py": schema.SemiRun,
    "launch/supervised.py": schema.SupervisedRun,
    "launch/evaluate.py": schema.EvaluateRun,
    "launch/predict_map.py": schema.PredictRun,
    "launch/experiment.py": schema.Experiment,
    "launch/export.py": schema.ExportRun,
    "launch/select_tiles.py": schema.SelectTilesRun,
    "launch/domains.py": schema.DomainsRun,
    "launch/demo.py": schema.DemoRun,
    "launch/landscapes.py": schema.LandscapesRun,
    "launch/teacher.py serve": schema.TeacherServe,
    "launch/teacher.py status": schema.TeacherStatus,
    "launch/teacher.py label": schema.TeacherLabel,
    "launch/throughput.py cost": settings.CostRun,
    "launch/throughput.py speed": settings.SpeedRun,
    "launch/throughput.py step": settings.StepSpeedRun,
    "launch/throughput.py predict": settings.PredictSpeedRun,
    "launch/throughput.py all": settings.AllRuns,
    "launch/throughput.py data": settings.DataSpeedRun,
    "launch/throughput.py teacher": settings.TeacherSpeedRun,
    "launch/throughput.py scaling": settings.ScalingRun,
    "slurm/kd.sbatch": schema.KdRun,
    "slurm/ssl.sbatch": schema.SemiRun,
}
SUFFIXES = "py|yaml|sbatch|sh|toml|jpg"
PATH = re.compile(rf"(?<![\w./*{{<-])((?:[\w-]+/)+[\w-]+\.(?:{SUFFIXES}))\b")


def text_of(page):
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page):
    """Return the command lines of a page's code blocks, continued lines joined, comments cut off."""
    found = []
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text_of(page), re.M | re.S):
        if language not in ("", "bash"):
            continue
        joined = re.sub(r"\\\n\s*", " ", block)
        found += [re.split(r"(?:^|\s)#", line)[0].strip() for line in joined.splitlines()]
    return [line for line in found if line]


def spans(page):
    """Return the inline code of a page; a span may go on in the next line."""
    outside = re.sub(r"^```.*?^```", "", text_of(page), flags=re.M | re.S)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", outside)]


def words_after(line, command):
    """Return what a shell would hand to a script, without the brackets of $( ) around the whole line."""
    rest = re.split(rf"{re.escape(command)}(?![\w/])", line, maxsplit=1)[1]
    return [word.rstrip(")") if "(" not in word else word for word in shlex.split(rest)]


def launches(lines):
    """Yield (script with its word, words after it) for each start of a script whose keys have a schema."""
    for line in lines:
        for script in SCRIPTS:
            if re.search(rf"{re.escape(script)}(?![\w/])", line):
                yield script, words_after(line, script)


def slugs(page):
    """Return the anchors that GitHub makes of a page's headings."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text_of(page), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", LIMITS)
def test_pages_for_beginners_are_short(page):
    """A page that is read first has a limit of lines, and lines that fit a terminal."""
    lines = text_of(page).splitlines()
    most, width = LIMITS[page]
    assert len(lines) <= most
    assert [line for line in lines if len(line) > width] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    """Each relative link names a file, and its anchor one of that file's headings."""
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        if anchor:
            assert anchor in slugs(target.resolve().relative_to(ROOT)), link


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_exist(page):
    """Each path of a source file, as seen from the project's folder or from mkd/, exists."""
    # Names such as NAME.yaml are placeholders.
    named = [p for p in PATH.findall(text_of(page)) if not Path(p).stem.isupper()]
    assert [p for p in named if not (ROOT / p).is_file() and not (ROOT / "mkd" / p).is_file()] == []


@pytest.mark.parametrize("page", PAGES)
def test_shard_commands_parse(page):
    """Each `python -m shards WORD` is a command; in a code block all of it is understood by the command line."""
    commands = next(a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)).choices
    for word in re.findall(r"python -m shards ([a-z]\w*)", text_of(page)):
        assert word in commands
    for line in blocks(page):
        for start in ("python -m shards", "slurm/shards.sbatch"):
            if f"{start} " in line:
                build_parser().parse_args(words_after(re.sub(r"\$\w+", "0", line), start))


@pytest.mark.parametrize("page", PAGES)
def test_keys_belong_to_their_script(page):
    """Each KEY=VALUE behind a script's name, in a block or in a sentence, is a key of the script's schema."""
    for script, words in launches([*blocks(page), *spans(page)]):
        known = {*_keys(OmegaConf.structured(SCRIPTS[script])), "model", "experiment"}
        for word in words:
            key, equals, _ = word.partition("=")
            parents = {key.rsplit(".", n)[0] for n in range(key.count(".") + 1)}  # achieved.h200 is in a dict
            assert not equals or parents & known, f"{script}: {key}"


@pytest.mark.parametrize("page", PAGES)
def test_whole_commands_are_valid(page):
    """A command of a code block without `...` has all values that it must have, each of the right type."""
    for script, words in launches(blocks(page)):
        if "..." in words or script.startswith("slurm/"):
            continue
        name = re.split(r"[/.]", script)[1]
        given = [word for word in words if word != "--json"]
        name = script.split()[1] if name == "throughput" else f"teacher {name}" if " " in script else name
        parse(SCRIPTS[script], name, given)


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_exist(page):
    """Each `make TARGET` is a target of the Makefile."""
    targets = set(re.findall(r"^([\w-]+):", text_of("Makefile"), re.M))
    named = [m for line in [*blocks(page), *spans(page)] for m in re.findall(r"^make ([\w-]+)", line)]
    assert [target for target in named if target not in targets] == []


def names_of_tests(page):
    """Return the names of tests in a page's tables, each with the file that stands behind it, or ""."""
    rows = [line for line in text_of(page).splitlines() if line.startswith("|")]
    named = re.compile(r"`(test_\w+)`(?: in `(tests/[\w/]+\.py)`)?")
    return [found.groups(default="") for row in rows for found in named.finditer(row)]


def test_tests_that_prove_a_promise_exist():
    """A test named in a table is defined once, in the file that is named with it; data.md names some."""
    defined = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.M):
            defined.setdefault(name, []).append(str(path.relative_to(ROOT)))
    named = {page: names_of_tests(page) for page in PAGES}
    assert len(named["docs/data.md"]) > 30
    for page, tests in named.items():
        for name, file in tests:
            places = defined.get(name, [])
            assert [place for place in places if place == (file or place)], f"{page}: no {name} {file}"
            assert file or len(places) == 1, f"{page}: {name} is in {places}, name one"
