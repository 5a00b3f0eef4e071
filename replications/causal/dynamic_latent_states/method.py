"""Bounds on counterfactuals in a dynamic model with hidden states (Haugh & Singal, 2023).

A hidden state H_t (one of H), an action X_t (one of X) and an observation O_t (one of O) for t = 1..T:

    O_t = f(H_t, X_t, U_t),    H_{t+1} = g(H_t, X_t, O_t, V_t),    U_t, V_t independent over t.

U_t holds one potential observation for each (h, x), V_t one potential next state for each (h, x, i). Data give the law of
each of these variables, a *margin*, and say nothing of how two of them hang together. That is a *coupling*, a table
(K, K) with the two margins as its sums. All couplings of n variables are one array (n, n, K, K), entry [v, w, i, j] being
the probability that variable v is i and variable w is j. theta are the couplings of observations, pi those of next states.
All numbers are probabilities; arrays of states, actions and observations hold integers from 0.
"""

from collections.abc import Mapping
from itertools import combinations, product
from typing import NamedTuple

import highspy
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.sparse import csc_array

Array = NDArray[np.float64]
Index = NDArray[np.int64]
TOLERANCE = 1e-9  # of sums that must be equal, and of ratios that tie


class Contradiction(ValueError):
    """Knowledge that no mechanism with the given margins can have."""


# ---------------------------------------------------------------- the model


class Model(NamedTuple):
    """What data can tell: all rows sum to one."""

    p: Array  # (H,), P(H_1 = h)
    e: Array  # (H, X, O), P(O_t = i | h, x)
    q: Array  # (H, X, O, H), P(H_{t+1} = h' | h, x, i)


def model(table: Mapping[str, ArrayLike]) -> Model:
    """A model from lists under the keys p, e and q, as a parameter file holds them.

    Raises ValueError naming the key for a missing or unknown one, a wrong shape, NaN, or a row that is no distribution.
    """
    if set(table) != {"p", "e", "q"}:
        raise ValueError(f"table must have the keys p, e and q, not {sorted(table)}")
    p, e, q = (np.asarray(table[key], dtype=float) for key in "peq")
    if p.ndim != 1 or e.ndim != 3 or e.shape[0] != len(p) or q.shape != (*e.shape, len(p)):
        raise ValueError(f"p, e and q must have shapes (H,), (H, X, O), (H, X, O, H), not {p.shape}, {e.shape}, {q.shape}")
    for key, rows in zip("peq", (p, e, q), strict=True):
        _check_distributions(key, rows)
    return Model(p, e, q)


def _check_distributions(name: str, rows: Array) -> None:
    if rows.size == 0 or not (rows >= 0).all() or np.abs(rows.sum(axis=-1) - 1).max() > TOLERANCE:
        raise ValueError(f"{name} must hold distributions: entries >= 0, rows that sum to one")


STATES = ("healthy", "in situ, hidden", "invasive, hidden", "in situ, treated", "invasive, treated", "recovered", "dead")
OBSERVATIONS = ("nothing", "in situ found", "invasive found", "in situ treated", "invasive treated", "recovered", "dead")
HEALTHY, SITU, INVASIVE, SITU_TREATED, INVASIVE_TREATED, RECOVERED, DEAD = range(7)
NOTHING, SITU_FOUND, INVASIVE_FOUND = range(3)

# Illustrative numbers, ours and not the paper's: what a half-year does, and what is found in it without and with a scan
FINDS = {SITU: (0.05, 0.80), INVASIVE: (0.30, 0.90)}
MOVES = {
    HEALTHY: {HEALTHY: 0.987, SITU: 0.010, INVASIVE: 0.003},
    SITU: {SITU: 0.90, INVASIVE: 0.10},
    INVASIVE: {INVASIVE: 0.95, DEAD: 0.05},
    SITU_TREATED: {RECOVERED: 0.40, SITU_TREATED: 0.58, INVASIVE_TREATED: 0.02},
    INVASIVE_TREATED: {RECOVERED: 0.15, INVASIVE_TREATED: 0.81, DEAD: 0.04},
    RECOVERED: {RECOVERED: 1.0},
    DEAD: {DEAD: 1.0},
}
START = {HEALTHY: 0.99, SITU: 0.007, INVASIVE: 0.003}
# the next worse states; two states that no chain connects cannot be compared
WORSE = {
    HEALTHY: [SITU], RECOVERED: [SITU_TREATED], SITU_TREATED: [SITU, INVASIVE_TREATED], SITU: [INVASIVE],
    INVASIVE_TREATED: [INVASIVE], INVASIVE: [DEAD], DEAD: [],
}  # fmt: skip
SEVERITY = (HEALTHY, RECOVERED, SITU_TREATED, SITU, INVASIVE_TREATED, INVASIVE, DEAD)  # a full order that respects WORSE


