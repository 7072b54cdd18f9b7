"""What the models promise: the published formulas, the counted sizes, one seed one model, errors with a way out."""
import json
import math
import os
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from andromeda.model import (BASIS, FAMILIES, IGNORED, LM, PRESETS, Cache, ModelConfig, WithHead, describe, draw, flops_per_token, generate,
                             mask_tokens, objective_loss, parameter_count, preset, recommend, training_hours, training_memory)

TINY = [f'{family}-tiny' for family in FAMILIES]
WRITERS = [f for f in FAMILIES if preset(f'{f}-tiny').causal]
READERS = [f for f in FAMILIES if f not in WRITERS]

def config(family, heads=4, d_head=8, d_model=None, layers=3, vocab=97, max_len=160, **parts):
    return ModelConfig(family, d_model or heads*d_head, layers, heads, d_head, vocab, max_len, **parts)

def perturbed(c, seed=0):
    "A model whose norm gains are not 1 and whose weights are large enough to make a difference visible."
    m,g = LM(c, seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for w in m.parameters():
            if w.ndim==1: w += .3*torch.randn(w.shape, generator=g)
        if c.init != 'fan_in':
            for w in m.parameters():
                if w.ndim==2: w *= 5
    return m

def tokens(c, B, T, seed=0): return torch.randint(c.vocab, (B, T), generator=torch.Generator().manual_seed(seed))

# The families again, written from the papers' and the reference packages' formulas (the other families are compared in test_parity.py), with nothing of the package in them.

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
        y = norm(x, w[b+'norm_1.weight']) @ w[b+'in_proj.weight'].T
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

def plain_andromeda(m, ids):
    "Sequential block with biases; keys and values shared by groups of heads, queries and keys normed, xPos and ALiBi together."
    c,w,n = m.config, m.state_dict(), ids.shape[1]
    layer_norm = lambda x, name: norm(x, w[name+'.weight']) + w[name+'.bias']
    linear = lambda x, name: x @ w[name+'.weight'].T + w[name+'.bias']
    rms = lambda x, name: w[name+'.weight']*x/(x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    i = torch.arange(0, c.d_head, 2).float()
    freqs = torch.cat([torch.outer(torch.arange(n).float(), 10_000**-(i/c.d_head))]*2, -1)
    scale = torch.cat([((i + .4*c.d_head)/(1.4*c.d_head))**(torch.arange(n)[:, None]/512)]*2, -1)
    half = c.d_head//2
    turn = lambda t, s: t*freqs.cos()*s + torch.cat([-t[..., half:], t[..., :half]], -1)*freqs.sin()*s
    power = 2**math.ceil(math.log2(c.heads))
    slopes = torch.tensor([2**(-8*i/power) for i in range(1, power+1)])
    if power != c.heads: slopes = torch.cat([slopes[1::2], slopes[::2]])[:c.heads]
    bias = (torch.arange(n) - torch.arange(n)[:, None])*slopes[:, None, None]
    q_width, kv_width = c.heads*c.d_head, 2*c.d_head
    x = w['embed.weight'][ids]
    for l in range(c.layers):
        b = f'blocks.{l}.'
        q,k,v = linear(layer_norm(x, b+'norm_1'), b+'in_proj').split([q_width, kv_width, kv_width], -1)
        q,k,v = (t.unflatten(-1, (-1, c.d_head)).transpose(1, 2) for t in (q, k, v))
        q,k = rms(q, b+'q_norm'), rms(k, b+'k_norm')
        k,v = (t.repeat_interleave(c.heads//2, 1) for t in (k, v))
        x = x + linear(attend(turn(q, scale), turn(k, 1/scale), v, bias), b+'attn_out')
        up = linear(layer_norm(x, b+'norm_2'), b+'ff_in')
        x = x + linear(up*(1 + torch.erf(up/math.sqrt(2)))/2, b+'ff_out')
    return layer_norm(x, 'norm') @ w['embed.weight'].T

PLAIN = dict(palm=plain_palm, mpt=plain_mpt, andromeda=plain_andromeda)

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
          'mpt-100m': (102_447_360, 63_715_584), 'mpt-500m': (497_148_160, 432_595_200), 'mpt-1b': (1_311_344_640, 1_208_059_904),
          'palm-150m': (144_811_776, 106_178_304), 'palm-410m': (410_149_888, 358_638_592), 'palm-2b': (2_157_836_800, 2_029_058_560),
          'mpt-125m': (123_685_632, 84_953_856), 'mpt-350m': (353_682_432, 302_040_064), 'mpt-760m': (757_016_064, 679_552_512),
          'mpt-7b': (6_649_286_656, 6_442_717_184),
          'bert-110m': (109_514_298, 109_514_298 - 30522*768)}                     # bert-base-uncased with its language head

@pytest.mark.parametrize('name', PRESETS)
def test_every_preset_is_as_large_as_it_says(name):
    with torch.device('meta'): m = LM(preset(name))
    built = sum(w.numel() for w in m.parameters())
    assert built == parameter_count(m.config)
    assert built - m.embed.weight.numel() == parameter_count(m.config, embedding=False)
    assert sum(w.numel() for w in m.state_dict().values()) == built      # weights only, the embedding once
    if name in TOTALS: assert (built, built - m.embed.weight.numel()) == TOTALS[name]
    assert f'{built:,}' in describe(m.config) == describe(name)
    size = {'100m': 100e6, '500m': 500e6, '1b': 1e9}.get(name.split('-')[1])
    if size and name not in ('mpt-1b', 'gpt3-1b'): assert abs(built/size - 1) < .045  # those two are the families' published 1.3B

@pytest.mark.parametrize('name,full,causal', [('palm-100m', 1.31e9, 9.56e8), ('palm-500m', 5.44e9, 4.23e9), ('palm-1b', 7.51e9, 6.71e9),
                                              ('mpt-100m', 7.85e8, 7.00e8), ('mpt-500m', 3.675e9, 3.33e9), ('mpt-1b', 9.08e9, 8.47e9)])
def test_flops_of_the_presets(name, full, causal):
    c = preset(name)
    assert flops_per_token(c, c.max_len) == pytest.approx(full, rel=2e-3)
    assert flops_per_token(c, c.max_len, causal=True) == pytest.approx(causal, rel=2e-3)

@pytest.mark.parametrize('name', TINY)
def test_flops_are_those_of_the_matrix_products(name):
    "Against PyTorch's own counter: 2 per weight forward, 6 with the backward pass; vectors multiply no matrix, and tables are looked up."
    c,B,T = preset(name), 2, 32
    m = LM(c, kernel='dense')                                     # its operation has a name to leave out
    linear = flops_per_token(c, T) - 12*c.layers*c.heads*c.d_head*T
    with FlopCounterMode(display=False) as count: m(tokens(c, B, T)).sum().backward()
    products = sum(n for op,n in count.get_flop_counts()['Global'].items() if 'attention' not in str(op))
    vectors = sum(w.numel() for n,w in m.named_parameters() if w.ndim==1 or n=='head_bias.weight')
    assert products == B*T*(linear - 6*vectors)
    full,causal = (flops_per_token(c, T, causal=x) for x in (False, True))
    assert causal < full if c.causal else causal==full

MEASURE = """
import json, sys, torch
torch.set_num_threads(1)
from andromeda.model import LM, ModelConfig, objective_loss
def status(key): return next(int(line.split()[1])*1024 for line in open('/proc/self/status') if line.startswith(key))
def train(c, texts, T, recompute=False):
    m = LM(c, recompute=recompute); opt = torch.optim.AdamW(m.parameters(), fused=True)
    for step in range(2):
        opt.zero_grad(set_to_none=True)
        objective_loss(m, torch.randint(5, c.vocab, (texts, T+c.causal)), 4, torch.Generator().manual_seed(step)).backward()
        opt.step()
c,texts,T,recompute = json.loads(sys.argv[1])
train(ModelConfig(c['family'], 32, 1, 2, 16, 64, 64), 2, 33)                         # what the first use of everything allocates
before = status('VmRSS')
open('/proc/self/clear_refs', 'w').write('5')
train(ModelConfig(**c), texts, T, recompute)
print(status('VmHWM') - before)
"""

@pytest.mark.skipif(not sys.platform.startswith('linux'), reason="peak memory is read from /proc")
@pytest.mark.parametrize('family,texts,T,vocab', [('palm', 4, 256, 4096), ('mpt', 2, 128, 30522), ('mpt recomputed', 8, 256, 4096),
    *(pytest.param(f, 8, 256, 4096, marks=pytest.mark.slow) for f in FAMILIES), pytest.param('mpt', 2, 128, 50432, marks=pytest.mark.slow)])
def test_training_takes_the_memory_that_is_foretold(family, texts, T, vocab):
    "Peak of two training steps in a process of its own, within 15%."
    family,recompute = family.split()[0], 'recomputed' in family
    c = config(family, heads=8, d_head=32, layers=6 if vocab < 9999 else 2, vocab=vocab, max_len=T)
    env = os.environ | {'MALLOC_MMAP_THRESHOLD_': '65536', 'MALLOC_TRIM_THRESHOLD_': '65536'}     # freed memory goes back at once
    out = subprocess.run([sys.executable, '-c', MEASURE, json.dumps([asdict(c), texts, T, recompute])], env=env, capture_output=True, text=True, check=True)
    measured = int(out.stdout)
    assert measured > 70e6 and training_memory(c, texts, T, recompute) == pytest.approx(measured, rel=.15)

def test_hours_are_operations_over_speed():
    c = preset('mpt-1b')
    assert training_hours(c, 26.23e9) == pytest.approx(167, rel=.01)                              # 2.4e20 operations at 40% of 989e12 a second
    assert training_hours(c, 26.23e9, 'A100') == pytest.approx(167*989/312, rel=.01)
    with pytest.raises(ValueError, match="Did you mean 'A100'"): training_hours(c, 1, 'A10')

@pytest.mark.parametrize('family', FAMILIES)
def test_a_description_says_where_its_numbers_come_from(family):
    text = describe(f'{family}-100m', gpu='A100')
    assert all(f'\n{source:12}' in text for source in ('published', 'inferred', 'ours')) and BASIS[family]['published'] in text
    assert 'one A100' in text and '20 tokens a parameter' in text and 'peak lr' in text
    assert 'own configuration' in describe(preset(f'{family}-100m', layers=3))

def test_a_family_is_recommended_that_can_do_it():
    for capability,able in (('generation', WRITERS), ('classification', FAMILIES), ('question answering', FAMILIES)):
        first = recommend(capability).split('take ')[1].split(',')[0]
        assert first in able and (first in READERS) == (capability != 'generation')
    with pytest.raises(ValueError, match="Unknown capability 'generatoin'"): recommend('generatoin')

# The start

@pytest.mark.parametrize('name,init,wanted', [('palm-100m', None, 10.950), ('mpt-100m', None, 11.866),
    pytest.param('mpt-100m', 'normal', 11.035, marks=pytest.mark.slow)])
def test_first_loss_of_the_100m_presets(name, init, wanted):
    "The values measured with the reference packages: palm-rlhf-pytorch, llm-foundry's start, transformers' start; random tokens."
    m = LM(preset(name, **({'init': init} if init else {})))
    ids = tokens(m.config, 1, 129)
    with torch.no_grad(): assert objective_loss(m, ids).item() == pytest.approx(wanted, abs=.1)

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
    c = config('gpt3', heads=6, d_head=32, layers=5, vocab=4096)
    m = LM(c)
    for w,depth in ((m.embed.weight, 1), (m.places.weight, 1), (m.blocks[2].ff_in.weight, 1), (m.blocks[2].ff_out.weight, 10), (m.blocks[2].attn_out.weight, 10)):
        assert w.std().item() == pytest.approx(.02/math.sqrt(depth), rel=.03)
    m = LM(config('bert', heads=6, d_head=32, layers=2, vocab=4096))
    for w in (m.embed.weight, m.blocks[1].ff_out.weight, m.head.weight): assert w.std().item() == pytest.approx(.02, rel=.03)
    for m in (LM(preset(n)) for n in TINY):
        for n,w in m.named_parameters():
            if 'norm' in n and n.endswith('weight'): assert (w==1).all(), n
            elif n.endswith('bias') and m.config.init != 'torch' or n=='head_bias.weight': assert not w.any(), n

@pytest.mark.parametrize('name', TINY)
def test_one_seed_one_model(name):
    torch.manual_seed(3); wanted = torch.rand(4)
    torch.manual_seed(3); a = LM(preset(name), seed=1); assert torch.equal(torch.rand(4), wanted)
    torch.manual_seed(4); b = LM(preset(name), seed=1)
    c = LM(preset(name), seed=2)
    for (n,x),y,z in zip(a.named_parameters(), b.parameters(), c.parameters()):
        assert torch.equal(x, y), n
        if x.ndim==2 and n != 'head_bias.weight': assert not torch.equal(x, z), n

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

@pytest.mark.parametrize('family', FAMILIES)
def test_only_those_that_read_both_ways_see_the_future(family):
    c = config(family, heads=6)
    m = perturbed(c)
    for seed in range(5):
        ids = tokens(c, 2, 30, seed)
        changed = ids.clone(); changed[:, 17] = (changed[:, 17]+1) % c.vocab
        with torch.no_grad(): before, after = m(ids), m(changed)
        if family in WRITERS: torch.testing.assert_close(after[:, :17], before[:, :17])
        else: assert all(not torch.allclose(after[:, t], before[:, t]) for t in (0, 16))
        assert all(not torch.allclose(after[:, t], before[:, t]) for t in (17, 29))

@pytest.mark.parametrize('positions', ['learned', 'rotary', 'xpos', 'alibi', 'alibi+xpos'])
@pytest.mark.parametrize('norm', ['pre', 'post', 'parallel'])
def test_parts_combine_freely_and_the_future_stays_unseen(positions, norm):
    for activation,kv_heads in (('swiglu', 3), ('gelu_tanh', 1)):
        c = config('mpt', heads=6, layers=2, positions=positions, norm=norm, activation=activation, kv_heads=kv_heads, bias=True, qk_norm=True)
        m = perturbed(c)
        assert sum(w.numel() for w in m.parameters()) == parameter_count(c)
        ids = tokens(c, 1, 20)
        with torch.no_grad(): whole,part = m(ids), m(ids[:, :9])
        torch.testing.assert_close(whole[:, :9], part, atol=1e-5, rtol=1e-5)

@pytest.mark.parametrize('family', FAMILIES)
def test_order_is_noticed(family):
    c = config(family)
    m = perturbed(c)
    ids = tokens(c, 1, 12)
    swapped = ids[:, [1, 0, *range(2, 12)]]
    with torch.no_grad(): assert (m(ids)[:, -1] - m(swapped)[:, -1]).abs().max() > 1e-3

@pytest.mark.parametrize('family', FAMILIES)
def test_padding_is_not_seen(family):
    "On either side, whatever stands there: scores of a text are those of the text alone."
    c = config(family, heads=6)
    m = perturbed(c)
    text = tokens(c, 1, 9)
    with torch.no_grad():
        alone = m(text)
        for left in (0, 4):
            for seed in (1, 2):
                ids = tokens(c, 2, 13, seed); ids[0, left:left+9] = text[0]
                real = torch.ones(2, 13, dtype=torch.bool); real[0] = False; real[0, left:left+9] = True
                torch.testing.assert_close(m(ids, real_BT=real)[:1, left:left+9], alone, atol=2e-5, rtol=1e-5)

@pytest.mark.parametrize('family', WRITERS)
def test_a_cache_changes_nothing(family):
    c = config(family, heads=6)
    m = perturbed(c)
    ids,cache = tokens(c, 2, 40), Cache(c.layers, 60)
    with torch.no_grad():
        whole = m.hidden(ids)
        parts = [m.hidden(ids[:, a:b], cache=cache) for a,b in ((0, 17), (17, 18), (18, 33), (33, 40))]
    assert cache.length==40
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=1e-5)

# What is learned

def test_masks_are_8_1_1_and_drawn_from_the_generator():
    ids = torch.randint(5, 1000, (200, 500), generator=torch.Generator().manual_seed(0))
    ids[:, 0] = 2
    masks = lambda seed: mask_tokens(ids, 4, 1000, torch.Generator().manual_seed(seed), keep=(2, 3))
    seen,asked = masks(0)
    again = masks(0)
    assert torch.equal(seen, again[0]) and torch.equal(asked, again[1]) and not torch.equal(asked, masks(1)[1])
    chosen = asked != IGNORED
    assert torch.equal(asked[chosen], ids[chosen]) and torch.equal(seen[~chosen], ids[~chosen]) and not chosen[:, 0].any()
    assert chosen[:, 1:].float().mean().item()==pytest.approx(.15, abs=.003)
    became = {k: v[chosen].float().mean().item() for k,v in dict(mask=seen==4, same=seen==ids).items()}
    assert became['mask']==pytest.approx(.8, abs=.01) and became['same']==pytest.approx(.1, abs=.01)
    other = seen[chosen & (seen != 4) & (seen != ids)]
    assert other.float().mean().item()==pytest.approx(500, abs=15)                                # any token, evenly
    with pytest.raises(ValueError, match='needs mask_id'): objective_loss(LM(preset('bert-tiny')), ids[:1, :9])

def test_the_loss_asks_for_the_masked_tokens_only():
    m = perturbed(config('bert'))
    ids = tokens(m.config, 4, 60)
    loss = objective_loss(m, ids, 4, torch.Generator().manual_seed(3))
    seen,asked = mask_tokens(ids, 4, m.config.vocab, torch.Generator().manual_seed(3))
    assert loss.item()==pytest.approx(F.cross_entropy(m(seen).flatten(0, 1), asked.flatten()).item(), abs=1e-5)

def test_end_of_text_can_be_left_out_as_published():
    m = perturbed(config('palm'))
    ids = tokens(m.config, 2, 30); ids[:, 10] = 0
    logits,targets = m(ids[:, :-1]), ids[:, 1:]
    each = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction='none')
    assert objective_loss(m, ids).item()==pytest.approx(each.mean().item(), rel=1e-5)             # off by default
    assert objective_loss(m, ids, ignore=0).item()==pytest.approx(each[targets.flatten() != 0].mean().item(), rel=1e-5)

@pytest.mark.parametrize('family', FAMILIES)
def test_heads_judge_the_text_and_not_its_padding(family):
    c = config(family)
    ids = tokens(c, 3, 12)
    real = torch.arange(12) < torch.tensor([[12], [7], [1]])
    other = ids.masked_fill(~real, 5)
    judge,span = WithHead(perturbed(c), 'class', 4), WithHead(perturbed(c), 'span')
    with torch.no_grad():
        torch.testing.assert_close(judge(ids, real_BT=real), judge(other, real_BT=real), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(judge(ids, real_BT=real)[1:2], judge(ids[1:2, :7]), atol=1e-5, rtol=1e-5)
        assert span(ids, real_BT=real).argmax(1).lt(real.sum(-1, keepdim=True)).all() and span(ids).shape==(3, 12, 2)
    judge(ids).sum().backward()
    assert judge.model.embed.weight.grad.abs().sum() > 0                                          # the body learns, too
    for kind,n in (('clas', 2), ('span', 3)):
        with pytest.raises(ValueError): WithHead(judge.model, kind, n)

@pytest.mark.parametrize('name', TINY)
def test_a_batch_can_be_learnt_by_heart(name):
    m = LM(preset(name, layers=2, vocab=64, max_len=32))
    ids, opt = tokens(m.config, 4, 17), torch.optim.AdamW(m.parameters(), lr=3e-3)
    for _ in range(80):
        loss = objective_loss(m, ids, 4, torch.Generator().manual_seed(0))
        opt.zero_grad(); loss.backward(); opt.step()
    assert loss < .2

@pytest.mark.parametrize('family', FAMILIES)
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
    (dict(family='gpt'), "Did you mean 'gpt3'"), (dict(layers=0), 'layers is 0'), (dict(vocab=True), 'vocab is True'), (dict(max_len='8'), "max_len is '8'"),
    (dict(d_model=200), r'Try d_head=50'), (dict(heads=5), 'Try d_model=160'), (dict(positions='xpos', d_head=33), 'make it even'),
    (dict(kv_heads=3), 'divisor of heads'), (dict(objective='masked'), 'made for looking back'), (dict(norm='pos'), "Did you mean 'post'"),
    (dict(next_sentence=True), 'reads both ways'), (dict(bias=1), 'True or False'), (dict(norm_eps=0), 'small number')])
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
    assert new == text[5:] and len(set(new)) > 2                         # something worth comparing

