"""Unit tests of the bounds for dynamic latent states, against closed forms, brute force and independent simulation."""

from itertools import product

import numpy as np
import pytest
import yaml
from scipy.optimize import check_grad, linprog

from replications.causal.dynamic_latent_states import method

ALIVE = np.arange(7) != method.DEAD
FOUND = np.arange(7) != method.NOTHING


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.fixture(scope="module")
def screening():
    return method.screening()


def rows(rng, *shape):
    """Random distributions without zeros."""
    return rng.dirichlet(np.full(shape[-1], 2.0), size=shape[:-1])


def small(rng, h=2, x=2, o=2):
    return method.model({"p": rows(rng, h), "e": rows(rng, h, x, o), "q": rows(rng, h, x, o, h)})


def knowledge(m):
    observed, moved = method.observation_variables(m), method.next_variables(m)
    situations = [method.situation(h, i) for h, _, i in moved.keys]
    pm = method.monotone_observation(observed.keys, FOUND), method.monotone_next(situations, method.no_worse(method.WORSE))
    cs = method.stable(observed.margins), method.stable(moved.margins)
    return {"PM": pm, "CS": cs, "both": tuple(a & b for a, b in zip(pm, cs, strict=True))}


def polytopes(m, allowed=(None, None)):
    variables = method.observation_variables(m), method.next_variables(m)
    return [method.transport(v.margins, a) for v, a in zip(variables, allowed, strict=True)]


def bounds(asked, thetas, pis):
    return [method.outer(asked, thetas, pis, sense) for sense in (-1, 1)]


def couplings(m, copula):
    return [copula(v.margins) for v in (method.observation_variables(m), method.next_variables(m))]


# ---------------------------------------------------------------- model and abduction


