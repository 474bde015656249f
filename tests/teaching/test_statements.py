"""What the course's prose says in numbers, and does not compute beside it, held against the model and the code."""

import inspect
import math

import nbformat
import pytest
import torch
from safetensors import safe_open

from qalib import report, sparsity
from qalib.model import bert, checkpoint, description, formats, quantization
from qalib.pruning import schedule
from qalib.pruning.config import PruningConfig
from qalib.pruning.controller import GAIN, MAX_LOG_GAIN
from qalib.qa import metric, squad
from qalib.teaching.exercises import capstone, from_scratch
from qalib.teaching.lessons import distillation, int8, movement, neurons, sensitivity, weights
from qalib.utils import paths


@pytest.fixture(scope="module")
def model():
    return checkpoint.load("bundled")


def encoder(model):
    return {f"layer {m.layer}, {m.kind}": m.linear.weight.detach() for m in bert.matrices(model.model)}


def sigmas(model):
    return weights.outliers(encoder(model)).sort_values("largest_in_sigmas", ascending=False)


def of_ffn(model):
    config = model.model.config
    ffn = 2 * config.hidden_size * config.intermediate_size
    return ffn / (ffn + 4 * config.hidden_size**2)


def loud(model):
    """How far the outliers of notebook 11 move their outputs, the largest weight first."""
    watched = sensitivity.apart(squad.load("sample"), 16, 32)[0]
    table = neurons.behind(model, neurons.watch(model, watched), 12)
    most = (
        table.moves[:4].min() > 3 > table.moves[4] > 2.5 and table.moves[5:].max() < 1 and table.moves[5:].min() < 0.05
    )
    return most and table.sigmas.abs().min() > 12 and not table.moves[5:].is_monotonic_decreasing


def saved(model):
    smaller = int8.sizes(model).times_smaller
    both = smaller["blocks, fp32"] * smaller["dense, int8, a scale a row"]
    rows, tiles = smaller["blocks, int8, a scale a row"], smaller["blocks, int8, a scale a block"]
    return 0.95 * both < rows < tiles < 1.05 * both


def file_has_scales():
    with safe_open(paths.BUNDLED / formats.PACKED, "pt") as file:
        found = [key for key in file.keys() if key.endswith(".blocks")]
        shapes = [(file.get_slice(f"{key}.scales").get_shape(), file.get_slice(key).get_shape()) for key in found]
        return len(found) == 36 and all(scales == values[:2] for scales, values in shapes)


def surest(model, temperature):
    """The largest probability that the model gives a token, in the mean over some questions."""
    asked = squad.load("sample").questions[155::20]
    logits = [distillation.start_logits(model, question)[1] for question in asked]
    return torch.stack([(found / temperature).softmax(-1).max() for found in logits]).mean().item()


def two_weights():
    losses = [0.5 * best**2 for best in movement.BEST]
    after = movement.two_weights(steps=1).iloc[-1]
    right = after.score_b > after.score_a and after.a > after.b
    return [round(loss, 2) for loss in losses] == [0.08, 0.18] and right


