"""What each of two gloo processes runs for test_distributed; every function returns tensors that rank 0 hands back."""

import dataclasses
import os
import sys
from functools import partial
from pathlib import Path

import torch
from torch import nn

from sslzoo.errors import InputError
from training import distributed, engine, norms, recipe
from training.__main__ import end
from training.data import Stream
from training.methods import MoCo, SimCLR, SwAV
from training.methods.swav import sinkhorn


def views(n=8):
    g = torch.Generator().manual_seed(1)
    return [torch.rand(n, 3, 4, 4, generator=g) for _ in range(2)]


def mine(x):
    return x.chunk(distributed.world())[distributed.rank()]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(24, 6))


def loss_and_gradients(method):
    norms.synchronize(method, "cpu")
    model = distributed.parallel(method)  # kept: it averages the gradients as long as it lives
    loss, _ = model([mine(v) for v in views()], 0.0)
    loss.backward()
    mean = distributed.total(loss.detach()) / distributed.world()
    gradients = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    return {"loss": mean} | gradients | {name: b for name, b in method.named_buffers() if "running" in name}


def simclr():
    return loss_and_gradients(SimCLR(network(), 6, hidden=8, projection=4))


def swav():
    return loss_and_gradients(SwAV(network(), 6, hidden=8, projection=4, prototypes=5, freeze_until=0.1))


def assignments():
    scores = torch.rand(12, 5, generator=torch.Generator().manual_seed(0))
    return {"codes": distributed.gather(sinkhorn(mine(scores), epsilon=0.05, iterations=3))}


def moco():
    """Keys without BN, which the shuffle must leave as they are, in the images' order."""
    torch.manual_seed(0)
    method = MoCo(nn.Sequential(nn.Flatten(), nn.Linear(48, 6)), 6, projection=4, queue=12)
    torch.manual_seed(5)
    local = [mine(v) for v in views()]
    keys = method.keys(local[1])
    loss, _ = method.loss(local, 0.0)
    return {"keys": keys, "queue": method.queue, "loss": distributed.total(loss.detach()) / distributed.world()}


def moco_of_all():
    """MoCo with BN's statistics of all processes, which would undo its shuffle; `train` asks for them."""
    try:
        train(kind=MoCo, queue=8)
    except InputError as error:
        return {"refused": torch.tensor("sync_bn=false" in str(error))}
    return {"refused": torch.tensor(False)}


def settings():
    view = {
        "count": 2,
        "size": 8,
        "scale": [1.0, 1.0],
        "ratio": [1.0, 1.0],
        "flip": 0.0,
        "jitter_p": 0.0,
        "grey_p": 0.0,
    }
    return recipe.from_dict(
        {
            "name": "two",
            "method": "simclr",
            "backbone": "resnet18",
            "store_size": 8,
            "epochs": 2,
            "batch_size": 8,
            "lr_per_256": 0.5,
            "weight_decay": 1e-4,
            "precision": "fp32",
            "method_options": {"hidden": 8, "projection": 4},
            "views": [view],
        }
    )


def train(out=None, steps=None, kind=None, changed=None, report_seconds=30.0, **options):
    """The loop itself, without random views, so that the result doesn't depend on the number of processes."""
    images = torch.randint(0, 256, (24, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    method = (kind or partial(SimCLR, hidden=8))(backbone, 6, projection=4, **options)
    asked = iter(range(steps)) if steps and distributed.rank() == 0 else None  # only one process is asked to stop
    stop = (lambda: next(asked, None) is None) if asked is not None else (lambda: False)
    chosen = dataclasses.replace(settings(), **(changed or {}))
    loop = engine.train(
        method, images, chosen, out=out, resume=out is not None, stop=stop, report_seconds=report_seconds
    )
    for _ in loop:
        pass
    return method.state_dict()


def resume(**options):
    out = Path(os.environ["RUN_FOLDER"])
    train(out, steps=4, **options)
    if distributed.world() > 1:
        torch.distributed.barrier()
    return train(out, **options)


def diverge():
    """The second process alone finds it time to look, in the middle of an epoch; the first one writes what was found."""
    out = Path(os.environ["RUN_FOLDER"])
    try:
        train(out, changed={"lr_per_256": 1e30}, report_seconds=0.0 if distributed.rank() else 1e9)
    except engine.Diverged:
        return {"told": torch.tensor((out / "diverged.json").is_file())}
    return {"told": torch.tensor(False)}


def apart():
    """A run folder for each process, as on two machines without a shared disk: one of them finds a checkpoint."""
    out = Path(os.environ["RUN_FOLDER"])
    train(out, steps=4)
    torch.distributed.barrier()
    try:
        train(out if distributed.rank() == 0 else out.with_name("other"))
    except InputError as error:
        return {"refused": torch.tensor("different checkpoints" in str(error))}
    return {"refused": torch.tensor(False)}


class Lost(Stream):
    """Holds what a stream has lost, and nothing else."""

    def __init__(self, row):
        self.lost = {row: (f"{row}.png", "gone")}


def lost():
    images = Lost(distributed.rank())
    return {"rows": torch.tensor(end(images)), "names": torch.tensor(sorted(images.lost))}


QUEUED = {"kind": SwAV, "hidden": 8, "prototypes": 5, "queue": 8}


def train_queue():
    return train(**QUEUED)


def resume_queue():
    return resume(**QUEUED)


if __name__ == "__main__":
    torch.set_num_threads(1)
    distributed.start()
    rank = distributed.rank()
    result = globals()[sys.argv[1]]()
    if rank == 0:
        torch.save(result, sys.argv[2])
    distributed.end()
