"""Tests of mistakes.py: what the proof looks at tells every mistake of the galleries from what is
right, and it gets its name; what equals no mistake is placed.
"""
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]
import checks
import test_maml as proof
from mistakes import GALLERIES, RIGHT, agree, explain, meta_gallery
from test_maml import DEEP, LINEAR, MODELS, SMALL, Wrong, problem

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def calls():
    """Return what -> where -> (found, expected, case), as the proof and the grader check it."""
    calls = {}

    def record(what, found, expected, /, **case):
        where = str([case.get(key) for key in ("where", "spec", "settings", "l")] + [len(case)])
        calls.setdefault(what, {}).setdefault(where, (found, expected, case))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proof, "check", record)
        proof.test_07_mse()
        proof.test_08_cross_entropy()
        proof.test_09_policy()
        proof.test_10_relu_and_its_derivatives()
        proof.test_10_tanh_and_its_derivatives()
        for spec in MODELS[:6]:
            checks.forward_returns_what_the_way_back_needs(spec)
            checks.backward_returns_delta_and_e_of_every_layer(spec)
            proof.test_10_forward_pass_equals_loops_over_single_numbers(spec)
            proof.test_11_12_gradient_is_the_derivative_of_the_loss(spec)
            proof.test_10R_to_12R_hvp_is_the_derivative_of_the_gradient(spec)
        for K in 3, 0:
            proof.test_01_adapt_takes_K_gradient_steps(K)
            proof.test_02_to_05_meta_gradient_is_the_derivative_of_the_meta_objective(SMALL, K)
            proof.test_06_reptile_is_the_mean_way_to_theta_K(K)
            checks.every_alpha_may_be_complex(K)
        for settings in (0.9, 0.999, 1e-8), (0.5, 0.25, 0.125):
            proof.test_13_adam(settings)
    return calls


# ------------------------------------------------------------------- every mistake gets its name

CODE = {what: what.partition(" of ")[2] or what for what in GALLERIES}   # what has its mistakes


@pytest.mark.parametrize("code", sorted(set(CODE.values())))
def test_every_mistake_is_caught_and_named(calls, code, monkeypatch):
    """Each shows in some case of some quantity of the code that can contain it."""
    names, caught = set(), {RIGHT}
    for what in (what for what in GALLERIES if CODE[what] == code):
        for found, expected, case in calls[what].values():
            answers = GALLERIES[what](**case)
            key = "path" if "path" in case else "whole"   # of what explain compares
            assert agree(case.get(key, found), answers[RIGHT]), "the plain version"
            monkeypatch.setitem(GALLERIES, what, lambda **_: answers)
            for mistake, value in answers.items():
                names.add(mistake)
                if not agree(value, answers[RIGHT]):
                    caught.add(mistake)
                    told = explain(Wrong(what, found, expected, {**case, key: value}))
                    assert told.startswith(what) and mistake in told
            monkeypatch.undo()
    left = {mistake for mistake in names - caught if ".real" not in mistake}   # θ is real there
    assert left <= {"σ′(0) is 0 here, not 1"}   # of a z_l, which is never 0


SAME_RATES = "first rate", "last rate", "the rates from", "α_{k"
HIDDEN = {  # what makes no difference in which settings, by some words of it
    ("∂J/∂θ", DEEP, "tanh", 5): (),
    ("∂J/∂θ", DEEP, "relu", 5): (),
    ("∂J/∂θ", DEEP, "tanh", 1): (
        *SAME_RATES, "the Hessian always", "the Hessians from", "k from 0 up", "always g(θ_0)",
        "in place of step k", "every step starts", "one inner step only", "by v_K", "v_K in place"),
    ("∂J/∂θ", LINEAR, "relu", 5): (
        "the Hessian always", "the Hessians from", "the Hessian of step k", "changed in place"),
    ("H r", DEEP, "tanh", None): (),
    ("H r", DEEP, "relu", None): ("term of σ″", "front of σ″", "behind σ″", "∘ σ″ ∘"),
    ("H r", LINEAR, "relu", None): (
        "l > 0", "R{A_l} M_l", "R{a_{l+1}}", "[R{a_l} 1]", "R{A_l}ᵀ", "Gauss-Newton", "the layers"),
}


@pytest.mark.parametrize("setting", HIDDEN, ids=str)
def test_some_settings_hide_mistakes(setting):
    """Hence the proof's: at K = 1, with relu alone or with a linear model, real mistakes pass."""
    what, sizes, activation, K = setting
    model, theta, tasks, rng = problem((sizes, activation, "mse"))
    case = dict(spec=(sizes, activation, "mse"), model=model, theta=theta, tasks=tasks, K=K,
                x=tasks[0], y=tasks[1], direction=rng.standard_normal((4, model.n_params)))
    answers = GALLERIES[what](alpha=rng.uniform(0.05, 0.15, (K or 1, model.n_params)), **case)
    for mistake, value in answers.items():
        words = (RIGHT, ".real", *HIDDEN[setting])
        assert agree(value, answers[RIGHT]) == any(word in mistake for word in words), mistake


def test_of_mistakes_that_agree_all_are_named():
    """At K = 1 θ is θ_{K−1}."""
    model, theta, tasks, rng = problem(SMALL)
    answers = meta_gallery(model, theta, tasks, 0.1, 1)
    one, other = (f"the query gradient taken at {at}, not at θ_K, (3)" for at in ("θ", "θ_{K−1}"))
    told = explain(Wrong("∂J/∂θ", answers[one], answers[RIGHT], dict(
        model=model, theta=theta, tasks=tasks, alpha=0.1, K=1)))
    assert told == f"∂J/∂θ: {one}, or {other}"


