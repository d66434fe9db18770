"""Class files: those of the project are right, and wrong ones are told what is wrong."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mkd.storage.folder import Folder
from shards.inputs.class_file import mask_name, read_classfile
from shards.inputs.name_patterns import glob_to_regex

FOLDER = Path(__file__).parents[3] / "configs" / "datasets"
COUNTS = {
    "cityscapes": 19,
    "colombia": 5,
    "deepglobe": 6,
    "dronedeploy": 6,
    "eh": 6,
    "flair": 12,
    "gtav": 19,
    "hw": 17,
    "loveda": 7,
    "openearthmap": 8,
    "potsdam": 6,
    "uav_unlabelled": 6,
    "uavid": 8,
    "vaihingen": 6,
}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_class_files_are_consistent(path):
    """Each file reads, bears its data set's name, and its ids and mask pattern reach every class."""
    classfile = read_classfile(path)
    assert classfile.name == path.stem
    if classfile.ids is not None:
        assert set(classfile.ids.values()) - {255} == set(range(len(classfile.classes))), (
            "every class has a value"
        )
    if classfile.mask is not None:
        image = classfile.images.replace("**/", "a/b/").replace("*.*", "x.png").replace("*", "x")
        assert "{" not in mask_name(classfile, image)


@pytest.mark.parametrize("name", COUNTS)
def test_public_sets_have_their_classes_and_an_address(name):
    """The public data sets have the published number of classes and say where to get them."""
    classfile = read_classfile(FOLDER / f"{name}.yaml")
    assert len(classfile.classes) == COUNTS[name]
    assert "https://" in classfile.source


def test_shared_classes_agree():
    """GTAV is trained for Cityscapes, and the unlabelled tiles go with dronedeploy: same classes."""
    for first, second in (("cityscapes", "gtav"), ("dronedeploy", "uav_unlabelled")):
        one, other = (read_classfile(FOLDER / f"{name}.yaml") for name in (first, second))
        assert (one.classes, one.palette) == (other.classes, other.palette)


def test_masks_of_nested_folders():
    """What the stars matched, the stem and the folder lead from an image to its mask."""
    cityscapes = read_classfile(FOLDER / "cityscapes.yaml")
    image = "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png"
    assert mask_name(cityscapes, image) == "gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png"
    loveda = read_classfile(FOLDER / "loveda.yaml")
    assert mask_name(loveda, "Train/Urban/images_png/12.png") == "Train/Urban/masks_png/12.png"


@given(st.lists(st.sampled_from(["a", "b.c", "d-e"]), min_size=1, max_size=4))
def test_star_patterns_give_back_what_they_matched(parts):
    """One star matches one folder's name or a part of it, and reports it; two match any folders."""
    path = "/".join(parts) + "/x.png"
    match = glob_to_regex("/".join("*" for _ in parts) + "/*.png").fullmatch(path)
    assert match is not None
    assert match.groups() == (*parts, "x")
    deep = glob_to_regex("**/*.png").fullmatch(path)
    assert deep is not None
    assert deep.groups() == ("/".join(parts) + "/", "x")
    assert glob_to_regex("*.png").fullmatch(path) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"colour": 1}, r"unknown keys \['colour'\]"),
        ({"palette": None}, r"lacks \['palette'\]"),
        ({"classes": ["a", True, "b"]}, "list of names"),
        ({"classes": ["a", "b", "a"]}, "stands twice"),
        ({"palette": [[0, 0, 0]]}, "3 classes but 1 palette colours"),
        ({"palette": [[0, 0], [1, 1], [2, 2]]}, r"list of \[r, g, b\]"),
        ({"palette": [[0, 0, 256], [1, 1, 1], [2, 2, 2]]}, "must be 0..255"),
        ({"palette": [[1, 1, 1], [1, 1, 1], [2, 2, 2]]}, "a colour stands twice"),
        ({"masks": "colours"}, "masks is 'colours', allowed are ids, palette, rgb"),
        ({"ids": {0: 3}}, r"ids maps to \[3\], allowed are 0..2, 255"),
        ({"ids": {"a": 0}}, "both whole numbers"),
        ({"ids": {0.5: 0}}, "both whole numbers"),
        ({"ids": {"5-1": 0}}, "both whole numbers"),
        ({"ids": {"1-5": 0, "5-9": 1}}, "the value 5 in two ranges"),
        ({"ids": {"1-5": 0, 3: 1}}, "the value 3 on its own and in a range"),
        ({"ids": {"1-5": 4}}, r"ids maps to \[4\], allowed are 0..2, 255"),
        ({"threshold": 128}, "threshold needs masks: ids, two classes"),
        ({"threshold": "half"}, "threshold must be a whole number"),
        ({"unknown_colours": "nearest"}, "unknown_colours needs masks: rgb"),
        ({"masks": "rgb", "unknown_colours": "drop"}, "allowed are nearest, ignore"),
        ({"lossy_masks": "yes"}, "lossy_masks is 'yes', allowed are nearest"),
        ({"masks": "rgb", "ids": {0: 0}}, "use ignore_colours"),
        ({"ignore_colours": [[9, 9, 9]]}, "needs masks: rgb"),
        ({"layout": {"images": "*.png"}}, "layout needs the two keys"),
        ({"layout": {"images": "[ab].png", "masks": None}}, r"use only \* and"),
        ({"layout": {"images": ["a"], "masks": None}}, r"one pattern each .*found \{'images': \['a'\]"),
        ({"splits": ["a"]}, r"splits must map names to list files or patterns, .* found \['a'\]"),
        ({"splits": {"train": 3}}, r"splits must map .* found \{'train': 3\}"),
    ],
)
def test_a_wrong_class_file_is_told_what_is_wrong(folder, change, words):
    """Each mistake is an error that names the file, what was found and what is allowed."""
    folder.describe(**change)
    with pytest.raises(ValueError, match=words) as caught:
        read_classfile(folder.classfile)
    if "pattern" not in str(caught.value):
        assert "toy.yaml" in str(caught.value)


def test_files_that_are_no_class_files(folder):
    """No file, no YAML and no mapping are told apart."""
    with pytest.raises(ValueError, match="no class file at nowhere.yaml"):
        read_classfile("nowhere.yaml")
    folder.classfile.write_text("a: [")
    with pytest.raises(ValueError, match="is not YAML"):
        read_classfile(folder.classfile)
    folder.classfile.write_text(yaml.safe_dump(["a"]))
    with pytest.raises(ValueError, match="holds no keys"):
        read_classfile(folder.classfile)


def test_an_unknown_placeholder_is_named(folder):
    """{name} in the mask pattern lists what is known."""
    folder.describe(layout={"images": "images/*.*", "masks": "masks/{name}.png"})
    with pytest.raises(ValueError, match=r"\{name\}, known are 1, 2, dir, stem"):
        mask_name(read_classfile(folder.classfile), "images/t0.png")


def test_a_class_file_may_lie_at_a_url(folder):
    """It is read as any other input is; one that is not there is told the same way."""
    place = Folder("memory://classes")
    place.write("a.yaml", folder.classfile.read_bytes())
    assert replace(read_classfile("memory://classes/a.yaml"), path="") == replace(
        read_classfile(folder.classfile), path=""
    )
    for path in ("memory://classes/b.yaml", str(folder.root), "a.yaml/b.yaml"):
        with pytest.raises(ValueError, match=f"no class file at {path}"):
            read_classfile(path)
