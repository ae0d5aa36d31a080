import dataclasses
import json

import pytest

from sslzoo.errors import InputError
from sslzoo.spec import Canary, EncoderSpec, Geometry, Preprocess, ReportedScore, backbone_name, feature_dim, space_id

SPEC = EncoderSpec(
    name="a-r18.b",
    method="a",
    backbone="resnet18",
    dim=512,
    preprocess=Preprocess(resize=256, size=224, interpolation="bicubic"),
    sources=("package:a", "local-dir:b"),
    license="Apache-2.0",
    epochs=1.5,
    scores=(ReportedScore("d", "m", "p", 0.5),),
    canary=Canary("x.jpg", (0.1, 0.2), 0.01),
)


def test_json_round_trip():
    assert EncoderSpec.from_dict(json.loads(SPEC.to_json())) == SPEC


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": 1}, "no field colour"),
        ({"preprocess": {"resize": 10, "size": 20}}, "size <= resize"),
        ({"preprocess": {"resize": 10, "size": 10, "interpolation": "cubic"}}, "bilinear or bicubic"),
        ({"geometry": {"stem": "vgg"}}, "imagenet, cifar, cifar-pad2"),
        ({"geometry": {"padding": "valid"}}, "torchvision, same-pool, same"),
        ({"verified": "yes"}, "none, format or online"),
    ],
)
def test_what_is_wrong_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        EncoderSpec.from_dict(SPEC.to_dict() | change)


def test_a_missing_field_is_named():
    with pytest.raises(InputError, match="backbone"):
        EncoderSpec.from_dict({"name": "a", "method": "b", "dim": 3, "preprocess": {"resize": 8, "size": 8}})


@pytest.mark.parametrize(
    ("text", "name"),
    [("r50", "resnet50"), ("resnet50", "resnet50"), ("rn-101", "resnet101"), ("r50w2", "resnet50w2"), ("r50x4", "resnet50w4"),
     ("r50w1", "resnet50"), ("r20", None), ("vit", None)],
)  # fmt: skip
def test_backbone_names(text, name):
    assert backbone_name(text) == name


def test_feature_dims():
    assert [feature_dim(name) for name in ("resnet18", "resnet34w2", "resnet50", "resnet152w5")] == [
        512,
        1024,
        2048,
        10240,
    ]


def test_the_space_depends_on_weights_preprocessing_and_geometry():
    base = space_id("w", SPEC.preprocess, Geometry())
    others = [
        space_id("v", SPEC.preprocess, Geometry()),
        space_id("w", dataclasses.replace(SPEC.preprocess, interpolation="bilinear"), Geometry()),
        space_id("w", dataclasses.replace(SPEC.preprocess, mean=(0.5, 0.5, 0.5)), Geometry()),
        space_id("w", SPEC.preprocess, Geometry(bn_eps=1e-3)),
        space_id("w", SPEC.preprocess, Geometry(padding="same")),
    ]
    assert len({base, *others}) == 6
    assert base == space_id("w", SPEC.preprocess, Geometry())


def test_permissive():
    assert SPEC.permissive
    assert not dataclasses.replace(SPEC, license="cc-by-nc-4.0").permissive
    assert not dataclasses.replace(SPEC, license="").permissive
