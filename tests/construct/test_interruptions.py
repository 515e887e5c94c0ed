"""A construction that is stopped at any moment: no half checkpoint, and the same one in the end."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time

import pytest

from svdjax.checkpoint import open_checkpoint
from svdjax.checkpoint import rewrite as module
from svdjax.checkpoint.rewrite import CheckpointRewrite
from tests.construct import harness
from tests.support.kills import cannot_trace
from tests.sweep.test_refusals import refused

KILLS = 6


@pytest.fixture(scope="module")
def job(square, tmp_path_factory):
    """Flags of a construction in many small groups, the undisturbed result, and its groups."""
    base, post, _ = square
    out = tmp_path_factory.mktemp("calm") / "out"
    flags = [
        *(f"--base={base}", f"--post={post}", "--construction=eq9"),
        *("--group_bytes=1", "--devices=1"),
    ]
    done = harness.construct(*flags, f"--out={out}")
    assert done.status == 0, done.err
    return flags, harness.listing(out), done.computed


@pytest.fixture(scope="module")
def interrupted(job, env, tmp_path_factory):
    """A process that SIGINT ended halfway: its folder, its end, and what another said meanwhile."""
    flags, _, _ = job
    folder = tmp_path_factory.mktemp("interrupted")
    process = harness.start(env, *flags, f"--out={folder / 'out'}")
    while process.poll() is None and written(folder / ".out.svdjax") < 3:
        time.sleep(0.001)
    process.send_signal(signal.SIGSTOP)
    try:
        second = harness.construct(*flags, f"--out={folder / 'out'}")
    finally:
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
    return folder, harness.harness.finish(process), second


@pytest.fixture(scope="module")
def half(job, tmp_path_factory):
    """A folder in which a construction was stopped halfway, and how many groups are left."""
    flags, _, groups = job
    folder = tmp_path_factory.mktemp("half")
    done = harness.construct(
        *flags, f"--out={folder / 'out'}", stop=lambda _: written(folder / ".out.svdjax") >= 5
    )
    assert done.status == 143, done.err
    return folder, groups - done.computed


def same(out, wanted) -> None:
    """The same files with the same bytes."""
    assert harness.listing(out) == wanted


@pytest.mark.slow
def test_killed_at_any_moment_it_is_completed_by_the_same_command(models, env, tmp_path):
    base, post, _ = models("llama")
    flags = [f"--base={base}", f"--post={post}", "--construction=eq9", "--group_bytes=1"]
    for _ in ("warm", "calm"):
        shutil.rmtree(tmp_path / "calm", ignore_errors=True)
        begin = time.monotonic()
        done = harness.harness.finish(harness.start(env, *flags, f"--out={tmp_path / 'calm'}"))
        assert done.status == 0, done.err
    seconds, wanted = time.monotonic() - begin, harness.listing(tmp_path / "calm")
    shutil.rmtree(tmp_path / "calm")
    chance = random.Random(int(os.environ.get("SVDJAX_TEST_SEED", "7")))
    out, killed, rounds = tmp_path / "out", 0, 0
    folder = tmp_path / ".out.svdjax"
    while killed < KILLS:
        process = harness.start(env, *flags, f"--out={out}")
        if killed % 2:
            time.sleep(chance.uniform(0, seconds))
        else:
            # In the middle of the work, which starting up is most of the time.
            goal = chance.randint(1, 40)
            while process.poll() is None and written(folder) < goal:
                time.sleep(0.001)
        process.kill()
        done = harness.finish_quietly(process)
        if done == 0:
            same(out, wanted)
            shutil.rmtree(out)
            rounds += 1
            assert rounds < 20
            continue
        assert done == -signal.SIGKILL
        killed += 1
        # A directory of that name is there only when it is whole.
        if out.exists():
            same(out, wanted)
            shutil.rmtree(out)
    last = harness.harness.finish(harness.start(env, *flags, f"--out={out}"))
    assert last.status == 0, last.err
    same(out, wanted)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def written(folder) -> int:
    """How many matrices the journal holds."""
    with contextlib.suppress(OSError, ValueError):
        return len(json.loads((folder / "journal.json").read_text())["written"])
    return 0


def test_a_signal_ends_cleanly_and_nothing_is_done_twice(interrupted, job, tmp_path):
    folder, done, _ = interrupted
    flags, wanted, groups = job
    assert done.status == 128 + signal.SIGINT, done.err
    assert "same command goes on" in done.err.splitlines()[-1]
    assert not (folder / "out").exists()
    out = shutil.copytree(folder, tmp_path / "mine") / "out"
    again = harness.construct(*flags, f"--out={out}")
    assert again.status == 0, again.err
    assert "continuing" in again.err
    assert done.computed + again.computed == groups
    same(out, wanted)


def test_the_second_of_two_at_once_is_refused(interrupted):
    # That it disturbed nothing, the test above has seen.
    refused(interrupted[2], "another process is writing it")


@pytest.fixture
def halfway(half, job, tmp_path):
    """A construction that was stopped: its flags, where its files lie, and its result."""
    flags, wanted, _ = job
    folder, left = half
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    return [*flags, f"--out={tmp_path / 'out'}"], tmp_path / ".out.svdjax", wanted, left


def test_damaged_tensors_are_built_again(halfway, tmp_path):
    flags, folder, wanted, left = halfway
    journal = json.loads((folder / "journal.json").read_text())
    name = sorted(journal["written"])[0]
    for file in (folder / "files").glob("*.safetensors"):
        content = bytearray(file.read_bytes())
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        if name in header:
            content[8 + length + header[name]["data_offsets"][0]] ^= 1
            file.write_bytes(content)
    again = harness.construct(*flags)
    assert again.status == 0, again.err
    assert again.computed == left + 1
    same(tmp_path / "out", wanted)


@pytest.mark.parametrize("content", [b"{", b'{"written": {}, "copied": 3}'])
def test_a_torn_journal_is_started_over(content, halfway, tmp_path):
    flags, folder, wanted, _ = halfway
    (folder / "journal.json").write_bytes(content)
    again = harness.construct(*flags)
    assert again.status == 0, again.err
    assert "continuing" not in again.err
    same(tmp_path / "out", wanted)


def test_entries_that_are_no_records_are_built_again(halfway, tmp_path):
    flags, folder, wanted, left = halfway
    journal = json.loads((folder / "journal.json").read_text())
    first = sorted(journal["written"])[0]
    journal["written"][first]["info"] = [None]
    (folder / "journal.json").write_text(json.dumps(journal))
    again = harness.construct(*flags)
    assert again.status == 0, again.err
    assert again.computed == left + 1
    same(tmp_path / "out", wanted)


def test_another_construction_starts_over(halfway, tmp_path):
    flags, _, wanted, _ = halfway
    other = [flag for flag in flags if "eq9" not in flag]
    again = harness.construct(*other, "--construction=eq14")
    assert again.status == 0, again.err
    assert "continuing" not in again.err
    assert dict(harness.listing(tmp_path / "out")) != dict(wanted)


def test_what_another_job_kept_is_not_used(halfway, square, tmp_path):
    flags, folder, _, _ = halfway
    assert list(folder.glob("spectra-*.npz"))
    _, _, other = square
    mine = [f"--post={other}" if flag.startswith("--post") else flag for flag in flags]
    again = harness.construct(*mine)
    assert again.status == 0, again.err
    fresh = [flag for flag in mine if not flag.startswith("--out")]
    done = harness.construct(*fresh, f"--out={tmp_path / 'fresh'}")
    assert done.status == 0, done.err
    assert harness.bits(tmp_path / "out") == harness.bits(tmp_path / "fresh")


def test_killed_after_the_last_rename_it_is_done(job, tmp_path, monkeypatch):
    flags, wanted, _ = job
    out = tmp_path / "out"
    folder = tmp_path / ".out.svdjax"
    kept = []
    publish = module.publish

    def spy(*arguments):
        kept.append((folder / "journal.json").read_bytes())
        publish(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, "publish", spy)
        done = harness.construct(*flags, f"--out={out}")
    assert done.status == 0, done.err
    folder.mkdir()
    (folder / "journal.json").write_bytes(kept[0])
    again = harness.construct(*flags, f"--out={out}")
    assert again.status == 0, again.err
    assert "had been put in its place" in again.err
    same(out, wanted)
    assert not folder.exists()


def test_a_full_disk_is_one_line_and_leaves_nothing(job, tmp_path):
    flags, _, _ = job
    with harness.largest_file(10_000):
        done = harness.construct(*flags, f"--out={tmp_path / 'out'}")
    refused(done, str(tmp_path / "out"), "cannot be written", "make room")
    assert list(tmp_path.iterdir()) == []


def test_a_really_full_disk(job, tmp_path):
    flags, _, _ = job
    place = tmp_path / "small"
    place.mkdir()
    if os.system(f"mount -t tmpfs -o size=16k tmpfs {place} 2>/dev/null"):
        pytest.skip("needs the right to mount a small file system")
    try:
        refused(harness.construct(*flags, f"--out={place / 'out'}"), "No space left", "make room")
        assert list(place.iterdir()) == []
    finally:
        assert os.system(f"umount {place}") == 0


def test_what_is_replaced_stays_until_the_new_one_is_whole(models, tmp_path):
    base, post, _ = models("llama")
    out = tmp_path / "out"
    shutil.copytree(base, out)
    before = harness.listing(out)
    with open_checkpoint(post) as source:
        name = source.names[0]

        def fail() -> None:
            with CheckpointRewrite(
                source, out, replaced=[name], identity=0, overwrite=True
            ) as rewrite:
                list(rewrite.copy())
                assert harness.listing(out) == before
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert harness.listing(tmp_path) == [("out", None), *((f"out/{n}", c) for n, c in before)]
        with CheckpointRewrite(source, out, replaced=[name], identity=0, overwrite=True) as rewrite:
            list(rewrite.copy())
            rewrite.write({name: source.read(name)}, {name: 1})
            rewrite.finish("card")
    assert harness.bits(out) == harness.bits(post)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_given_again_when_finished_there_is_nothing_to_do(job, tmp_path):
    flags, wanted, _ = job
    out = tmp_path / "out"
    done = harness.construct(*flags, f"--out={out}")
    again = harness.construct(*flags, f"--out={out}")
    assert again.status == 0, again.err
    assert again.out.startswith("nothing to do: already finished")
    assert again.computed == 0
    # What it did is told once more.
    assert again.out.splitlines()[1:] == done.out.splitlines()[1:]
    same(out, wanted)
    card = (out / "README.md").read_text("utf-8")
    (out / "README.md").write_text(re.sub(r'"layers": \d+', '"layers": "x"', card), "utf-8")
    altered = harness.construct(*flags, f"--out={out}")
    assert altered.status == 0, altered.err
    assert altered.out.startswith("nothing to do: already finished")
    (out / "README.md").write_text(card, "utf-8")
    over = harness.construct(*flags, f"--out={out}", "--overwrite")
    assert over.status == 0, over.err
    assert over.computed == done.computed
    same(out, wanted)
    refused(harness.construct(*flags, "--alpha=0.5", f"--out={out}"), "not empty")
    same(out, wanted)
    with (out / "config.json").open("a") as file:
        file.write(" ")
    refused(harness.construct(*flags, f"--out={out}"), "not empty")


def test_what_a_kill_left_of_cleaning_up_goes(job, tmp_path):
    flags, wanted, _ = job
    out, folder = tmp_path / "out", tmp_path / ".out.svdjax"
    assert harness.construct(*flags, f"--out={out}").status == 0
    folder.mkdir()
    (folder / "spectra-0-0-1.npz").write_bytes(b"")
    again = harness.construct(*flags, f"--out={out}")
    assert again.status == 0, again.err
    same(out, wanted)
    assert not folder.exists()


def test_what_a_kill_left_among_the_files_is_not_published(halfway, tmp_path):
    flags, folder, wanted, _ = halfway
    (folder / "files" / ".adapter.x1y2").mkdir()
    (folder / "files" / "tokenizer.json").write_text("half")
    assert harness.construct(*flags).status == 0
    same(tmp_path / "out", wanted)


@pytest.mark.skipif(bool(cannot_trace()), reason=cannot_trace() or "traces")
@pytest.mark.parametrize(
    ("inject", "words"),
    [
        ("fallocate:error=EOPNOTSUPP", ""),
        ("fsync:error=EINVAL", "cannot sync"),
        ("rename:error=ETIMEDOUT:when=2+", "timed out"),
        ("rename:error=ESTALE:when=2+", "tale file handle"),
    ],
)
def test_file_systems_that_answer_otherwise(inject, words, job, env, tmp_path):
    flags, wanted, _ = job
    call = inject.partition(":")[0]
    trace = ["strace", "-f", "-qq", "-o", os.devnull, "-e", f"trace={call}"]
    process = subprocess.Popen(
        [*trace, "-e", f"inject={inject}", *harness.command(*flags, f"--out={tmp_path / 'out'}")],
        cwd=harness.harness.ROOT,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    done = harness.harness.finish(process)
    assert done.err.count(words) == 1 or not words
    if call == "rename":
        refused(done, words)
        assert list(tmp_path.iterdir()) == []
    else:
        assert done.status == 0, done.err
        same(tmp_path / "out", wanted)