def situation(h: int, i: int) -> int:
    """The state whose row of MOVES applies in state h after observation i: who is found is treated from that period on."""
    return {(SITU, SITU_FOUND): SITU_TREATED, (INVASIVE, INVASIVE_FOUND): INVASIVE_TREATED}.get((h, i), h)


def screening() -> Model:
    """The screening model with the numbers above: 7 states, action 1 is a scan, 7 observations, periods of half a year."""
    n = len(STATES)
    p, e, q = np.zeros(n), np.zeros((n, 2, n)), np.zeros((n, 2, n, n))
    p[list(START)] = list(START.values())
    for h, i in product(range(n), repeat=2):
        row = MOVES[situation(h, i)]
        q[h, :, i, list(row)] = np.array(list(row.values()))[:, None]
    for h in range(n):
        e[h, :, NOTHING if h == HEALTHY else h] = 1.0
    for h, chance in FINDS.items():  # state 1 is found as observation 1, state 2 as observation 2
        e[h, :, h], e[h, :, NOTHING] = chance, 1 - np.array(chance)
    return model({"p": p, "e": e, "q": q})


def no_worse(worse: Mapping[int, list[int]]) -> NDArray[np.bool_]:
    """(H, H): whether state a is no worse than state b, from each state's next worse ones."""
    order = np.eye(len(worse), dtype=bool)
    for a, successors in worse.items():
        order[a, successors] = True
    for _ in worse:  # the transitive closure
        order = order @ order
    return order


def _draw(rows: Array, rng: np.random.Generator) -> Index:
    # one value (n,) from each row of probabilities (n, K)
    return (rows.cumsum(axis=1) < rng.random((len(rows), 1))).sum(axis=1).clip(max=rows.shape[1] - 1)


def simulate(m: Model, x: ArrayLike, n: int, rng: np.random.Generator) -> tuple[Index, Index]:
    """Hidden states (n, T) and observations (n, T) of n people under the actions x (T,)."""
    h, o = np.empty((n, len(x)), dtype=int), np.empty((n, len(x)), dtype=int)
    now = _draw(np.tile(m.p, (n, 1)), rng)
    for t, action in enumerate(x):
        h[:, t] = now
        o[:, t] = _draw(m.e[now, action], rng)
        now = _draw(m.q[now, action, o[:, t]], rng)
    return h, o


def forecast(m: Model, x: ArrayLike) -> Array:
    """P(H_T = h | do(x)) (H,) under the actions x (T,): nothing observed."""
    now = m.p
    for action in np.asarray(x)[:-1]:
        # P(H_{t+1} = h') = sum_{h i} P(H_t = h) e_{hx}(i) q_{hxi}(h')
        now = np.einsum("h,hi,hij->j", now, m.e[:, action], m.q[:, action])
    return now


# ---------------------------------------------------------------- abduction


def _checked(name: str, values: ArrayLike, below: int) -> Index:
    values = np.asarray(values)
    if values.ndim != 1 or len(values) == 0 or values.dtype.kind not in "iu" or not ((values >= 0) & (values < below)).all():
        raise ValueError(f"{name} must be a non-empty list of integers from 0 to {below - 1}")
    return values


def backward(m: Model, o: ArrayLike, x: ArrayLike) -> Array:
    """beta (T, H) = P(o_{t..T} | H_t = h, x_{t..T}), each row divided by its largest entry.

    Raises ValueError for actions or observations out of range, or of different lengths, and for impossible observations.
    """
    o, x = _checked("o", o, m.e.shape[2]), _checked("x", x, m.e.shape[1])
    if len(o) != len(x):
        raise ValueError(f"o and x must have one length, not {len(o)} and {len(x)}")
    beta = np.zeros((len(o), len(m.p)))
    after = np.ones(len(m.p))
    for t in range(len(o) - 1, -1, -1):
        # beta_t(h) = e_{h x_t}(o_t) sum_h' q_{h x_t o_t}(h') beta_{t+1}(h')
        beta[t] = m.e[:, x[t], o[t]] * after
        if not beta[t].any():
            raise ValueError(f"o is impossible: no state explains what is observed from period {t + 1} on")
        beta[t] /= beta[t].max()
        if t:
            after = m.q[:, x[t - 1], o[t - 1]] @ beta[t]
    if not (m.p * beta[0]).any():
        raise ValueError("o is impossible: no first state explains it")
    return beta


