"Attention by blocks mixes as the general one does, there and back."
from types import SimpleNamespace

import pytest
import torch

import andromeda.blocked as module
from andromeda.attention import alibi_bias, attention
from andromeda.blocked import block_rows, blocked, kept_weights
from andromeda.kernels import Sight, usual_kernel


def made(B, T, H, G, D, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(B, T, n, D, generator=g).requires_grad_() for n in (H, G, G)]

def run(mix, qkv):
    out = mix(*qkv)
    return out.detach(), *torch.autograd.grad((out*torch.linspace(-1, 1, out.numel()).view_as(out)).sum(), qkv)

@pytest.mark.parametrize('keep', [True, False])
@pytest.mark.parametrize('alibi', [True, False])
@pytest.mark.parametrize('T,H,G', [(1, 2, 2), (63, 3, 3), (64, 4, 2), (65, 5, 1), (130, 6, 3), (1100, 2, 1)])
def test_blocks_are_the_whole(T, H, G, alibi, keep, monkeypatch):
    monkeypatch.setattr(module, 'KEPT', 2**24 if keep else 0)
    qkv = made(2, T, H, G, 8)
    bias = alibi_bias(H, T) if alibi else None
    assert (kept_weights(2, H, T) > 0)==keep
    for mine,plain in zip(run(blocked(Sight(T, H, alibi=alibi)), qkv), run(lambda q,k,v: attention(q, k, v, bias), qkv)):
        assert (mine-plain).abs().max() <= 1e-5*plain.abs().max() + 1e-6

def test_the_future_cannot_be_seen():
    q,k,v = made(1, 100, 2, 2, 8)
    mix = blocked(Sight(100, 2, alibi=True))
    before = mix(q, k, v).detach()
    with torch.no_grad(): k[:, 70:] += 1; v[:, 70:] += 1
    after = mix(q, k, v).detach()
    torch.testing.assert_close(after[:, :70], before[:, :70])
    assert not torch.allclose(after[:, 70:], before[:, 70:])

def test_a_strip_is_left_as_it_was():
    "Scores are added to a copy of it, also where one text and one key head would let a view do."
    qkv = made(1, 100, 2, 1, 8)
    mix = blocked(Sight(100, 2, alibi=True))
    assert torch.equal(mix(*qkv), mix(*qkv))

def test_kept_weights_are_counted():
    assert kept_weights(2, 3, 65)==2*3*(64*64 + 65) and kept_weights(64, 64, 4096)==0 and block_rows(65)==64

def test_it_is_taken_where_it_is_made_for_and_refuses_the_rest():
    assert usual_kernel(Sight(256, 2))==usual_kernel(Sight(4096, 2, alibi=True))=='blocked'
    assert usual_kernel(Sight(4096, 2))==usual_kernel(Sight(256, 2, causal=False))=='dense'
    for other in (dict(packed=True, causal=True, device='cpu'), dict(packed=False, causal=False, device='cpu'), dict(packed=False, causal=True, device='cuda')):
        with pytest.raises(RuntimeError, match='causal, on a CPU'): blocked(SimpleNamespace(**other))

def test_other_types_go_the_general_way():
    qkv = [x.detach().bfloat16().requires_grad_() for x in made(1, 70, 2, 2, 8)]
    out = blocked(Sight(70, 2, alibi=True))(*qkv)
    assert out.dtype==torch.bfloat16
    torch.testing.assert_close(out, attention(*qkv, alibi_bias(2, 70)))
