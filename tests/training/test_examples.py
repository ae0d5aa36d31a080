"""The examples run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent.parent / "examples"

READ = """
import sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1])
events.Reload()
print([(event.step, event.value) for event in events.Scalars(sys.argv[2])])
"""


def test_the_log_goes_to_tensorboard(tmp_path):
    pytest.importorskip("tensorboard", reason="the example needs pip install tensorboard")
    lines = [{"step": 4, "loss": 2.0, "done": False}, {"step": 8, "loss": 1.5, "done": True, "knn": {"k=20": 0.25}}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def python(*arguments):
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout.strip()

    python(str(EXAMPLES / "log_to_tensorboard.py"), str(tmp_path))
    assert python("-c", READ, str(tmp_path), "loss") == "[(4, 2.0), (8, 1.5)]"
    assert python("-c", READ, str(tmp_path), "k=20") == "[(8, 0.25)]"