@pytest.mark.parametrize('family', PLAIN)
def test_sampling_follows_the_models_probabilities(family):
    m = perturbed(config(family, vocab=5, layers=1), seed=5)
    with torch.no_grad(): wanted = (m(torch.tensor([[1, 2]]))[0, -1]/.5).softmax(-1)
    assert .3 < wanted.max() < .8
    drawn = torch.tensor([generate(m, [1, 2], 1, temperature=.5, seed=s)[0] for s in range(600)])
    torch.testing.assert_close(drawn.bincount(minlength=5)/600, wanted, atol=.07, rtol=0)

@pytest.mark.parametrize('family', WRITERS)
@pytest.mark.parametrize('settings', [dict(temperature=0), dict(temperature=1., top_k=9, seed=3), dict(temperature=1.3, top_p=.8, seed=7)])
def test_the_cache_and_the_batch_change_no_text(family, settings):
    "Texts of different lengths together, with the cache, past max_len: as each alone, without it."
    m = perturbed(config(family, heads=6, vocab=31, max_len=20), seed=4)
    texts = [tokens(m.config, 1, n, seed=n)[0].tolist() for n in (1, 13, 6, 27)]
    together = generate(m, texts, 11, **settings)
    seed = settings.pop('seed', 0)
    assert together == [generate(m, t, 11, cache=False, seed=seed+i, **settings) for i,t in enumerate(texts)]
    short = generate(m, texts[:3], 7, seed=seed, **settings)                                      # all inside the cache
    assert short == [t[:7] for t in together[:3]] and (settings['temperature']==0 or len(set(sum(short, []))) > 5)

