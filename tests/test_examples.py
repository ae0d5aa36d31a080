"""The scripts in examples/ run, and do what they say."""

import runpy
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_an_encoder_is_the_backbone_of_a_detector():
    first, last, met = runpy.run_path(str(EXAMPLES / "detection.py"))["main"]()
    assert last < 0.75 * first
    assert met > 0.5  # a detector that has learnt nothing meets no box half
