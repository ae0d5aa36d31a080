import json
import re

import pytest
import torch

from sslzoo import backbones, convert, hub, registry
from sslzoo.errors import InputError, UnknownModel
from sslzoo.spec import IMAGENET_VAL, EncoderSpec, Head, Preprocess, ReportedScore, feature_dim


@pytest.fixture
def zoo(monkeypatch):
    """Three known encoders: two tags of one bare name under different licenses, and another."""

    def spec(name, license, default=False):
        backbone = "resnet" + name.split("-r")[1].split(".")[0]
        return EncoderSpec(
            name, name.split("-")[0], backbone, 512, Preprocess(96, 96), license=license, default=default
        )

    specs = [
        spec("simsiam-r50.fair", "cc-by-nc-4.0", default=True),
        spec("simsiam-r50.mm", "apache-2.0"),
        spec("byol-r18.cifar10", "apache-2.0"),
    ]
    monkeypatch.setattr(registry, "known", lambda: {s.name: s for s in specs})


@pytest.mark.parametrize(
    "name",
    [
        "simsiam-r50",
        "simsiam_r50",
        "simsiam/r50",
        "simsiam-resnet50",
        "SimSiam/ResNet50",
        "simsiam-r50.fair",
        "simsiam-rn50",
    ],
)
def test_spellings(zoo, name):
    assert registry.resolve(name).name == "simsiam-r50.fair"


def test_listing(zoo):
    assert registry.list_models() == ["simsiam-r50.fair", "simsiam-r50.mm", "byol-r18.cifar10"]
    assert registry.list_models("byol*") == registry.list_models("BYOL") == ["byol-r18.cifar10"]
    assert registry.list_models(license="permissive") == ["simsiam-r50.mm", "byol-r18.cifar10"]
    assert registry.list_models(license="CC-BY-NC-4.0") == ["simsiam-r50.fair"]


def test_of_equals_the_one_with_the_authors_classifier_is_chosen(monkeypatch):
    def spec(tag, top1, head=None):
        score = ReportedScore(IMAGENET_VAL, "linear_top1", "a probe", top1)
        return EncoderSpec(
            f"simsiam-r50.{tag}",
            "simsiam",
            "resnet50",
            2048,
            Preprocess(256, 224),
            license="mit",
            scores=(score,),
            head=head,
        )

    specs = [spec("a", 0.6984), spec("b", 0.698, Head()), spec("c", 0.697, Head())]
    monkeypatch.setattr(registry, "known", lambda: {s.name: s for s in specs})
    assert registry.resolve("simsiam-r50").name == "simsiam-r50.b"
    specs.append(spec("d", 0.699))
    assert registry.resolve("simsiam-r50").name == "simsiam-r50.d"


def test_a_revision_of_the_hub_has_the_present_one_as_its_mirror():
    """None of these commit ids was looked up online."""
    for spec in registry.known().values():
        urls = [c.url for c in spec.checkpoints]
        for url in urls:
            if url.startswith("https://huggingface.co/"):
                assert re.sub("/resolve/[^/]+/", "/resolve/main/", url) in urls, spec.name


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("barlowtwins-r50.fair_in1k_1000ep", "/barlowtwins/ep1000_bs2048_lrw0.2_lrb0.0048_lambd0.0051/"),  # hubconf.py
        ("swav-r50w5.fair_in1k_400ep", "/vissl/model_zoo/swav_rn50w5/"),  # VISSL's MODEL_ZOO.md
    ],
)
def test_what_is_published_twice_has_both_addresses(name, part):
    first, second = registry.known()[name].checkpoints
    assert part in second.url and second.format == first.format


def test_a_permissive_license_chooses_another_tag(zoo, monkeypatch):
    assert registry.resolve("simsiam-r50", license="permissive").name == "simsiam-r50.mm"
    monkeypatch.setenv("SSLZOO_LICENSE", "permissive")
    assert registry.resolve("simsiam-r50").name == "simsiam-r50.mm"
    with pytest.raises(UnknownModel, match=r"simsiam-r50\.fair \(cc-by-nc-4\.0\)"):
        registry.resolve("simsiam-r50", license="mit")


def test_a_license_limits_full_names_and_model_folders_too(zoo, monkeypatch, model_folder, tmp_path):
    with pytest.raises(UnknownModel, match=r"no simsiam-r50\.fair has a license that is permissive; there are: .*nc-4"):
        registry.resolve("simsiam-r50.fair", license="permissive")
    assert registry.resolve("simsiam-r50.fair", license="CC-BY-NC-4.0").name == "simsiam-r50.fair"
    monkeypatch.setenv("SSLZOO_LICENSE", "permissive")
    for name in ("simsiam/r50.fair", "SimSiam-ResNet50.fair"):
        with pytest.raises(UnknownModel, match="is permissive"):
            registry.resolve(name)
    assert registry.resolve("simsiam-r50.mm").license == "apache-2.0"
    own = json.loads((model_folder / "config.json").read_text()) | {"method": "simsiam"}
    for license, allowed in (("", True), ("not stated", True), ("mit", True), ("cc-by-nc-4.0", False)):
        (tmp_path / "config.json").write_text(json.dumps(own | {"license": license}))
        for name in (str(tmp_path), f"local-dir:{tmp_path}"):
            if allowed:
                assert registry.resolve(name).license == license
            else:
                with pytest.raises(UnknownModel, match=r"is permissive; there are: random-r18 \(cc-by-nc-4.0\)"):
                    registry.resolve(name)
    monkeypatch.setenv("SSLZOO_LICENSE", "mit")
    for name in ("random-r50", str(model_folder)):  # random weights have none to limit
        assert registry.resolve(name).method == "random"


