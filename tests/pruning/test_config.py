"""Settings: what is refused, and what earlier command lines and files say."""

import pytest

from qalib.pruning.config import PruningConfig
from qalib.pruning.progress import Progress
from qalib.pruning.run import build
from qalib.pruning.run_folder import RunFolder
from qalib.utils.errors import InputError


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"density": 0.0}, "density 0: must be above 0 and at most 1"),
        ({"ffn": "columns"}, "ffn 'columns': choose one of block, hybrid"),
        ({"method": "luck"}, "method 'luck': choose one of movement, magnitude, obs, fixed-mask"),
        ({"method": "obs", "rounds": 0}, "rounds 0: must be above 0"),
        ({"method": "obs", "calibration_questions": -1}, "calibration_questions -1: must be above 0"),
        ({"precision": "fp16"}, "precision 'fp16': choose one of auto, fp32, bf16"),
        ({"epochs": 0}, "epochs 0: must be above 0"),
        ({"alpha": 1.5}, "alpha 1.5: must be between 0 and 1"),
        ({"ramp_end": 0.01}, "warmup, ramp_end, freeze_at 0.05, 0.01, 0.55: must ascend between 0 and 1"),
    ],
)
def test_refusals(wrong, message):
    with pytest.raises(InputError, match=message):
        PruningConfig(teacher="teacher", data="data", out="out", **wrong)


def test_earlier_words_are_understood_and_earlier_keys_are_written():
    config = PruningConfig(teacher="teacher", data="data", out="out", method="keep", ffn="rows", ramp_end=0.3)
    assert (config.method, config.ffn) == ("fixed-mask", "hybrid")
    recorded = config.to_dict()
    assert (recorded["rise"], recorded["settle"], recorded["regulariser"]) == (0.3, 0.55, 25.0)
    assert recorded["out"] == "out" and "ramp_end" not in recorded


def test_a_run_needs_a_model_to_prune(tmp_path):
    settings = {"teacher": None, "data": "sample", "out": tmp_path / "out", "alpha": 0.0}
    with pytest.raises(InputError, match="method 'obs' prunes the teacher: name one"):
        PruningConfig(method="obs", **settings)
    with pytest.raises(InputError, match="there is no model to prune: name a teacher or a student"):
        build(PruningConfig(**settings), RunFolder(tmp_path / "run"), Progress(False))
