"""Two processes compute what one does: losses, gradients, statistics, the shuffle, the loop and its resume."""

import os
import subprocess
import sys

import pytest
import torch

from tests.training import two_ranks
from training import norms


@pytest.fixture
def two(tmp_path):
    """Runs a function of two_ranks in two processes, as torchrun would."""

    def run(name):
        out = tmp_path / f"{name}.pt"
        shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        shared |= {"OMP_NUM_THREADS": "1", "RUN_FOLDER": str(tmp_path / "run"), "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-m", "tests.training.two_ranks", name, str(out)]
        processes = [
            subprocess.Popen(command, env=os.environ | shared | {"RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
            for rank in range(2)
        ]
        errors = [process.communicate(timeout=120)[1] for process in processes]
        assert [process.returncode for process in processes] == [0, 0], errors
        return torch.load(out, weights_only=True)

    return run


def free_port():
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.mark.parametrize("name", ["simclr", "swav", "assignments"])
def test_two_processes_equal_one(two, name):
    """The gathered loss, every gradient through DDP, and the statistics of synchronised BN."""
    torch.manual_seed(0)
    alone, together = getattr(two_ranks, name)(), two(name)
    assert alone.keys() == together.keys()
    for key, value in alone.items():
        torch.testing.assert_close(together[key], value, rtol=1e-4, atol=3e-5, msg=key)


def test_mocos_shuffle_is_undone(two):
    alone, together = two_ranks.moco(), two("moco")
    for key in ("keys", "queue", "loss"):
        torch.testing.assert_close(together[key], alone[key], msg=key)


def test_moco_refuses_the_statistics_of_all_processes(two):
    assert two("moco_of_all")["refused"]


def test_the_loop_in_two_processes_equals_one_and_resumes(two):
    alone, together, resumed = two_ranks.train(), two("train"), two("resume")
    for key, value in alone.items():
        torch.testing.assert_close(together[key], value, rtol=1e-3, atol=1e-5, msg=key)
        assert torch.equal(together[key], resumed[key]), key


def test_all_processes_notice_a_divergence_at_the_same_step(two):
    assert two("diverge")["told"]


def test_processes_that_find_different_checkpoints_are_refused(two):
    assert two("apart")["refused"]


def test_what_any_process_has_lost_is_known_to_the_first(two):
    found = two("lost")
    assert found["rows"] == 2 and found["names"].tolist() == [0, 1]


def test_the_queues_of_all_processes_are_resumed(two):
    """The checkpoint is written by one process, and each has embeddings of its own in its queue."""
    whole, resumed = two("train_queue"), two("resume_queue")
    assert whole["queue"].shape == (2, 2, 8, 4)
    assert not torch.equal(whole["queue"][:, 0], whole["queue"][:, 1])
    assert all(torch.equal(value, resumed[key]) for key, value in whole.items())


def test_synchronised_norm_in_one_process_is_plain():
    x = torch.randn(6, 3, 4, 4)
    plain, ours = torch.nn.BatchNorm2d(3), torch.nn.Sequential(torch.nn.BatchNorm2d(3))
    norms.synchronize(ours, "cpu")
    torch.testing.assert_close(ours(x), plain(x))
