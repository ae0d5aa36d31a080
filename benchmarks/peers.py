"""The peers of benchmarks/embed.py, each as its users write it; one is run in a process of its own, with its own interpreter.

    python benchmarks/peers.py NAME PHOTOS OUT MODEL

MODEL is a model folder, whose `model.safetensors` has torchvision's names. OUT gets names and vectors as .npz, where
network and preprocessing are those of the plain script.
"""

from __future__ import annotations

import sys
from pathlib import Path


def photos_in(folder):
    return sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))


def save(out, folder, files, vectors):
    import numpy as np

    with open(out, "wb") as file:
        np.savez(file, names=[p.relative_to(folder).as_posix() for p in files], vectors=np.concatenate(vectors))


def torchvision_resnet(model):
    import json

    import torchvision
    from safetensors.torch import load_file

    backbone = json.loads((Path(model) / "config.json").read_text())["backbone"]
    network = getattr(torchvision.models, backbone)(weights=None)
    network.load_state_dict(load_file(Path(model) / "model.safetensors"), strict=False)
    import torch

    network.fc = torch.nn.Identity()
    return network.eval()


class Photos:
    """A torch data set of files."""

    def __init__(self, files, transform):
        self.files, self.transform = files, transform

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        from PIL import Image

        with Image.open(self.files[index]) as image:
            return self.transform(image.convert("RGB"))


def plain(folder, out, model):
    """What people write by hand: torchvision's transforms, a DataLoader with two workers, batches of 32."""
    import json

    import torch
    from torchvision import transforms

    p = json.loads((Path(model) / "config.json").read_text())["preprocess"]
    steps = [transforms.Resize(p["resize"]), transforms.CenterCrop(p["size"])]
    steps += [transforms.ToTensor(), transforms.Normalize(p["mean"], p["std"])]
    network, files, vectors = torchvision_resnet(model), photos_in(folder), []
    loader = torch.utils.data.DataLoader(Photos(files, transforms.Compose(steps)), batch_size=32, num_workers=2)
    with torch.inference_mode():
        vectors = [network(batch).numpy() for batch in loader]
    save(out, folder, files, vectors)


def timm(folder, out, model, *, bf16=False):
    """timm's own transform and pooled features, batches of 32, two workers."""
    import timm
    import torch

    network = timm.create_model("resnet50", pretrained=False, num_classes=0).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
    loader = torch.utils.data.DataLoader(Photos(photos_in(folder), transform), batch_size=32, num_workers=2)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        [network(batch).float().numpy() for batch in loader]


def timm_bf16(folder, out, model):
    """The same under autocast."""
    timm(folder, out, model, bf16=True)


def transformers(folder, out, model):
    """The image-feature-extraction pipeline with a ResNet-50 of the same size."""
    from transformers import ConvNextImageProcessor, ResNetConfig, ResNetModel, pipeline

    network = ResNetModel(ResNetConfig()).eval()
    processor = ConvNextImageProcessor(size={"shortest_edge": 224}, crop_pct=224 / 256)
    extract = pipeline("image-feature-extraction", model=network, image_processor=processor, pool=True, batch_size=32)
    list(extract([str(path) for path in photos_in(folder)]))


def thingsvision(folder, out, model):
    """thingsvision's extractor on its torchvision source; it reads one folder, so the photos are linked into one."""
    from thingsvision import get_extractor
    from thingsvision.utils.data import DataLoader, ImageDataset

    flat = Path(f"{out}.flat")
    flat.mkdir()
    for number, path in enumerate(photos_in(folder)):
        (flat / f"{number:06d}.jpg").symlink_to(path.resolve())
    extractor = get_extractor("resnet50", source="torchvision", device="cpu", pretrained=False)
    transforms = extractor.get_transformations()
    data = ImageDataset(root=str(flat), out_path=f"{out}.d", backend="pt", transforms=transforms)
    batches = DataLoader(data, batch_size=32, backend="pt")
    extractor.extract_features(batches=batches, module_name="avgpool", flatten_acts=True)


def lightly_train(folder, out, model):
    """lightly-train's embed command on a checkpoint of a ResNet-50 that is made first, in the same process."""
    import lightly_train
    import torch
    import torchvision

    checkpoint = Path(f"{out}.ckpt")
    from lightly_train._checkpoint import (
        CHECKPOINT_LIGHTLY_TRAIN_KEY,
        CheckpointLightlyTrain,
        CheckpointLightlyTrainModels,
    )
    from lightly_train._models import package_helpers

    network = torchvision.models.resnet50(weights=None)
    wrapped = package_helpers.get_wrapped_model(network, num_input_channels=3)
    from lightly_train._models.embedding_model import EmbeddingModel
    from lightly_train._transforms.transform import NormalizeArgs

    saved = CheckpointLightlyTrain.from_now(
        models=CheckpointLightlyTrainModels(model=network, wrapped_model=wrapped,
                                            embedding_model=EmbeddingModel(wrapped)),
        normalize_args=NormalizeArgs(),
    )  # fmt: skip
    torch.save({CHECKPOINT_LIGHTLY_TRAIN_KEY: saved.to_dict(), "state_dict": {}}, checkpoint)
    lightly_train.embed(out=f"{out}.pt", data=folder, checkpoint=checkpoint, batch_size=32, num_workers=2,
                        accelerator="cpu", format="torch")  # fmt: skip


if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    globals()[name.replace("-", "_")](*arguments)
