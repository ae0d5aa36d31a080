import pytest

from sslzoo import hub, registry
from sslzoo.errors import InputError, UnknownModel
from sslzoo.spec import EncoderSpec, Preprocess


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
    assert registry.list_models("byol*") == ["byol-r18.cifar10"]
    assert registry.list_models(license="permissive") == ["simsiam-r50.mm", "byol-r18.cifar10"]
    assert registry.list_models(license="CC-BY-NC-4.0") == ["simsiam-r50.fair"]


def test_a_permissive_license_chooses_another_tag(zoo, monkeypatch):
    assert registry.resolve("simsiam-r50", license="permissive").name == "simsiam-r50.mm"
    monkeypatch.setenv("SSLZOO_LICENSE", "permissive")
    assert registry.resolve("simsiam-r50").name == "simsiam-r50.mm"
    with pytest.raises(UnknownModel, match=r"simsiam-r50\.fair \(cc-by-nc-4\.0\)"):
        registry.resolve("simsiam-r50", license="mit")


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


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere/model", "runs/x/"])
def test_a_path_that_is_not_there_is_said_so(zoo, path):
    with pytest.raises(InputError, match="local-dir:PATH"):
        registry.resolve(path)


def test_model_folders(model_folder, monkeypatch):
    for name in (f"local-dir:{model_folder}", str(model_folder)):
        spec = registry.resolve(name)
        assert spec.name == "random-r18"
        assert hub.fetch(spec) == model_folder
    monkeypatch.chdir(model_folder.parent)
    assert hub.fetch(registry.resolve("mine")).resolve() == model_folder


def test_random_encoders_of_every_size():
    for name, dim in (("random-r18", 512), ("random-resnet50", 2048), ("random-r50w2", 4096)):
        assert registry.resolve(name).dim == dim


def test_every_entry_of_the_zoo_is_what_it_says():
    from sslzoo import backbones

    assert registry.PACKAGE_ENCODER in registry.known()
    for name, spec in registry.known().items():
        assert (registry.ZOO / f"{name}.json").is_file()
        assert registry.resolve(name) == spec
        assert backbones.build(spec.backbone, **spec.geometry.to_dict()).dim == spec.dim
        assert spec.license
        assert spec.data_terms
        assert spec.sources
        assert spec.paper
    bare = {}
    for name, spec in registry.known().items():
        bare.setdefault(name.partition(".")[0], []).append(spec.default)
    assert all(sum(defaults) == 1 for defaults in bare.values()), "each bare name needs one default tag"
