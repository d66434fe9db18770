import dataclasses
import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mkd.geo.grid import Window
from mkd.geo.raster import RasterReader
from mkd.synth.landscape import STYLES, Landscape, render, write_orthomosaic
from mkd.synth.layout import LayoutPlan, Line, Use, locate
from mkd.synth.partition import build_layout, deal
from mkd.synth.textures import blur, cast_shadow, crowns, smooth_noise

CONFIGS = Path(__file__).parents[3] / "configs" / "datasets"
FARMLAND, GRASSLAND = 2, 5


@pytest.fixture(scope="module")
def target() -> Landscape:
    return render("target", 768, 768, 4)


@pytest.fixture(scope="module")
def large() -> Landscape:
    return render("intermediate", 1024, 1024, 4)


def digest(scene: Landscape) -> str:
    return hashlib.sha256(scene.image.tobytes() + scene.label.tobytes()).hexdigest()


@pytest.mark.parametrize("domain", ["target", "intermediate"])
def test_a_seed_gives_the_same_bytes_and_another_seed_others(domain: str) -> None:
    """Equal arguments give equal bytes; the seed changes image and label."""
    first, again, other = (render(domain, 160, 224, seed) for seed in (3, 3, 4))
    assert digest(first) == digest(again)
    assert (first.label != other.label).mean() > 0.2
    assert (first.image != other.image).mean() > 0.8


@settings(max_examples=8, deadline=None)
@given(st.sampled_from(sorted(STYLES)), st.integers(64, 150), st.integers(64, 150), st.integers(0, 2**40))
def test_any_size_and_seed_gives_a_valid_scene(domain: str, height: int, width: int, seed: int) -> None:
    """Image and label have the size asked for, and every label is one of the domain's classes."""
    scene = render(domain, height, width, seed)
    assert scene.image.shape == (height, width, 3)
    assert scene.label.shape == (height, width)
    assert (scene.image.dtype, scene.label.dtype) == (np.uint8, np.uint8)
    assert scene.image.flags.c_contiguous
    assert scene.label.max() < len(STYLES[domain].classes)
    assert (scene.gsd, scene.domain) == (STYLES[domain].gsd, domain)


def test_bad_arguments_are_named() -> None:
    """Unknown domains and impossible sizes are refused with what is allowed."""
    with pytest.raises(ValueError, match="'mars'.*intermediate, target"):
        render("mars", 128, 128, 0)
    with pytest.raises(ValueError, match="32 x 128.*64"):
        render("target", 32, 128, 0)
    with pytest.raises(ValueError, match="seed -1"):
        render("target", 128, 128, -1)


def test_every_target_class_is_common(target: Landscape) -> None:
    """No target class covers less than 2 % of a scene, and none more than half of it."""
    share = np.bincount(target.label.ravel(), minlength=6) / target.label.size
    assert share.min() > 0.02
    assert share.max() < 0.5


def test_every_intermediate_class_is_there(large: Landscape) -> None:
    """A large intermediate scene holds all 17 classes, each with a few hundred pixels."""
    assert np.bincount(large.label.ravel(), minlength=17).min() > 300


def test_domains_look_different(target: Landscape, large: Landscape) -> None:
    """The drone's pictures are warmer and sharper than the satellite's, and sample the ground more finely."""
    warmth = [float((s.image[..., 0].astype(float) - s.image[..., 2]).mean()) for s in (target, large)]
    sharpness = [float(np.abs(np.diff(s.image.mean(2), axis=1)).mean()) for s in (target, large)]
    assert warmth[0] > warmth[1] + 15
    assert sharpness[0] > 1.3 * sharpness[1]
    assert target.gsd < large.gsd


def windows(scene: Landscape, name: int, size: int = 24) -> list[np.ndarray]:
    """Return the grey levels of the aligned windows that lie wholly in one class."""
    grey = scene.image.mean(axis=2)
    spots = [(r, c) for r in range(0, 745, size) for c in range(0, 745, size)]
    parts = [(slice(r, r + size), slice(c, c + size)) for r, c in spots]
    return [grey[part] for part in parts if (scene.label[part] == name).all()]


def directedness(window: np.ndarray) -> float:
    """Return the coherence of the structure tensor: 0 without a direction, 1 for perfect rows."""
    down, right = np.gradient(window - window.mean())
    a, b, c = (down**2).mean(), (down * right).mean(), (right**2).mean()
    return math.hypot(a - c, 2 * b) / (a + c)


