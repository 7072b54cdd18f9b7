"A mixture is proposed when it is better, and only then."
import random
import subprocess

import numpy as np
import pytest
import torch

from andromeda.core import checkout
from andromeda.proposal import (Few, Proof, Proxy, best_mixture, catalogue_diff, draw_mixtures, even_mixture, fit_response, matched, new_tiers, propose, prove,
                                train_proxy)
from andromeda.shards import Shards, build_shards
from andromeda.sources import read_catalogue
from andromeda.tokenizer import build_tokenizer, load_tokenizer

PROXY = Proxy(tokens=8_000, width=32, layers=1, length=16, batch=4, peak_lr=1e-2)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    "A source from which much is to be learned, and one from which nothing is."
    folder,r = tmp_path_factory.mktemp('data'),random.Random(0)
    words = [f'w{i}' for i in range(60)]
    chain = {w: r.sample(words, 2) for w in words}
    def sentence():
        w,out = r.choice(words),[]
        for _ in range(30): out.append(w); w = r.choice(chain[w])
        return ' '.join(out)
    texts = dict(chain=[sentence() for _ in range(250)], noise=[' '.join(str(r.randrange(10)) for _ in range(40)) for _ in range(250)])
    docs = {s: [dict(id=f'{s}{i}', group=f'{s}{i}', text=t) for i,t in enumerate(ts)] for s,ts in texts.items()}
    tokenizer = build_tokenizer(folder/'tokenizer', [d['text'] for ds in docs.values() for d in ds], 330, {})
    shards = {s: Shards(build_shards(lambda ds=ds: ds, folder/'shards'/s, tokenizer, {})) for s,ds in docs.items()}
    encode = load_tokenizer(tokenizer).encode
    evals = {s: [(np.array(encode(t).ids), t.encode()) for t in ts[-6:]] for s,ts in texts.items()}
    return shards,evals,tokenizer.counts['vocab']


def test_a_useless_source_loses_its_share_and_the_gain_is_proven(data):
    shards,evals,vocab = data
    unique = {n: len(s.tokens('train')) for n,s in shards.items()}
    short = matched(shards, PROXY.tokens, PROXY.tokens, PROXY.length)
    train = lambda shares, seed: train_proxy(short, shares, evals, vocab, PROXY, seed)
    mixtures = draw_mixtures(unique, PROXY.tokens, 6, seed=2)
    counts = dict(chain=1.)                        # what is wanted is a model of the chain
    response = fit_response(mixtures, [train(m, 0) for m in mixtures], counts)
    best = best_mixture(response, unique, PROXY.tokens)
    assert best['chain'] > .65 and response.rank > .5, (best, response.rank)
    proof = prove(best, mixtures[0], train, range(1, 8), counts)
    assert proof.better, str(proof)
    assert new_tiers(best, mixtures[0]) == dict(chain='high', noise='low')


def test_a_proxy_depends_on_its_seed_and_on_nothing_else(data):
    shards,evals,vocab = data
    few = Proxy(tokens=1000, width=32, layers=1, length=16, batch=4)
    even = dict(chain=.5, noise=.5)
    torch.manual_seed(1)
    a = train_proxy(shards, even, evals, vocab, few, 0)
    torch.manual_seed(2)
    assert a == train_proxy(shards, even, evals, vocab, few, 0) != train_proxy(shards, even, evals, vocab, few, 1)


def test_a_short_run_repeats_as_often_as_the_real_one(data):
    shards,_,_ = data
    few = matched(shards, 1000, 10_000, 16)
    for n,s in shards.items():
        whole = len(s.tokens('train'))
        assert len(few[n].tokens('train')) == round(whole/10) and len(few[n].tokens('validation')) == len(s.tokens('validation'))
        assert (few[n].tokens('train').windows(np.array([0]), 17) == s.tokens('train').windows(np.array([0]), 17)).all()
    assert len(matched(shards, 1, 10**9, 16)['chain'].tokens('train')) == 34 and isinstance(few['chain'], Few)


@pytest.mark.parametrize('seed', range(3))
def test_mixtures_keep_to_the_passes_that_are_allowed(seed):
    r = random.Random(seed)
    unique = {f's{i}': r.randrange(1000, 100_000) for i in range(5)}
    budget = sum(unique.values())
    for m in draw_mixtures(unique, budget, 30, seed):
        assert sum(m.values()) == pytest.approx(1) and all(m[s]*budget <= 4.0001*unique[s] and m[s] > 0 for s in unique)
    assert draw_mixtures(unique, budget, 3, seed)[0] == even_mixture(unique, budget)


def test_chance_is_not_proven():
    "Differences around nothing: at most a few of a hundred are called better, as a 95% interval should."
    r = np.random.default_rng(0)
    assert sum(Proof(tuple(r.normal(0, .02, 3))).better for _ in range(400)) <= 18
    assert sum(Proof(tuple(r.normal(-.1, .01, 3))).better for _ in range(100)) >= 95
    with pytest.raises(ValueError, match='three'): prove({}, {}, lambda *a: {}, (0, 1))


def test_the_diff_applies_and_changes_two_lines_a_source(tmp_path):
    path = tmp_path/'data'/'sources.toml'
    path.parent.mkdir()
    path.write_text((checkout()/'data'/'sources.toml').read_text())
    before = read_catalogue(path)
    diff = propose(path, dict(pairs=.6, docstrings=.1, stdlib=.3), dict(pairs=.3, docstrings=.4, stdlib=.3), Proof((-.03, -.035, -.028)), 24)
    subprocess.run(['git', 'init', '-q', '.'], cwd=tmp_path, check=True)
    subprocess.run(['git', 'apply', '-'], cwd=tmp_path, input=diff, text=True, check=True)
    after = read_catalogue(path)
    assert {n: (s.tier, after[n].tier) for n,s in before.items() if s != after[n]} == dict(pairs=('low', 'high'), docstrings=('high', 'low'))       # stdlib is medium already
    assert 'small models' in after['pairs'].why and '0.031' in after['pairs'].why
    assert sum(l.startswith(('+', '-')) and not l.startswith(('+++', '---')) for l in diff.splitlines()) == 8
    assert catalogue_diff(path, {n: s.tier for n,s in after.items()}, {}) == ''


def test_quotes_in_a_reason_stay_toml(tmp_path):
    path = tmp_path/'c.toml'
    path.write_text('[sources.a]\ntier = "high"\nkind = "prose"\nreader = "stdlib"\n')
    diff = catalogue_diff(path, dict(a='low'), dict(a='a "quoted" \\ reason'), 'c.toml')
    subprocess.run(['git', 'init', '-q', '.'], cwd=tmp_path, check=True)
    subprocess.run(['git', 'apply', '-'], cwd=tmp_path, input=diff, text=True, check=True)
    assert read_catalogue(path)['a'].why == 'a "quoted" \\ reason' and read_catalogue(path)['a'].tier == 'low'
