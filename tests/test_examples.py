"""The scripts in examples/ run, and do what they say."""

import runpy
from pathlib import Path

import torch
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

import sslzoo

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_an_encoder_is_the_backbone_of_a_detector():
    first, last, met = runpy.run_path(str(EXAMPLES / "detection.py"))["main"]()
    assert last < 0.75 * first
    assert met > 0.5  # a detector that has learnt nothing meets no box half


def test_and_of_faster_r_cnn():
    example = runpy.run_path(str(EXAMPLES / "detection.py"))
    encoder = sslzoo.load("random-r18", device="cpu")
    model = FasterRCNN(
        example["Pyramid"](encoder),
        num_classes=3,  # with the background
        min_size=96,
        max_size=96,
        rpn_anchor_generator=AnchorGenerator(((16,), (32,), (64,)), ((1.0,),) * 3),
        box_roi_pool=MultiScaleRoIAlign(list(example["STAGES"]), 7, 2),
    ).train()
    image, target = example["picture"](torch.Generator().manual_seed(0))
    losses = model([image, image], [target | {"labels": target["labels"] + 1}] * 2)
    sum(losses.values()).backward()
    assert encoder.backbone.conv1.weight.grad.abs().sum() > 0
