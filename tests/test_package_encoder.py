"""The encoder inside the package: whole, the same everywhere it is described, and better than nothing."""

import numpy as np
import pytest

import sslzoo
from sslzoo import hub, registry
from training import export

NAME = registry.PACKAGE_ENCODER
ROOT = hub.PACKAGE.parent.parent


@pytest.fixture(scope="module")
def encoder():
    return sslzoo.load(NAME, device="cpu")


def test_zoo_package_and_hub_card_say_the_same():
    known = registry.known()[NAME]
    assert known.sources[0] == f"package:{NAME}"
    for folder in (hub.PACKAGE / NAME, ROOT / "hub_cards" / NAME):
        described = hub.read_config(folder).to_dict() | {"sources": known.sources, "default": known.default}
        assert described == known.to_dict()
        assert hub.sha256(folder / hub.WEIGHTS) == known.sha256
        assert (folder / hub.WEIGHTS).stat().st_size == known.size_bytes < 25e6
    card = (ROOT / "hub_cards" / NAME / hub.CARD).read_text()
    assert (hub.PACKAGE / NAME / hub.CARD).read_text() == export.without_files(card)


def test_it_is_the_default_of_its_bare_name_and_of_embed(tmp_path, picture):
    assert registry.resolve(NAME.partition(".")[0]).name == NAME
    assert sslzoo.embed([picture]).model == NAME


def test_canary(encoder):
    canary = encoder.spec.canary
    vector = encoder.encode(hub.PACKAGE / "photos" / canary.image)[0]
    np.testing.assert_allclose(vector[: len(canary.values)], canary.values, atol=canary.tolerance)
    other = encoder.encode(hub.PACKAGE / "photos" / "food-coffee.jpg")[0]
    assert np.abs(other[: len(canary.values)] - canary.values).max() > 10 * canary.tolerance


def test_license_and_data_terms_are_everywhere():
    spec = registry.known()[NAME]
    assert spec.license == "apache-2.0"
    assert "non-commercial" in spec.data_terms
    readme = (ROOT / "README.md").read_text()
    assert "non-commercial research and education" in readme
    for folder in (hub.PACKAGE / NAME, ROOT / "hub_cards" / NAME):
        card = (folder / "README.md").read_text()
        assert "license: apache-2.0" in card
        assert spec.data_terms in card


def test_most_windmills_find_windmills_and_random_weights_do_so_less_often(encoder):
    """Leave-one-out on the example photos: how often the nearest photo is of the same kind (the name before the dash)."""
    kinds = {}
    for name, run in (("trained", encoder), ("random", sslzoo.load("random-r18", device="cpu"))):
        e = sslzoo.embed(ROOT / "examples" / "photos", run, precision="fp32")
        near = sslzoo.build_index(e).search(e, k=1, exclude=range(len(e)))
        same = [id_.split("-")[0] == hit[0].split("-")[0] for id_, hit in zip(e.ids, near.ids, strict=True)]
        kinds[name] = sum(same)
        if name == "trained":
            assert sum(hit for id_, hit in zip(e.ids, same, strict=True) if id_.startswith("windmill")) >= 3  # of four
    assert kinds["trained"] > kinds["random"] + 3
