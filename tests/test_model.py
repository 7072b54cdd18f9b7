"""What the models promise: the published formulas, the counted sizes, one seed one model, errors with a way out."""
import math
from dataclasses import asdict, replace

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from andromeda.model import (LM, PRESETS, ModelConfig, describe, flops_per_token, generate, parameter_count, preset)

TINY = 'palm-tiny', 'mpt-tiny'

def config(family, heads=4, d_head=8, d_model=None, layers=3, vocab=97, max_len=160):
    return ModelConfig(family, d_model or heads*d_head, layers, heads, d_head, vocab, max_len)

def perturbed(c, seed=0):
    "A model whose norm gains are not 1 and whose weights are large enough to make a difference visible."
    m,g = LM(c, seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for w in m.parameters():
            if w.ndim==1: w += .3*torch.randn(w.shape, generator=g)
        if c.family=='palm':
            for w in m.parameters():
                if w.ndim==2: w *= 5
    return m

def tokens(c, B, T, seed=0): return torch.randint(c.vocab, (B, T), generator=torch.Generator().manual_seed(seed))

# Both families again, written from the papers' and the reference packages' formulas, with nothing of the package in them.

def norm(x, gain):
    x = x - x.mean(-1, keepdim=True)
    return gain*x/(x.square().mean(-1, keepdim=True) + 1e-5).sqrt()

def attend(q_bhid, k_bhjd, v_bhjd, bias=0.):
    scores = torch.einsum('bhid,bhjd->bhij', q_bhid, k_bhjd)*q_bhid.shape[-1]**-.5 + bias
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    mixed = scores.masked_fill(future, torch.finfo(scores.dtype).min).softmax(-1) @ v_bhjd
    return mixed.transpose(1, 2).flatten(2)

def plain_palm(m, ids):
    "Parallel block; rotary with xPos, un-centred; one key/value head; value half of SwiGLU first; tied logits."
    c,w,n = m.config, m.state_dict(), ids.shape[1]
    i = torch.arange(0, c.d_head, 2).float()
    freqs = torch.outer(torch.arange(n).float(), 10_000**-(i/c.d_head))
    freqs = torch.cat([freqs, freqs], -1)
    scale = ((i + .4*c.d_head)/(1.4*c.d_head))**(torch.arange(n)[:, None]/512)
    scale = torch.cat([scale, scale], -1)
    half = c.d_head//2
    turn = lambda t, s: t*freqs.cos()*s + torch.cat([-t[..., half:], t[..., :half]], -1)*freqs.sin()*s
    x = w['embed.weight'][ids]
    for l in range(c.layers):
        b = f'blocks.{l}.'
        y = norm(x, w[b+'norm.weight']) @ w[b+'in_proj.weight'].T
        a,d = c.heads*c.d_head, c.d_head
        q = y[..., :a].unflatten(-1, (c.heads, d)).transpose(1, 2)
        k,v = y[..., a:a+d][:, None], y[..., a+d:a+2*d][:, None]
        value,gate = y[..., a+2*d:].chunk(2, -1)
        mixed = attend(turn(q, scale), turn(k, 1/scale).expand_as(q), v.expand_as(q))
        ff = gate*torch.sigmoid(gate)*value
        x = mixed @ w[b+'attn_out.weight'].T + ff @ w[b+'ff_out.weight'].T + x
    return norm(x, w['norm.weight']) @ w['embed.weight'].T

def plain_mpt(m, ids):
    "Sequential block; ALiBi counted from the last key of max_len; exact GELU; tied logits."
    c,w,n = m.config, m.state_dict(), ids.shape[1]
    power = 2**math.ceil(math.log2(c.heads))
    slopes = torch.tensor([2**(-8*i/power) for i in range(1, power+1)])
    if power != c.heads: slopes = torch.cat([slopes[1::2], slopes[::2]])[:c.heads]
    bias = (torch.arange(1-c.max_len, 1)*slopes[:, None])[:, None, -n:]
    x = w['embed.weight'][ids]
    for l in range(c.layers):
        b = f'blocks.{l}.'
        qkv = norm(x, w[b+'norm_1.weight']) @ w[b+'in_proj.weight'].T
        q,k,v = (part.unflatten(-1, (c.heads, c.d_head)).transpose(1, 2) for part in qkv.split(c.d_model, -1))
        x = x + attend(q, k, v, bias) @ w[b+'attn_out.weight'].T
        up = norm(x, w[b+'norm_2.weight']) @ w[b+'ff_in.weight'].T
        x = x + (up*(1 + torch.erf(up/math.sqrt(2)))/2) @ w[b+'ff_out.weight'].T
    return norm(x, w['norm.weight']) @ w['embed.weight'].T

PLAIN = dict(palm=plain_palm, mpt=plain_mpt)

@pytest.mark.parametrize('family', PLAIN)
@pytest.mark.parametrize('heads', [4, 6, 12])
@pytest.mark.parametrize('T', [1, 37, 130])
def test_logits_follow_the_published_formulas(family, heads, T):
    c = config(family, heads, d_model=40 if family=='palm' else None)    # PaLM's attention need not be as wide as the model
    m = perturbed(c, seed=heads)
    ids = tokens(c, 2, T, seed=T)
    with torch.no_grad(): ours, plain = m(ids), PLAIN[family](m, ids)
    assert plain.abs().max() > 1                                         # there is something to agree on
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)

