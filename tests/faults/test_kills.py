"""Real processes that are killed, stopped and starved; `torture.py` does the same hundreds of times."""

import os

import pytest

from .trials import TRIALS, Kills, chance_of

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("FARABIO_KILLS", "30"))


@pytest.mark.timeout(1800)  # writing gigabytes takes its time where others write too
@pytest.mark.parametrize("background", [False, True])
def test_killed_while_50_megabytes_are_written(tmp_path, background):
    kills = Kills(tmp_path, chance_of(background), background)
    for _ in range(KILLS // 3 if background else KILLS - KILLS // 3):
        kills.trial()
    assert kills.temporary, "no kill has met a write"
    kills.compare()


@pytest.mark.parametrize("name", TRIALS)
def test_faults(tmp_path, name):
    TRIALS[name](tmp_path, chance_of(0))