def smooth(m: Model, o: ArrayLike, x: ArrayLike) -> tuple[Array, Array]:
    """The chain of hidden states given all observations: first (H,) = P(h_1 | o), step (T - 1, H, H) = P(h_{t+1} | h_t, o).

    Rows of states that o excludes are zero. Raises ValueError as `backward`.
    """
    beta = backward(m, o, x)
    first = m.p * beta[0]
    # P(h' | h, o) = q_{h x_t o_t}(h') beta_{t+1}(h') / sum over h'
    step = np.array([m.q[:, x[t], o[t]] * beta[t + 1] for t in range(len(o) - 1)]).reshape(-1, len(m.p), len(m.p))
    total = step.sum(axis=2, keepdims=True)
    possible = (beta[:-1] > 0)[:, :, None] & (total > 0)
    return first / first.sum(), np.divide(step, total, out=np.zeros_like(step), where=possible)


# ---------------------------------------------------------------- variables, couplings and knowledge


class Variables(NamedTuple):
    """The potential outcomes of one kind. Where the action leaves a row unchanged, both actions share one variable."""

    margins: Array  # (n, K)
    index: Index  # (H, X) for observations, (H, X, O) for next states: number of the variable, -1 if it is never used
    keys: Index  # (n, 2) or (n, 3): the first (h, x) or (h, x, i) of each variable


def observation_variables(m: Model) -> Variables:
    """O_{hx} for every state and action."""
    return _variables(m.e, np.ones(m.e.shape[:2], dtype=bool))


def next_variables(m: Model) -> Variables:
    """H'_{hxi} for every state, action and observation that is possible in them."""
    return _variables(m.q, m.e > 0)


def _variables(rows: Array, used: NDArray[np.bool_]) -> Variables:
    index, keys = np.full(used.shape, -1), []
    for key in np.argwhere(used):
        h, x, *rest = key
        same = [a for a in range(x) if used[(h, a, *rest)] and np.allclose(rows[(h, a, *rest)], rows[tuple(key)], atol=TOLERANCE)]
        if same:
            index[tuple(key)] = index[(h, same[0], *rest)]
        else:
            index[tuple(key)] = len(keys)
            keys.append(key)
    keys = np.array(keys)
    return Variables(rows[tuple(keys.T)], index, keys)


def independence(margins: Array) -> Array:
    """Couplings (n, n, K, K) of variables that know nothing of each other; each goes with itself as it must."""
    couplings = margins[:, None, :, None] * margins[None, :, None, :]
    couplings[np.arange(len(margins)), np.arange(len(margins))] = margins[:, :, None] * np.eye(margins.shape[1])
    return couplings


def comonotonic(margins: Array, order: ArrayLike) -> Array:
    """Couplings (n, n, K, K) of inverse distribution functions of one uniform variable; order (K,): the values, ascending.

    Raises ValueError if order is not a permutation of 0..K-1.
    """
    order = np.asarray(order)
    if not np.array_equal(np.sort(order), np.arange(margins.shape[1])):
        raise ValueError(f"order must hold each of 0..{margins.shape[1] - 1} once")
    high = np.cumsum(margins[:, order], axis=1)
    low = high - margins[:, order]
    # P(i, j) = length of the overlap of [F(i-1), F(i)] and [F~(j-1), F~(j)]
    overlap = np.minimum(high[:, None, :, None], high[None, :, None, :]) - np.maximum(low[:, None, :, None], low[None, :, None, :])
    couplings = np.empty_like(overlap)
    couplings[:, :, order[:, None], order] = np.maximum(overlap, 0)
    return couplings