@pytest.mark.parametrize('family', PLAIN)
def test_loss_gradients_follow_the_published_formulas(family):
    c = config(family, heads=6)
    m = perturbed(c)
    ids = tokens(c, 3, 41)
    loss_of = lambda logits: F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    loss_of(m(ids)).backward()
    ours = {n: w.grad.clone() for n,w in m.named_parameters()}
    m.zero_grad()
    weights = dict(m.named_parameters())
    m.state_dict = lambda: weights                                       # the plain version, with gradients
    loss_of(PLAIN[family](m, ids)).backward()
    for n,w in weights.items(): torch.testing.assert_close(ours[n], w.grad, atol=2e-6, rtol=1e-4, msg=n)

# Sizes

TOTALS = {'palm-100m': (100_571_136, 61_937_664), 'palm-500m': (503_885_952, 445_935_744), 'palm-1b': (983_861_248, 880_838_656),
          'mpt-100m': (102_447_360, 63_715_584), 'mpt-500m': (497_148_160, 432_595_200), 'mpt-1b': (1_311_344_640, 1_208_059_904)}

@pytest.mark.parametrize('name', PRESETS)
def test_every_preset_is_as_large_as_it_says(name):
    with torch.device('meta'): m = LM(preset(name))
    built = sum(w.numel() for w in m.parameters())
    assert built == parameter_count(m.config)
    assert built - m.embed.weight.numel() == parameter_count(m.config, embedding=False)
    assert sum(w.numel() for w in m.state_dict().values()) == built      # weights only, the embedding once
    if name in TOTALS: assert (built, built - m.embed.weight.numel()) == TOTALS[name]
    assert f'{built:,}' in describe(m.config)

@pytest.mark.parametrize('name,full,causal', [('palm-100m', 1.31e9, 9.56e8), ('palm-500m', 5.44e9, 4.23e9), ('palm-1b', 7.51e9, 6.71e9),
                                              ('mpt-100m', 7.85e8, 7.00e8), ('mpt-500m', 3.675e9, 3.33e9), ('mpt-1b', 9.08e9, 8.47e9)])
def test_flops_of_the_presets(name, full, causal):
    c = preset(name)
    assert flops_per_token(c, c.max_len) == pytest.approx(full, rel=2e-3)
    assert flops_per_token(c, c.max_len, causal=True) == pytest.approx(causal, rel=2e-3)

@pytest.mark.parametrize('name', TINY)
def test_flops_are_those_of_the_matrix_products(name):
    "Against PyTorch's own counter: 2 per weight forward, 6 with the backward pass; norms multiply no matrix."
    c,B,T = preset(name), 2, 32
    m = LM(c)
    linear = flops_per_token(c, T) - 12*c.layers*c.heads*c.d_head*T
    with FlopCounterMode(display=False) as count: m(tokens(c, B, T)).sum().backward()
    products = sum(n for op,n in count.get_flop_counts()['Global'].items() if 'attention' not in str(op))
    norms = sum(w.numel() for w in m.parameters() if w.ndim==1)
    assert products == B*T*(linear - 6*norms)

