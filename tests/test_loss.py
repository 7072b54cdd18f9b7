"The loss without its scores is that of PyTorch, gradients too, piece by piece."
import pytest
import torch
import torch.nn.functional as F

from andromeda.loss import PIECE, piece_rows, total_nats


def made(N, d, V, seed=0):
    g = torch.Generator().manual_seed(seed)
    h,w,b = (torch.randn(*shape, generator=g).requires_grad_() for shape in ((N, d), (V, d), (V,)))
    return h, w, b, torch.randint(V, (N,), generator=g)

def gradients(nats, *of): return nats.detach(), *torch.autograd.grad(nats, of)

@pytest.mark.parametrize('rows', [1, 7, 64, 1000])
@pytest.mark.parametrize('bias', [False, True])
def test_loss_and_gradients_are_those_of_pytorch(rows, bias):
    h,w,b,targets = made(100, 16, 300)
    targets[::9] = -100
    of = (h, w, b) if bias else (h, w)
    for mine,theirs in zip(gradients(total_nats(h, w, targets, b if bias else None, rows=rows)/88, *of),
                           gradients(F.cross_entropy(F.linear(h, w, b if bias else None), targets), *of)):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)

def test_tokens_weigh_the_same_in_pieces_of_different_length():
    h,w,_,targets = made(10, 4, 20)
    whole = total_nats(h, w, targets)
    torch.testing.assert_close(total_nats(h[:7], w, targets[:7]) + total_nats(h[7:], w, targets[7:]), whole)
    targets[0] = 5
    other = total_nats(h, w, targets, ignore=5)
    asked = targets != 5
    torch.testing.assert_close(other, F.cross_entropy(h[asked]@w.t(), targets[asked], reduction='sum'))

def test_what_needs_no_gradient_gets_none_and_the_loss_is_the_same():
    h,w,_,targets = made(10, 4, 20)
    with torch.no_grad(): quiet = total_nats(h, w, targets)
    assert not quiet.requires_grad and quiet==total_nats(h, w, targets).detach()
    nats = total_nats(h, w.detach(), targets)
    nats.backward()
    assert h.grad.abs().sum() > 0 and w.grad is None

def test_gradients_are_handed_over_once():
    h,w,_,targets = made(10, 4, 20)
    nats = total_nats(h, w, targets)
    nats.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match='compute the loss anew'): nats.backward()

def test_under_autocast_as_plain_under_autocast():
    h,w,b,targets = made(100, 16, 300)
    with torch.autocast('cpu', torch.bfloat16):
        mine = gradients(total_nats(h, w, targets, rows=30), h, w)
        theirs = gradients(F.cross_entropy(F.linear(h, w).float(), targets, reduction='sum'), h, w)
    for a,b in zip(mine, theirs): assert a.dtype==b.dtype and (a-b).abs().max() <= .02*b.abs().max()
    assert not torch.equal(mine[0], gradients(total_nats(h, w, targets), h)[0])        # products were rounded

def test_pieces_are_small():
    for positions in (1, 100, 512, 2048, 100_000):
        for vocab in (10, 8192, 50432, 2**25):
            rows = piece_rows(positions, vocab)
            assert 1 <= rows <= positions and (rows==1 or rows*vocab <= PIECE) and rows <= max(128, -(-positions//4))

def test_what_does_not_fit_is_refused():
    h,w,_,targets = made(10, 4, 20)
    for wrong in ((h, w, targets[:9]), (h[:, :3], w, targets), (h[None], w, targets)):
        with pytest.raises(ValueError, match='do not fit'): total_nats(*wrong)
