from pathlib import Path

from atp.extend.check import failures


def test_skeleton_keeps_the_protocol():
    assert failures(Path(__file__).with_name("skeleton.py")) == []
