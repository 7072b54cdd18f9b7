"""What the optimiser promises: every weight in one group, the published rule of decay, the published schedule."""
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from andromeda.model import LM, PRESETS, preset
from andromeda.optim import PUBLISHED, learning_rate, make_optimizer, param_groups

@pytest.mark.parametrize('name', PRESETS)
def test_every_weight_is_in_exactly_one_group(name):
    with torch.device('meta'): m = LM(preset(name))
    groups = param_groups(m, .1)
    grouped = [id(w) for g in groups for w in g['params']]
    assert sorted(grouped) == sorted(id(w) for w in m.parameters())
    matrices = {id(x.weight) for x in m.modules() if isinstance(x, nn.Linear)}
    for g in groups:
        assert g['weight_decay'] == {'decayed': .1, 'kept': 0.}[g['name']]
        assert all((id(w) in matrices) == (g['name']=='decayed') for w in g['params'])
    assert [g['name'] for g in groups] == ['decayed', 'kept']

def test_a_tied_output_matrix_counts_as_embedding():
    class Tied(nn.Module):
        def __init__(self, linear_first):
            super().__init__()
            if linear_first: self.out = nn.Linear(4, 9, bias=False)
            self.embed = nn.Embedding(9, 4)
            if not linear_first: self.out = nn.Linear(4, 9, bias=False)
            self.out.weight = self.embed.weight
            self.mix = nn.Linear(4, 4)
    for linear_first in (True, False):
        m = Tied(linear_first)
        by_name = {g['name']: g['params'] for g in param_groups(m, .1)}
        assert [id(w) for w in by_name['decayed']] == [id(m.mix.weight)]
        assert {id(w) for w in by_name['kept']} == {id(m.embed.weight), id(m.mix.bias)}

def test_a_weight_without_a_rule_is_refused():
    m = LM(preset('palm-tiny', layers=1))
    m.blocks[0].q_scale = nn.Parameter(torch.ones(32))
    with pytest.raises(ValueError, match=r'No rule says whether blocks\.0\.q_scale'): make_optimizer(m, 1e-3)

def one_run(m, opt, steps, seed=0):
    "Trains in place; returns the gradients that were seen, by parameter."
    seen = {w: [] for w in m.parameters()}
    g = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        ids = torch.randint(m.config.vocab, (2, 9), generator=g)
        F.cross_entropy(m(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()
        for w in seen: seen[w].append(w.grad.clone().double())
        opt.step(); opt.zero_grad()
    return seen

@pytest.mark.parametrize('name,options', [('palm-tiny', {}), ('mpt-tiny', {}), ('mpt-tiny', dict(weight_decay=.3, betas=(.8, .99), eps=1e-4))])
def test_steps_are_adamw_with_the_familys_values(name, options):
    m = LM(preset(name, layers=1, vocab=50))
    first = {w: w.detach().clone().double() for w in m.parameters()}
    published = dict(palm=dict(betas=(.9, .95), eps=1e-8, weight_decay=.1), mpt=dict(betas=(.9, .95), eps=1e-8, weight_decay=0.))
    value = published[m.config.family] | options
    seen = one_run(m, make_optimizer(m, 1e-2, **options), steps=4)
    names = {w: n for n,w in m.named_parameters()}
    (b1,b2),lr = value['betas'], 1e-2
    for w,start in first.items():
        decay = value['weight_decay'] if w.ndim==2 and 'embed' not in names[w] else 0.
        mean = square = torch.zeros_like(start)
        for t,g in enumerate(seen[w], 1):
            mean,square = b1*mean + (1-b1)*g, b2*square + (1-b2)*g*g
            start = start*(1-lr*decay) - lr*mean/(1-b1**t)/((square/(1-b2**t)).sqrt() + value['eps'])
        torch.testing.assert_close(w.detach().double(), start, atol=2e-5, rtol=0, msg=names[w])

def test_the_optimizer_is_fused_and_says_what_it_lacks():
    assert make_optimizer(LM(preset('mpt-tiny')), 1e-3).defaults['fused'] is True
    with pytest.raises(ValueError, match='give betas, eps, weight_decay'): make_optimizer(nn.Linear(2, 2), 1e-3)
    make_optimizer(nn.Linear(2, 2), 1e-3, betas=(.9, .95), eps=1e-8, weight_decay=0.)
    for lr in (0, -1, math.nan):
        with pytest.raises(ValueError, match='must be above 0'): make_optimizer(LM(preset('mpt-tiny')), lr)

def test_published_values():
    palm,mpt = PUBLISHED['palm'], PUBLISHED['mpt']
    assert (palm['weight_decay'], palm['final_share'], palm['warmup_share'], palm['clip']) == (.1, 0., .01, 1.)
    assert (mpt['weight_decay'], mpt['final_share'], mpt['warmup_steps'], mpt['clip']) == (0., .1, 100, 1.)
    assert palm['betas']==mpt['betas']==(.9, .95) and palm['eps']==mpt['eps']==1e-8

@pytest.mark.parametrize('steps,warmup,final', [(1000, 100, .1), (1279, 12, 0.), (25_012, 100, .1), (7, 0, 0.), (3, 2, 1.), (1, 0, .5)])
def test_schedule_at_its_corners(steps, warmup, final):
    at = lambda step: learning_rate(step, steps, 6e-4, warmup, final)
    if warmup:
        assert at(0) == 0
        assert at(warmup/2) == pytest.approx(3e-4)
    assert at(warmup) == pytest.approx(6e-4)
    assert at((warmup+steps)/2) == pytest.approx(6e-4*(1+final)/2)
    assert at(steps) == at(10*steps) == pytest.approx(6e-4*final, abs=1e-18)
    rates = [at(s) for s in range(min(steps, 2000)+1)]
    assert all(a < b for a,b in zip(rates[:warmup], rates[1:warmup+1]))
    assert all(a >= b for a,b in zip(rates[warmup:], rates[warmup+1:]))

def test_schedule_is_the_one_transformers_has():
    "get_cosine_schedule_with_warmup, which trained PaLM: its lambda, written out."
    steps,warmup = 640, 64
    def factor(step):
        if step < warmup: return step/max(1, warmup)
        return max(0., .5*(1 + math.cos(math.pi*.5*2*(step-warmup)/max(1, steps-warmup))))
    for step in range(steps+1):
        assert learning_rate(step, steps, 3e-4, warmup) == pytest.approx(3e-4*factor(step), abs=1e-15)

@pytest.mark.parametrize('kw,says', [(dict(steps=100, warmup=100), 'shorter than the run'), (dict(steps=0), 'does not fit'),
                                     (dict(steps=9, warmup=-1), 'at least 0'), (dict(steps=9, final_share=1.1), 'from 0 to 1')])
def test_an_impossible_schedule_is_refused(kw, says):
    with pytest.raises(ValueError, match=says): learning_rate(step=0, peak=1e-3, **kw)
