"""Hugging Face's hub, by a server on this machine that answers as the hub does."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import mnistgen
from tiny import blobs

from mnistgen import hub
from mnistgen.checkpoint import find, load, read_checkpoint
from mnistgen.data import available_splits, load_data
from mnistgen.errors import CheckpointNotFoundError, DataError, MnistgenError, UsageError
from mnistgen.sharing import push

pytest.importorskip("huggingface_hub", reason="the extra hub is not installed")

Files = dict[str, bytes]


class Hub(ThreadingHTTPServer):
    """Repositories by kind and name, as a list of commits, the last one being main."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, list[Files]] = {}

    def add(self, repository: str, files: Files) -> str:
        """Commit files over those that are there, and return the commit."""
        commits = self.repositories.setdefault(repository, [])
        commits.append({**(commits[-1] if commits else {}), **files})
        return self.name_of(repository, len(commits) - 1)

    def name_of(self, repository: str, number: int) -> str:
        return hashlib.sha1(f"{repository} {number}".encode()).hexdigest()

    def at(self, repository: str, revision: str) -> tuple[str, Files] | None:
        """The commit that a revision means, and its files."""
        commits = self.repositories[repository]
        names = {self.name_of(repository, number): files for number, files in enumerate(commits)}
        commit = self.name_of(repository, len(commits) - 1) if revision == "main" else revision
        return (commit, names[commit]) if commit in names else None


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *arguments: Any) -> None: ...

    def answer(self, code: int, content: bytes = b"{}", **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def no(self, code: str) -> None:
        self.answer(404, X_Error_Code=code)

    def do_GET(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[0] == "api":  # api/datasets/OWNER/NAME/revision/REVISION
            repository, revision = "/".join(parts[1:4]), parts[5] if len(parts) > 5 else "main"
            if repository not in self.server.repositories:
                return self.no("RepoNotFound")
            found = self.server.at(repository, revision)
            if found is None:
                return self.no("RevisionNotFound")
            if "tree" in parts:
                tree = [{"type": "file", "path": p, "size": len(c), "oid": "0" * 40} for p, c in found[1].items()]
                return self.answer(200, json.dumps(tree).encode(), Content_Type="application/json")
            about = {"id": "/".join(parts[2:4]), "sha": found[0], "siblings": [{"rfilename": n} for n in found[1]]}
            return self.answer(200, json.dumps(about).encode(), Content_Type="application/json")
        kind = "datasets" if parts[0] == "datasets" else "models"
        parts = parts[1:] if parts[0] == "datasets" else parts
        repository, revision, name = f"{kind}/{parts[0]}/{parts[1]}", parts[3], "/".join(parts[4:])
        if repository not in self.server.repositories:
            return self.no("RepoNotFound")
        found = self.server.at(repository, revision)
        if found is None:
            return self.no("RevisionNotFound")
        commit, files = found
        if name not in files:
            return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        etag = f'"{hashlib.sha1(files[name]).hexdigest()}"'
        return self.answer(200, files[name], ETag=etag, X_Repo_Commit=commit)

    do_HEAD = do_GET  # noqa: N815  the names of the base class

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path.endswith("/repos/create"):
            if self.headers.get("Authorization") != "Bearer hf_test":
                return self.answer(401, X_Error_Message="Invalid username or password.")
            about = json.loads(body)
            name = f"{about['organization']}/{about['name']}"
            self.server.repositories.setdefault(f"models/{name}", [])
            return self.answer(200, json.dumps({"url": f"http://{self.headers['Host']}/{name}", "id": name}).encode())
        if "/preupload/" in self.path:
            files = [f | {"uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]]
            return self.answer(200, json.dumps({"files": files}).encode())
        if "/commit/" in self.path:
            repository = "/".join(self.path.strip("/").split("/")[1:4])
            values = [line["value"] for line in map(json.loads, body.splitlines()) if line["key"] == "file"]
            commit = self.server.add(repository, {v["path"]: base64.b64decode(v["content"]) for v in values})
            about = {
                "commitUrl": f"http://{self.headers['Host']}/{repository.partition('/')[2]}/commit/{commit}",
                "commitOid": commit,
                "success": True,
            }
            return self.answer(200, json.dumps(about).encode())
        return self.answer(200)  # of the card's fields, which are right


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub that the client asks, with a cache of its own and the token of somebody."""
    with Hub() as hub_server:
        threading.Thread(target=hub_server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{hub_server.server_port}")
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        yield hub_server
        hub_server.shutdown()


def test_an_address() -> None:
    assert hub.Address.of("hf://me/a.b-c") == ("me/a.b-c", None, "")
    assert hub.Address.of("hf://datasets/me/x@v1/sub/y") == ("me/x", "v1", "sub/y")
    assert str(hub.Address.of("hf://me/x@v1/sub")) == "hf://me/x@v1/sub"
    for wrong in ("hf://me", "hf://", "hf://me/x@", "hf://me/../x@a b"):
        with pytest.raises(UsageError, match="is no address on the hub"):
            hub.Address.of(wrong)


def test_what_is_pushed_is_loaded_again(server: Hub, tmp_path: Path) -> None:
    text = mnistgen(tmp_path, "push", "mnistgen:dcgan", "hf://me/digits")
    commit = server.name_of("models/me/digits", 0)
    assert f"pushed: hf://me/digits (commit {commit[:12]})" in text
    files = server.repositories["models/me/digits"][0]
    assert files["model.safetensors"] == find("mnistgen:dcgan").read_bytes()
    card = files["README.md"].decode()
    assert card.startswith('---\nlibrary_name: "mnistgen"\n')
    assert 'datasets: ["ylecun/mnist"]' in card
    assert 'mnistgen.load("hf://me/digits")' in card
    assert "| latent_dim | 64 |" in card
    assert "floor" in card  # of the record of this very file

    server.add("models/me/digits", {"model.safetensors": b"damaged"})
    assert read_checkpoint(f"hf://me/digits@{commit}") == read_checkpoint("mnistgen:dcgan")
    with pytest.raises(MnistgenError, match="is damaged"):
        load("hf://me/digits")
    server.shutdown()
    server.server_close()
    weights = load(f"hf://me/digits@{commit}").state_dict()  # of the cache
    assert all(torch.equal(w, weights[name]) for name, w in load("mnistgen:dcgan").state_dict().items())


def test_a_dataset(server: Hub, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    data = blobs(30)
    server.add("datasets/somebody/squares", {
        "README.md": b"",
        "squares/train-00000-of-00002.parquet": table(tmp_path, data.images[:10], data.labels[:10]),
        "squares/train-00001-of-00002.parquet": table(tmp_path, data.images[10:20], data.labels[10:20]),
        "squares/test-00000-of-00001.parquet": table(tmp_path, data.images[20:], data.labels[20:]),
    })  # fmt: skip
    train, test = load_data("hf://somebody/squares"), load_data("hf://somebody/squares", "test")
    assert (train.name, train.split, available_splits("hf://somebody/squares")) == (
        "squares",
        "train",
        ("train", "test"),
    )
    assert torch.equal(train.images, data.images[:20])
    assert torch.equal(test.labels, data.labels[20:])
    server.add("datasets/somebody/squares", {"other/train-00000-of-00001.parquet": b""})
    with pytest.raises(DataError, match=r"has several datasets; name one behind the address.*: other, squares"):
        load_data("hf://somebody/squares")
    assert len(load_data("hf://somebody/squares/squares")) == 20


def table(folder: Path, images: torch.Tensor, labels: torch.Tensor) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    columns = {"image": images[:, 0].flatten(1).numpy().astype(np.uint8).tolist(), "label": labels.tolist()}
    parquet.write_table(pa.table(columns), folder / "table.parquet")
    return (folder / "table.parquet").read_bytes()


def test_what_the_hub_lacks_is_a_sentence(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.add("models/me/empty", {"README.md": b""})
    server.add("datasets/me/empty", {"README.md": b""})
    for address, words in {
        "hf://me/nothing": "there is no such repository, or it is private",
        "hf://me/empty@v2": "the repository has no revision 'v2'",
        "hf://me/empty": "the repository holds no model.safetensors",
    }.items():
        with pytest.raises(CheckpointNotFoundError, match=words):
            load(address)
    with pytest.raises(DataError, match="holds no Parquet files"):
        load_data("hf://me/empty")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(MnistgenError, match=r"hf://me/x: the hub refuses.*401"):
        push("mnistgen:dcgan", "hf://me/x")
    server.shutdown()
    server.server_close()
    with pytest.raises(CheckpointNotFoundError, match="is not in the cache, and the hub cannot be reached"):
        load("hf://me/other")
    with pytest.raises(DataError, match="cannot be reached"):
        load_data("hf://me/other")
    with pytest.raises(MnistgenError, match="cannot be reached"):
        push("mnistgen:dcgan", "hf://me/x")


def test_a_missing_client_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CheckpointNotFoundError, match=r"needs huggingface_hub.*pip install 'mnistgen\[hub\]'"):
        load("hf://me/other")
