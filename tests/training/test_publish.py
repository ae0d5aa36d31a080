"""From a run or a model folder to the Hub, as the command does it, against a Hub on loopback; and what a card promises."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from PIL import Image

import sslzoo
from sslzoo import hub, registry
from sslzoo.spec import EncoderSpec
from tests.conftest import draw
from tests.hub_servers import hub_server, serving
from training import export, picture

ROOT = Path(__file__).parent.parent.parent
OURS = registry.PACKAGE_ENCODER

# the command with another checkout's folders: what it writes goes there
COMMAND = """
import sys
from pathlib import Path
root = Path(sys.argv.pop(1))
from sslzoo import hub, registry
from training import __main__, publish
registry.ZOO, publish.CARDS, publish.SPACE = root / "zoo", root / "hub_cards", root / "app"
hub.CARDS = publish.CARDS
__main__.main()
"""


@pytest.fixture
def checkout(tmp_path):
    """The zoo's files of two encoders, one model folder to publish, and a demo."""
    (tmp_path / "zoo").mkdir()
    for name in (OURS, "simsiam-r50.fair_in1k_100ep"):
        shutil.copy(registry.ZOO / f"{name}.json", tmp_path / "zoo")
    shutil.copytree(ROOT / "hub_cards" / OURS, tmp_path / "hub_cards" / OURS)
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "app.py").write_text("print('demo')\n")
    (tmp_path / "app" / "README.md").write_text("---\nsdk: gradio\n---\n")
    return tmp_path


@pytest.fixture
def server():
    handler = hub_server()
    with serving(handler) as url:
        handler.url = url
        yield handler