def test_farmland_and_grassland_share_colours_but_not_texture() -> None:
    """Their colour histograms overlap by more than half, while rows give farmland the clearer direction."""
    scenes = [render("target", 768, 768, seed) for seed in (11, 12)]
    bins = []
    for name in (FARMLAND, GRASSLAND):
        pixels = np.concatenate([s.image[s.label == name] for s in scenes]) // 24
        codes = (pixels.astype(int) * [121, 11, 1]).sum(axis=1)
        bins.append(np.bincount(codes, minlength=1331) / len(codes))
    assert np.minimum(*bins).sum() > 0.5
    farm, grass = (
        np.median([directedness(w) for s in scenes for w in windows(s, name)])
        for name in (FARMLAND, GRASSLAND)
    )
    assert farm > 1.5 * grass


def test_colour_of_a_class_varies_between_parcels(target: Landscape) -> None:
    """Farmland windows differ from each other in brightness much more than by their noise."""
    means = [w.mean() for w in windows(target, FARMLAND)]
    assert np.std(means) > 8


def test_shadows_darken_the_ground_and_keep_its_label(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without shadows the same seed has the same labels, and only brighter pixels."""
    lit = render("target", 256, 256, 2)
    style = dataclasses.replace(STYLES["target"], shade=(1.0, 1.0, 1.0))
    monkeypatch.setitem(STYLES, "target", style)
    bare = render("target", 256, 256, 2)
    change = lit.image.astype(int) - bare.image.astype(int)
    assert np.array_equal(lit.label, bare.label)
    assert 0.02 < (change.mean(axis=2) < -20).mean() < 0.4
    assert change.max() <= 1
    assert len(np.unique(lit.label[change.mean(axis=2) < -20])) >= 3


def test_orthomosaic_is_written_with_place_and_colours(tmp_path: Path) -> None:
    """The GeoTIFFs hold the scene's pixels, the domain's CRS, ground sampling and label colours."""
    scene = render("target", 96, 128, 0)
    image, label = write_orthomosaic(scene, tmp_path / "out", "a")
    assert [Path(p).relative_to(tmp_path / "out").as_posix() for p in (image, label)] == [
        "images/a.tif",
        "labels/a.tif",
    ]
    window = Window(0, 0, 96, 128)
    with RasterReader(image) as photo, RasterReader(label) as truth:
        assert np.array_equal(photo.read(window), scene.image)
        assert np.array_equal(truth.read(window)[..., 0], scene.label)
        assert photo.info.transform == truth.info.transform
        assert photo.info.transform is not None
        assert (photo.info.transform[0], photo.info.transform[4]) == (0.5, -0.5)
        assert photo.info.crs is not None
        assert "UTM zone 47N" in photo.info.crs
        assert truth.info.colormap is not None
        assert [truth.info.colormap[i][:3] for i in range(6)] == list(STYLES["target"].palette)


@pytest.mark.parametrize("domain", ["target", "intermediate"])
def test_class_file_agrees_with_the_renderer(domain: str) -> None:
    """The demo's class files name the renderer's classes and colours in its order."""
    config = yaml.safe_load((CONFIGS / f"demo_{domain}.yaml").read_text())
    style = STYLES[domain]
    assert tuple(config["classes"]) == style.classes
    assert tuple(map(tuple, config["palette"])) == style.palette
    assert len(set(style.palette)) == len(style.classes)
    assert config["masks"] == "ids"
    assert set(style.to_class) == set(range(len(style.classes)))


PLAN = LayoutPlan(90.0, {Use.CROP: 0.5, Use.HOUSES: 0.3, Use.LAKE: 0.2}, (1.5, 2.5))


def test_locate_agrees_with_the_polygons() -> None:
    """The tree look-up finds the parcel that holds the point and the distance to its nearest side."""
    layout = build_layout(np.random.default_rng(1), PLAN, 300, 200)
    rng = np.random.default_rng(2)
    x = rng.uniform(0, 300, (1, 200)).astype(np.float32)
    y = rng.uniform(0, 200, (1, 200)).astype(np.float32)
    parcel, edge, line = locate(layout, x, y)
    for px, py, number, gap, node in zip(x[0], y[0], parcel[0], edge[0], line[0], strict=True):
        corners = np.array(layout.parcels[number].corners)
        side = np.roll(corners, -1, axis=0) - corners
        cross = side[:, 0] * (py - corners[:, 1]) - side[:, 1] * (px - corners[:, 0])
        assert (cross > -0.1).all() or (cross < 0.1).all()
        distance = np.abs(cross / np.hypot(side[:, 0], side[:, 1])).min()
        if gap + layout.planes[node, 3] < 20:  # the scene's own rim is no line
            assert gap + layout.planes[node, 3] == pytest.approx(distance, abs=0.05) or gap < distance


def test_parcels_tile_the_scene_and_roads_are_there() -> None:
    """The parcels' areas add up to the scene with its rim, and some cut carries a road."""
    layout = build_layout(np.random.default_rng(5), PLAN, 400, 300)
    area = 0.0
    for parcel in layout.parcels:
        long, broad = parcel.half_extents
        area += 4 * long * broad
    assert area == pytest.approx((400 + 72) * (300 + 72), rel=1e-6)
    assert (layout.lines == Line.ROAD).any()


@given(
    st.dictionaries(st.sampled_from(list(Use)), st.floats(0.01, 1), min_size=1),
    st.integers(0, 60),
    st.integers(0, 9),
)
def test_deal_keeps_to_the_shares(shares: dict[Use, float], count: int, seed: int) -> None:
    """``count`` uses are dealt, each at least once when there is room, and the largest share leads."""
    dealt = deal(np.random.default_rng(seed), shares, count)
    assert len(dealt) == count
    assert len(set(dealt)) == min(count, len(shares))
    if count >= 2 * len(shares):
        leaders = [use for use in shares if shares[use] == max(shares.values())]
        assert max(dealt.count(use) for use in leaders) == max(dealt.count(use) for use in shares)


def test_noise_is_standard_and_smooth() -> None:
    """Smooth noise has mean 0 and variance 1, and neighbours within a cell are alike."""
    noise = smooth_noise(np.random.default_rng(0), 600, 500, 7.5)
    assert abs(noise.mean()) < 0.05
    assert noise.var() == pytest.approx(1, abs=0.1)
    assert np.corrcoef(noise[:-1].ravel(), noise[1:].ravel())[0, 1] > 0.97
    assert abs(np.corrcoef(noise[:-40].ravel(), noise[40:].ravel())[0, 1]) < 0.1


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0, 2 * math.pi), st.floats(0.4, 1.3))
def test_shadow_agrees_with_walking_to_the_sun(seed: int, azimuth: float, elevation: float) -> None:
    """A pixel is dark when, walking step by step towards the sun, something rises above the ray."""
    rng = np.random.default_rng(seed)
    height = np.where(rng.random((12, 15)) < 0.1, rng.uniform(1, 6, (12, 15)), 0).astype(np.float32)
    sun = (-math.cos(azimuth), math.sin(azimuth))
    expected = np.zeros(height.shape, bool)
    for r in range(12):
        for c in range(15):
            for k in range(1, 40):
                y, x = r + round(k * sun[0]), c + round(k * sun[1])
                if 0 <= y < 12 and 0 <= x < 15:
                    above = height[y, x] - np.float32(k * math.tan(elevation))
                    expected[r, c] |= bool(above > height[r, c] + np.float32(0.5))
    assert np.array_equal(cast_shadow(height, sun, elevation), expected)