def gumbel_max(margins: Array) -> Array:
    """Couplings (n, n, K, K) of v = argmax_k (log margin_v(k) + G_k), the Gumbel noises G_k shared by all variables."""
    n, k = margins.shape
    couplings = np.zeros((n, n, k, k))
    for v, w in product(range(n), repeat=2):
        p, r = margins[v], margins[w]
        ratio = np.divide(r, p, out=np.full(k, np.inf), where=p > 0)
        for i in np.flatnonzero(p):
            if r[i] > 0:
                couplings[v, w, i, i] = 1 / np.maximum(p / p[i], r / r[i]).sum()
            for j in np.flatnonzero((ratio > ratio[i] * (1 + TOLERANCE)) & (r > 0)):
                # P(i, j) = p_i r_j int_{r_i/p_i}^{r_j/p_j} ds / (sum_k max(s p_k, r_k))^2, linear between the ratios r_k/p_k
                breaks = np.sort(ratio[(ratio >= ratio[i]) & (ratio <= ratio[j])])
                ends = breaks[np.isfinite(breaks)]
                c = np.maximum(ends[:, None] * p, r).sum(axis=1)
                couplings[v, w, i, j] = p[i] * r[j] * (np.diff(ends) / (c[1:] * c[:-1])).sum()
                if not np.isfinite(ratio[j]):  # beyond the last finite break the sum grows as s
                    couplings[v, w, i, j] += p[i] * r[j] / c[-1]
    return couplings


def stable(margins: Array) -> NDArray[np.bool_]:
    """Counterfactual stability (Oberst & Sontag, 2019) as allowed cells (n, n, K, K); a tie counts as stable."""
    left = margins[None, :, :, None] * margins[:, None, None, :]  # r_i p_j
    right = margins[None, :, None, :] * margins[:, None, :, None]  # r_j p_i
    # i turns into j != i only if r_j / p_j > r_i / p_i, the relative odds of j having grown
    return (left < right * (1 - TOLERANCE)) | np.eye(margins.shape[1], dtype=bool)


