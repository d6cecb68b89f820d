"""What only a grader asks of a body, beside the proof: that what it hands on to other functions of
the module is right, and that what is to be derived was derived. judge.py runs these checks.
"""
import numpy as np

import maml as reference
import test_maml as proof
from test_maml import SMALL, alphas, every_K, every_model, lock


def functions_return_three_things():
    f, labels = np.ones((2, 3)), np.ones(2, int)
    for name in "relu", "tanh":
        check_parts(name, getattr(proof.maml, name)(f), "σ(z)", "σ′(z)", "σ″(z)")
    for name, y in ("mse", f), ("cross_entropy", labels), ("policy", np.ones((2, 4))):
        check_parts(name, getattr(proof.maml, name)(f, y), "L", "δ", "the function R{f} -> R{δ}")


def check_parts(name, answer, *parts):
    expected = f"{name}: expected {len(parts)} things, {', '.join(parts)}"
    assert isinstance(answer, (tuple, list)), f"{expected}, got {type(answer).__name__}"
    assert len(answer) == len(parts), f"{expected}, got {len(answer)}"


@every_model
def forward_returns_what_the_way_back_needs(spec):
    model, theta, (x, y, _, _), _ = proof.problem(spec)
    M, right = model._matrices(theta), reference.MLP(*spec)
    case = dict(spec=spec, model=model, theta=theta, x=x, y=y)
    found, expected = model._forward(M, x), right._forward(M, x)
    check_parts("_forward", found, "f", "all A_l", "all σ′(z_l)", "all σ″(z_l)")
    check_lists(("A_l", "σ′(z_l)", "σ″(z_l)"), found[1:], expected[1:], range(len(M)), case)


@every_model
def backward_returns_delta_and_e_of_every_layer(spec):
    """All that is passed in is locked, since hvp needs it later."""
    model, theta, (x, y, _, _), _ = proof.problem(spec)
    M, right = model._matrices(theta), reference.MLP(*spec)
    case = dict(spec=spec, model=model, theta=theta, x=x, y=y)
    f, A, slope, _ = right._forward(M, x)
    delta_last = reference.LOSSES[spec[2]](f, y)[1]
    lock(delta_last, *A, *slope)
    found, expected = (m._backward(M, A, slope, delta_last) for m in (model, right))
    check_parts("_backward", found, "g", "all δ_l", "all e_l")
    check_lists(("δ_l", "e_l"), found[1:], expected[1:], range(len(M))[::-1], case)


def check_lists(names, found, expected, layers, case):
    """Check lists with an entry for each layer; None stands for what is 0 or not needed."""
    for l in layers:
        for name, own, right in zip(names, found, expected):
            if l < len(right) and right[l] is not None:
                entry = own[l] if l < len(own) else None
                what, where = f"{name} as returned", f" for l = {l}"
                proof.check(what, entry, right[l], where=where, l=l, **case)


@every_model
def hvp_gives_the_same_the_second_time(spec):
    model, theta, (x, y, _, _), rng = proof.problem(spec)
    hvp, r = model.linearize(theta, x, y)[2], rng.standard_normal((4, model.n_params))
    lock(r)
    first, again = np.array(hvp(r)), hvp(r)
    assert first.dtype.kind not in "fc" or np.array_equal(first, again, equal_nan=True), (
        "H r comes out differently the second time: what hvp keeps is changed in place")


@every_model
def hvp_holds_at_complex_parameters(spec):
    """Derived line by line, H r holds for complex θ too. A complex step through g does not."""
    model, theta, (x, y, _, _), rng = proof.problem(spec)
    theta = theta + 0.1j * rng.standard_normal(model.n_params)
    r = rng.standard_normal((4, model.n_params))
    found, expected = (m.linearize(theta, x, y)[2](r) for m in (model, reference.MLP(*spec)))
    assert proof.error(found, expected) < 1e-12, (
        "H r is right for real θ but not for complex θ: a complex step through g, or a real array "
        "in it? (10R) to (12R) are to be derived")


def refuse_other_passes_while_hvp_runs(cls):
    """Let linearize and _forward of a class MLP raise when its hvp calls them."""
    derived, forward, running = cls.linearize, cls._forward, []

    def refuse(name):
        assert not running, f"hvp may not call {name}: (10R) to (12R) are to be derived"

    def linearize(self, theta, x, y):
        refuse("linearize")
        loss, grad, hvp = derived(self, theta, x, y)

        def watched(r):
            running.append(r)
            try:
                return hvp(r)
            finally:
                running.pop()

        return loss, grad, watched

    def _forward(self, M, x):
        refuse("_forward")
        return forward(self, M, x)

    cls.linearize, cls._forward = linearize, _forward


@every_K
def every_alpha_may_be_complex(K):
    """θ is real, so that who answers in θ's dtype loses the imaginary part."""
    model, theta, tasks, rng = proof.problem(SMALL)
    x, y, _, _ = tasks
    for form in alphas(rng, K, model.n_params):
        for alpha in form, (1 + 0.3j) * form:
            case = dict(where=f" for K = {K}, alpha {np.shape(alpha)} {np.result_type(alpha)}",
                        model=model, theta=theta, alpha=alpha, K=K)
            proof.check("θ_K", proof.adapt(model, theta, x, y, alpha, K),
                        reference.adapt(model, theta, x, y, alpha, K), x=x, y=y, **case)
            found, expected = (gradient(model, theta, tasks, alpha, K) for gradient in (
                proof.reptile_gradient, reference.reptile_gradient))
            scale = np.max(abs(theta))   # the difference of vectors near θ is exact to θ's rounding
            proof.check("Reptile's direction", found[1] + scale, expected[1] + scale, scale=scale,
                        tasks=tasks, **case)
            proof.check("J of Reptile", found[0], expected[0], tasks=tasks, **case)


class Watched:
    """A model with nothing but linearize, of a real theta."""

    def __init__(self, model):
        self.model = model

    def linearize(self, theta, x, y):
        assert not np.iscomplexobj(theta), (
            "linearize was called with a complex θ: a complex step for each parameter? (3) takes "
            "products H r")
        return self.model.linearize(theta, x, y)


def meta_gradient_takes_no_complex_steps():
    model, theta, tasks, _ = proof.problem(SMALL)
    proof.meta_gradient(Watched(model), theta, tasks, 0.1, 3, wrt_alpha=True)