def test_crowns_agree_with_the_highest_dome() -> None:
    """Each pixel shows the crown whose dome is highest there, where crowns overlap or leave it."""
    rng = np.random.default_rng(3)
    centres = rng.uniform(-3, 33, (40, 2)).astype(np.float32)
    radii = rng.uniform(1.5, 5, 40).astype(np.float32)
    at, number, dome, _, _ = crowns((30, 30), centres, radii)
    rows, cols = np.indices((30, 30))
    domes = radii - ((rows[..., None] - centres[:, 0]) ** 2 + (cols[..., None] - centres[:, 1]) ** 2) / radii
    highest = domes.max(axis=2).ravel()
    assert set(np.flatnonzero(highest > 1e-3)) <= set(at) <= set(np.flatnonzero(highest > 0))
    assert np.allclose(dome, highest[at], atol=1e-3)
    assert np.allclose(domes.reshape(900, 40)[at, number], highest[at], atol=2e-3)


def test_blur_keeps_the_sum_of_the_inside_and_spreads_a_point() -> None:
    """One pass turns a point into the outer product of (1, 2, 1)/4, and leaves a flat picture flat."""
    point = np.zeros((5, 6), np.float32)
    point[2, 3] = 1
    kernel = np.outer([1, 2, 1], [1, 2, 1]) / 16
    assert np.allclose(blur(point, 1)[1:4, 2:5], kernel)
    assert np.allclose(blur(np.full((4, 5, 3), 7, np.float32), 3), 7)
