"""What attention promises, over many seeds and shapes: the plain formula, no look ahead, distances and nothing else."""
import math, os, subprocess, sys
from pathlib import Path

import pytest
import torch

from andromeda import attention as module
from andromeda.attention import alibi_bias, alibi_slopes, attention, quick_cpu, rotate, xpos

SHAPES = [  # texts, positions, query heads, key/value heads, head width
    (1, 1, 1, 1, 2), (2, 7, 4, 4, 8), (2, 33, 4, 1, 32), (1, 65, 6, 1, 16), (3, 16, 6, 2, 8), (1, 130, 12, 12, 64), (2, 31, 8, 1, 128)]

def plain(q_BTHD, k_BTGD, v_BTGD, bias_HTT=None):
    "Query by query, head by head, in fp64: nothing shared with the code under test."
    q,k,v = (x.double() for x in (q_BTHD, k_BTGD, v_BTGD))
    B,T,H,D = q.shape
    out = torch.zeros(B, T, H, D, dtype=torch.float64)
    for h in range(H):
        g = h*k.shape[2]//H
        for i in range(T):
            scores = (k[:, :i+1, g] @ q[:, i, h, :, None])[..., 0] / math.sqrt(D)
            if bias_HTT is not None: scores = scores + bias_HTT[h, i, :i+1].double()
            out[:, i, h] = (scores.softmax(-1)[:, None] @ v[:, :i+1, g])[:, 0]
    return out

def random_qkv(shape, seed, **kw):
    B,T,H,G,D = shape
    g = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(B, T, heads, D, generator=g).requires_grad_(**kw) for heads in (H, G, G)) if kw else \
           tuple(torch.randn(B, T, heads, D, generator=g) for heads in (H, G, G))

@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('alibi', [False, True])
def test_agrees_with_the_plain_formula(shape, alibi):
    for seed in range(3):
        q,k,v = random_qkv(shape, seed)
        bias = alibi_bias(shape[2], shape[1]) if alibi else None
        torch.testing.assert_close(attention(q, k, v, bias).double(), plain(q, k, v, bias), atol=2e-6, rtol=0)

@pytest.mark.parametrize('alibi', [False, True])
def test_gradients_agree_with_the_plain_formula(alibi):
    shape = 2, 19, 6, 2, 8
    for seed in range(3):
        fast, slow = (random_qkv(shape, seed, requires_grad=True) for _ in range(2))
        bias = alibi_bias(6, 19) if alibi else None
        attention(*fast, bias).square().sum().backward()
        plain(*slow, bias).square().sum().backward()
        for a,b in zip(fast, slow): torch.testing.assert_close(a.grad, b.grad, atol=2e-5, rtol=0)

@pytest.mark.parametrize('alibi', [False, True])
def test_the_future_cannot_be_seen(alibi):
    q,k,v = random_qkv((2, 16, 6, 2, 8), 0)
    bias = alibi_bias(6, 16) if alibi else None
    before = attention(q, k, v, bias)
    k[:, 10:] += 1; v[:, 10:] += 1
    after = attention(q, k, v, bias)
    torch.testing.assert_close(after[:, :10], before[:, :10])
    assert not torch.allclose(after[:, 10:], before[:, 10:])

def test_heads_that_cannot_share_are_refused():
    with pytest.raises(ValueError, match='make 6 a multiple of 4'): attention(*random_qkv((1, 3, 6, 4, 8), 0))