@pytest.fixture
def run(server, checkout, tmp_path):
    def call(*arguments, ok=True, code=COMMAND, **environment):
        plain = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "http", "HTTP"))}
        path = filter(None, [os.environ.get("PYTHONPATH"), str(ROOT)])
        settings = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": "owner"}
        done = subprocess.run(
            [sys.executable, "-c", code, str(checkout), *map(str, arguments)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env=plain | {"PYTHONPATH": os.pathsep.join(path), "HF_HUB_DISABLE_XET": "1"} | settings | environment,
            check=False,
        )
        assert (done.returncode == 0) == ok, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout if ok else done.stderr

    return call


def test_all_of_them_and_the_demo(run, server, checkout):
    out = run("publish", "--all", "--namespace", "org", "--dry-run")
    assert f"would push to org/{OURS} (apache-2.0):" in out
    assert "would push to the Space org/sslzoo:" in out
    assert server.contents == {}

    out = run("publish", "--all", "--namespace", "org")
    files = server.contents[f"org/{OURS}"][-1][1]
    ours = {path.name for path in (ROOT / "hub_cards" / OURS).iterdir()}
    assert set(files) == ours > {"README.md", "config.json", "model.safetensors", "neighbours.jpg"}
    pushed = set(server.contents["spaces/org/sslzoo"][-1][1])
    assert {name for name in pushed if "/" not in name} == {"app.py", "README.md"}
    assert {"photos/windmill-1.jpg", "photos/ATTRIBUTION.md"} < pushed
    revision = server.contents[f"org/{OURS}"][-1][0]
    entry = EncoderSpec.from_dict(json.loads((checkout / "zoo" / f"{OURS}.json").read_text()))
    assert entry.sources == (f"package:{OURS}", f"hf-hub:org/{OURS}@{revision}")
    assert entry.default
    assert entry.sha256 == registry.known()[OURS].sha256
    # the entry loads from there where the package lacks the file, and only these weights
    code = """
import sys
from pathlib import Path
root = Path(sys.argv.pop(1))
import sslzoo
from sslzoo import hub, registry
registry.ZOO, hub.PACKAGE = root / "zoo", root
try:
    encoder = sslzoo.load(sys.argv[1], device="cpu")
except sslzoo.WeightsError as error:
    sys.exit(str(error))
print(hub.fetch(encoder.spec), encoder.spec.sha256)
"""
    where, sha256 = run(OURS, code=code).split()
    assert "hf" in where and revision in where
    assert sha256 == entry.sha256
    files["model.safetensors"] = files["model.safetensors"][:-1] + b"\x99"  # somebody who holds the Hub's name
    assert "is damaged or was exchanged" in run(OURS, code=code, ok=False, HF_HOME=str(checkout / "hf2"))


def test_a_run_is_exported_first(run, server, checkout, photos, tmp_path):
    changes = ["batch_size=4", "epochs=1", "warmup_epochs=0", "store_size=32", "views.0.size=32", "precision=fp32"]
    run(OURS, "--data", photos, "-o", "r", *[word for change in changes for word in ("--set", change)])
    (tmp_path / "set").mkdir()
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = [{"bytes": p.read_bytes(), "path": p.name} for p in sorted(photos.rglob("*.*g"))]
    table = pa.table({"image": images, "label": [p["path"][-3:] for p in images]})
    for split in ("train", "val"):
        pq.write_table(table, tmp_path / "set" / f"{split}.parquet")
    arguments = ["--name", "simclr-r18.mine", "--trained-on", "CIFAR-10", "--data-terms", "none"]
    score = ["--score", f"drawings@org/drawings:top1={tmp_path / 'set'}"]
    err = run("publish", "r", "--repo", "me/it", *arguments, ok=False)
    assert "states no license" in err
    assert "did you mean cc-by-nc-4.0?" in run("export", "r", "-o", "x", "--license", "CC BY-NC 4.0", ok=False)
    licensed = ["--license", "mit"]
    assert "would push to me/it (mit)" in run("publish", "r", "--repo", "me/it", *arguments, *licensed, "--dry-run")
    assert not (checkout / "hub_cards" / "simclr-r18.mine").exists()
    out = run("publish", "r", "--repo", "me/it", *arguments, *score, "--license", "mit", "--shard-size", "15MB")
    files = server.contents["me/it"][-1][1]
    assert {"model-00001-of-00002.safetensors", "model.safetensors.index.json", "neighbours.jpg", "recipe.toml"} <= set(
        files
    )
    assert all(len(v) <= 15e6 for v in files.values())
    assert "hf-hub:me/it@" in out
    entry = json.loads((checkout / "zoo" / "simclr-r18.mine.json").read_text())
    assert (entry["license"], entry["default"]) == ("mit", False)
    assert (
        run("-c", code="import sys, sslzoo; print(sslzoo.load('hf-hub:me/it', device='cpu').spec.epochs)").strip()
        == "1.0"
    )

    # the results on a registered benchmark, as the Hub's own client reads them
    import yaml
    from huggingface_hub import parse_eval_result_entries

    results = sorted(name for name in files if name.startswith(".eval_results/"))
    assert len(results) == 3  # kNN by two protocols and the linear probe
    (found,) = parse_eval_result_entries(yaml.safe_load(files[results[0]]))
    assert (found.dataset_id, found.task_id) == ("org/drawings", "top1")
    assert found.value == pytest.approx(100 * entry["scores"][0]["value"], abs=0.01)
    assert found.notes == entry["scores"][0]["protocol"]

    # the card on the Hub loads the repository that it lies in, and its code runs
    card = files["README.md"].decode()
    assert 'sslzoo.load("hf-hub:me/it")' in card
    data = ModelCard(card).data
    assert (data.datasets, data.metrics, data.license) == (["uoft-cs/cifar10"], ["accuracy"], "mit")
    assert data.eval_results[0].metric_value == pytest.approx(100 * entry["scores"][0]["value"], abs=0.01)
    example = "import sys; sys.argv.pop(1)\n" + re.search(r"```python\n(.*?)```", card, re.S)[1]
    for name in ("a.jpg", "b.jpg"):
        draw("bars", 0).save(tmp_path / name)
    assert run("x", code=example + "print(vectors.shape)").strip() == "(2, 512)"

    # judged anew: config and card have the right scores again, and all else is as it was
    mine = checkout / "hub_cards" / "simclr-r18.mine"

    def contents():
        return {path.relative_to(mine): path.read_bytes() for path in mine.rglob("*") if path.is_file()}

    right = contents()
    config, card = (mine / name for name in ("config.json", "README.md"))
    wrong = json.loads(config.read_text())
    for told in wrong["scores"]:
        told["value"] = 0.5
    config.write_text(json.dumps(wrong))
    card.write_text(re.sub(r"\*\*\d+\.\d\*\*", "**50.0**", card.read_text()))
    kept = contents()
    assert "say on what to judge it" in run("score", mine, ok=False)
    assert "needs train.parquet" in run("score", mine, "--score", f"drawings={photos}", ok=False)
    assert contents() == kept
    assert "3 scores; next: python -m training register" in run("score", mine, *score)
    assert contents() == right
    run("score", mine, "--score", f"once more={tmp_path / 'set'}")  # beside the others, and no benchmark of the Hub
    run("score", mine, "--score", f"once more={tmp_path / 'set'}")
    names = [told["dataset"].split()[0] for told in json.loads(config.read_text())["scores"]]
    assert names == ["drawings"] * 3 + ["once"] * 3
    assert [
        line.split()[1] for line in card.read_text().splitlines() if " (sha256 of" in line and line[0] == "|"
    ] == names
    assert len(list(mine.glob(".eval_results/*"))) == 3
    run("score", mine, "--score", f"drawings={tmp_path / 'set'}")
    assert not list(mine.glob(".eval_results/*"))
    card.write_text(card.read_text().replace("## Scores", "## Results"))
    kept = contents()
    assert "export the run anew" in run("score", mine, *score, ok=False)
    assert contents() == kept


def test_what_is_refused(run, checkout):
    assert "give RUN or FOLDER" in run("publish", "hub_cards", ok=False)
    assert "give RUN or FOLDER" in run("publish", "--all", "--repo", "a/b", ok=False)
    folder = checkout / "hub_cards" / OURS
    sslzoo.load("random-r18", device="cpu").save_pretrained(checkout / "other")
    config = json.loads((checkout / "other" / "config.json").read_text())
    (checkout / "other" / "config.json").write_text(json.dumps(config | {"name": OURS}))
    assert f"is not the {OURS} that sslzoo/zoo pins" in run(
        "publish", checkout / "other", "--namespace", "org", ok=False
    )
    for command in (["publish", folder, "--namespace", "org"], ["export", folder, "-o", "again"]):
        assert "leave out --license, or name the run" in run(*command, "--license", "mit", ok=False)
    assert "'a/b/c' is no name for a repository" in run("publish", folder, "--repo", "a/b/c", "--dry-run", ok=False)
    assert "hf auth login" in run("publish", folder, "--namespace", "org", ok=False, HF_TOKEN="reader")
    shutil.rmtree(checkout / "hub_cards")
    assert "holds no model folder" in run("publish", "--all", "--namespace", "org", ok=False)


def test_the_picture_shows_the_example_photos_alone_and_credits_them(tmp_path):
    credits = picture.neighbours(registry.resolve("random-r18"), tmp_path / "n.jpg")
    with Image.open(tmp_path / "n.jpg") as image:
        rows, columns = len(picture.QUERIES), picture.NEIGHBOURS + 1
        assert image.size[1] == rows * (picture.TILE + picture.GAP) + picture.GAP
        assert image.size[0] >= columns * picture.TILE
        # the first tile is the first query itself
        corner = image.crop((picture.GAP, picture.GAP, picture.GAP + picture.TILE, picture.GAP + picture.TILE))
    with Image.open(picture.PHOTOS / picture.QUERIES[0]) as photo:
        from PIL import ImageChops, ImageOps, ImageStat

        expected = ImageOps.fit(photo.convert("RGB"), (picture.TILE, picture.TILE))
    assert max(ImageStat.Stat(ImageChops.difference(corner, expected)).mean) < 6
    for name in picture.QUERIES:
        assert f"{name} by " in credits
    assert "night-colosseum.jpg by Jimmy Engelbrecht (CC-BY-SA-3.0)" in credits


def test_the_published_cards_are_what_the_program_writes_and_their_code_runs(tmp_path, monkeypatch):
    for config in (ROOT / "hub_cards").glob("[!.]*/config.json"):
        folder = config.parent
        card = (folder / "README.md").read_text()
        spec = hub.read_config(folder)
        assert card.startswith(hub.metadata(spec))
        data = ModelCard(card).data
        assert data.library_name == "sslzoo"
        assert len(data.eval_results) == len(spec.scores)
        assert export.score_table(spec) in card
        for target in re.findall(r"!\[.*?\]\((.*?)\)", card):
            assert (folder / target).stat().st_size < 500_000
        for name in ("a.jpg", "b.jpg"):
            draw("bars", 1).save(tmp_path / name)
        monkeypatch.chdir(tmp_path)
        scope = {}
        exec(compile(re.search(r"```python\n(.*?)```", card, re.S)[1], "card", "exec"), scope)
        assert scope["vectors"].shape == (2, spec.dim)
        assert scope["encoder"].spec.sha256 == spec.sha256


def test_a_registered_folder_loads_by_name_from_the_checkout_and_is_published_later(run, checkout, server, tmp_path):
    encoder = sslzoo.load(OURS, device="cpu")
    folder = checkout / "hub_cards" / "byol-r18.mine"
    encoder.save_pretrained(tmp_path / "mine")
    config = json.loads((tmp_path / "mine" / "config.json").read_text())
    (tmp_path / "mine" / "config.json").write_text(json.dumps(config | {"name": folder.name}))
    assert "is not" in run("register", "mine", ok=False)
    shutil.move(tmp_path / "mine", folder)
    assert "wrote checkout:byol-r18.mine" in run("register", folder)
    load = COMMAND.replace("__main__.main()", "import sslzoo; print(sslzoo.load('byol-r18', device='cpu').spec.name)")
    assert run(code=load).strip() == "byol-r18.mine"
    # better weights may take the name until the first push
    pinned = json.loads((checkout / "zoo" / "byol-r18.mine.json").read_text())["sha256"]
    again = tmp_path / "again"
    sslzoo.load("random-r18", device="cpu").save_pretrained(again)
    config = json.loads((again / "config.json").read_text()) | {"name": folder.name, "license": "mit"}
    (again / "config.json").write_text(json.dumps(config))
    shutil.move(folder, tmp_path / "first")
    shutil.copytree(again, folder)
    assert "give it a name of its own" in run(
        "publish", again, "--repo", "me/it", ok=False
    )  # it would load other weights here
    run("register", folder)
    assert json.loads((checkout / "zoo" / "byol-r18.mine.json").read_text())["sha256"] == config["sha256"] != pinned
    shutil.rmtree(folder)
    shutil.move(tmp_path / "first", folder)
    run("register", folder)
    run("publish", folder, "--repo", "me/it")
    entry = json.loads((checkout / "zoo" / "byol-r18.mine.json").read_text())
    assert [source.partition(":")[0] for source in entry["sources"]] == ["checkout", "hf-hub"]
    shutil.move(folder, tmp_path / "pushed")
    shutil.move(again, folder)
    assert "give it a name of its own" in run("register", folder, ok=False)
    shutil.rmtree(folder)
    assert run(code=load).strip() == "byol-r18.mine"  # now from the Hub


def test_better_weights_take_their_place_inside_the_package_before_its_first_push(run, checkout, tmp_path):
    folder, inside = checkout / "hub_cards" / OURS, checkout / "weights" / OURS
    shutil.copytree(hub.PACKAGE / OURS, inside)
    sslzoo.load("random-r18", device="cpu").save_pretrained(tmp_path / "again")
    shutil.copy(tmp_path / "again" / hub.WEIGHTS, folder)
    pinned = {key: json.loads((tmp_path / "again" / hub.CONFIG).read_text())[key] for key in ("sha256", "size_bytes")}
    config = json.loads((folder / hub.CONFIG).read_text()) | pinned
    (folder / hub.CONFIG).write_text(json.dumps(config))
    code = COMMAND.replace("hub.CARDS =", "hub.PACKAGE = root / 'weights'\nhub.CARDS =")
    assert f"wrote package:{OURS}" in run("register", folder, code=code)
    entry = json.loads((checkout / "zoo" / f"{OURS}.json").read_text())
    assert (entry["sha256"], entry["sources"]) == (pinned["sha256"], [f"package:{OURS}"])
    assert hub.sha256(inside / hub.WEIGHTS) == pinned["sha256"]
    assert json.loads((inside / hub.CONFIG).read_text()) == config
    entry["sources"].append("hf-hub:me/it@0123")
    (checkout / "zoo" / f"{OURS}.json").write_text(json.dumps(entry))
    shutil.copy(hub.PACKAGE / OURS / hub.WEIGHTS, folder)
    shutil.copy(hub.PACKAGE / OURS / hub.CONFIG, folder)
    assert "give it a name of its own" in run("register", folder, code=code, ok=False)


def test_what_we_trained_is_better_than_random_weights_and_tells_how_it_was_made():
    for config in (ROOT / "hub_cards").glob("[!.]*/config.json"):
        spec = hub.read_config(config.parent)
        for data in ("imagenette", "caltech101"):
            scores = [score for score in spec.scores if score.dataset.startswith(data)]
            assert {score.metric for score in scores} == {"knn_top1", "linear_top1"}
            assert all(score.value - score.random_weights > score.gain_interval > 0 for score in scores)
        facts = json.loads((config.parent / "run.json").read_text())
        told = {
            "commit",
            "processor",
            "threads",
            "torch",
            "images",
            "minutes",
            "images_per_second",
            "seconds_per_epoch",
        }
        assert told <= set(facts)
        assert facts["seconds_per_epoch"] * facts["images_per_second"] == pytest.approx(facts["images"], rel=0.03)


def test_every_folder_of_hub_cards_is_in_the_zoo():
    for config in (ROOT / "hub_cards").glob("[!.]*/config.json"):
        spec = hub.read_config(config.parent)
        assert spec.name == config.parent.name
        known = registry.known()[spec.name]
        assert known.to_dict() == spec.to_dict() | {"sources": known.sources, "default": known.default}
        assert sslzoo.load(spec.name, device="cpu").spec.sha256 == hub.weights_sha256(config.parent)
