"""launch/domains.py: source, candidates and target -> which candidate to train on between them."""

import csv
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mkd.atomic import check_writable, write_text
from mkd.config.schema import DomainsRun
from mkd.dataset.label_notes import present_classes
from mkd.distributed.world import find_world
from mkd.loader.loader import TileSet
from mkd.metrics.bootstrap import resampled_counts
from mkd.models.segmentation import SegmentationNetwork
from mkd.recipes import factories
from mkd.recipes.data_choice.domain_distances import Estimate, measure_distances
from mkd.recipes.data_choice.domain_probe import gain_interval, probe_target, train_probe
from mkd.recipes.data_choice.tile_features import imagenet_network, pooled_features
from mkd.report.domains_page import DomainsPage, write_domains_page
from mkd.report.terminal_table import show_rows
from mkd.train.input_bands import check_kind
from mkd.transferability.class_overlap import real_classes, shared_classes
from mkd.transferability.embedding import embed_tsne
from mkd.transferability.linear_probe import halves

DRAWS = 1000  # bootstrap samples of a probe's gain
BETTER_HIGH = {"miou": True, "logme": True, "frechet": False, "mmd2": False, "overlap": True, "naive": True}


@dataclass
class Candidate:
    """What is known of one candidate; see docs/training.md for each score."""

    name: str
    folder: str
    tiles: int
    miou: float
    gain: Estimate
    logme: float
    frechet: Estimate
    mmd2: Estimate
    shared: list[str]
    overlap: float
    naive: int
    random: int

    @property
    def verdict(self) -> str:
        """Between: the gain's interval is above 0; harmful: below 0; else unclear."""
        if self.gain.low > 0:
            return "between"
        return "harmful" if self.gain.high < 0 else "unclear"


def rank_domains(config: DomainsRun) -> str:
    """Probe and measure the candidates; write domains.json, .csv and .html; print the table, return the sentence.

    Raises:
        ValueError: data sets of different bands, a target with too few labels, or a folder of other probes.
        OSError: a place that cannot be written.
    """
    out, device = Path(config.out), find_world(config.device).device
    check_writable(out / "domains.json")
    target = TileSet(config.target, labelled=True, max_pixels=config.max_pixels)
    sets = {p: TileSet(p, labelled=True, max_pixels=config.max_pixels) for p in config.candidates}
    if len(target) < 2:
        raise ValueError(f"target={config.target} has {len(target)} tile: give two or more, for two halves")
    for path, tiles in sets.items():
        if len(present := present_classes(tiles.index)) < 2:
            raise ValueError(
                f"candidates={path} has labels of {' and '.join(present) or 'no class'} only: a probe needs two "
                "classes; leave it out"
            )
    network = _source(config, target, sets)
    names = _names(target, sets)
    # Distances and figure, by the source network alone: equally many tiles of each set.
    count = min(config.tiles, len(target), *map(len, sets.values()))
    features = {
        p: pooled_features(network, s, _some(len(s), count, config.seed), device) for p, s in sets.items()
    }
    of_target = pooled_features(network, target, _some(len(target), count, config.seed), device)
    distances = measure_distances(of_target, features, config.seed)
    # Probes: the source itself is the control.
    sources = [str(target.meta(n)["source"]) for n in range(len(target))]
    fitted, scored, by = halves(sources, config.seed)
    blocks = np.unique([sources[n] if by == "source" else str(n) for n in scored], return_inverse=True)[1]
    counts = resampled_counts(blocks, DRAWS, config.seed)
    control = probe_target(network, target, fitted, scored, config.seed, device)
    order = np.random.default_rng(config.seed).permutation(len(sets))
    found = []
    for number, (path, tiles) in enumerate(sets.items()):
        tuned = train_probe(config, path, tiles.index, out / "probes" / _folder(names[path]))
        probe = probe_target(tuned, target, fitted, scored, config.seed, device)
        gain = Estimate(probe.miou - control.miou, *gain_interval(probe, control, counts))
        shared = shared_classes(target.index.classes, tiles.index.classes)
        overlap = len(shared) / max(1, len(real_classes(target.index.classes)))
        known = (names[path], path, len(tiles), probe.miou, gain, probe.logme, *distances[path])
        found.append(Candidate(*known, shared, overlap, len(tiles) * len(shared), int(order[number])))
    found.sort(key=lambda c: -c.miou)
    source = "ImageNet" if config.source is None else config.source
    sentence = conclusion(source, target.index.name, found)
    about = {
        "source": source,
        "target": target.index.name,
        "target_tiles": {"fitted": len(fitted), "scored": len(scored), "halves_by": by},
        "probe_steps": config.probe_steps,
        "tiles_compared": count,
        "seed": config.seed,
        "control": {"miou": control.miou, "logme": control.logme},
    }
    plane = embed_tsne(np.concatenate([of_target, *features.values()]), config.seed) if count > 1 else None
    _write(out, config, about, found, sentence, plane, [target.index.name, *names.values()])
    return f"{sentence}\n{out / 'domains.html'}"


