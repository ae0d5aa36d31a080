"""Imports point down: a module may import only what stands before it, and each heavy package has one door."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = [
    ["errors", "optim"],
    ["spec", "user_cache"],
    ["architectures"],
    ["images", "backbones", "embeddings"],
    ["convert"],
    ["hub"],  # hub converts what it has downloaded
    ["registry"],  # opens model folders through hub
    ["backends"],
    ["encoder", "pipeline"],
    ["distributed"],
    ["index", "evaluate", "labelled"],
    ["transfer", "suites", "thumbnails"],
    ["search", "contact_sheet", "dedup", "cluster", "export", "export_vectors", "baselines"],
    ["verify", "demo"],
    ["cli"],
    ["__main__"],
]
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}
LEVEL |= {"index": LEVEL["backends"], "evaluate": LEVEL["backends"] + 0.5}  # they read Embeddings, never Encoder
TORCH_FREE = (
    "errors", "spec", "user_cache", "registry", "hub", "images", "embeddings", "index", "search", "thumbnails",
    "contact_sheet", "dedup", "cluster", "export_vectors", "cli",
)  # fmt: skip
DOORS = {
    "faiss": "index",
    "gradio": "demo",
    "typer": "cli",
    "ray": "distributed",
    "onnx": "export",
    "onnxruntime": "export",
    "huggingface_hub": "hub",
    "lancedb": "export_vectors",
    "qdrant_client": "export_vectors",
}
SOURCES = sorted((ROOT / "sslzoo").rglob("*.py"))


def imports(path, *, at_import_time=False):
    tree = ast.parse(path.read_text())
    nodes = tree.body if at_import_time else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def unit(path):
    return path.relative_to(ROOT / "sslzoo").parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    here = unit(path)
    if here == "__init__":
        return
    for name in imports(path):
        package, _, rest = name.partition(".")
        assert package not in ("training", "hub_cards", "app"), f"{path} imports {name}"
        there = rest.partition(".")[0]
        if package == "sslzoo" and there in LEVEL and there != here:
            assert LEVEL[there] < LEVEL[here], f"{path} imports {name}, which stands above it or beside it"
        if package in DOORS:
            assert here == DOORS[package], f"{path} imports {package}, whose one door is {DOORS[package]}"


@pytest.mark.parametrize("path", [p for p in SOURCES if unit(p) in TORCH_FREE], ids=lambda p: str(p.relative_to(ROOT)))
def test_these_import_no_torch(path):
    assert not {name.partition(".")[0] for name in imports(path)} & {"torch", "torchvision"}


def test_training_never_imports_the_app():
    for path in (ROOT / "training").rglob("*.py"):
        assert not {name.partition(".")[0] for name in imports(path)} & {"app", "hub_cards"}


def test_there_is_no_circle_of_imports():
    """Not inside a package either; an import that waits inside a function counts as well."""
    modules = {
        ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p
        for p in [*SOURCES, *(ROOT / "training").rglob("*.py")]
    }
    edges = {}
    for name, path in modules.items():
        found = set(imports(path)) & modules.keys()
        for node in ast.walk(ast.parse(path.read_text())):
            # `from package import module` needs the module, not what the package defines
            if isinstance(node, ast.ImportFrom) and all(f"{node.module}.{a.name}" in modules for a in node.names):
                found.discard(node.module)
        edges[name] = found - {name}
    done: set[str] = set()

    def visit(name, above):
        assert name not in above, " -> ".join([*above[above.index(name) :], name])
        if name not in done:
            for other in edges[name]:
                visit(other, [*above, name])
            done.add(name)

    for name in modules:
        visit(name, [])
