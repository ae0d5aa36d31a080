"""Sends a run's log to TensorBoard: `python examples/log_to_tensorboard.py runs/mine`, then `tensorboard --logdir runs/mine`.

Needs `pip install tensorboard`. For Weights & Biases (`pip install wandb`) replace the writer by `wandb.init(name=run.name)` and
`add_scalar` by `wandb.log({name: value}, step=line["step"])`.
"""

import json
import sys
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

run = Path(sys.argv[1])
with SummaryWriter(str(run)) as writer:
    for line in map(json.loads, (run / "log.jsonl").read_text().splitlines()):
        for name, value in (line | line.pop("knn", {})).items():
            writer.add_scalar(name, value, line["step"])