# ------------------------------------------------------------------------- what is off is placed

def layer_1(g, weights, bias):
    """Return g (..., 39) of SMALL with the weights and the bias of layer 1 times these numbers."""
    return g * np.repeat([1, weights, bias], [18, 18, 3])


@pytest.mark.parametrize("change, words", (
    (lambda g: None, ": nothing is returned"),
    (lambda g: g[0], ": expected shape (4, 39), got (39,), a row for each task"),
    (lambda g: g.T, ": expected shape (4, 39), got (39, 4): transposed?"),
    (lambda g: g[..., :3], ": expected shape (4, 39), got (4, 3)"),
    (lambda g: np.tile(g, (4, 1, 1)), ": expected shape (4, 39), got (4, 4, 39): the mean over"),
    (lambda g: layer_1(g, np.nan, 1), ": not finite, or not filled in: layer 1 weights"),
    (lambda g: g * np.float32(1 + 1e-6), ": nearly right, but off by 1e-06 of the largest value"),
    (lambda g: -0.7 * g, ": -0.7 times what it should be"),
    (lambda g: g / 8, ": 0.125 times what it should be (there are 8 examples)"),
    (lambda g: layer_1(g, 0, 0.2), ": layer 1 weights 0 times; layer 1 bias 0.2 times; right"),
    (lambda g: g + 1, ": off in every layer, by up to 1e+00 of the largest value")))
def test_a_wrong_gradient_is_placed(change, words):
    model, theta, tasks, _ = problem(SMALL)
    g = model.linearize(theta, *tasks[:2])[1]
    case = dict(spec=SMALL, model=model, theta=theta, x=tasks[0], y=tasks[1])
    assert f"g of 2-6-3, tanh, mse{words}" in explain(Wrong("g", change(g), g, case))


FORWARD = {"f": np.ones((5, 2)), "name": "mse"}


@pytest.mark.parametrize("what, found, expected, case, end", (
    ("J", 2.0, 1.5, {}, "J: expected 1.5, got 2."),
    ("L", 1.0, np.ones(3), {}, "expected shape (3,), got ()"),
    ("θ_0", np.ones((4, 3)), np.ones(3), {"K": 0, "theta": np.ones(3)}, "theta, in its shape"),
    ("δ", np.ones(3), np.full(3, 0.2), FORWARD, "5 times what it should be (there are 5 examples)"),
    ("δ", np.ones(3), np.full(3, 0.5), FORWARD, "2 times what it should be"),
    ("σ", np.arange(5.0), np.zeros(5), {"z": np.arange(5)}, "at z = 4: expected 0, got 4"),
    ("θ", np.ones(5) + 0j, np.ones(5) + 1j, {}, "a conjugate or a real array in it?"),
    ("θ", np.ones(1), np.zeros(1), {"settings": (0.9, 0.99, 1), "where": ", t = 1"},
     "θ with β₁ = 0.9, β₂ = 0.99, ε = 1, t = 1: expected [0.], got [1.]"),
    ("L", np.ones(4), np.arange(4.0), {"where": " for logits of ±1000"}, "a p of 0 has no log"),
    ("J by groups of tasks", 1.0, 2.0, {"means": [1, 2]}, "by the number of all"),
    ("J of complex θ", 1.0, 0.0, {"direction": np.ones(3)},
     "θ: has no imaginary part: .real, abs, a norm or a real array in it?")))
def test_what_has_no_gallery_is_placed(what, found, expected, case, end):
    assert explain(Wrong(what, found, expected, case)).endswith(end)


@pytest.mark.parametrize("what", ("θ_K", "Reptile's direction"))
def test_what_is_near_theta_is_placed_by_its_distance(calls, what):
    _, expected, case = next(iter(calls[what].values()))
    start = case.get("scale", case["theta"])
    told = explain(Wrong(what, start + 0.7 * (expected - start), expected, case))
    assert told.endswith("0.7 times what it should be")


def test_a_derivative_along_a_direction_is_placed_as_a_whole(calls):
    found, expected, case = next(iter(calls["g"].values()))
    whole = case["whole"].copy()
    case["model"].unpack(whole)[2][0][...] *= -1
    told = explain(Wrong("g", 0 * found, expected, {**case, "whole": whole}))
    assert told.endswith("mse: layer 2 weights -1 times; right elsewhere")
    found, expected, case = next(iter(calls["H r"].values()))
    assert explain(Wrong("H r", found + 1, expected, case)).endswith("see (10R) and (11R)")


@pytest.mark.parametrize("factor, words", (
    (0, "has no imaginary part"), (1 + 1e-7, "is not exact"), (-1, "is wrong here")))
@pytest.mark.parametrize("what, primal", (
    ("δ of mse", "L"), ("R{δ} of policy", "δ"), ("g", "L"), ("H r", "g"), ("∂J/∂θ", "J")))
def test_what_a_right_derivative_is_the_derivative_of_is_named(calls, what, primal, factor, words):
    found, expected, case = list(calls[what].values())[-1]
    told = explain(Wrong(what, found, factor * expected, case))
    assert f": right, but {primal}, of which it is the derivative, {words}" in told
