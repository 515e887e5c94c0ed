"""Commands that SIGKILL ends, given again, end as if nothing had been (also: `tools/kills.py`)."""

from __future__ import annotations

import random

import pytest

from tests.support.kills import COMMANDS, Tally, Victim, cannot_trace

KILLS = 100


@pytest.fixture
def victim(request, env, tmp_path):
    return Victim(request.param, tmp_path, env)


@pytest.mark.skipif(bool(cannot_trace()), reason=cannot_trace() or "traces")
@pytest.mark.parametrize("victim", ["construct", "fingerprint"], indirect=True)
def test_a_kill_as_a_file_gets_its_name(victim):
    tally = Tally()
    victim.end(tally, [lambda place: victim.kill_at(place, "rename", 2)])
    assert (tally.kills, tally.faults) == (1, [])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("victim", COMMANDS, indirect=True)
def test_kills_at_any_moment_and_call(victim):
    chance, tally = random.Random(victim.command), Tally()
    while tally.kills < KILLS // len(COMMANDS):
        victim.round(tally, chance, trace=not cannot_trace())
    assert tally.faults == []