def monotone_next(situations: ArrayLike, better: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pathwise monotonicity of next states as allowed cells (n, n, K, K).

    situations (n,): the state that each variable starts from. better (K, K): whether a is no worse than b.
    """
    starts = better[np.ix_(situations, situations)]
    # v no worse than w: i no worse than j, under the same noise; and the other way round
    allowed = ~starts[:, :, None, None] | better
    return allowed & ~(starts.T[:, :, None, None] & ~better.T)


def monotone_observation(keys: Index, found: ArrayLike) -> NDArray[np.bool_]:
    """A scan never finds less, as allowed cells (n, n, K, K). keys (n, 2): state and action. found (K,): is it a finding?"""
    found = np.asarray(found, dtype=bool)
    more = (keys[:, None, 0] == keys[:, 0]) & (keys[:, None, 1] < keys[:, 1])  # w scans, v does not
    loses = found[:, None] & ~found
    return ~(more[:, :, None, None] & loses) & ~(more.T[:, :, None, None] & loses.T)


def has_coupling(p: Array, r: Array, allowed: NDArray[np.bool_]) -> bool:
    """Whether a coupling of p (K,) and r (K,) lives on the allowed cells (K, K)."""
    rows = np.flatnonzero(p)
    for size in range(1, len(rows) + 1):
        for some in combinations(rows, size):
            # Gale: every set of rows must find enough mass in the columns that it may use
            if p[list(some)].sum() > r[allowed[list(some)].any(axis=0)].sum() + TOLERANCE:
                return False
    return True


def contradictions(margins: Array, allowed: NDArray[np.bool_]) -> Index:
    """Pairs (m, 2) of different variables v < w, or of one with itself, that have no coupling on the allowed cells."""
    n = len(margins)
    pairs = [(v, w) for v, w in product(range(n), repeat=2) if v < w and not has_coupling(margins[v], margins[w], allowed[v, w])]
    alone = [(v, v) for v in range(n) if not allowed[v, v].diagonal()[margins[v] > 0].all()]
    return np.array(pairs + alone, dtype=int).reshape(-1, 2)


def free_cells(margins: Array) -> NDArray[np.bool_]:
    """The cells (n, n, K, K) that the margins leave open: both values possible, neither certain, two different variables."""
    support = margins > 0
    open_ = (support.sum(axis=1) > 1)[:, None] & support
    cells = open_[:, None, :, None] & open_[None, :, None, :]
    cells[np.arange(len(margins)), np.arange(len(margins))] = False
    return cells


def random_zeros(margins: Array, count: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Allowed cells (n, n, K, K) with `count` cells of pairs v < w, and their mirrors, forbidden at random.

    A cell is passed over where its pair would lose its last coupling. Raises ValueError when fewer can be forbidden.
    """
    cells = np.argwhere(free_cells(margins))
    cells = rng.permutation(cells[cells[:, 0] < cells[:, 1]])
    allowed, done = np.ones((len(margins),) * 2 + (margins.shape[1],) * 2, dtype=bool), 0
    for v, w, i, j in cells:
        if done == count:
            break
        allowed[v, w, i, j] = False
        allowed[v, w, i, j] = not has_coupling(margins[v], margins[w], allowed[v, w])
        allowed[w, v, j, i] = allowed[v, w, i, j]
        done += not allowed[v, w, i, j]
    if done < count:
        raise ValueError(f"count is {count}, but only {done} cells can be forbidden")
    return allowed


# ---------------------------------------------------------------- linear programs


class Couplings:
    """Couplings (n, n, K, K), the image of all z >= 0 with a z = b.

    One HiGHS model for many costs, so that each solve starts from the last basis.
    Raises Contradiction if there is no z, RuntimeError if HiGHS ends without an optimum.
    """

    def __init__(self, a: csc_array, b: Array, image: csc_array, shape: tuple[int, ...]):
        inf, (rows, columns) = highspy.kHighsInf, a.shape
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = columns, rows
        lp.col_cost_, lp.col_lower_, lp.col_upper_ = np.zeros(columns), np.zeros(columns), np.full(columns, inf)
        lp.row_lower_, lp.row_upper_ = b, b
        lp.a_matrix_.start_, lp.a_matrix_.index_, lp.a_matrix_.value_ = a.indptr, a.indices, a.data
        lp.sense_ = highspy.ObjSense.kMaximize
        self._image, self.shape, self._columns = image, shape, np.arange(columns, dtype=np.int32)
        self._highs = highspy._Highs()  # its child highspy.Highs prints a banner before it can be told not to
        self._highs.setOptionValue("output_flag", False)
        self._highs.setOptionValue("threads", 1)
        self._highs.passModel(lp)
        self._solve(np.zeros(columns))

    def _solve(self, cost: Array) -> Array:
        # the z (m,) of the largest cost (m,) z
        self._highs.changeColsCost(len(cost), self._columns, cost)
        self._highs.run()
        status = self._highs.getModelStatus()
        if status == highspy.HighsModelStatus.kInfeasible:
            raise Contradiction("no law has these margins on the cells or atoms that are allowed")
        if status != highspy.HighsModelStatus.kOptimal:
            raise RuntimeError(f"HiGHS ended with {self._highs.modelStatusToString(status)!r}, not with an optimum")
        return np.maximum(self._highs.getSolution().col_value, 0)

    def best(self, cost: Array, sense: int) -> Array:
        """Couplings that maximise (sense 1) or minimise (sense -1) the sum of cost (n, n, K, K) times them."""
        return (self._image @ self._solve(sense * (cost.ravel() @ self._image))).reshape(self.shape)

    def random(self, rng: np.random.Generator, corners: int = 3) -> Array:
        """Random weights on the couplings of so many random corners."""
        z = np.array([self._solve(rng.normal(size=len(self._columns))) for _ in range(corners)])
        return (self._image @ (rng.dirichlet(np.ones(corners)) @ z)).reshape(self.shape)


def _indicator(rows: Index, height: int) -> csc_array:
    # (height, m): 1 in the rows (m, ...) of each column
    columns = np.repeat(np.arange(len(rows)), rows[0].size)
    return csc_array((np.ones(rows.size), (rows.ravel(), columns)), shape=(height, len(rows)))


def transport(margins: Array, allowed: NDArray[np.bool_] | None = None) -> Couplings:
    """The couplings of margins (n, K) on allowed cells (n, n, K, K), None for all; each ordered pair of variables by itself.

    Raises ValueError for margins that are no distributions, Contradiction if some pair has no coupling.
    """
    _check_distributions("margins", margins)
    cells = independence(margins) > 0
    if allowed is not None:
        if len(pairs := contradictions(margins, allowed)):
            raise Contradiction(f"allowed leaves {len(pairs)} pairs of variables without a coupling: {pairs.tolist()}")
        cells &= allowed
    v, w, i, j = np.nonzero(cells)
    # sum_j coupling(i, j) = margin_v(i),  sum_i coupling(i, j) = margin_w(j)
    sums = (2, *cells.shape[:3])
    equations = np.stack([np.ravel_multi_index((0 * v, v, w, i), sums), np.ravel_multi_index((0 * v + 1, v, w, j), sums)], axis=1)
    b = np.stack(np.broadcast_arrays(margins[:, None], margins[None])).ravel()
    image = _indicator(np.flatnonzero(cells)[:, None], cells.size)
    return Couplings(_indicator(equations, b.size)[b > 0], b[b > 0], image, cells.shape)


def joint(margins: Array, allowed: NDArray[np.bool_] | None = None, most: int = 20_000) -> Couplings:
    """The couplings of all joint laws of margins (n, K) on atoms of which every pair of values is allowed (n, n, K, K).

    An atom is a combination of the values of all variables.
    Raises ValueError for margins that are no distributions or more than `most` atoms, Contradiction if no law is left.
    """
    _check_distributions("margins", margins)
    support = [np.flatnonzero(row) for row in margins]
    if (size := np.prod([len(s) for s in support], dtype=float)) > most:
        raise ValueError(f"margins have {size:.3g} combinations of values, more than {most}")
    atoms = np.array(list(product(*support)))  # (m, n)
    (n, k), (v, w) = margins.shape, np.indices((len(margins),) * 2)
    if allowed is not None:
        atoms = atoms[allowed[v, w, atoms[:, v], atoms[:, w]].all(axis=(1, 2))]
        if not len(atoms):
            raise Contradiction("allowed leaves no law: every combination of values has a pair that is forbidden")
    # coupling_{vw}(i, j) = sum of the probabilities of the atoms with values i and j, also where w = v: that is the margin
    image = _indicator(np.ravel_multi_index((v, w, atoms[:, v], atoms[:, w]), (n, n, k, k)), n * n * k * k)
    v, i = np.nonzero(margins)
    return Couplings(image[np.ravel_multi_index((v, v, i, i), (n, n, k, k))], margins[v, i], image, (n, n, k, k))


# ---------------------------------------------------------------- action and prediction


class Step(NamedTuple):
    """One period, a row for each factual state, counterfactual state and counterfactual observation."""

    h: Index  # (m,)
    h_alt: Index  # (m,)
    theta: tuple[Index, ...]  # four arrays (m,): the entry of theta, P(O_{hx} = o_t, O_{h~x~} = o~)
    pi: tuple[Index, Index]  # two arrays (m,): the variables whose coupling leads to the next pair of states
    seen: Array  # (m,): e_{h x_t}(o_t)
    ratio: Array  # (m, H): P(h' | h, o) / q_{h x_t o_t}(h')


class Query(NamedTuple):
    """P(target of H~_T | o, x) had the actions been others: all that does not depend on the mechanism."""

    first: Array  # (H,), P(h_1 | o)
    steps: tuple[Step, ...]  # T - 1
    target: Array  # (H,), 1 for the states asked for


def query(m: Model, o: ArrayLike, x: ArrayLike, x_alt: ArrayLike, target: ArrayLike) -> Query:
    """Had the actions been x_alt (T,) in place of x (T,), would H_T be in target (H,), given the observations o (T,)?

    Raises ValueError for actions of another length or out of range, for a target of another shape, and as `backward`.
    """
    first, chain = smooth(m, o, x)
    target = np.asarray(target, dtype=float)
    if target.shape != m.p.shape or not ((target >= 0) & (target <= 1)).all():
        raise ValueError(f"target must hold {len(m.p)} numbers from 0 to 1, one for each state")
    x_alt = _checked("x_alt", x_alt, m.e.shape[1])
    if len(x_alt) != len(x):
        raise ValueError(f"x and x_alt must have one length, not {len(x)} and {len(x_alt)}")
    seen, moved = observation_variables(m).index, next_variables(m).index
    steps = []
    for t in range(len(x) - 1):
        # all pairs of states with an observation that is possible in the second one
        h, h_alt, o_alt = np.nonzero(chain[t].any(axis=1)[:, None, None] & (m.e[:, x_alt[t]] > 0))
        row = m.q[h, x[t], o[t]]
        ratio = np.divide(chain[t, h], row, out=np.zeros_like(row), where=row > 0)
        theta = (seen[h, x[t]], seen[h_alt, x_alt[t]], np.full(len(h), o[t]), o_alt)
        pi = (moved[h, x[t], o[t]], moved[h_alt, x_alt[t], o_alt])
        steps.append(Step(h, h_alt, theta, pi, m.e[h, x[t], o[t]], ratio))
    return Query(first, tuple(steps), target)


def _last(asked: Query) -> Array:
    return np.tile(asked.target, (len(asked.first), 1))  # (H, H): W_T(h, h~)


def _after_move(step: Step, couplings: Array, w: Array) -> Array:
    # (m,): sum_{h', h~'} P(h' | h, o) [pi(h', h~') / q(h')] W_{t+1}(h', h~')
    return np.einsum("mij,mi,ij->m", couplings[step.pi], step.ratio, w)


def _after_observation(step: Step, couplings: Array, moved: Array, n: int) -> Array:
    # W_t(h, h~) = sum_o~ [theta(o_t, o~) / e(o_t)] (what follows)
    worth = couplings[step.theta] / step.seen * moved
    return np.bincount(step.h * n + step.h_alt, worth, n * n).reshape(n, n)


def value(asked: Query, theta: Array, pi: Array) -> float:
    """The probability asked for under one mechanism: theta (A, A, O, O) and pi (B, B, H, H), the same in all periods."""
    w, n = _last(asked), len(asked.first)
    for step in reversed(asked.steps):
        w = _after_observation(step, theta, _after_move(step, pi, w), n)
    return float(asked.first @ w.diagonal())


def gradient(asked: Query, theta: Array, pi: Array) -> tuple[Array, Array]:
    """Derivatives of `value` by every entry of theta and of pi, in their shapes."""
    n, ahead = len(asked.first), [_last(asked)]
    for step in reversed(asked.steps):
        ahead.append(_after_observation(step, theta, _after_move(step, pi, ahead[-1]), n))
    d_theta, d_pi, reach = np.zeros_like(theta), np.zeros_like(pi), np.diag(asked.first)  # reach: weight of a pair of states
    for step, w in zip(asked.steps, ahead[-2::-1], strict=True):
        weight = reach[step.h, step.h_alt] / step.seen
        np.add.at(d_theta, step.theta, weight * _after_move(step, pi, w))
        through = (weight * theta[step.theta])[:, None, None] * step.ratio[:, :, None]
        np.add.at(d_pi, step.pi, through * w)
        reach = (through * pi[step.pi]).sum(axis=0)
    return d_theta, d_pi


def outer(asked: Query, thetas: Couplings, pis: Couplings, sense: int) -> float:
    """An upper (sense 1) or lower (-1) bound that no mechanism passes: couplings may differ between periods and pairs of states.

    The weights before a coupling are never negative, so that each period is solved by itself, the last one first.
    """
    w, n = _last(asked), len(asked.first)
    for step in reversed(asked.steps):
        # max over pi, then over theta, of what follows, all transport problems of a period in one program
        cost = np.zeros(pis.shape)
        cost[step.pi] = step.ratio[:, :, None] * w
        moved = _after_move(step, pis.best(cost, sense), w)
        cost = np.zeros(thetas.shape)
        cost[step.theta] = moved / step.seen
        w = _after_observation(step, thetas.best(cost, sense), moved, n)
    return float(asked.first @ w.diagonal())


def climb(
    asked: Query, thetas: Couplings, pis: Couplings, start: tuple[Array, Array], sense: int, most_steps: int = 30
) -> tuple[Array, Array]:
    """Sequential linear programming from the couplings start = (theta, pi) to those of a large (sense 1) or small (-1) `value`.

    Over `joint` what it finds is a true mechanism; over `transport`, pairs of couplings that need not fit together.
    """
    ends = start
    for _ in range(most_steps):
        slopes = gradient(asked, *ends)
        far = tuple(among.best(slope, sense) for among, slope in zip((thetas, pis), slopes, strict=True))
        # stationary: the linearised problem promises nothing more
        if sense * sum((slope * (f - e)).sum() for slope, f, e in zip(slopes, far, ends, strict=True)) < 1e-6:
            break

        def worth(s: float, near=ends, far=far) -> float:
            return sense * value(asked, *_between(near, far, s))

        now, there = worth(0), worth(1)
        # the far end of the segment where it is better, else the best point within
        s = 1 if there > now + 1e-9 else minimize_scalar(lambda s, worth=worth: -worth(s), bounds=(0, 1), method="bounded").x
        if worth(s) < now + 1e-9:
            break
        ends = _between(ends, far, s)
    return ends


def _between(near: tuple[Array, ...], far: tuple[Array, ...], s: float) -> tuple[Array, ...]:
    return tuple((1 - s) * a + s * b for a, b in zip(near, far, strict=True))


def forward(m: Model, o: ArrayLike, x: ArrayLike, x_alt: ArrayLike, target: ArrayLike, theta: Array, pi: Array) -> float:
    """The same probability as `value`, by another road: the law of both worlds forward in time, divided by P(o) at the end.

    No smoothing, no margin of a fact and no query, so that it can tell when those are wrong.
    """
    seen, moved = observation_variables(m).index, next_variables(m).index
    both = np.diag(m.p)  # (H, H): P(o_1..o_{t-1}, H_t = h, H~_t = h~)
    for t in range(len(x) - 1):
        # times P(O_t = o_t, O~_t = o~) = theta(o_t, o~), then P(H_{t+1} = h', H~_{t+1} = h~') = pi(h', h~')
        facts = both[:, :, None] * theta[seen[:, x[t], None], seen[:, x_alt[t]], o[t]]  # (H, H, O)
        both = np.einsum("abo,aboij->ij", facts, pi[moved[:, x[t], o[t], None, None], moved[:, x_alt[t]]])
    both = m.e[:, x[-1], o[-1], None] * both
    return float((both @ target).sum() / both.sum())


def imagine(
    m: Model, o: ArrayLike, x: ArrayLike, x_alt: ArrayLike, theta: Array, pi: Array, n: int, rng: np.random.Generator
) -> Index:
    """Last counterfactual states (n,) of n worlds that agree with o, under the couplings theta and pi."""
    first, chain = smooth(m, o, x)
    seen, moved = observation_variables(m).index, next_variables(m).index
    h = h_alt = _draw(np.tile(first, (n, 1)), rng)
    for t in range(len(x) - 1):
        # P(o~ | o_t) = theta(o_t, o~) / e(o_t),  P(h~' | h') = pi(h', h~') / q(h')
        o_alt = _draw(theta[seen[h, x[t]], seen[h_alt, x_alt[t]], o[t]] / m.e[h, x[t], o[t], None], rng)
        after = _draw(chain[t, h], rng)
        law = pi[moved[h, x[t], o[t]], moved[h_alt, x_alt[t], o_alt], after] / m.q[h, x[t], o[t], after, None]
        h, h_alt = after, _draw(law, rng)
    return h_alt


def tian_pearl(factual: float, alternative: float) -> tuple[float, float]:
    """Bounds on the probability of necessity from the probabilities of the outcome under either action, path ignored.

    Raises ValueError unless 0 < factual <= 1 and 0 <= alternative <= 1.
    """
    if not (0 < factual <= 1 and 0 <= alternative <= 1):
        raise ValueError(f"factual must lie in (0, 1] and alternative in [0, 1], not {factual} and {alternative}")
    # max(0, (P(y|x) - P(y|x~)) / P(y|x)) <= PN <= min(1, (1 - P(y|x~)) / P(y|x))
    return max(0.0, (factual - alternative) / factual), min(1.0, (1 - alternative) / factual)


# ---------------------------------------------------------------- the dishonest casino


def casino() -> Model:
    """The textbook casino: hidden die 0 fair, 1 loaded; observations 0..5 are rolls 1..6; one action."""
    e = np.array([[[1 / 6] * 6], [[0.1] * 5 + [0.5]]])
    moves = np.array([[0.95, 0.05], [0.10, 0.90]])
    return model({"p": [2 / 3, 1 / 3], "e": e, "q": np.tile(moves[:, None, None], (1, 1, 6, 1))})  # p is stationary


def attributable(m: Model, o: ArrayLike, pay: ArrayLike, honest: int = 0) -> Array:
    """Costs (T, A, A, O, O) with sum(costs * theta) = E[sum_t pay(o_t) - pay(O~_t) | o], the die being `honest` throughout.

    o (T,): the rolls. pay (O,): what a roll is worth. Linear in theta, since the counterfactual state needs no prediction.
    Raises ValueError for pay of another shape or not finite, and as `backward`.
    """
    o, pay = np.asarray(o), np.asarray(pay, dtype=float)
    first, chain = smooth(m, o, np.zeros(len(o), dtype=int))
    if pay.shape != m.e.shape[2:] or not np.isfinite(pay).all():
        raise ValueError(f"pay must hold {m.e.shape[2]} finite numbers, one for each observation")
    index = observation_variables(m).index[:, 0]
    costs, now = np.zeros((len(o), len(index), len(index), len(pay), len(pay))), first
    for t, roll in enumerate(o):
        # P(h_t | o) [pay(o_t) - pay(o~)] theta_{h, honest}(o_t, o~) / e_h(o_t)
        weight = np.divide(now, m.e[:, 0, roll], out=np.zeros_like(now), where=now > 0)
        costs[t, index, index[honest], roll] = weight[:, None] * (pay[roll] - pay)
        if t < len(chain):
            now = now @ chain[t]
    return costs