SETTINGS = PruningConfig(teacher="", data="", out="")
STATED = report.audit.read(None)
STATEMENTS = {  # by notebook: what is said, and whether it is so
    "../index": {"with a third of its encoder's weights": lambda m: 0.30 < sparsity.density(m) < 0.36},
    "../glossary": {
        'in SQuAD v1.1, "the" for "The" is an exact match (EM 1) without a word in common (F1 0)': lambda m: (
            (metric.exact_match("the", "The"), metric.f1("the", "The")) == (1, 0)),
        "in int8 from -127 to 127": lambda m: quantization.INT8_MAX == 127,
        "A weight many standard deviations from the others; here, more than five": lambda m: weights.WIDE == 5,
    },
    "01_weights": {
        "a layer is six matrices": lambda m: len(bert.LINEAR_LAYERS) == 6,
        "*blocks* of 32 x 32 weights": lambda m: m.block == (32, 32),
        "drawn up to five standard deviations": lambda m: weights.WIDE == 5,
        "one number in two million lies farther than five sigma": lambda m: round(
            1e-6 / math.erfc(5 / math.sqrt(2))) == 2,
        "some matrices have weights at dozens of sigma, most of all FFN out": lambda m: (
            sigmas(m).largest_in_sigmas.iloc[3] > 48 and sigmas(m).matrix[:4].str.endswith("FFN out").all()),
    },
    "03_speed": {"Most weights of this model's encoder are zero": lambda m: sparsity.density(m, (1, 1)) < 0.5},
    "04_movement": {
        "The loss is `1/2 (a - 0.4)² + 1/2 (b - 0.6)²`, which is lowest at a = 0.4, b = 0.6": lambda m: (
            movement.BEST == (0.4, 0.6)),
        "starts at a = 1, b = 0.1 and goes downhill, in steps of a quarter": lambda m: (
            movement.START == (1, 0.1) and inspect.signature(movement.two_weights).parameters["rate"].default == 0.25),
        "1/2 · 0.4² = 0.08, and without *b* 1/2 · 0.6² = 0.18: *b* is the one to keep. Movement knew at the "
        "first step": lambda m: two_weights(),
        "many thousands of windows": lambda m: description.training_record(m).windows_seen > 1e4,
    },
    "05_heads": {"before pruning, two thirds of a layer's weights are in the FFN": lambda m: of_ffn(m) == 2 / 3},
    "06_distillation": {
        "nine parts teacher to one part answers": lambda m: distillation.ALPHAS["with the teacher"] == 0.9,
        "At a temperature of 1 the teacher is more certain; at 8 it has hardly an opinion left": lambda m: (
            surest(m, 1) > 2 * surest(m, 4) and surest(m, 8) < 0.05),
        "Training uses a temperature of 2": lambda m: SETTINGS.temperature == 2 == inspect.signature(
            distillation.train).parameters["temperature"].default,
    },
    "07_model_card": {
        "differ by five percent": lambda m: round(100 * (2**20 / 1e6 - 1)) == 5,
        '"90.6K train samples"': lambda m: STATED["train samples"] == "90.6K",
        "SQuAD v1.1 has 87,599 of them": lambda m: description.training_record(m).train_questions == 87599,
        '"1.12x faster"': lambda m: STATED["speedup"] == "1.12",
    },
    "08_prune_it_yourself": {
        "a *density* of at most 20 %": lambda m: capstone.DENSITY == 0.2,
        "## The best F1 in five minutes": lambda m: capstone.SECONDS == 300,
        "It takes about 150 lines": lambda m: 135 < len(inspect.getsource(from_scratch).splitlines()) < 165,
        "the threshold on the sigmoid of a score rises to 0.1": lambda m: schedule.Schedule.threshold == 0.1,
        "a margin of the target: 0.03": lambda m: schedule.Schedule.margin == 0.03,
        "At each step, g grows by 100 x (progress since the step before)": lambda m: GAIN == 100,
        "within ±ln 10": lambda m: math.exp(MAX_LOG_GAIN) == pytest.approx(10),
    },
    "10_patterns": {"this model's blocks had already left less than a third": lambda m: sparsity.density(m) < 1 / 3},
    "11_neurons": {
        "Before pruning, two thirds of a layer's weights are in the feed-forward network": lambda m: of_ffn(m) == 2 / 3,
        "in FFN out, at dozens of standard deviations": lambda m: sigmas(m).largest_in_sigmas.iloc[3] > 48,
        "The first four neurons in the table are loud and have enormous weights: each moves an output by several units,"
        " the fifth by nearly three. Those farther down still have weights at a dozen standard deviations or more, but"
        " move it by less than one unit, some by next to nothing, and not in the order of their size": loud,
    },
    "12_int8": {
        "found weights at dozens of standard deviations": lambda m: sigmas(m).largest_in_sigmas.iloc[3] > 48,
        "in four bits: whole numbers from -7 to 7. The largest is 0.7, so the scale is 0.7 / 7 = 0.1": lambda m: (
            2 ** (4 - 1) - 1 == 7 and torch.allclose(
                int8.rounded(torch.tensor([[0.31, 0.7]]), 4, "row"), torch.tensor([[0.3, 0.7]]))),
        "an outlier, 7.0: now the scale is 1": lambda m: torch.equal(
            int8.rounded(torch.tensor([[0.31, 7.0]]), 4, "row"), torch.tensor([[0.0, 7.0]])),
        "with a scale for each row of a block. The bundled model comes as one": lambda m: file_has_scales(),
        "the matrices shrink by nearly the product of the factors of `blocks, fp32` and `dense, int8`": saved,
    },
}  # fmt: skip


@pytest.mark.parametrize(
    "name, said", [(name, said) for name, found in STATEMENTS.items() for said in found], ids=lambda text: text[:40]
)
def test_what_is_said_is_so(model, name, said):
    path = paths.COURSE / f"{name}.ipynb"
    if path.exists():
        cells = nbformat.read(path, as_version=4).cells
        prose = " ".join(cell.source for cell in cells if cell.cell_type == "markdown")
    else:
        prose = path.with_suffix(".md").read_text()
    assert said in " ".join(prose.split()), "the prose has changed: what it says in numbers is tested here"
    assert STATEMENTS[name][said](model)
