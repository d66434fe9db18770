"""What a later phase of a run needs is checked before the first one is trained."""

import pytest
import torch
from safetensors.torch import save_file

from mkd.recipes.distill import kd
from tests.helpers.shards import write_dataset
from tests.helpers.training.runs import coloured, retitle


def test_source_data_without_labels_are_refused_at_the_start(runs, config_of, tmp_path):
    """The Fisher needs them only after the teacher's phase; no run folder is made before that is known."""
    bare = write_dataset(tmp_path / "bare", coloured(2), labelled=False)
    retitle(bare, ["grass", "path", "lake", "roof"])
    given = [f"kd.source={runs['supervised'].out}/model", f"kd.source_data={bare}", f"out={tmp_path}/run"]
    with pytest.raises(ValueError, match="2 of 2 tiles have no label"):
        kd(config_of("kd", *given))
    assert not (tmp_path / "run").exists()


def test_weights_that_do_not_fit_are_found_before_the_teachers_phase(runs, config_of, tmp_path):
    """The student's ImageNet weights are read first: no step of the teacher is trained in vain."""
    save_file({"conv_stem.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    given = [f"kd.source={runs['supervised'].out}/model", f"out={tmp_path}/run", "kd.student_init=imagenet"]
    with pytest.raises(ValueError, match=r"other\.safetensors"):
        kd(config_of("kd", *given, f"model.pretrained={tmp_path}/other.safetensors"))
    assert not (tmp_path / "run" / "teacher").exists()
    assert not (tmp_path / "run" / "checkpoints").exists()
