"Shares hold and batches can be replayed: for many seeds, on any number of ranks, from any step."
import itertools
import random
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from andromeda.mixture import FALCON, PACKED, Ahead, Mixture, Portion, documents_in, interleave, mix_shares, mix_table, sequence_starts, shuffled, spread
from andromeda.shards import Tokens
from andromeda.stages import recipe_mixture
from andromeda.tokenizer import END_ID


class Numbers:
    "Stands for `Shards`: a training split of consecutive numbers in several files."
    tokenizer = 'of these tests'

    def __init__(self, n, start=0, files=3):
        cuts = np.linspace(0, n, files+1).astype(int)
        whole = np.arange(start, start+n).astype(np.uint16)
        self.t = Tokens(np.diff(cuts).tolist(), lambda i: whole[cuts[i]:cuts[i+1]], np.uint16)

    def tokens(self, split): return self.t


def random_mixture(draw, **changes):
    r = random.Random(draw)
    names = [f's{i}' for i in range(r.randint(1, 4))]
    shards = {n: Numbers(r.randint(60, 900), 1000*i) for i,n in enumerate(names)}
    portions,batch = [],r.randint(1, 6)
    for k in range(r.randint(1, 3)):
        chosen = r.sample(names, r.randint(1, len(names)))
        weights = [r.uniform(.1, 1) for _ in chosen]
        portions.append(Portion(f'stage{k}', {n: w/sum(weights) for n,w in zip(chosen, weights)}, r.randint(batch, 80)))
    return Mixture(shards, tuple(portions), **dict(length=r.randint(4, 30), batch=batch, seed=draw) | changes), shards


def drawn(mixture, stage):
    "Source and start of all sequences of a stage."
    return mixture.places(stage, 0, mixture.portions[stage].sequences)


@pytest.mark.parametrize('seed', range(40))
def test_windows_are_text_and_no_pass_repeats_one(seed):
    mixture,shards = random_mixture(seed)
    seen = {n: [] for n in shards}
    for stage,portion in enumerate(mixture.portions):
        source,at = drawn(mixture, stage)
        for row in mixture.sequences(stage, 0, portion.sequences): assert row.tolist() == list(range(row[0], row[0]+mixture.length+1))   # consecutive, and whole
        for name,share in portion.shares.items():
            s = mixture.names.index(name)
            assert abs((source==s).sum() - share*portion.sequences) < 1
            assert all(0 <= a and a+mixture.length+1 <= len(mixture.tokens[s]) for a in at[source==s])
            seen[name].extend(at[source==s].tolist())
    for name,starts in seen.items():
        w = mixture.windows[mixture.names.index(name)]
        for i in range(0, len(starts), w): assert len(set(starts[i:i+w])) == len(starts[i:i+w])       # also the unfinished last one


@pytest.mark.parametrize('seed', range(10))
def test_any_batch_alone_is_the_batch_in_a_row(seed):
    mixture,_ = random_mixture(seed)
    steps = [(i, s) for i in range(len(mixture.portions)) for s in range(mixture.steps(i))]
    in_a_row = {place: mixture.batch_at(*place) for place in steps}
    random.Random(seed).shuffle(steps)
    for place in steps: assert np.array_equal(random_mixture(seed)[0].batch_at(*place), in_a_row[place])


@pytest.fixture(scope='module')
def large():
    "Three sources, three stages, 48 sequences a step."
    shards = dict(web=Numbers(60_000, files=7), code=Numbers(20_000, 5, files=2), maths=Numbers(3_000, 9, files=1))
    portions = (Portion('high', dict(web=.75, code=.2, maths=.05), 9600), Portion('low', dict(code=.9, maths=.1), 4800), Portion('end', dict(maths=1.), 480))
    return Mixture(shards, portions, length=20, batch=48, seed=3)


def test_resume_at_200_random_steps(large):
    "A process that begins at any step of any stage reads what the uninterrupted one read there, and goes on the same way."
    uninterrupted = [np.stack([large.batch_at(i, s) for s in range(large.steps(i))]) for i in range(3)]
    r = random.Random(0)
    for _ in range(200):
        stage = r.randrange(3)
        step = r.randrange(large.steps(stage))
        resumed = Mixture(large.shards, large.portions, large.length, large.batch, large.seed)
        for s in range(step, min(step+2, large.steps(stage))): assert np.array_equal(resumed.batch_at(stage, s), uninterrupted[stage][s])


