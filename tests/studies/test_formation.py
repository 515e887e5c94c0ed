"""Formation of singular components: measures against numpy, the nulls, the study in small."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from svdjax import reference
from tools.reference.family import read_model
from tools.studies import formation, formation_courses, formation_measures, formation_nulls, rl
from tools.studies.formation_measures import BANDS, bands, settled

SHAPE = 60, 80


@pytest.fixture(scope="module")
def path() -> np.ndarray:
    """Three points of two matrices, the last two close to each other."""
    rng = np.random.default_rng(3)
    points = rng.standard_normal((3, 2, *SHAPE))
    points[1] = points[2] + 0.05 * points[1]
    return points


def _svd(w: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    u, s, vt = np.linalg.svd(w, full_matrices=False)
    return u, s, vt.T


def _last(factors):
    return type(factors)(*(x[-1] for x in factors))


def test_bands_cover_every_component_once():
    for r in (60, 64, 128):
        parts = dict(zip(BANDS, bands(r), strict=True))
        whole = [*parts.values()][:-2]
        assert [i for part in whole for i in range(part.start, part.stop)] == list(range(r))
        assert parts["top tenth"] == slice(0, r // 10)
        assert parts["lower half"] == slice(r // 2, r)
    with pytest.raises(ValueError, match="30 components are too few"):
        bands(30)


def test_overlaps_are_those_of_numpy(path: np.ndarray):
    factors = formation_measures.factors_of(path)
    found = formation_measures.against(_last(factors), factors)
    for t, layer in np.ndindex(3, 2):
        (a, s, b), (u, x, v) = _svd(path[-1, layer]), _svd(path[t, layer])
        for k, part in enumerate(bands(60)):
            size = part.stop - part.start
            cosines = np.array(
                [[abs(a[:, j] @ u[:, j]), abs(b[:, j] @ v[:, j])] for j in range(60)[part]]
            )
            held = [
                np.linalg.norm(p[:, part].T @ q[:, part]) ** 2 / size for p, q in ((a, u), (b, v))
            ]
            scaled = [(h - size / n) / (1 - size / n) for h, n in zip(held, SHAPE, strict=True)]
            logs = np.log(x[part] / s[part])
            expected = {
                "vector": cosines.mean(),
                "subspace": np.mean(scaled),
                "log_ratio": logs.mean(),
                "log_apart": np.abs(logs).mean(),
                "rotation": np.sqrt(np.mean(1 - np.minimum(cosines, 1) ** 2)),
            }
            for key, value in expected.items():
                # Two SVDs in float64; a square root makes 1e-8 of what 1 - cos^2 is off by.
                np.testing.assert_allclose(found[key][t, layer, k], value, rtol=1e-8, atol=3e-7)


def test_content_and_progress_are_their_formulas(path: np.ndarray):
    factors = formation_measures.factors_of(path)
    content = formation_measures.content(_last(factors), path)
    first = type(factors)(*(x[0] for x in factors))
    progress = formation_measures.progress(first, path - path[:1])
    for t, layer in np.ndindex(3, 2):
        (a, s, b), (u, _, v) = _svd(path[-1, layer]), _svd(path[0, layer])
        change, last = (path[i, layer] - path[0, layer] for i in (t, -1))
        for k, part in enumerate(bands(60)):
            target = a[:, part] * s[part] @ b[:, part].T
            expected = np.sum(path[t, layer] * target) / np.sum(target**2)
            np.testing.assert_allclose(content[t, layer, k], expected, atol=1e-10)
            p, q = u[:, part] @ u[:, part].T, v[:, part] @ v[:, part].T
            along = np.sum((p @ change) * (p @ last)) + np.sum((change @ q) * (last @ q))
            whole = np.sum((p @ last) ** 2) + np.sum((last @ q) ** 2)
            np.testing.assert_allclose(progress[t, layer, k], along / whole, atol=1e-10)


def test_settling_is_the_last_crossing():
    steps = np.array([0.0, 1, 2, 4])
    columns = [
        [0.0, 1.0, 0.4, 0.8],
        [1.0, 1.0, 1.0, 1.0],
        [0.9, 0.9, 1.0, 0.3],
        [0.0, 0.0, 0.0, 1.0],
    ]
    found = settled(steps, np.array(columns).T, 0.5)
    # From 0.4 to 0.8 a quarter of the way from 2 to 4; never below; below at the end; late.
    np.testing.assert_allclose(found, [2.5, 0, np.nan, 3])


def test_spectra_of_known_shape():
    found = formation_measures.shape_of(np.array([[2.0, 2, 2, 2], [3, 0, 0, 0]]))
    np.testing.assert_allclose(found["effective_rank"], [4, 1])
    np.testing.assert_allclose(found["participation"], [4, 1])
    np.testing.assert_allclose(found["top"], [2, 3])
    np.testing.assert_allclose(found["norm"], [4, 3])


def test_nulls_have_the_sizes_of_the_course(path: np.ndarray):
    def norm(x: np.ndarray) -> np.ndarray:
        return np.sqrt(np.sum(x**2, axis=(-2, -1)))

    made = {
        kind: formation_nulls.path_of(kind, path, np.random.default_rng(1))
        for kind in formation_nulls.KINDS
    }
    np.testing.assert_array_equal(made["training"], path)
    for kind in ("line", "noise"):
        np.testing.assert_allclose(made[kind][-1], path[-1])
        np.testing.assert_allclose(norm(made[kind] - path[-1]), norm(path - path[-1]), atol=1e-12)
    np.testing.assert_allclose(made["line"][0], path[0])
    np.testing.assert_array_equal(made["walk"][0], path[0])
    np.testing.assert_allclose(norm(np.diff(made["walk"], axis=0)), norm(np.diff(path, axis=0)))
    with pytest.raises(ValueError, match="tide"):
        formation_nulls.path_of("tide", path, np.random.default_rng(1))


def test_no_null_forms_the_content_of_one_band_first():
    rng = np.random.default_rng(5)
    course = 0.3 * rng.standard_normal((1, 12, *SHAPE))
    steps = rng.standard_normal((4, *course.shape[1:]))
    course = np.concatenate([course, course + np.cumsum(steps, 0)])
    line = formation_nulls.path_of("line", course, rng)
    last = _last(formation_measures.factors_of(line))
    content = formation_measures.content(last, line)
    left = np.linalg.norm(course - course[-1:], axis=(-2, -1))
    share = (1 - left / left[:1])[..., None]
    np.testing.assert_allclose(content, content[:1] + share * (1 - content[:1]), atol=1e-10)
    walk = formation_nulls.path_of("walk", course, rng)
    content = formation_measures.content(_last(formation_measures.factors_of(walk)), walk)
    # The squared sizes so far over all: 0.09 and four times 1. The mean of twelve matrices of a
    # single component is off by 0.5 / sigma_1 / sqrt(12), about 0.005; of the least ones by more.
    for t in range(5):
        expected = (0.09 + t) / 4.09
        np.testing.assert_allclose(content[t].mean(0)[:5], expected, atol=0.03)


def test_kept_steps():
    plan = formation.Plan(100, (1,), (0, 1, 5, 20), 30)
    assert plan.points() == (0, 1, 5, 20, 30, 60, 90, 100)
    assert formation.FULL.courses["base"].points()[-2:] == (580, 600)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("formation")
    with jax.numpy_dtype_promotion("standard"):  # optax mixes Python's numbers in
        return formation.STUDY.perform(folder / "out", folder / "work", quick=True), folder


def test_the_study_in_small(record):
    study, folder = record
    figures = study["figures"]
    assert json.loads((folder / "out/formation.json").read_text("utf-8")) == study
    assert figures["repeats"] is True  # `train`, and the loop that keeps many steps
    assert figures["shipped"] is None
    assert figures["across"]["vector"]["lower half"] < 0.2  # two seeds: vectors by chance
    whole = figures["whole"]
    assert whole["steps"] == [0, 1, 2, 4, 6, 8]
    for name in ("formation.svg", "formation_post.svg"):
        assert (folder / "out" / name).read_text("utf-8").startswith("<?xml")
    # Matrices are themselves at the end, and at Marchenko and Pastur's edge at the start.
    for kind in ("training", "line"):
        for band in formation.PLOTTED:
            assert whole["series"][kind]["vector"][band][-1] == 1
            assert whole["series"][kind]["formed"][band][-1] == 1
    assert 0.9 < whole["shape"]["over_edge"][0] < 1.1
    # The line forms all contents alike.
    assert abs(figures["base"]["order"]["formed_50"]["line"]["mean"]) < 1e-4
    assert set(figures["instruct"]["settle"]["training"]) >= {"rotation_half", "change_half"}
    whole_post = figures["whole_post"]["instruct"]
    assert whole_post["shipped"] is None  # another recipe
    assert set(whole_post["order"]["change_half"]) == {"training", "line", "walk"}
    for band in BANDS:
        half = figures["instruct"]["settle"]["training"]["change_half"][band]["mean"]
        assert 0 < half < 1


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory):
    """A course of `rl` as the quick run of its study trains it, whose programs it shares."""
    folder = tmp_path_factory.mktemp("policy")
    plan = formation.PolicyPlan(rl.QUICK.training, (1,), 1)
    (course,) = formation.policy_courses(plan, str(folder)).values()
    # As commands compute; optax mixes dtypes.
    with (
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
        jax.enable_x64(False),
    ):
        return course, formation_courses.run(course)


def test_a_policy_is_followed_from_the_end_of_its_start(policy):
    course, result = policy
    assert result["steps"] == [0, 1, 2]
    assert 0 < result["rewards"][0] < 1
    path = formation_courses.read(course)["up_proj"]
    parent = read_model(reference.path("instruct"))[0]
    before = formation_courses.matrices_of(parent)["up_proj"]
    # Adam moves the entry that moves most by about the rate: that of the start is at its peak at
    # once, the policy's warms up from 0.
    moved = [np.abs(one - other).max() for one, other in zip(path, [before, *path], strict=False)]
    rates = [course.recipe.start.peak, 0, course.recipe.peak]
    np.testing.assert_allclose(moved, rates, rtol=0.01)


def test_a_whole_change_is_held_against_the_shipped_one():
    recipe = formation_courses.recipe_of("instruct", 22, 2000)
    course = formation_courses.Course("", "", recipe)
    first, shipped = (
        formation_courses.matrices_of(read_model(reference.path(name))[0])
        for name in ("base", "instruct")
    )
    half = {name: (first[name] + shipped[name]) / 2 for name in first}
    points = {0: first, 2000: half}
    found = formation_courses.change_from_shipped(course, points)
    # Halved, and rounded to float32 once.
    assert found == pytest.approx({"cosine": 1, "size": 0.5}, abs=1e-5)
    other = formation_courses.Course("", "", formation_courses.recipe_of("instruct", 22, 300))
    assert formation_courses.change_from_shipped(other, points) is None
