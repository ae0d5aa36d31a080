"""The other major version of huggingface_hub: the same tests of push and load, with that client."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HERE = Path(__file__).parent


@pytest.mark.slow
def test_the_other_major_of_the_hubs_client(tmp_path):
    have = importlib.metadata.version("huggingface_hub").partition(".")[0]
    other = {"1": "huggingface-hub>=2,<3", "2": "huggingface-hub>=1.30,<2"}[have]
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--target", tmp_path, other], check=True)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    asked = [sys.executable, "-c", "import huggingface_hub; print(huggingface_hub.__version__)"]
    found = subprocess.run(asked, env=env, capture_output=True, text=True, check=True).stdout
    assert found.partition(".")[0] == {"1": "2", "2": "1"}[have]
    tests = [HERE / "test_repository.py", HERE / "training" / "test_publish.py", HERE / "test_hub.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *tests], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:]