@pytest.mark.slow
@pytest.mark.parametrize('name,wanted', [('palm-100m', 10.950), ('mpt-100m', 11.866)])
def test_first_loss_of_the_100m_presets(name, wanted):
    "The values measured with the reference packages' own initialisation, on random tokens."
    m = LM(preset(name))
    ids = tokens(m.config, 2, 257)
    with torch.no_grad(): loss = F.cross_entropy(m(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).item()
    assert loss == pytest.approx(wanted, abs=.1)

# The start

def test_weights_start_by_the_familys_rule():
    c = config('palm', heads=8, d_head=32, d_model=192, layers=2, vocab=4096)
    m = LM(c)
    assert m.embed.weight.std().item() == pytest.approx(.02, rel=.02)
    for w in (b.in_proj.weight for b in m.blocks):
        assert w.std().item() == pytest.approx(1/math.sqrt(3*192), rel=.02)      # uniform within 1/sqrt(inputs)
        assert w.abs().max().item() <= 1/math.sqrt(192)
    c = config('mpt', heads=6, d_head=32, layers=5, vocab=4096)
    m = LM(c)
    assert m.embed.weight.std().item() == pytest.approx(math.sqrt(2/192), rel=.02)
    for b in m.blocks:
        for w,depth in ((b.in_proj.weight, 1), (b.ff_in.weight, 1), (b.attn_out.weight, 10), (b.ff_out.weight, 10)):
            assert w.std().item() == pytest.approx(math.sqrt(2/w.shape[1]/depth), rel=.03)
    for m in (LM(preset(n)) for n in TINY):
        assert all((w==1).all() for w in m.parameters() if w.ndim==1)

@pytest.mark.parametrize('name', TINY)
def test_one_seed_one_model(name):
    torch.manual_seed(3); wanted = torch.rand(4)
    torch.manual_seed(3); a = LM(preset(name), seed=1); assert torch.equal(torch.rand(4), wanted)
    torch.manual_seed(4); b = LM(preset(name), seed=1)
    c = LM(preset(name), seed=2)
    for (n,x),y,z in zip(a.named_parameters(), b.parameters(), c.parameters()):
        assert torch.equal(x, y), n
        if x.ndim==2: assert not torch.equal(x, z), n

@pytest.mark.parametrize('name', TINY)
def test_weights_travel_as_safetensors(name, tmp_path):
    from safetensors.torch import load_file, save_file
    a,b = LM(preset(name), seed=1), LM(preset(name), seed=2)
    save_file(a.state_dict(), tmp_path/'w.safetensors')
    b.load_state_dict(load_file(tmp_path/'w.safetensors'))
    ids = tokens(a.config, 1, 20)
    with torch.no_grad(): assert torch.equal(a(ids), b(ids))
    assert ModelConfig(**asdict(a.config))==a.config

# Behaviour

@pytest.mark.parametrize('family', PLAIN)
def test_the_future_cannot_be_seen(family):
    c = config(family, heads=6)
    m = perturbed(c)
    for seed in range(5):
        ids = tokens(c, 2, 30, seed)
        changed = ids.clone(); changed[:, 17] = (changed[:, 17]+1) % c.vocab
        with torch.no_grad(): before, after = m(ids), m(changed)
        torch.testing.assert_close(after[:, :17], before[:, :17])
        assert all(not torch.allclose(after[:, t], before[:, t]) for t in (17, 29))

@pytest.mark.parametrize('family', PLAIN)
def test_order_is_noticed(family):
    c = config(family)
    m = perturbed(c)
    ids = tokens(c, 1, 12)
    swapped = ids[:, [1, 0, *range(2, 12)]]
    with torch.no_grad(): assert (m(ids)[:, -1] - m(swapped)[:, -1]).abs().max() > 1e-3

@pytest.mark.parametrize('name', TINY)
def test_a_batch_can_be_learnt_by_heart(name):
    m = LM(preset(name, layers=2, vocab=64, max_len=32))
    ids, opt = tokens(m.config, 4, 17), torch.optim.AdamW(m.parameters(), lr=3e-3)
    for _ in range(80):
        loss = F.cross_entropy(m(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        opt.zero_grad(); loss.backward(); opt.step()
    assert loss < .2

@pytest.mark.parametrize('family', PLAIN)
def test_bf16_weights_stay_near_fp32(family):
    "Positions keep fp32 when the model is cast, so a long text is not worse than a short one."
    c = config(family, heads=4, d_head=16, max_len=600)
    m = perturbed(c)
    ids = tokens(c, 1, 600)
    with torch.no_grad():
        wanted = m(ids)
        low = m.to(torch.bfloat16)(ids)
    assert low.dtype==torch.float32
    error = (low-wanted).abs().mean(-1)[0] / wanted.abs().mean()
    assert error[:100].mean() < .05 and error[-100:].mean() < .05

@pytest.mark.parametrize('name', TINY)
def test_mistakes_are_refused_with_the_way_out(name):
    m = LM(preset(name, layers=1, max_len=8))
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            with pytest.raises(ValueError, match=r'run from 0 to 2048, but this model knows 0\.\.2047'): m(torch.tensor([[0, 2048]]))
            with pytest.raises(ValueError, match='from -1 to 3'): m(torch.tensor([[3, -1]]))
    with pytest.raises(ValueError, match='9 tokens is longer than max_len, 8'): m(torch.zeros(1, 9, dtype=torch.long))
    with pytest.raises(ValueError, match='expected whole numbers'): m(torch.zeros(1, 4))
    with pytest.raises(ValueError, match='expected whole numbers'): m(torch.zeros(4, dtype=torch.long))

@pytest.mark.parametrize('changes,says', [
    (dict(family='gpt'), 'palm, mpt'), (dict(layers=0), 'layers is 0'), (dict(vocab=True), 'vocab is True'), (dict(max_len='8'), "max_len is '8'"),
    (dict(d_model=200), r'Try d_head=50'), (dict(heads=5), 'Try d_model=160'), (dict(family='palm', d_head=33), 'make it even')])
def test_a_wrong_configuration_says_what_to_do(changes, says):
    with pytest.raises(ValueError, match=says): replace(preset('mpt-tiny'), **changes)

# Sampling

@pytest.mark.parametrize('family', PLAIN)
def test_greedy_sampling_is_the_argmax_of_the_formula(family):
    "Also past max_len, where only the last max_len tokens are read."
    c = config(family, vocab=31, max_len=12)
    m = perturbed(c, seed=4)
    text = tokens(c, 1, 5)[0].tolist()
    new = generate(m, text, 20, temperature=0)
    for _ in range(20): text.append(PLAIN[family](m, torch.tensor([text[-12:]]))[0, -1].argmax().item())
    assert new == text[5:] and len(set(new)) > 5                         # something worth comparing

@pytest.mark.parametrize('family', PLAIN)
def test_sampling_follows_the_models_probabilities(family):
    m = perturbed(config(family, vocab=5, layers=1), seed=5)
    with torch.no_grad(): wanted = (m(torch.tensor([[1, 2]]))[0, -1]/.5).softmax(-1)
    assert .3 < wanted.max() < .8
    drawn = torch.tensor([generate(m, [1, 2], 1, temperature=.5, seed=s)[0] for s in range(600)])
    torch.testing.assert_close(drawn.bincount(minlength=5)/600, wanted, atol=.07, rtol=0)

def test_sampling_is_seeded_stops_and_disturbs_nothing():
    m = perturbed(config('mpt', vocab=16))
    a = generate(m, [1], 60, temperature=1., seed=1)
    torch.manual_seed(0); wanted = torch.rand(3)
    torch.manual_seed(0); again = generate(m, [1], 60, temperature=1., seed=1)
    assert torch.equal(torch.rand(3), wanted) and a==again and len(a)==60 and m.training
    assert a != generate(m, [1], 60, temperature=1., seed=2)
    stop = a[20]
    assert generate(m, [1], 60, temperature=1., seed=1, stop=stop) == a[:a.index(stop)]
    prompt = [1]; generate(m, prompt, 3); assert prompt==[1]
    assert generate(m, [1], 0)==[]
    for bad in ([], [16], [-1]):
        with pytest.raises(ValueError): generate(m, bad, 3)
    with pytest.raises(ValueError, match='temperature is -1'): generate(m, [1], 3, temperature=-1)

def test_training_goes_on_after_scoring_in_inference_mode():
    for family in PLAIN:
        c = config(family, heads=2, d_head=6, max_len=170)
        m = LM(c)
        with torch.inference_mode(): m(tokens(c, 1, 170))
        m(tokens(c, 1, 170)).sum().backward()
        assert m.embed.weight.grad.abs().sum() > 0