def test_sampling_limits_keep_the_likeliest():
    logits = torch.tensor([.5, .25, .15, .1]).log()
    dice = torch.Generator().manual_seed(0)
    drawn = lambda **kw: {draw(logits, **(dict(temperature=1., top_k=None, top_p=None) | kw), dice=dice) for _ in range(300)}
    assert drawn()=={0, 1, 2, 3} and drawn(top_k=2)=={0, 1} and drawn(top_k=1)=={0} and drawn(top_k=99)=={0, 1, 2, 3}
    assert drawn(top_p=.5)=={0} and drawn(top_p=.51)=={0, 1} and drawn(top_p=.89)=={0, 1, 2} and drawn(top_p=1e-9)=={0} and drawn(top_p=1.)=={0, 1, 2, 3}
    assert drawn(top_k=3, top_p=.4)=={0} and drawn(temperature=0)=={0}

def test_texts_stop_at_tokens_and_at_strings():
    m = perturbed(config('palm', vocab=26), seed=2)
    decode = lambda ids: ''.join(chr(97+i) for i in ids)
    kw = dict(temperature=1., seed=1)
    texts = [[1], [5, 6], [7]]
    free = generate(m, texts, 40, **kw)
    for i,text in enumerate(free): assert text==generate(m, texts[i], 40, temperature=1., seed=1+i)
    stops = {free[0][9], free[1][4]}
    for text,stopped in zip(free, generate(m, texts, 40, stop=stops, **kw)):
        assert stopped == text[:min((text.index(s) for s in stops if s in text), default=40)]
    words = decode(free[0][9:12]), decode(free[2][20:22])
    for text,stopped in zip(free, generate(m, texts, 40, stop_text=words, decode=decode, **kw)):
        ends = [decode(text).index(word)+len(word) for word in words if word in decode(text)]
        assert stopped == text[:min(ends, default=40)]
    with pytest.raises(ValueError, match='needs decode'): generate(m, [1], 3, stop_text='a')