def _source(config: DomainsRun, target: TileSet, sets: dict[str, TileSet]) -> SegmentationNetwork:
    """Return the network that the probes start from; all data sets must have its bands."""
    if config.source is None:
        network = imagenet_network(target.index, f"target={config.target}")
    else:
        network, _ = factories.load_checked("source", config.source)
    scale = network.architecture.scale
    check_kind(f"target={config.target}", target.index, scale)
    for path, tiles in sets.items():
        check_kind(f"candidates={path}", tiles.index, scale)
    return network


def _names(target: TileSet, sets: dict[str, TileSet]) -> dict[str, str]:
    """Return a name for each candidate: its data set's, with the path where another or the target has it too."""
    given = [target.index.name, *(tiles.index.name for tiles in sets.values())]
    return {
        path: tiles.index.name if given.count(tiles.index.name) == 1 else f"{tiles.index.name} ({path})"
        for path, tiles in sets.items()
    }


def _folder(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)


def _some(number: int, count: int, seed: int) -> list[int]:
    drawn = np.random.default_rng(seed).choice(number, count, replace=False)
    return sorted(int(n) for n in drawn)


def conclusion(source: str, target: str, candidates: list[Candidate]) -> str:
    """Return the plain sentence: which candidates lie between source and target, which harm, which are unclear."""
    by = {v: [c.name for c in candidates if c.verdict == v] for v in ("between", "harmful", "unclear")}
    parts = []
    if by["between"]:
        parts.append(f"{_listed(by['between'])} between {source} and {target}")
    if by["harmful"]:
        verb = "do not" if len(by["harmful"]) > 1 else "does not"
        where = "" if by["between"] else f" lie between {source} and {target}"
        parts.append(f"{' and '.join(by['harmful'])} {verb}{where}: expect negative transfer")
    if by["unclear"]:
        parts.append(f"of {' and '.join(by['unclear'])} this probe cannot tell")
    return "; ".join(parts)


def _listed(names: list[str]) -> str:
    return f"{names[0]} lies" if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]} lie"


def _ranks(candidates: list[Candidate]) -> dict[str, list[str]]:
    """Return the order of the candidates by each score, best first."""
    found = {}
    for score, high in BETTER_HIGH.items():
        values = [getattr(c, score) for c in candidates]
        numbers = [v.value if isinstance(v, Estimate) else v for v in values]
        order = sorted(range(len(numbers)), key=lambda n: -numbers[n] if high else numbers[n])
        found[score] = [candidates[n].name for n in order]
    found["random"] = [c.name for c in sorted(candidates, key=lambda c: c.random)]
    return found


HEADINGS = (
    *("candidate", "probe mIoU, %", "gain, points", "LogME", "Frechet", "MMD² x 1000"),
    *("classes shared", "tiles x shared", "random order"),
)


def _row(c: Candidate) -> list[str]:
    return [
        c.name,
        f"{100 * c.miou:.1f}",
        _interval(c.gain, 100, 1),
        f"{c.logme:.4f}",
        _interval(c.frechet, 1, 1),
        _interval(c.mmd2, 1000, 1),
        f"{len(c.shared)} ({c.overlap:.0%})",
        f"{c.naive:,}",
        str(c.random + 1),
    ]


def _interval(e: Estimate, factor: float, digits: int) -> str:
    value, low, high = (f"{factor * v:.{digits}f}" for v in (e.value, e.low, e.high))
    return f"{value} ({low} to {high})"


def _write(
    out: Path,
    config: DomainsRun,
    about: dict[str, Any],
    candidates: list[Candidate],
    sentence: str,
    plane: NDArray[np.float64] | None,
    domains: list[str],
) -> None:
    """Print the table; write JSON, CSV and page."""
    rows = [_row(c) for c in candidates]
    control = f"control: {about['source']} without a candidate, {100 * about['control']['miou']:.1f} %"
    show_rows(f"Intermediate domains for {about['target']}; {control}", HEADINGS, rows)
    listed = [{**asdict(c), "verdict": c.verdict} for c in candidates]
    content = {**about, "candidates": listed, "ranks": _ranks(candidates), "sentence": sentence}
    write_text(out / "domains.json", json.dumps(content, indent=1) + "\n")
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    columns = [k for k in listed[0] if k not in ("gain", "frechet", "mmd2", "shared")]
    spans = [(key, part) for key in ("gain", "frechet", "mmd2") for part in ("value", "low", "high")]
    table.writerow([*columns, *(f"{key}_{part}" for key, part in spans), "shared"])
    for c in listed:
        table.writerow([*(c[k] for k in columns), *(c[k][p] for k, p in spans), " | ".join(c["shared"])])
    write_text(out / "domains.csv", text.getvalue())
    given = [f"candidates=[{','.join(config.candidates)}]", f"target={config.target}", f"out={config.out}"]
    given += [f"source={config.source}"] if config.source else []
    given += [f"probe_steps={config.probe_steps}", f"tiles={config.tiles}", f"seed={config.seed}"]
    page = DomainsPage(
        target=about["target"],
        sentence=f"{sentence}.",
        control=f"{control[0].upper()}{control[1:]}.",
        headings=HEADINGS,
        rows=rows,
        domains=domains,
        plane=plane,
        halves="{fitted} tiles fit the classifier, {scored} score it, parted by {halves_by}".format(
            **about["target_tiles"]
        ),
        command="python launch/domains.py " + " ".join(given),
    )
    write_domains_page(out / "domains.html", page)