@pytest.mark.parametrize(
    ("typo", "near"),
    [("simsam-r50", "simsiam-r50"), ("byol-r18.cifar100", "byol-r18.cifar10"), ("randm-r18", "random-r18")],
)
def test_a_near_miss_is_suggested(zoo, typo, near):
    with pytest.raises(UnknownModel, match=f"did you mean .*{near}") as raised:
        registry.resolve(typo)
    assert near in raised.value.suggestions


def test_nonsense_points_to_the_list(zoo):
    with pytest.raises(UnknownModel, match="sslzoo models"):
        registry.resolve("zzzzzz")


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere/model", "nowhere/x/"])
def test_a_path_that_is_not_there_is_said_so(zoo, path):
    with pytest.raises(InputError, match="there is no model folder"):
        registry.resolve(path)


def test_model_folders(model_folder, monkeypatch):
    for name in (f"local-dir:{model_folder}", str(model_folder)):
        spec = registry.resolve(name)
        assert spec.name == "random-r18"
        assert hub.fetch(spec) == model_folder
    monkeypatch.chdir(model_folder.parent)
    assert hub.fetch(registry.resolve("mine")).resolve() == model_folder


def test_an_encoder_without_a_name_here_is_found_where_it_came_from():
    for name, source, found in (
        ("simsiam-r50.fair_in1k_100ep", "hf-hub:sslzoo/it@1", "simsiam-r50.fair_in1k_100ep"),
        ("simsiam-r50.mine", "hf-hub:me/it@1", "hf-hub:me/it@1"),
        ("simsiam-r50.mine", "local-dir:/it", "local-dir:/it"),
        ("simsiam-r50.mine", "", "simsiam-r50.mine"),
    ):
        assert registry.maker({"model": name, "model_source": source}) == found


def test_random_encoders_of_every_size():
    for name, dim in (("random-r18", 512), ("random-resnet50", 2048), ("random-r50w2", 4096)):
        assert registry.resolve(name).dim == dim


def test_every_entry_of_the_zoo_is_what_it_says():
    for name, spec in registry.known().items():
        assert (registry.ZOO / f"{name}.json").is_file()
        assert registry.resolve(name) == spec
        assert spec.dim == feature_dim(spec.backbone)
        assert spec.license
        assert spec.data_terms
        assert spec.sources or spec.checkpoints
        assert spec.paper
        assert all(c.format in convert.FORMATS for c in spec.checkpoints)
        assert all(c.url.startswith("https://") for c in spec.checkpoints)
        assert all(s.protocol and s.source for s in spec.scores)
        # a whole commit id, or an abbreviated one with main as the mirror that answers where the Hub wants it whole
        for c in (c for c in spec.checkpoints if "huggingface.co" in c.url):
            revision = c.url.split("/resolve/")[1].split("/")[0]
            assert len(revision) == 40 or "/resolve/main/" in spec.checkpoints[-1].url
    bare = {}
    for name, spec in registry.known().items():
        bare.setdefault(name.partition(".")[0], []).append(spec.default)
    assert all(sum(defaults) == 1 for defaults in bare.values()), "each bare name needs one default tag"


@pytest.mark.parametrize("backbone", sorted({spec.backbone for spec in registry.known().values()}))
def test_every_backbone_of_the_zoo_can_be_built(backbone):
    with torch.device("meta"):  # the widest would take gigabytes
        network = backbones.build(backbone)
    assert network.dim == feature_dim(backbone)
    values = sum(v.numel() for v in network.state_dict().values() if v.is_floating_point())
    for spec in registry.known().values():
        if spec.backbone == backbone and spec.checkpoints:  # in fp32, and the names
            assert 4 * values < spec.size_bytes < 4 * values + 150_000


def test_the_zoo_has_what_was_promised():
    known = registry.known()
    assert len([spec for spec in known.values() if spec.checkpoints]) >= 40
    for bare, tag in [
        ("simclr-r50", "google_in1k"),
        ("mocov1-r50", "fair_in1k_200ep"),
        ("mocov2-r50", "fair_in1k_800ep"),
        ("byol-r50", "deepmind_in1k_1000ep"),
        ("simsiam-r50", "fair_in1k_100ep"),
        ("swav-r50", "fair_in1k_800ep"),
    ]:
        assert registry.resolve(bare).name == f"{bare}.{tag}"
    assert registry.resolve("simsiam-r50", license="permissive").name == "simsiam-r50.mm_in1k_200ep"
    assert registry.resolve("simclr-r50").geometry.padding == "same-pool"
    assert registry.resolve("byol-r50").geometry.padding == "same"
    assert registry.resolve("swav-r50").preprocess.std[0] == 0.228
    for name in (
        "mocov1-r50",
        "mocov2-r50",
    ):  # two statements contradict each other: the stricter counts, both are told
        spec = registry.resolve(name)
        assert not spec.permissive
        assert "MIT" in spec.license_note and "CC-BY-NC" in spec.license_note
