"""Commands that take a model apart, write it in another form, or make one."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from qalib.cli import summaries
from qalib.cli.console import Format, Json, Model, print_groups, print_json, writable
from qalib.cli.options import options_of, parse_block
from qalib.pruning.config import PruningConfig
from qalib.pruning.finetuning import FinetuningConfig


def sparsity(
    model: Model = "bundled",
    out: Annotated[
        Path | None, typer.Option(help="Write tables (CSV) and figures (SVG) there.", callback=writable)
    ] = None,
    as_json: Json = False,
) -> None:
    """Count what is left of a model: blocks, heads, neurons, parameters, bytes, multiply-adds."""
    from qalib import sparsity
    from qalib.model import checkpoint
    from qalib.report import plots, results

    loaded = checkpoint.load(model)
    tables = sparsity.tables(loaded)
    summary = sparsity.summary(loaded, tables)
    if out is not None:
        with results.added_to(out, "qalib sparsity") as kept:
            kept.measured(summary)
            for name, table in tables.items():
                kept.table(name, table)
            for name, figure in plots.sparsity.of_sparsity(tables, sparsity.block_fill(loaded)).items():
                kept.figure(name, figure)
    if not as_json:
        print_groups(summaries.of_sparsity(loaded, summary, tables))
        return
    removed = tables["heads"].groupby("layer").called_removed.sum()
    print_json(
        {"model": loaded.name, "format": loaded.format, "revision": loaded.revision}
        | asdict(summary)
        | {"heads_called_removed_per_layer": removed.tolist(), "settings_ignored": loaded.settings_ignored}
        | {"bytes": dict(tables["file_sizes"][["form", "bytes"]].to_numpy().tolist())}
        | {"multiply_adds": tables["multiply_adds"].set_index("part").to_dict("index")}
    )


def export(
    out: Annotated[Path, typer.Option(help="The folder to write; it must be empty or not exist.", callback=writable)],
    model: Model = "bundled",
    format: Annotated[Format, typer.Option(help="What to write.")] = Format.transformers,
    dtype: Annotated[str, typer.Option(help="Type of the packed form: fp16, fp32 or int8.")] = "fp16",
    compact: Annotated[bool, typer.Option("--compact", help="ONNX: without idle heads and neurons.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="ONNX: weights in int8.")] = False,
) -> None:
    """Write a model for plain transformers (full size, zeros included), packed (kept blocks only), or as ONNX."""
    from qalib.runtimes.export import formats

    written, remark = formats.export_with_remark(model, out, format.value, dtype, compact, int8)
    if format is Format.onnx:
        print(f"{written}: {remark}")
    else:
        print(written)
        if remark:
            print(remark, file=sys.stderr)


@options_of(
    PruningConfig,
    names={"eval_data": ("--eval",), "regularization_weight": ("--regularization-weight", "--regulariser")},
)
def prune(config: PruningConfig) -> None:
    """Prune a model in blocks while it learns from data and a teacher, or in one shot (--method obs)."""
    from qalib.pruning import run

    _print_pruned(run.prune(config), config.data)


@options_of(FinetuningConfig, names={"eval_data": ("--eval",), "weight_lr": ("--lr",)})
def finetune(config: FinetuningConfig) -> None:
    """Train an encoder, with an answer layer or without, to answer questions."""
    from qalib.pruning import finetuning

    _print_pruned(finetuning.finetune(config), config.data)


def _print_pruned(folder: Path, data: str) -> None:
    """Print what a run wrote, and the command to try next; of several processes, only the main one does."""
    from qalib.utils import distributed

    if distributed.is_main_process():
        groups, command = summaries.of_pruned(folder, data)
        print_groups(groups)
        print(f"try next: {command}")


def average(
    models: Annotated[list[str], typer.Argument(help="Two models or more: a folder or a hub id each.")],
    out: Annotated[Path, typer.Option(help="The folder to write; it must be empty or not exist.", callback=writable)],
) -> None:
    """Average the weights of models that were trained from the same one and keep the same blocks."""
    from qalib.model import checkpoint, saving
    from qalib.pruning import averaging

    print(saving.save_packed(averaging.average([checkpoint.load(model) for model in models]), out))


def twin(
    out: Annotated[Path, typer.Argument(help="The folder to write; it must be empty or not exist.", callback=writable)],
    published: Annotated[str, typer.Option(help="The published model whose structure it has.")] = "0.32",
    masks: Annotated[Path | None, typer.Option(help="A file that gives every kept block instead.")] = None,
    density: Annotated[float | None, typer.Option(help="Linear density instead of the published one, 0 to 1.")] = None,
    seed: Annotated[int, typer.Option(help="Seed for the weights and the places of blocks.")] = 0,
    format: Annotated[str, typer.Option(help="2021, packed or transformers.")] = "2021",
    vocabulary: Annotated[Path | None, typer.Option(help="Folder with tokenizer files to copy.")] = None,
    block: Annotated[str | None, typer.Option(help="Blocks of other than the published size, as 1x4.")] = None,
) -> None:
    """Write a BERT-base with a published structure and random weights: for sizes and speeds, not for answers."""
    from qalib.model import synthetic

    size = None if block is None else parse_block("--block", block)
    print(synthetic.make_twin(out, published, masks, density, seed, format, vocabulary, size))