def reference_xpos(x_TD, sign, centre):
    "One head, written from the formulas: pairs (i, i + D/2), angles and scale of its own, in fp64."
    T,D = x_TD.shape
    out = torch.zeros(T, D, dtype=torch.float64)
    for t in range(T):
        for i in range(D//2):
            angle = t * 10_000**(-2*i/D)
            scale = ((2*i + .4*D)/(1.4*D))**(sign*(t - centre)/512)
            a,b = x_TD[t, i].item(), x_TD[t, i + D//2].item()
            out[t, i] = (a*math.cos(angle) - b*math.sin(angle))*scale
            out[t, i + D//2] = (b*math.cos(angle) + a*math.sin(angle))*scale
    return out

@pytest.mark.parametrize('T,D', [(1, 2), (13, 8), (64, 32), (130, 16)])
def test_xpos_follows_the_published_formula(T, D):
    q,k = torch.randn(2, T, D, generator=torch.Generator().manual_seed(T))
    for x,turn,sign in zip((q, k), xpos(T, D), (1, -1)):
        torch.testing.assert_close(rotate(x[None, :, None], *turn)[0, :, 0].double(), reference_xpos(x, sign, T//2), atol=3e-5, rtol=0)

def test_products_know_the_distance_only():
    "Also far out, and whatever position the scale is centred on."
    q,k = torch.randn(2, 64, generator=torch.Generator().manual_seed(1))
    def product(T, i, j):
        to_q,to_k = xpos(T, 64)
        spread = lambda x, turn: rotate(x.expand(1, T, 1, 64), *turn)[0, :, 0]
        return (spread(q, to_q)[i] @ spread(k, to_k)[j]).item()
    for distance in (0, 1, 5, 90):
        wanted = product(100, distance, 0)
        for T,j in ((100, 9), (101, 3), (700, 600), (2000, 1900)):
            assert abs(product(T, j+distance, j) - wanted) < 2e-3
    assert abs(product(100, 5, 0) - product(100, 0, 5)) > .1        # direction counts

def test_xpos_is_exact_whatever_the_model_is_cast_to():
    assert all(t.dtype==torch.float32 for pair in xpos(32, 8) for t in pair)
    x = torch.randn(1, 8192, 1, 8, generator=torch.Generator().manual_seed(0))
    turn = xpos(8192, 8)[0]
    low = rotate(x.bfloat16(), *turn)
    assert low.dtype==torch.bfloat16
    torch.testing.assert_close(low.float(), rotate(x.bfloat16().float(), *turn), atol=0, rtol=1/128)  # one rounding, at the end

def bloom_slopes(n):
    "The recursive form of the original ALiBi code."
    power_of_2 = lambda n: [2**(-2**-(math.log2(n)-3)*(i+1)) for i in range(n)]
    if math.log2(n).is_integer(): return power_of_2(n)
    near = 2**math.floor(math.log2(n))
    return power_of_2(near) + bloom_slopes(2*near)[0::2][:n-near]

@pytest.mark.parametrize('heads', [*range(1, 34), 40, 64, 112])
def test_slopes_are_those_of_the_original_code(heads):
    wanted = bloom_slopes(heads) if heads>1 else [2**-8]
    torch.testing.assert_close(alibi_slopes(heads), torch.tensor(wanted), atol=0, rtol=1e-6)

@pytest.mark.parametrize('heads,T', [(1, 1), (4, 5), (6, 64), (10, 65), (12, 129)])
def test_bias_is_slope_times_distance(heads, T):
    bias,slopes = alibi_bias(heads, T), alibi_slopes(heads)
    assert bias.shape==(heads, T, T) and bias.dtype==torch.float32
    for h in (0, heads-1):
        for i in range(0, T, 7):
            assert (bias[h, i, i+1:]==-math.inf).all()
            torch.testing.assert_close(bias[h, i, :i+1], -slopes[h]*(i - torch.arange(i+1)), atol=0, rtol=1e-6)

def test_bias_is_kept_and_grows(monkeypatch):
    monkeypatch.setattr(module, '_longest', {})
    first = alibi_bias(4, 70)
    assert alibi_bias(4, 70).data_ptr()==alibi_bias(4, 3).data_ptr()==first.data_ptr()
    longer = alibi_bias(4, 203)
    assert longer.data_ptr()!=first.data_ptr() and torch.equal(longer[:, :70, :70], first)
    assert longer.stride(1) % 8 == 0                                # rows start where GPU kernels want them
    assert alibi_bias(6, 3).shape==(6, 3, 3) and len(module._longest)==2

def test_tables_made_while_sampling_serve_training(monkeypatch):
    monkeypatch.setattr(module, '_longest', {})
    xpos.cache_clear()
    with torch.inference_mode(): alibi_bias(2, 9), xpos(9, 4)
    q,k,v = random_qkv((1, 9, 2, 2, 4), 0, requires_grad=True)
    to_q,to_k = xpos(9, 4)
    attention(rotate(q, *to_q), rotate(k, *to_k), v, alibi_bias(2, 9)).sum().backward()
    assert q.grad.abs().sum() > 0

def test_a_denormal_is_zero_only_when_asked():
    half = lambda: (torch.tensor([1e-38])*.5).item()
    try:
        assert half() > 0
        assert quick_cpu() and half()==0
        quick_cpu(False)
        assert half() > 0
    finally: quick_cpu(False)

def test_a_denormal_is_zero_in_threads_that_run_already():
    "Half of a matrix product is computed by another thread than the one that asks."
    code = ("import torch; from andromeda.attention import quick_cpu; torch.set_num_threads(2)\n"
            "tiny = lambda: ((torch.full((512, 512), 1e-30)@torch.full((512, 512), 1e-12)) > 0).float().mean().item()\n"
            "assert tiny()==1; assert quick_cpu(); assert tiny()==0; quick_cpu(False); assert tiny()==1")
    subprocess.run([sys.executable, '-c', code], check=True, cwd=Path(__file__).parents[1], env=os.environ | {'OMP_NUM_THREADS': '2'})

def test_importing_changes_nothing_about_the_process():
    code = ("import torch; n = torch.get_num_threads(); state = torch.get_rng_state(); import andromeda.model, andromeda.optim;"
            "assert (torch.tensor([1e-38])*.5).item() > 0; assert torch.get_num_threads()==n;"
            "assert torch.equal(torch.get_rng_state(), state); assert torch.get_default_dtype()==torch.float32")
    subprocess.run([sys.executable, '-c', code], check=True, cwd=Path(__file__).parents[1])