@pytest.mark.parametrize('family', READERS)
def test_a_model_that_reads_both_ways_does_not_write(family):
    with pytest.raises(ValueError, match='cannot write on'): generate(LM(preset(f'{family}-tiny')), [1], 3)

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
    for wrong in (dict(temperature=-1), dict(temperature=math.nan), dict(top_k=0), dict(top_p=0), dict(top_p=1.1)):
        with pytest.raises(ValueError, match=f'{list(wrong)[0]} is'): generate(m, [1], 3, **wrong)
    for bad in ([[1], []], [[1], [16]]):
        with pytest.raises(ValueError): generate(m, bad, 3)

def test_training_goes_on_after_scoring_in_inference_mode():
    for family in FAMILIES:
        c = config(family, heads=2, d_head=6, max_len=170)
        m = LM(c)
        with torch.inference_mode(): m(tokens(c, 1, 170))
        m(tokens(c, 1, 170)).sum().backward()
        assert m.embed.weight.grad.abs().sum() > 0

@pytest.mark.parametrize('family', WRITERS)
def test_double_precision_says_the_same(family):
    "PyTorch takes a single-precision bias for something else when the scores are in double precision, without an error."
    m = perturbed(config(family))
    for T in (5, 40, 100):
        ids = tokens(m.config, 2, T)
        with torch.no_grad(): torch.testing.assert_close(m.double()(ids), m.float()(ids), atol=1e-3, rtol=1e-3)