def test_the_table_of_a_model_is_checked(rng):
    good = {"p": [0.3, 0.7], "e": rows(rng, 2, 2, 3).tolist(), "q": rows(rng, 2, 2, 3, 2).tolist()}
    read = method.model(yaml.safe_load(yaml.safe_dump(good)))
    assert np.allclose(read.e, good["e"]) and read.q.shape == (2, 2, 3, 2)
    for change, words in (
        ({"p": [0.3, 0.6]}, "p must hold"), ({"p": [1.3, -0.3]}, "p must hold"), ({"p": [np.nan, 1]}, "p must hold"),
        ({"e": good["q"]}, "shapes"), ({"r": 1}, "keys"), ({"q": np.full((2, 2, 3, 2), 0.4)}, "q must hold"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            method.model(good | change)


def test_screening_says_what_its_tables_say(screening):
    assert screening.e[method.INVASIVE, 1, method.INVASIVE_FOUND] == 0.9
    assert screening.e[method.SITU, 0].tolist() == [0.95, 0.05, 0, 0, 0, 0, 0]
    found = screening.q[method.SITU, 0, method.SITU_FOUND]
    assert found[method.RECOVERED] == 0.4 and np.array_equal(found, screening.q[method.SITU_TREATED, 1, method.SITU_TREATED])
    assert screening.q[method.INVASIVE, 1, method.NOTHING, method.DEAD] == 0.05
    order = method.no_worse(method.WORSE)
    assert order[method.RECOVERED, method.DEAD] and order.diagonal().all() and not order[method.DEAD, method.HEALTHY]
    assert not order[method.SITU, method.INVASIVE_TREATED] and not order[method.INVASIVE_TREATED, method.SITU]
    at = {state: place for place, state in enumerate(method.SEVERITY)}
    assert all(at[a] < at[b] for a, successors in method.WORSE.items() for b in successors)


def all_paths(m, x):
    """Every path (h, o) with its probability, by brute force."""
    for h in product(range(len(m.p)), repeat=len(x)):
        for o in product(range(m.e.shape[2]), repeat=len(x)):
            p = m.p[h[0]]
            for t, action in enumerate(x):
                p = p * m.e[h[t], action, o[t]]
                if t + 1 < len(x):
                    p = p * m.q[h[t], action, o[t], h[t + 1]]
            yield h, o, p


def test_smoothing_agrees_with_all_paths(rng):
    m, x, seen = small(rng, 3, 2, 2), [0, 1, 1, 0], (1, 0, 1, 1)
    first, chain = method.smooth(m, seen, x)
    paths = [(h, p) for h, o, p in all_paths(m, x) if o == seen]
    total = sum(p for _, p in paths)
    assert np.allclose(first, [sum(p for h, p in paths if h[0] == s) / total for s in range(3)])
    for h, p in paths:
        assert first[h[0]] * np.prod([chain[t, h[t], h[t + 1]] for t in range(3)]) == pytest.approx(p / total)


def test_one_period_has_no_steps(rng):
    m = small(rng)
    first, chain = method.smooth(m, [1], [0])
    assert chain.shape == (0, 2, 2) and np.allclose(first, m.p * m.e[:, 0, 1] / (m.p @ m.e[:, 0, 1]))
    asked = method.query(m, [1], [0], [1], [0, 1])
    assert np.allclose([*bounds(asked, *polytopes(m)), method.value(asked, *couplings(m, method.independence))], first[1])


def test_forecast_agrees_with_all_paths_and_with_simulation(rng):
    m, x = small(rng, 3, 2, 2), [0, 1, 0]
    brute = [sum(p for h, _, p in all_paths(m, x) if h[-1] == s) for s in range(3)]
    assert np.allclose(method.forecast(m, x), brute)
    h, o = method.simulate(m, x, 40_000, rng)
    assert h.shape == o.shape == (40_000, 3)
    assert np.allclose(np.bincount(h[:, -1]) / 40_000, brute, atol=0.01)
    exact = next(p for states, seen, p in all_paths(m, x) if states == (2, 1, 0) and seen == (0, 1, 1))
    assert np.mean((h == (2, 1, 0)).all(axis=1) & (o == (0, 1, 1)).all(axis=1)) == pytest.approx(exact, abs=0.004)


def test_bad_histories_are_errors(screening):
    for o, x, words in (
        ([0, 6], [0], "one length"), ([0, 9], [0, 0], "o must"), ([0, 0], [0, 2], "x must"), ([], [], "o must"),
        ([6, 0], [0, 0], "impossible"), ([5, 5], [0, 0], "first state"), ([0.5, 1], [0, 0], "o must"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            method.smooth(screening, np.array(o), x)
    with pytest.raises(ValueError, match="x_alt"):
        method.query(screening, [0, 0], [0, 0], [0], ALIVE)


def test_other_bad_input_is_named(screening):
    half = np.full((2, 2), 0.4)
    for call, words in (
        (lambda: method.query(screening, [0, 0], [0, 0], [0, 0], [1, 0]), "target"),
        (lambda: method.query(screening, [0, 0], [0, 0], [0, 0], np.full(7, np.nan)), "target"),
        (lambda: method.transport(half), "margins"), (lambda: method.joint(half), "margins"),
        (lambda: method.comonotonic(half, [0, 0]), "order"), (lambda: method.tian_pearl(0, 0.5), "factual"),
        (lambda: method.attributable(method.casino(), [0], [1, 2]), "pay"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            call()


# ---------------------------------------------------------------- couplings and knowledge


def test_a_row_that_the_action_leaves_unchanged_is_one_variable(screening):
    observed, moved = method.observation_variables(screening), method.next_variables(screening)
    assert observed.index[method.HEALTHY, 0] == observed.index[method.HEALTHY, 1]
    assert observed.index[method.SITU, 0] != observed.index[method.SITU, 1]
    assert (moved.index[:, 0] == moved.index[:, 1])[screening.e.min(axis=1) > 0].all()
    assert moved.index[method.HEALTHY, 0, method.DEAD] == -1
    assert np.array_equal(observed.margins[observed.index[method.SITU, 1]], screening.e[method.SITU, 1])


@pytest.mark.parametrize("copula", [method.independence, lambda m: method.comonotonic(m, [2, 0, 1, 3]), method.gumbel_max])
def test_copulas_keep_the_margins_and_know_themselves(rng, copula):
    margins = rows(rng, 4, 4)
    margins[1] = [0, 0.5, 0.5, 0]
    margins[2] = [0, 0, 0, 1]
    got = copula(margins)
    assert np.allclose(got.sum(axis=3), margins[:, None]) and np.allclose(got.sum(axis=2), margins[None])
    assert np.allclose(got, got.transpose(1, 0, 3, 2)) and (got >= 0).all()
    assert np.allclose(got[range(4), range(4)], margins[:, :, None] * np.eye(4))


def test_copulas_agree_with_sampled_noise(rng):
    margins, order, n = np.array([[0.2, 0.5, 0.3], [0.6, 0.4, 0], [0.1, 0.1, 0.8]]), np.array([2, 0, 1]), 200_000
    with np.errstate(divide="ignore"):
        gumbel = (np.log(margins) + rng.gumbel(size=(n, 1, 3))).argmax(axis=2)
    uniform = order[(margins[:, order].cumsum(axis=1) < rng.random((n, 1, 1))).sum(axis=2)]
    for drawn, got in ((gumbel, method.gumbel_max(margins)), (uniform, method.comonotonic(margins, order))):
        for v, w in product(range(3), repeat=2):
            table = np.bincount(drawn[:, v] * 3 + drawn[:, w], minlength=9).reshape(3, 3) / n
            assert np.allclose(table, got[v, w], atol=0.005)
    assert np.allclose(method.independence(margins)[0, 1], np.outer(margins[0], margins[1]))


def test_stability_by_hand_and_gumbel_max_is_stable(rng):
    # the odds of outcome 1 against 0 grow, those of 2 against 1 stay: 0 may become 1 or 2, nothing else may change
    allowed = method.stable(np.array([[0.5, 0.25, 0.25], [0.2, 0.4, 0.4]]))
    assert allowed[0, 1].tolist() == [[True, True, True], [False, True, False], [False, False, True]]
    assert np.array_equal(allowed[1, 0], allowed[0, 1].T)
    margins = rows(rng, 3, 4)
    margins[0, 1] = 0
    margins /= margins.sum(axis=1, keepdims=True)
    assert not method.gumbel_max(margins)[~method.stable(margins)].any()


def test_monotonicity_by_hand():
    better = method.no_worse({0: [1], 1: [2], 2: []})
    allowed = method.monotone_next([0, 2], better)
    assert allowed[0, 1].tolist() == [[True, True, True], [False, True, True], [False, False, True]]
    assert np.array_equal(allowed[1, 0], allowed[0, 1].T)
    assert np.array_equal(allowed[0, 0], np.eye(3, dtype=bool))
    allowed = method.monotone_observation(np.array([[0, 0], [0, 1], [1, 1]]), [False, True])
    assert allowed[0, 1].tolist() == [[True, True], [False, True]] and allowed[1, 0].tolist() == [[True, False], [True, True]]
    assert allowed[0, 2].all() and allowed[2, 0].all()


def test_feasibility_agrees_with_a_linear_program(rng):
    agree = []
    for _ in range(150):
        p, r, allowed = *rows(rng, 2, 3), rng.random((3, 3)) < 0.55
        sums = np.concatenate([np.kron(np.eye(3), np.ones(3)), np.kron(np.ones(3), np.eye(3))])
        upper = [(0, None if a else 0) for a in allowed.ravel()]
        agree.append((linprog(np.zeros(9), A_eq=sums, b_eq=[*p, *r], bounds=upper).status == 0, method.has_coupling(p, r, allowed)))
    assert all(a == b for a, b in agree) and 20 < sum(a for a, _ in agree) < 130


def test_knowledge_that_contradicts_the_margins_is_named_not_relaxed(screening):
    margins, allowed = np.array([[0.5, 0.5], [0.2, 0.8]]), np.ones((2, 2, 2, 2), dtype=bool)
    allowed[0, 1, 0, 1] = allowed[1, 0, 1, 0] = False
    with pytest.raises(method.Contradiction, match=r"1 pairs .*\[\[0, 1\]\]"):
        method.transport(margins, allowed)
    with pytest.raises(method.Contradiction, match="no law"):
        method.joint(margins, allowed)
    for pair in knowledge(screening).values():
        for variables, allowed in zip((method.observation_variables, method.next_variables), pair, strict=True):
            assert not len(method.contradictions(variables(screening).margins, allowed))
    moved = method.next_variables(screening)
    full = method.no_worse(dict(zip(method.SEVERITY, [[b] for b in method.SEVERITY[1:]] + [[]], strict=True)))
    situations = [method.situation(h, i) for h, _, i in moved.keys]
    assert len(method.contradictions(moved.margins, method.monotone_next(situations, full)))


def test_transport_finds_the_optimum_of_every_pair(rng):
    margins, cost = rows(rng, 3, 3), rng.normal(size=(3, 3, 3, 3))
    margins[2] = [0, 1, 0]
    allowed = method.stable(margins)
    polytope = method.transport(margins, allowed)
    sums = np.concatenate([np.kron(np.eye(3), np.ones(3)), np.kron(np.ones(3), np.eye(3))])
    for sense in (1, -1):
        best = polytope.best(cost, sense)
        assert np.allclose(best.sum(axis=3), margins[:, None]) and not best[~allowed].any()
        for v, w in ((0, 1), (1, 0)):
            upper = [(0, None if a else 0) for a in allowed[v, w].ravel()]
            b = [*margins[v], *margins[w]]
            other = linprog(-sense * cost[v, w].ravel(), A_eq=sums, b_eq=b, bounds=upper)
            assert (cost[v, w] * best[v, w]).sum() == pytest.approx(-sense * other.fun)
    assert np.allclose(best[0, 2], np.outer(margins[0], margins[2]))


def test_joint_laws_have_the_margins_and_obey_what_is_allowed(rng):
    margins = rows(rng, 3, 3)
    allowed = method.stable(margins)
    for laws, cells in ((method.joint(margins), np.ones_like(allowed)), (method.joint(margins, allowed), allowed)):
        table = laws.random(rng)
        assert np.allclose(table.sum(axis=3), margins[:, None]) and not table[~cells].any()
        assert np.allclose(table[range(3), range(3)], margins[:, :, None] * np.eye(3))
        cost = rng.normal(size=table.shape)
        best, worst = ((laws.best(cost, s) * cost).sum() for s in (1, -1))
        assert worst < (table * cost).sum() < best
    with pytest.raises(ValueError, match="combinations"):
        method.joint(margins, most=5)


def test_random_zeros_are_as_many_as_asked_and_leave_couplings(rng):
    margins = rows(rng, 4, 3)
    margins[3] = [0, 1, 0]
    allowed = method.random_zeros(margins, 7, rng)
    forbidden = ~allowed
    assert forbidden.sum() == 14 and np.array_equal(forbidden, forbidden.transpose(1, 0, 3, 2)) and not forbidden[3].any()
    assert not len(method.contradictions(margins, allowed))
    with pytest.raises(ValueError, match="count"):
        method.random_zeros(margins, 100, rng)


# ---------------------------------------------------------------- prediction


def one_step(before, after):
    """Two periods: a binary outcome that the first action moves, P(outcome 1 | action) = before and after."""
    q = np.array([[[[1 - before, before]], [[1 - after, after]]]] * 2)
    return method.model({"p": [1, 0], "e": np.ones((2, 2, 1)), "q": q})


@pytest.mark.parametrize("before, after", [(0.6, 0.2), (0.6, 0.5), (0.9, 0.4), (0.3, 0.7)])
def test_one_step_gives_the_bounds_of_tian_and_pearl(before, after):
    m = one_step(before, after)
    # the outcome is hidden in this model: let it be seen through the observation of the second period
    m = method.model({"p": m.p, "e": np.tile(np.eye(2)[:, None], (1, 2, 1)), "q": np.repeat(m.q, 2, axis=2)})
    asked = method.query(m, [0, 1], [0, 0], [1, 0], [1, 0])
    assert np.allclose(bounds(asked, *polytopes(m)), method.tian_pearl(before, after))
    by_hand = max(0, (before - after) / before), min(1, (1 - after) / before)
    assert np.allclose(method.tian_pearl(before, after), by_hand)
    if before > after:  # monotonicity: nobody is harmed by the other action
        moved = method.next_variables(m)
        allowed = np.ones((*[len(moved.margins)] * 2, 2, 2), dtype=bool)
        v, w = moved.index[0, 0, 0], moved.index[0, 1, 0]
        allowed[v, w, 0, 1] = allowed[w, v, 1, 0] = False
        pis = method.transport(moved.margins, allowed)
        assert np.allclose(bounds(asked, polytopes(m)[0], pis), [by_hand[0]] * 2)


def brute_value(m, o, x, x_alt, target, theta, pi):
    """The polynomial of the paper: a sum over all hidden paths, counterfactual paths and counterfactual observations."""
    seen, moved = method.observation_variables(m).index, method.next_variables(m).index
    paths = [(h, p) for h, observed, p in all_paths(m, x) if observed == tuple(o) and p]
    states, symbols, last = range(len(m.p)), range(m.e.shape[2]), len(x) - 1
    total = 0.0
    for h, p in paths:
        for alt in product(states, repeat=last):
            for o_alt in product(symbols, repeat=last):
                g, weight = (h[0], *alt), p * target[alt[-1]]
                for t in range(last):
                    weight *= theta[seen[h[t], x[t]], seen[g[t], x_alt[t]], o[t], o_alt[t]] / m.e[h[t], x[t], o[t]]
                    b, c = moved[h[t], x[t], o[t]], moved[g[t], x_alt[t], o_alt[t]]
                    weight *= pi[b, c, h[t + 1], g[t + 1]] / m.q[h[t], x[t], o[t], h[t + 1]]
                total += weight
    return total / sum(p for _, p in paths)


def test_value_is_the_polynomial_and_gradient_its_derivative(rng):
    m, o, x, x_alt, target = small(rng), [1, 0, 1], [0, 1, 0], [1, 1, 0], [0.2, 1.0]
    asked = method.query(m, o, x, x_alt, target)
    laws = [method.joint(v.margins) for v in (method.observation_variables(m), method.next_variables(m))]
    theta, pi = (j.random(rng) for j in laws)
    brute = brute_value(m, o, x, x_alt, target, theta, pi)
    assert method.value(asked, theta, pi) == pytest.approx(brute)
    assert method.forward(m, o, x, x_alt, target, theta, pi) == pytest.approx(brute)
    split = theta.size

    def parts(z):
        return z[:split].reshape(theta.shape), z[split:].reshape(pi.shape)

    def slope(z):
        return np.concatenate([d.ravel() for d in method.gradient(asked, *parts(z))])

    z = np.concatenate([theta.ravel(), pi.ravel()])
    assert check_grad(lambda z: method.value(asked, *parts(z)), slope, z) < 1e-6


def test_two_periods_equal_brute_force_over_the_corners(rng):
    """T = 2: one theta and one pi per pair are used once, so that corners of the coupling polytopes must attain the bounds."""
    m, o, x, x_alt, target = small(rng), [1, 0], [0, 1], [1, 1], [1, 0]
    asked = method.query(m, o, x, x_alt, target)

    def corners(p, r):
        # two-by-two couplings: an interval for the entry [0, 0]
        for a in (max(0, p[0] + r[0] - 1), min(p[0], r[0])):
            yield np.array([[a, p[0] - a], [r[0] - a, 1 - p[0] - r[0] + a]])

    first, chain = method.smooth(m, o, x)
    sides = []
    for choose in (min, max):
        total = 0
        for h in range(2):
            follow = {
                i: choose(
                    sum(chain[0, h, j] / m.q[h, 0, 1, j] * c[j, k] * target[k] for j in range(2) for k in range(2))
                    for c in corners(m.q[h, 0, 1], m.q[h, 1, i])
                )
                for i in range(2)
            }
            total += first[h] * choose(
                sum(c[1, i] / m.e[h, 0, 1] * follow[i] for i in range(2)) for c in corners(m.e[h, 0], m.e[h, 1])
            )
        sides.append(total)
    assert np.allclose(bounds(asked, *polytopes(m)), sides)


def test_nothing_changed_means_nothing_changes(screening):
    o = [0, 0, 0, 2, 4, 4, 6]
    zero = [0] * len(o)
    asked = method.query(screening, o, zero, zero, ALIVE)
    assert np.allclose(bounds(asked, *polytopes(screening)), 0, atol=1e-12)
    assert method.value(asked, *couplings(screening, method.gumbel_max)) == pytest.approx(0, abs=1e-12)


def test_mechanisms_lie_inside_the_bounds_and_knowledge_nests(screening, rng):
    o, x, x_alt = [0, 0, 0, 0, 2, 4, 6], [0] * 7, [1, 0] * 3 + [1]
    asked = method.query(screening, o, x, x_alt, ALIVE)
    low, high = bounds(asked, *polytopes(screening))
    by_severity = [
        method.comonotonic(method.observation_variables(screening).margins, range(7)),
        method.comonotonic(method.next_variables(screening).margins, method.SEVERITY),
    ]
    stable = couplings(screening, method.gumbel_max)
    for mechanism in (couplings(screening, method.independence), by_severity, stable):
        assert low < method.value(asked, *mechanism) < high
    for name, allowed in knowledge(screening).items():
        inner = bounds(asked, *polytopes(screening, allowed))
        assert low - 1e-9 <= inner[0] <= inner[1] <= high + 1e-9, name
        if name == "CS":
            assert inner[0] < method.value(asked, *stable) < inner[1]
        if name == "PM":
            assert inner[0] - 1e-9 < method.value(asked, *by_severity) < inner[1] + 1e-9


def test_climbing_reaches_a_stationary_mechanism_inside_the_bounds(screening, rng):
    o, x, x_alt = [0, 0, 0, 0, 0, 0, 2, 6], [0] * 8, [1, 0] * 4
    asked = method.query(screening, o, x, x_alt, ALIVE)
    laws = [method.joint(v.margins) for v in (method.observation_variables(screening), method.next_variables(screening))]
    pairs = polytopes(screening)
    for sense in (1, -1):
        start = tuple(j.random(rng) for j in laws)
        end = method.climb(asked, *laws, start, sense, most_steps=6)
        slopes = method.gradient(asked, *end)
        promised = [(s * (j.best(s, sense) - e)).sum() for s, j, e in zip(slopes, laws, end, strict=True)]
        reached, loose = (method.value(asked, *c) for c in (end, method.climb(asked, *pairs, end, sense)))
        bound = method.outer(asked, *pairs, sense)
        assert abs(sum(promised)) < 1e-6
        assert np.allclose(end[1].sum(axis=3), method.next_variables(screening).margins[:, None])
        assert sense * method.value(asked, *start) < sense * reached
        assert sense * reached <= sense * loose + 1e-9 <= sense * bound + 2e-9
        assert abs(reached - bound) < 0.03
        # the other road, in a model where some observations are impossible
        assert method.forward(screening, o, x, x_alt, ALIVE, *end) == pytest.approx(reached)


def test_climbing_ends_where_the_linear_problem_promises_nothing():
    for seed in (2, 5, 9, 17):  # on the way, the far end of a segment is worse than where the search stands
        rng = np.random.default_rng(seed)
        m = small(rng)
        asked = method.query(m, [1, 0, 1, 0, 1], [0, 1, 0, 1, 0], [1, 0, 1, 0, 0], [0, 1])
        laws = [method.joint(v.margins) for v in (method.observation_variables(m), method.next_variables(m))]
        for sense in (-1, 1):
            end = method.climb(asked, *laws, tuple(j.random(rng, corners=1) for j in laws), sense)
            slopes = method.gradient(asked, *end)
            promised = sum((s * (j.best(s, sense) - e)).sum() for s, j, e in zip(slopes, laws, end, strict=True))
            assert abs(promised) < 1e-6


def test_what_only_the_other_action_can_show_counts(rng):
    e = np.array([[[1, 0, 0], [0.5, 0.2, 0.3]], [[0.6, 0.4, 0], [0.1, 0.2, 0.7]]])
    m = method.model({"p": [0.4, 0.6], "e": e, "q": rows(rng, 2, 2, 3, 2)})
    for o, x, x_alt in (([0, 1, 0], [0, 0, 0], [1, 1, 1]), ([0, 2, 0], [1, 1, 0], [0, 0, 1])):
        variables = method.observation_variables(m), method.next_variables(m)
        theta, pi = (method.joint(v.margins).random(rng) for v in variables)
        value = method.value(method.query(m, o, x, x_alt, [0, 1]), theta, pi)
        assert value == pytest.approx(method.forward(m, o, x, x_alt, [0, 1], theta, pi))
        assert value == pytest.approx(brute_value(m, o, x, x_alt, [0, 1], theta, pi))


def random_mechanism(rng, variables):
    """Atoms (2^n, n) of binary variables, a random law of them, and the margins (n, 2) and couplings (n, n, 2, 2) it has."""
    atoms = np.array(list(product(range(2), repeat=variables)))
    law = rng.dirichlet(np.full(len(atoms), 0.1))
    table = np.einsum("a,avi,awj->vwij", law, np.eye(2)[atoms], np.eye(2)[atoms])
    return atoms, law, table.sum(axis=3)[:, 0], table


def test_value_agrees_with_worlds_that_share_their_noise():
    """Direct simulation of both worlds, kept where the facts agree: no smoothing, no couplings."""
    rng = np.random.default_rng(9)
    o, x, x_alt, n = [1, 0, 1], [0, 1, 0], [1, 0, 1], 400_000
    u_atoms, p_u, e, theta = random_mechanism(rng, 4)
    v_atoms, p_v, q, pi = random_mechanism(rng, 8)
    m = method.model({"p": [0.4, 0.6], "e": e.reshape(2, 2, 2), "q": q.reshape(2, 2, 2, 2)})
    h = rng.choice(2, size=n, p=m.p)
    h_alt, keep, world = h.copy(), np.ones(n, dtype=bool), np.arange(n)
    for t in range(3):
        u = u_atoms[rng.choice(len(p_u), size=n, p=p_u)]
        v = v_atoms[rng.choice(len(p_v), size=n, p=p_v)]
        seen, seen_alt = u[world, 2 * h + x[t]], u[world, 2 * h_alt + x_alt[t]]
        keep &= seen == o[t]
        if t < 2:
            h = v[world, 4 * h + 2 * x[t] + seen]
            h_alt = v[world, 4 * h_alt + 2 * x_alt[t] + seen_alt]
    simulated = (h_alt[keep] == 1).mean()
    exact = method.value(method.query(m, o, x, x_alt, [0, 1]), theta, pi)
    assert simulated == pytest.approx(exact, abs=4 * 0.5 / keep.sum() ** 0.5)
    assert method.forward(m, o, x, x_alt, [0, 1], theta, pi) == pytest.approx(exact)
    imagined = method.imagine(m, o, x, x_alt, theta, pi, 40_000, rng)
    assert (imagined == 1).mean() == pytest.approx(exact, abs=0.01)
    fresh = method.value(method.query(m, o, x, x_alt, [0, 1]), *couplings(m, method.independence))
    assert abs(exact - fresh) > 0.015  # else the test could not tell


# ---------------------------------------------------------------- the casino


def test_casino_by_hand(rng):
    m = method.casino()
    assert np.allclose(m.p, [2 / 3, 1 / 3]) and m.e[1, 0].tolist() == [0.1] * 5 + [0.5]
    assert np.allclose(m.p @ m.q[:, 0, 0], m.p)
    o, pay = np.array([5, 2, 5, 0]), np.arange(6.0)
    costs = method.attributable(m, o, pay)
    assert costs.shape == (4, 2, 2, 6, 6)
    theta = method.independence(method.observation_variables(m).margins)
    first, chain = method.smooth(m, o, [0] * 4)
    loaded, now = [], first
    for t in range(4):
        loaded.append(now[1])
        now = now @ chain[t] if t < 3 else now
    # with fresh dice the loaded rolls lose their own value and gain the mean of the fair die
    assert (costs * theta).sum() == pytest.approx(sum(p * (pay[r] - 2.5) for p, r in zip(loaded, o, strict=True)))
    polytope = method.transport(method.observation_variables(m).margins)
    low, high = ((costs.sum(axis=0) * polytope.best(costs.sum(axis=0), s)).sum() for s in (-1, 1))
    apart = [sum((c * polytope.best(c, s)).sum() for c in costs) for s in (-1, 1)]
    assert apart[0] <= low < (costs * theta).sum() < high <= apart[1] + 1e-9
