"""The public surface is a list, it resolves lazily, and importing it is quick."""

import json
import subprocess
import sys

import pytest

import sslzoo
from sslzoo.spec import EncoderSpec

PUBLIC = {
    "Classifier", "Embeddings", "Encoder", "EncoderSpec", "ExactIndex", "ImageError", "InputError", "MissingExtra", "Neighbours",
    "OutputExists", "Preprocess", "SpaceMismatch", "SslzooError", "UnknownModel", "WeightsError", "build_index", "embed",
    "finetune", "list_models", "load", "predict", "open_embeddings",
}  # fmt: skip


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_the_public_names_are_these():
    assert set(sslzoo.__all__) == PUBLIC
    assert all(getattr(sslzoo, name).__doc__ for name in PUBLIC)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nonsense"):
        sslzoo.nonsense  # noqa: B018


@pytest.mark.parametrize("statement", ["import sslzoo", "import sslzoo.cli", "import sslzoo; sslzoo.list_models()"])
def test_heavy_packages_load_only_when_used(statement):
    heavy = ["torch", "torchvision", "faiss", "gradio", "pyarrow", "huggingface_hub", "safetensors"]
    loaded = json.loads(
        run_python(f"{statement}; import sys, json; print(json.dumps([m for m in {heavy} if m in sys.modules]))")
    )
    assert loaded == []


def test_importing_imports_little():
    # counted, not timed: what the import brings in beyond a bare interpreter's own modules
    names = run_python(
        "import sys; before = set(sys.modules); import sslzoo; print(*sorted(set(sys.modules) - before))"
    ).split()
    assert len(names) < 40, names


def test_search_in_the_collection_needs_no_torch(photos, tmp_path):
    sslzoo.embed(photos, "random-r18", tmp_path / "e", device="cpu")
    code = f"""
import sys
from sslzoo.embeddings import Embeddings
from sslzoo.search import search_images
_, found = search_images(Embeddings.open({str(tmp_path / "e")!r}), [{str(photos / "bars" / "0.jpg")!r}], k=2)
print(found.ids[0][0], "torch" in sys.modules)
"""
    assert run_python(code).split() == ["bars/0.jpg", "False"]


def test_version_is_one():
    from importlib.metadata import version

    assert sslzoo.__version__ == version("sslzoo")


def test_spec_is_documented_for_every_field():
    assert EncoderSpec.__doc__
