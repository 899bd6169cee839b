"""Checkpoints on Hugging Face's hub: the file as it is, and a card that says what it is."""

import hashlib
import json
from pathlib import Path
from typing import Any

from mnistgen import hub, registry
from mnistgen.checkpoint import WEIGHTS, Checkpoint, find, read_checkpoint
from mnistgen.errors import MnistgenError
from mnistgen.published import record
from mnistgen.text import docstring

CARD = "README.md"
DATASETS = {"mnist": "ylecun/mnist", "fashion": "zalando-datasets/fashion_mnist"}  # names here -> on the hub


def push(source: str | Path, address: str, *, private: bool = False) -> str:
    """Put a checkpoint and its card on the hub, hf://OWNER/NAME, in one commit; return the commit.

    The token is that of `hf auth login`, or $HF_TOKEN. Raises `CheckpointError` where there is no such checkpoint, and
    `MnistgenError` where the hub refuses.
    """
    place = hub.Address.of(address)
    if place.path:
        raise MnistgenError(f"{address}: a checkpoint has a repository of its own; leave out /{place.path}.")
    path = find(source)
    about = read_checkpoint(path)  # which also sees that it is whole
    files = {WEIGHTS: path.read_bytes(), CARD: card(path, about, place.repository).encode()}
    return hub.upload(place, files, message=f"{about.model or about.classifier} by mnistgen", private=private)


def card(path: Path, about: Checkpoint, repository: str) -> str:
    """The card of a checkpoint, in Markdown, with the fields that the hub reads in front."""
    name = about.model or about.classifier or "model"
    head = {"library_name": "mnistgen", "tags": ["mnist", "image-generation" if about.model else "classifier", name]}
    if about.dataset in DATASETS:
        head["datasets"] = [DATASETS[about.dataset]]
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in head.items()), "---", ""]
    lines += [f"# {repository.partition('/')[2]}", "", _sentence(about), "", "```python", *_usage(about, repository)]
    lines += ["```", ""]
    lines += _score(path, about)
    lines += ["| hyperparameter | value |", "| --- | --- |"]
    lines += [f"| {key} | {_cell(value)} |" for key, value in about.config.items()]
    return "\n".join(lines) + "\n"


def _sentence(about: Checkpoint) -> str:
    what = f"The classifier `{about.classifier}`"
    if about.model:
        try:
            summary = (docstring(registry.model_class(about.model)) or "").splitlines()
        except MnistgenError:  # its plugin is not installed here
            summary = []
        what = f"`{about.model}`: {summary[0].rstrip('.') if summary else 'a generative model'}"
    version = f" {about.version}" if about.version else ""
    return (
        f"{what}, of {about.distribution or 'mnistgen'}{version}; trained on {about.dataset or 'images'} "
        f"(hash `{about.dataset_hash or 'unknown'}`): {about.steps:,} steps, seed {about.seed}, "
        f"{about.seconds / 60:.0f} min."
    )


def _usage(about: Checkpoint, repository: str) -> list[str]:
    address = f'"{hub.PREFIX}{repository}"'
    if not about.model:
        return ["from mnistgen.evaluator import load_classifier", "", f"model = load_classifier({address})"]
    return ["import mnistgen", "", f"model = mnistgen.load({address})", "images = mnistgen.sample(model, [2, 0, 2, 6])"]


def _score(path: Path, about: Checkpoint) -> list[str]:
    """The score on record of exactly this file; none where there is no such record."""
    found: dict[str, Any] = record("scores-mnist").get(about.model, {})
    if found.get("checkpoint_sha256") != hashlib.sha256(path.read_bytes()).hexdigest():
        return []
    floors = ", ".join(f"{value:.1f} by evaluator {name}" for name, value in found["floors"].items())
    return [f"FID in multiples of the floor, which is 1 for real images: {floors}. {found['protocol']}", ""]


def _cell(value: Any) -> str:
    return str(value).replace("|", r"\|")
