"""The live page: a folder of static files to question a model in the browser, and prune it there.

    index.html, *.js, *.css     as in web/
    vendor/                     onnxruntime-web and the tokenizer, as npm installed them in web/node_modules
    model.onnx                  the model with masks as inputs (`onnx_masked`)
    tokenizer*.json             its tokenizer
    about.json                  blocks of every matrix in the order in which they go, the tokens that frame a window,
                                examples, bytes of the files

Browsers load modules and models over HTTP only: the folder needs a static host, and can't be opened as a file.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers.pre_tokenizers import BertPreTokenizer

from qalib.model import bert, blocks, checkpoint
from qalib.model.checkpoint import Checkpoint
from qalib.runtimes.export import onnx_graph, onnx_masked
from qalib.runtimes.registry import not_installed
from qalib.utils.errors import InputError
from qalib.utils.files import atomic_folder, read_json, read_text, write_json, write_text
from qalib.utils.folders import copy_into
from qalib.utils.output import escape_unencodable
from qalib.utils.paths import ROOT, TEMPLATES

WEB = ROOT / "web"
VENDOR = {
    "onnxruntime-web/dist": ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"),
    "@huggingface/tokenizers/dist": ("tokenizers.min.mjs",),
    "@huggingface/tokenizers": ("LICENSE",),
}
OF_MODEL = ("NOTICE", "LICENSE")  # files of a model's folder that go with it, where it has them
NAMES = ("The tower", "The composer")  # names for the questions in widget.json


def missing() -> str | None:
    """Why the page cannot be made here, and what to do, or None."""
    if not WEB.is_dir():
        return f"{WEB}: not there; the page can only be made in a clone of the repository"
    if absent := [name for name in VENDOR if not (WEB / "node_modules" / name).is_dir()]:
        return f"not installed: {', '.join(absent)} (npm ci in {WEB.name}/)"
    return not_installed(*onnx_graph.PACKAGES)()


def make(out: Path | str = "live", model: str = "bundled", nav: str = "") -> Path:
    """Write the page for a model; `nav` is HTML for its top. Returns the folder.

    Raises InputError if `out` is not empty, something is `missing`, or the model's tokenizer has other words than
    BERT's.
    """
    if reason := missing():
        raise InputError(f"the live page: {reason}")
    loaded = checkpoint.load(model)
    if not isinstance(kind := loaded.tokenizer.backend_tokenizer.pre_tokenizer, BertPreTokenizer):
        raise InputError(f"{loaded.name}: the live page requires BertPreTokenizer, not {type(kind).__name__}")
    about = describe(loaded)
    with atomic_folder(out) as draft:
        for path in sorted(WEB.glob("*.*")):
            if path.suffix in (".js", ".css"):
                shutil.copy(path, draft)
        (draft / "vendor").mkdir()
        for folder, names in VENDOR.items():
            for name in names:
                shutil.copy(WEB / "node_modules" / folder / name, draft / "vendor")
        loaded.tokenizer.save_pretrained(draft)
        for name in OF_MODEL:
            if (loaded.folder / name).exists():
                copy_into(loaded.folder / name, draft)
        licences = [name for name in (*OF_MODEL, "vendor/LICENSE") if (draft / name).exists()]
        links = ", ".join(f'<a href="{name}">{name}</a>' for name in licences)
        page = read_text(WEB / "index.html").replace("<!--nav-->", nav).replace("<!--licences-->", links)
        write_text(draft / "index.html", page)
        onnx_masked.write(loaded, draft / "model.onnx")  # changes the model
        files = {path.relative_to(draft).as_posix(): path.stat().st_size for path in fetched_files(draft)}
        write_json(draft / "about.json", about | {"files": files, "bytes": sum(files.values())})
    return Path(out)


def fetched_files(folder: Path) -> list[Path]:
    """The files of the page that a browser fetches, except about.json."""
    others = (*OF_MODEL, "about.json")
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in others)


def describe(loaded: Checkpoint) -> dict[str, Any]:
    """What the page needs to know about a checkpoint; `order` lists a matrix's kept blocks (numbered row by row) by
    size, smallest first."""
    matrices = []
    for matrix in bert.matrices(loaded.model):
        tiles = blocks.split(matrix.linear.weight.detach(), loaded.block)
        kept = blocks.mask(matrix.linear.weight.detach(), loaded.block)
        places = kept.flatten().nonzero()[:, 0]
        sizes = tiles[kept].square().mean((-1, -2))
        order = places[sizes.argsort(stable=True)]
        matrices.append({"name": onnx_masked.mask_name(matrix), "shape": list(kept.shape), "order": order.tolist()})
    config = loaded.model.config
    return {
        "model": loaded.name,
        "layers": config.num_hidden_layers,
        "heads": config.num_attention_heads,
        "blocks": sum(torch.Size(matrix["shape"]).numel() for matrix in matrices),
        "kept": sum(len(matrix["order"]) for matrix in matrices),
        "frame": frame(loaded.tokenizer),
        "examples": [
            {"name": name} | example for name, example in zip(NAMES, read_json(TEMPLATES / "widget.json"), strict=True)
        ],
        "matrices": matrices,
    }


def frame(tokenizer) -> dict[str, Any]:
    """The numbers of the special tokens at the start of a window, between question and context, and at the end, and
    the token type of the context."""
    pair = tokenizer("a", "a").encodings[0]
    question, context = (pair.sequence_ids.index(part) for part in (0, 1))
    return {
        "start": pair.ids[:question],
        "middle": pair.ids[question + 1 : context],
        "end": pair.ids[context + 1 :],
        "type": pair.type_ids[context],
    }


if __name__ == "__main__":
    escape_unencodable()
    print(make(*sys.argv[1:3]) / "index.html")