@pytest.mark.parametrize('family', FAMILIES)
def test_layers_computed_again_give_the_same_gradients(family):
    c = preset(f'{family}-tiny')
    ids = torch.randint(5, c.vocab, (2, 40), generator=torch.Generator().manual_seed(0))
    calls,found = [],{}
    for recompute in (False, True):
        m = LM(c, recompute=recompute)
        m.blocks[0].attn_out.register_forward_hook(lambda *_: calls.append(recompute))
        objective_loss(m, ids, 4, torch.Generator().manual_seed(1)).backward()
        found[recompute] = [w.grad for w in m.parameters()]
    assert calls==[False, True, True]                                    # it was computed twice
    for a,b in zip(*found.values()): torch.testing.assert_close(a, b)

@pytest.mark.parametrize('family', ['palm', 'bert'])
def test_nats_are_those_of_the_scores(family):
    m = LM(preset(f'{family}-tiny'))
    ids = torch.randint(2048, (2, 41), generator=torch.Generator().manual_seed(0))
    scores = m(ids[:, :-1])
    assert m(ids[:, :-1], targets_BT=ids[:, 1:]).item()==pytest.approx(F.cross_entropy(scores.flatten(0, 1), ids[:, 1:].flatten(), reduction='sum').item(), rel=1e-6)

@pytest.mark.parametrize('rows', [1, 2, 8, 33])
def test_a_product_by_the_quicker_way_is_the_same(rows, monkeypatch):
    from andromeda.model import _Linear
    torch.manual_seed(0)
    layer,x = _Linear(1024, 1100), torch.randn(rows, 1, 1024)
    plain = F.linear(x, layer.weight, layer.bias)
    calls,real = [],F.linear
    monkeypatch.setattr(F, 'linear', lambda *a: calls.append(1) or real(*a))
    with torch.no_grad(): quick = layer(x)
    torch.testing.assert_close(quick, plain, atol=1e-5, rtol=0)
    assert bool(calls)==(rows in (1, 33))
    assert layer(x).requires_grad                                        # training takes the usual one
