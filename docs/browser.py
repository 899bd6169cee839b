"""A page that runs a one-step model in the browser: one file of HTML that opens from disk and fetches nothing.

    python docs/browser.py                              build/browser/dcgan-mnist.html
    python docs/browser.py --model mine --out page.html

Needs npm, from whose registry onnxruntime-web is taken when the page is built, and the extra `onnx`. The runtime, its
WebAssembly and the model are packed by gzip into the page.
"""

import argparse
import base64
import gzip
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import jinja2

from mnistgen.errors import UsageError
from mnistgen.files import atomic_file

VERSION = "1.30.0"  # of onnxruntime-web
LIBRARY, WASM = "ort.wasm.min.js", "ort-wasm-simd-threaded"
TEMPLATE = Path(__file__).with_name("browser.html")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="dcgan", help="checkpoint of a model that draws one code, or an .onnx file")
    parser.add_argument("--out", type=Path, help="default: build/browser/MODEL.html")
    parser.add_argument("--runtime", type=Path, help="folder dist/ of onnxruntime-web; default: from npm")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(options.model)
        if file.suffix != ".onnx":
            from mnistgen.checkpoint import find, name_of
            from mnistgen.export import export_onnx

            file = Path(folder) / f"{name_of(find(options.model))}.onnx"
            export_onnx(options.model, file)
        runtime = options.runtime or fetched(Path(folder))
        target = options.out or Path("build/browser") / f"{file.stem}.html"
        with atomic_file(target) as temporary:
            temporary.write_text(page(file, runtime), "utf-8")
    print(f"{target}: {target.stat().st_size / 2**20:.1f} MiB")


def fetched(folder: Path) -> Path:
    """The folder dist/ of onnxruntime-web, from npm's registry."""
    command = ["npm", "pack", f"onnxruntime-web@{VERSION}", "--pack-destination", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    with tarfile.open(next(folder.glob("onnxruntime-web-*.tgz"))) as archive:
        archive.extractall(folder, filter="data")
    return folder / "package" / "dist"


def page(model: Path, runtime: Path) -> str:
    """The page of an exported model. Raises `UsageError` where it takes more than labels and one code."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    inputs: dict[str, list[Any]] = {each.name: each.shape for each in session.get_inputs()}
    if inputs.keys() != {"labels", "noise"}:
        raise UsageError(f"{model}: takes {', '.join(inputs)}; the page knows models of labels and one noise.")
    about = session.get_modelmeta().custom_metadata_map
    # Text that is not HTML: nothing in the library ends the element that it is in.
    library = (runtime / LIBRARY).read_text("utf-8").replace("</script", r"<\/script")
    template = jinja2.Template(TEMPLATE.read_text("utf-8"), undefined=jinja2.StrictUndefined)
    text: str = template.render(
        name=model.stem,
        version=VERSION,
        wasm=packed((runtime / f"{WASM}.wasm").read_bytes()),
        glue=packed((runtime / f"{WASM}.mjs").read_bytes()),
        model=packed(model.read_bytes()),
        library=library.rpartition("//# sourceMappingURL")[0] or library,
        shape=json.dumps(inputs["noise"][1:]),
        classes=about.get("num_classes", "10"),
    )
    return text


def packed(content: bytes) -> str:
    """Packed by gzip, as text."""
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode("ascii")


if __name__ == "__main__":
    main()
