"Shares hold and batches can be replayed, for many seeds."
import random

import numpy as np
import pytest

from andromeda.mixture import Mixture, Portion, mix_shares


class Tokens:
    "Stands for `Shards`: a training split of consecutive numbers."
    def __init__(self, n, start=0): self.t = np.arange(start, start+n).astype(np.uint16)
    def tokens(self, split): return self.t


def random_mixture(draw, **changes):
    r = random.Random(draw)
    names = [f's{i}' for i in range(r.randint(1, 4))]
    shards = {n: Tokens(r.randint(60, 900), 1000*i) for i,n in enumerate(names)}
    portions = []
    for k in range(r.randint(1, 3)):
        chosen = r.sample(names, r.randint(1, len(names)))
        weights = [r.uniform(.1, 1) for _ in chosen]
        portions.append(Portion(f'stage{k}', {n: w/sum(weights) for n,w in zip(chosen, weights)}, r.randint(5, 80)))
    return Mixture(shards, tuple(portions), **dict(length=r.randint(4, 30), batch=r.randint(1, 6), seed=draw) | changes), shards


@pytest.mark.parametrize('seed', range(40))
def test_windows_are_text_and_no_pass_repeats_one(seed):
    mixture,shards = random_mixture(seed)
    seen = {n: [] for n in shards}
    for stage in range(len(mixture.portions)):
        drawn = []
        for step in range(mixture.portions[stage].sequences//mixture.batch):
            for (s,at),row in zip(mixture.places(stage, step), mixture.batch_at(stage, step)):
                assert 0 <= at and at+mixture.length+1 <= len(mixture.tokens[s])
                assert row.tolist() == list(range(row[0], row[0]+mixture.length+1))       # consecutive, and whole
                seen[mixture.names[s]].append(at)
                drawn.append(s)
        if mixture.portions[stage].sequences % mixture.batch: return                      # an unfinished pass: order still right, counts not
        for n,share in mixture.portions[stage].shares.items():
            assert abs(drawn.count(mixture.names.index(n)) - share*len(drawn)) < 1
    for name,starts in seen.items():
        w = mixture.windows[mixture.names.index(name)]
        for i in range(0, len(starts)-w+1, w): assert len(set(starts[i:i+w])) == w


@pytest.mark.parametrize('seed', range(10))
def test_any_batch_alone_is_the_batch_in_a_row(seed):
    mixture,shards = random_mixture(seed)
    steps = [(i, s) for i in range(len(mixture.portions)) for s in range(mixture.steps(i))]
    in_a_row = {place: mixture.batch_at(*place) for place in steps}
    random.Random(seed).shuffle(steps)
    for place in steps: assert np.array_equal(random_mixture(seed)[0].batch_at(*place), in_a_row[place])


def test_another_seed_is_another_order():
    one,two = (random_mixture(3, seed=s)[0] for s in (1, 2))
    assert [one.places(0, i) for i in range(one.steps(0))] != [two.places(0, i) for i in range(two.steps(0))]


@pytest.mark.parametrize('seed', range(200))
def test_no_source_is_over_read_and_the_others_keep_their_ratios(seed):
    r = random.Random(seed)
    names = [f's{i}' for i in range(r.randint(1, 6))]
    unique = {n: r.randint(10, 10_000) for n in names}
    weight = {n: r.uniform(.01, 5) for n in names}
    most = r.choice([1, 2, 4])
    budget = int(r.uniform(.05, .999)*most*sum(unique.values()))
    shares = mix_shares(unique, weight, budget, most)
    assert sum(shares.values()) == pytest.approx(1)
    for n in names: assert shares[n]*budget <= most*unique[n]*(1+1e-9)
    free = [n for n in names if shares[n]*budget < most*unique[n]*(1-1e-9)]
    for a in free:
        for b in free: assert shares[a]/shares[b] == pytest.approx(weight[a]/weight[b])
    for n in set(names)-set(free):                                     # held ones would have got more
        assert all(shares[n]/weight[n] <= shares[f]/weight[f]*(1+1e-9) for f in free)
