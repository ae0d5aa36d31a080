"""An Encoder as the backbone of torchvision's FCOS detector, trained for a few steps on generated boxes.

    python examples/detection.py [ENCODER]

The detector sees the encoder's maps of layer2 to layer4 through a feature pyramid. The same class works for Faster R-CNN.
"""

import sys
from collections import OrderedDict

import torch
from torch import nn
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork, box_iou

import sslzoo

STAGES = ("layer2", "layer3", "layer4")
COLOURS = torch.tensor([[0.9, 0.2, 0.1], [0.1, 0.3, 0.9]])  # of the two classes


class Pyramid(nn.Module):
    """Maps of one width from several stages of an encoder."""

    def __init__(self, encoder, out_channels=64):
        super().__init__()
        self.encoder, self.out_channels = encoder, out_channels
        self.pyramid = FeaturePyramidNetwork([encoder.dim // 4, encoder.dim // 2, encoder.dim], out_channels)

    def forward(self, x):
        return self.pyramid(OrderedDict(self.encoder.features(x, STAGES)))


def detector(encoder, size=96):
    """FCOS over the encoder, with its own normalisation; one anchor size a map, as in the paper (arXiv:1904.01355)."""
    p = encoder.spec.preprocess
    anchors = AnchorGenerator(sizes=((8,), (16,), (32,)), aspect_ratios=((1.0,),) * 3)
    return FCOS(
        Pyramid(encoder),
        num_classes=2,
        min_size=size,
        max_size=size,
        image_mean=p.mean,
        image_std=p.std,
        anchor_generator=anchors,
    )


def picture(random, size=96):
    """Noise with one or two coloured boxes, and where they are."""
    image, boxes, labels = 0.3 * torch.rand(3, size, size, generator=random), [], []
    for _ in range(int(torch.randint(1, 3, (), generator=random))):
        side = int(torch.randint(20, 44, (), generator=random))
        x, y = (int(torch.randint(0, size - side, (), generator=random)) for _ in range(2))
        kind = int(torch.randint(0, 2, (), generator=random))
        image[:, y : y + side, x : x + side] = COLOURS[kind][:, None, None]
        boxes.append([x, y, x + side, y + side])
        labels.append(kind)
    return image, {"boxes": torch.tensor(boxes, dtype=torch.float32), "labels": torch.tensor(labels)}


def main(name="simclr-r18", steps=30, batch=4):
    """Trains, and returns the loss of the first and of the last five steps, and how well a new picture's box is met."""
    torch.manual_seed(0)
    random = torch.Generator().manual_seed(0)
    model = detector(sslzoo.load(name, device="cpu")).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    losses = []
    for _ in range(steps):
        images, targets = zip(*(picture(random) for _ in range(batch)), strict=True)
        loss = sum(model(list(images), list(targets)).values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        losses.append(loss.item())
    image, target = picture(random)
    with torch.inference_mode():
        (found,) = model.eval()([image])
    met = float(box_iou(found["boxes"][:5], target["boxes"]).max()) if len(found["boxes"]) else 0.0
    return sum(losses[:5]) / 5, sum(losses[-5:]) / 5, met


if __name__ == "__main__":
    first, last, met = main(*sys.argv[1:2])
    print(
        f"loss {first:.2f} in the first five steps, {last:.2f} in the last; a new picture's box is met to {met:.2f} (IoU)"
    )