@pytest.mark.parametrize('ranks', [1, 2, 4, 3, 16, 48])
def test_the_global_batch_is_the_same_on_any_number_of_ranks(large, ranks):
    for stage,step in itertools.product(range(3), (0, 3, 9)):
        rows = [large.batch_at(stage, step, rank, ranks) for rank in range(ranks)]
        assert {len(r) for r in rows} == {48//ranks}
        assert np.array_equal(np.concatenate(rows), large.batch_at(stage, step))


def test_nothing_is_repeated_or_skipped_when_the_world_changes(large):
    "One pass of a source read by 4 ranks, then by 2, then by 16: every window once."
    read,step,world = [],0,itertools.cycle((4, 2, 16, 1))
    w = large.windows[0]
    while len(read) < w:
        ranks = next(world)
        for _ in range(7):
            for rank in range(ranks):
                rows = large.batch_at(0, step, rank, ranks)
                source,at = large.places(0, step*48 + rank*len(rows), len(rows))
                assert np.array_equal(rows[:, 0][source==0], at[source==0])
                read += rows[:, 0][source==0].tolist()
            step += 1
    assert len(set(read[:w])) == w


@pytest.mark.parametrize('seed', range(20))
def test_token_shares_are_the_asked_ones_to_a_thousandth(seed):
    r = random.Random(seed)
    names = [f's{i}' for i in range(r.randint(2, 12))]
    weights = np.array([10**r.uniform(-2.5, 0) for _ in names])
    shares = dict(zip(names, (weights/weights.sum()).tolist()))
    mixture = Mixture({n: Numbers(r.randint(3000, 60_000)) for n in names}, (Portion('only', shares, 20_000),), length=16, batch=32, seed=seed)
    tokens = dict.fromkeys(names, 0)
    for step in range(mixture.steps(0)):
        for s in mixture.places(0, step*32, 32)[0]: tokens[names[s]] += 16
    for n in names: assert tokens[n]/sum(tokens.values()) == pytest.approx(shares[n], abs=.001)


@pytest.mark.parametrize('seed', range(60))
def test_draws_are_exact_even_and_in_order(seed):
    r = random.Random(seed)
    counts = [r.choice([0, r.randint(1, 9), r.randint(1, 900)]) for _ in range(r.randint(1, 8))]
    counts[r.randrange(len(counts))] += 1
    total = sum(counts)
    source,nth = interleave(np.arange(total), counts)
    assert np.bincount(source, minlength=len(counts)).tolist() == counts
    for s,n in enumerate(counts):
        assert nth[source==s].tolist() == list(range(n))
        held = np.cumsum(source==s)
        assert np.abs(held - np.arange(1, total+1)*n/total).max() < 1+.5*len(counts)        # never far from its share
    k = np.array(r.choices(range(total), k=50))
    assert np.array_equal(interleave(k, counts)[0], source[k]) and np.array_equal(interleave(k, counts)[1], nth[k])


@pytest.mark.parametrize('n', [*range(1, 40), 63, 64, 65, 100, 255, 256, 257, 1000, 4095, 4097, 10_000, 99_991])
def test_a_pass_is_a_permutation(n):
    for key in (0, 1, 12345, 2**64-1): assert np.array_equal(np.sort(shuffled(np.arange(n), n, key)), np.arange(n))


def test_permutations_of_many_sizes_at_once_and_of_great_ones():
    n = np.array([1, 5, 10**6, 2**40, 2**62, 3])
    i = np.array([0, 4, 999_999, 7, 2**62-1, 1])
    together = shuffled(i, n, np.arange(6))
    assert together.tolist() == [int(shuffled([a], b, k)[0]) for k,(a,b) in enumerate(zip(i, n))]
    assert (together >= 0).all() and (together < n).all()
    many = shuffled(np.arange(100_000), 2**50, 9)
    assert len(set(many.tolist())) == 100_000


def test_a_permutation_looks_random():
    "Each number stands first equally often (chi-square), neighbours do not stay neighbours, and no key is another's."
    first = np.bincount(shuffled(np.zeros(20_000, int), 20, np.arange(20_000)), minlength=20)
    assert ((first-1000)**2/1000).sum() < 43.8                                               # 19 degrees of freedom, p=.001
    order = shuffled(np.arange(10_000), 10_000, 7)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < .04 and abs(np.corrcoef(order, np.arange(10_000))[0, 1]) < .04
    assert (np.abs(np.diff(order)) == 1).sum() < 12                                          # 2 expected
    pairs = {tuple(shuffled(np.arange(4), 4, k)) for k in range(500)}
    assert len(pairs) == 24                                                                  # every order of four is reached


def test_the_order_of_a_pass_is_the_same_on_every_machine():
    "Golden numbers: a change here changes every run that is resumed."
    assert shuffled(np.arange(12), 12, 42).tolist() == [10, 5, 9, 2, 1, 3, 4, 8, 6, 7, 0, 11]
    assert interleave(np.arange(12), [5, 4, 3])[0].tolist() == [1, 0, 2, 0, 1, 0, 2, 1, 0, 2, 0, 1]


def test_memory_does_not_grow_with_the_source():
    "A source of 10^15 tokens and a stage of two billion sequences: no array of that size."
    class Endless:
        tokenizer = 'of these tests'
        def tokens(self, split): return self
        def __len__(self): return 10**15
        def windows(self, starts, length): return np.zeros((len(starts), length), np.uint16)
    mixture = Mixture(dict(a=Endless(), b=Endless()), (Portion('long', dict(a=.9, b=.1), 2_000_000_000),), length=2048, batch=512)
    last = mixture.steps(0)-1
    source,at = mixture.places(0, last*512, 512)
    assert mixture.batch_at(0, last).shape == (512, 2049) and len(set(at.tolist())) == 512 and (source==1).sum() in (51, 52)


def test_another_seed_is_another_order_and_another_source_changes_no_order():
    one,two = (random_mixture(3, seed=s)[0] for s in (1, 2))
    assert not np.array_equal(drawn(one, 0)[1], drawn(two, 0)[1])
    alone = Mixture(dict(b=Numbers(900)), (Portion('p', dict(b=1.), 40),), 10, 4)
    beside = Mixture(dict(a=Numbers(900), b=Numbers(900)), (Portion('p', dict(a=.5, b=.5), 80),), 10, 4)
    source,at = drawn(beside, 0)
    assert np.array_equal(at[source==1], drawn(alone, 0)[1])


@pytest.mark.parametrize('seed', range(10))
def test_document_numbers_follow_end_of_text(seed):
    r = np.random.default_rng(seed)
    ids = r.integers(0, 4, (5, 30))
    numbers = documents_in(ids)
    for row,n in zip(ids, numbers):
        expected,k = [],0
        for t in row:
            k += t == END_ID                                           # it begins the next one
            expected.append(k)
        assert n.tolist() == expected
    starts = sequence_starts(numbers)
    pieces = [ids.ravel()[a:b] for a,b in zip(starts, starts[1:])]
    assert sum(map(len, pieces)) == ids.size
    for p in pieces: assert (p[1:] != END_ID).all()                   # a piece ends where the next document begins
    assert {0, 30, 60, 90, 120, 150} <= set(starts.tolist())          # rows do not see each other


def test_packed_within_the_same_rows_carry_their_documents():
    "On any number of ranks; and a setting that there is not is refused."
    sources,portions = dict(a=Numbers(900), b=Numbers(700)),(Portion('p', dict(a=.5, b=.5), 80),)
    across,within = (Mixture(sources, portions, 10, 4, 3, how) for how in PACKED)
    for step in range(20):
        rows = within.batch_at(0, step)
        assert rows.shape == (4, 2, 11) and np.array_equal(rows[:, 0], across.batch_at(0, step)) and np.array_equal(rows[:, 1], documents_in(rows[:, 0]))
        assert np.array_equal(np.concatenate([within.batch_at(0, step, r, 2) for r in range(2)]), rows)
    with pytest.raises(ValueError, match="Did you mean 'within'"): Mixture(sources, portions, 10, 4, 3, 'withn')


def test_the_next_batch_is_made_while_the_model_works():
    made,go = [],threading.Event()
    def batch_at(step):
        made.append(step)
        if step > 0: go.wait(5)
        return step
    with Ahead(batch_at, 10, depth=2) as ready:
        assert ready(0) == 0
        for _ in range(100):
            if 1 in made: break
            time.sleep(.01)
        assert 1 in made                                              # begun, though nobody asked
        go.set()
        assert [ready(s) for s in range(1, 10)] == list(range(1, 10))
    assert sorted(made) == list(range(10))                            # each once, none behind the last


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


def test_a_small_set_is_warned_of():
    unique,weight = dict(web=10_000_000, glue=20_000, piqa=300_000),dict(web=.8, glue=.1, piqa=.1)
    with pytest.warns(UserWarning, match=r'glue is small: 10.0% of 10.0M tokens would read its 20.0k tokens 50.0 times. It is read 4.0 times') as said:
        rows = {r['source']: r for r in mix_table(unique, weight, 10_000_000)}
    assert len(said) == 1 and rows['glue']['epochs'] == pytest.approx(4) and rows['piqa']['wanted_epochs'] == pytest.approx(10/3)
    assert sum(r['share'] for r in rows.values()) == pytest.approx(1) and rows['web']['share'] > .8
    with pytest.warns(UserWarning, match='It is read 50.0 times'): mix_table(unique, weight, 10_000_000, max_epochs=100)


def test_falcons_shares_are_of_tokens():
    assert sum(FALCON.values()) == pytest.approx(1)
    kinds = dict(zip('abcdef', FALCON)) | dict(g='web')
    weights = spread(FALCON, kinds, dict.fromkeys('abcdefg', 1000) | dict(g=3000))
    assert weights['a'] == pytest.approx(.75/4) and weights['g'] == pytest.approx(.75*3/4) and sum(weights.values()) == pytest.approx(1)
    with pytest.warns(UserWarning, match='No source of kind european web, books, conversations, code, technical: 25% of the shares'):
        assert spread(FALCON, dict(a='web'), dict(a=5)) == dict(a=1.)


def recipe_of(**more):
    from andromeda.stages import Corpus, Recipe, Stage
    first = Stage(name='high', tier='high', tokens=4*10*50, peak_lr=1e-3)
    second = Stage(name='low', tier='low', tokens=4*10*200, peak_lr=1e-3, replay=.5)
    return Recipe(name='r', model='palm-tiny', corpus=Corpus(sources=('a', 'b'), vocab=60), stages=(first, second), length=10, batch=4, **more)


def test_a_recipe_that_reads_a_small_tier_many_times_is_warned_of():
    "And the cap holds: what the small one cannot give, the other gives."
    sources,tiers = dict(a=Numbers(700), b=Numbers(6000)),dict(a='high', b='low')
    with pytest.warns(UserWarning, match=r'a is small: 50\.0% of .* would read its 700 tokens 5\.7 times'): mixture = recipe_mixture(recipe_of(), tiers, sources)
    [row] = [r for r in mixture.table() if (r['stage'], r['source']) == ('low', 'a')]
    assert row['tokens'] == pytest.approx(4*700, abs=10) and mixture.packed == 'across'


def test_a_recipe_packed_within_trains_on_rows_with_documents():
    import torch
    from andromeda.model import LM, preset
    from andromeda.stages import train_stages
    recipe = recipe_of(packed='within')
    seen = []
    class Seeing(LM):
        def forward(self, ids_BT, **more):
            seen.append((ids_BT, more['documents_BT']))
            return super().forward(ids_BT, **more)
    torch.manual_seed(0)
    model = Seeing(preset('palm-tiny', vocab=1000, max_len=10, layers=1, d_model=64, heads=2))
    mixture = recipe_mixture(recipe, dict(a='high', b='low'), dict(a=Numbers(900), b=Numbers(2000)))
    losses = [r['loss'] for _,r in zip(range(3), train_stages(recipe, model, torch.optim.SGD(model.parameters(), .1), mixture))]
    assert len(seen) == 3 and all(np.isfinite(losses))
    for step,(ids,documents) in enumerate(seen): assert np.array_equal(np.stack([ids, documents], 1), mixture.batch_at(0, step)[:, :, :-1])


@pytest.mark.parametrize('name', ['palm-100m', 'mpt-100m'])
def test_making_batches_takes_less_than_a_hundredth_of_a_step_of_the_100m_models(name):
    "By the record, and the sums of a step: even if nothing is made ahead, up to 60% of an H100's peak."
    from andromeda.core import read_jsonl
    from andromeda.model import flops_per_token, preset
    from andromeda.model import PEAK
    made = read_jsonl(Path(__file__).parent.parent/'data'/'records'/'shards.jsonl')[-1]['batch_tokens_a_second']
    assert .6*PEAK['H100']/flops_per_token(preset(name), 2048)/made < .01
