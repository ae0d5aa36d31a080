"""The comparison with independent implementations; needs lightly."""

import warnings

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # lightly's own
    pytest.importorskip("lightly.loss", reason="lightly is a development dependency: pip install lightly")
    from benchmarks import fidelity


@pytest.mark.parametrize("name", fidelity.METHODS)
def test_losses_gradients_and_weights(name):
    assert all(value < 1e-5 for value in fidelity.compare(name).values())


def test_parts():
    assert all(value < 1e-6 for value in fidelity.parts().values())
