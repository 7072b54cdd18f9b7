"""What the kernels promise: the plain formula whatever may be seen, with gradients; documents that do not see each other; a choice with reasons."""
import functools
import importlib.util
import math
import sys
import warnings

import pytest
import torch

from andromeda import kernels as module
from andromeda.attention import alibi_slopes
from andromeda.kernels import KERNELS, Sight, alibi_columns, choose, places, usual_kernel, xformers_problem
from andromeda.model import FAMILIES, LM, fastest_kernel, preset

TRAINS = ['dense', 'pieces', 'sdpa']                        # flex goes forward only on a CPU, xFormers not at all
SHAPES = [(1, 1, 1, 1, 8), (2, 33, 4, 4, 64), (2, 40, 6, 2, 16), (1, 70, 8, 1, 128), (3, 17, 10, 10, 12)]   # texts, positions, heads, key/value heads, width
SIGHTS = [dict(causal=True, alibi=True), dict(causal=True, alibi=False), dict(causal=False, alibi=False)]

def random_documents(B, T, seed):
    "Rows of documents of random lengths; equal numbers come back later in a row, and do not mean the same document."
    cut = torch.rand(B, T, generator=torch.Generator().manual_seed(seed)) < .15
    return (cut.cumsum(-1) % 3).int()

def formula(q_BTHD, k_BTGD, v_BTGD, causal, alibi, documents_BT):
    "Query by query, head by head, in fp64: nothing shared with the code under test."
    q,k,v = (x.double() for x in (q_BTHD, k_BTGD, v_BTGD))
    B,T,H,D = q.shape
    n = 2**math.ceil(math.log2(H))
    slopes = [2**(-8*i/n) for i in range(1, n+1)]
    if n != H: slopes = (slopes[1::2] + slopes[0::2])[:H]
    rows = []
    for b in range(B):
        for i in range(T):
            first = last = i
            if documents_BT is None: first,last = 0,T-1
            else:
                while first > 0 and documents_BT[b, first-1]==documents_BT[b, i]: first -= 1
                while last < T-1 and documents_BT[b, last+1]==documents_BT[b, i]: last += 1
            if causal: last = i
            for h in range(H):
                g = h*k.shape[2]//H
                scores = k[b, first:last+1, g] @ q[b, i, h] / math.sqrt(D)
                if alibi: scores = scores - slopes[h]*(i - torch.arange(first, last+1))
                rows.append(scores.softmax(0) @ v[b, first:last+1, g])
    return torch.stack(rows).view(B, T, H, D)

def qkv(shape, seed=0, dtype=torch.float32, device='cpu'):
    B,T,H,G,D = shape
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(B, T, n, D, generator=g).to(device, dtype).requires_grad_() for n in (H, G, G)]

def with_gradients(f, xs):
    out = f(*xs)
    return [out.detach(), *torch.autograd.grad(out.square().sum(), xs)]

def fake_xformers(sight):
    "Our call of xFormers, its kernel replaced by its own mask, written out."
    def compute(q, k, v, attn_bias, scale):
        mask = 0. if attn_bias is None else attn_bias.materialize((q.shape[1], k.shape[1]))
        scores = torch.einsum('bihd,bjhd->bhij', q, k)*scale + mask
        return torch.einsum('bhij,bjhd->bihd', scores.softmax(-1), v)
    return module._xformers(sight, compute)

def fake_varlen(sight):
    "Our call of `varlen_attn`, replaced by a loop over the documents that it is told of."
    def compute(q, k, v, begins, begins_k, most, most_k, *, scale, window_size, enable_gqa):
        assert begins is begins_k and begins.dtype==torch.int32 and max(begins.diff()) <= most and enable_gqa==(q.shape[1] != k.shape[1])
        out = []
        for a,b in zip(begins.tolist(), begins[1:].tolist()):
            k_THD,v_THD = (x[a:b].repeat_interleave(q.shape[1]//k.shape[1], 1) for x in (k, v))
            scores = torch.einsum('ihd,jhd->hij', q[a:b], k_THD)*scale
            if window_size==(-1, 0): scores = scores.masked_fill(torch.ones(b-a, b-a, dtype=torch.bool).triu(1), -math.inf)
            out.append(torch.einsum('hij,jhd->ihd', scores.softmax(-1), v_THD))
        return torch.cat(out)
    return module._varlen(sight, compute)

def refused(name, sight):
    "Whether this is not what a kernel is made for, which it says."
    if name != 'blocked' or (sight.causal and not sight.packed): return False
    with pytest.raises(RuntimeError, match='for one document, causal'): KERNELS[name](sight)
    return True

def kernel(name):
    if name=='varlen': return fake_varlen
    if name != 'xformers': return KERNELS[name]
    if not importlib.util.find_spec('xformers'): pytest.skip('xformers is not installed')
    return fake_xformers

# Agreement

@functools.lru_cache(maxsize=None)
def wanted(shape, packed, **sees):
    documents = random_documents(*shape[:2], seed=shape[1]) if packed else None
    return with_gradients(lambda *xs: formula(*xs, **sees, documents_BT=documents), qkv(shape))

@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('sees', SIGHTS, ids=lambda s: '-'.join(n for n in s if s[n]) or 'all')
@pytest.mark.parametrize('packed', [False, True])
@pytest.mark.parametrize('name', ['plain', *TRAINS, 'blocked', 'varlen', 'xformers'])
def test_a_kernel_is_the_formula_with_gradients(name, shape, sees, packed):
    documents = random_documents(*shape[:2], seed=shape[1]) if packed else None
    sight,xs = Sight(shape[1], shape[2], documents_BT=documents, **sees),qkv(shape)
    if refused(name, sight): return
    ours = with_gradients(kernel(name)(sight), xs)
    for a,b in zip(ours, wanted(shape, packed, **sees)): torch.testing.assert_close(a.double(), b.double(), atol=1e-4, rtol=1e-4)

@pytest.mark.filterwarnings('ignore:flex_attention called without torch.compile')
@pytest.mark.parametrize('shape', SHAPES[1:4])
@pytest.mark.parametrize('sees', SIGHTS, ids=lambda s: '-'.join(n for n in s if s[n]) or 'all')
@pytest.mark.parametrize('packed', [False, True])
def test_flex_is_the_formula_forward(shape, sees, packed):
    documents = random_documents(*shape[:2], seed=3) if packed else None
    xs = [x.detach() for x in qkv(shape)]
    torch.testing.assert_close(KERNELS['flex'](Sight(shape[1], shape[2], documents_BT=documents, **sees))(*xs).double(),
                               formula(*xs, **sees, documents_BT=documents), atol=1e-5, rtol=1e-4)

@pytest.mark.parametrize('name', [*TRAINS, 'xformers'])
@pytest.mark.parametrize('D', [64, 128])
def test_bf16_stays_near_fp32_far_out(name, D):
    "2048 positions with ALiBi: what is added to queries and keys does not lose the position."
    shape = 1, 2048, 2, 1, D
    xs = [x.detach().bfloat16() for x in qkv(shape)]
    make = kernel(name)
    if name=='xformers': make = lambda s: lambda *xs: fake_xformers(s)(*(x.float() for x in xs))   # columns from bf16 are tested below
    exact = module.plain(Sight(2048, 2, alibi=True))(*(x.float() for x in xs))
    torch.testing.assert_close(make(Sight(2048, 2, alibi=True))(*xs).float(), exact, atol=.02, rtol=.02)

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize('D', [12, 64, 128])
def test_columns_hold_slope_times_place(dtype, D):
    slopes,place = alibi_slopes(12), torch.tensor([[0, 1, 255, 256, 257, 1001, 8191, 40_001, 65_535]])
    from_q,from_k = alibi_columns(slopes, place, D**-.5, dtype)
    assert from_q.dtype==from_k.dtype==dtype
    got = torch.einsum('hn,btn->bth', from_q.double(), from_k.double())*D**-.5
    torch.testing.assert_close(got[0], place[0, :, None]*slopes.double(), rtol=2e-7 if dtype != torch.float16 else 1e-5, atol=1e-4)

def test_positions_that_would_not_be_exact_are_refused():
    with pytest.raises(ValueError, match="take kernel 'flex'"): KERNELS['sdpa'](Sight(65_537, 1, alibi=True))(*qkv((1, 2, 1, 1, 8)))

def test_under_autocast_nothing_is_rounded_twice():
    "fp32 queries and keys under bf16 autocast, as normed ones are: slopes and places are cut for bf16, not rounded to it."
    xs,sight = [x.detach() for x in qkv((1, 512, 6, 2, 128))],Sight(512, 6, alibi=True)
    with torch.autocast('cpu', torch.bfloat16): ours = KERNELS['sdpa'](sight)(*xs)
    assert torch.equal(ours, KERNELS['sdpa'](sight)(*(x.bfloat16() for x in xs)))

# What may be seen

def test_documents_are_unbroken_runs():
    place,run = places(torch.tensor([[4, 4, 9, 9, 9, 4], [0, 1, 2, 2, 0, 0]]))
    assert place.tolist()==[[0, 1, 0, 1, 2, 0], [0, 0, 0, 1, 0, 1]] and run.tolist()==[[0, 0, 1, 1, 1, 2], [0, 1, 2, 2, 3, 3]]

@pytest.mark.filterwarnings('ignore:flex_attention called without torch.compile')
@pytest.mark.parametrize('name', [*KERNELS])
@pytest.mark.parametrize('packed', [False, True])
def test_the_future_and_other_documents_cannot_be_seen(name, packed):
    documents = torch.tensor([[0]*10 + [1]*12 + [2]*8]*2) if packed else None
    q,k,v = (x.detach() for x in qkv((2, 30, 6, 2, 8)))
    sight = Sight(30, 6, alibi=True, documents_BT=documents)
    if refused(name, sight): return
    mix = kernel(name)(sight)
    before = mix(q, k, v)
    k[:, 15] += 1; v[:, 15] += 1
    felt = ((mix(q, k, v)-before).abs().amax((0, 2, 3)) > 1e-6).nonzero().flatten().tolist()
    assert felt==list(range(15, 22 if packed else 30))

@pytest.mark.parametrize('masks', [(True, False), (False, False), (True, True), (False, True)], ids=['causal', 'all', 'causal-packed', 'packed'])
def test_what_xformers_is_told_is_what_may_be_seen(masks):
    pytest.importorskip('xformers.ops')
    causal,packed = masks
    B,T = 2,9
    documents = random_documents(B, T, 5) if packed else None
    sight = Sight(T, 1, causal=causal, documents_BT=documents)
    mask,n = module._xformers_mask(sight), B*T if packed else T
    told = torch.zeros(n, n) if mask is None else mask.materialize((n, n))
    wanted = torch.block_diag(*sight.seen()[:, 0].int()) if packed else sight.seen()[0, 0]
    assert torch.equal(told==0, wanted.bool())
    assert type(mask).__name__==dict(zip(((True, False), (False, False), (True, True), (False, True)),
                                         ('LowerTriangularMask', 'NoneType', 'BlockDiagonalCausalMask', 'BlockDiagonalMask')))[masks]

# The model

def ids_and_documents(family, B=2, T=48, seed=0):
    ids = torch.randint(preset(f'{family}-tiny').vocab, (B, T), generator=torch.Generator().manual_seed(seed))
    return ids, random_documents(B, T, seed+1)

def model(family, kernel=None):
    m,g = LM(preset(f'{family}-tiny', layers=2), seed=3, kernel=kernel), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for w in m.parameters(): w += .05*torch.randn(w.shape, generator=g)
    return m

@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('name', [None, *TRAINS])
def test_packed_documents_are_what_they_are_alone(family, name):
    "Scores and gradients of a packed batch are those of its documents, each by itself."
    m = model(family, name)
    ids,documents = ids_and_documents(family)
    place,_ = places(documents)
    starts = [(b, t) for b in range(len(ids)) for t in range(ids.shape[1]) if place[b, t]==0]
    ends = [n[1] if n[0]==b else ids.shape[1] for (b,_),n in zip(starts, [*starts[1:], (None, None)])]
    def alone(): return torch.cat([m(ids[b:b+1, s:e])[0] for (b,s),e in zip(starts, ends)]).view(*ids.shape, -1)
    results = []
    for f in (lambda: m(ids, documents_BT=documents), alone):
        m.zero_grad(); scores = f(); scores.square().mean().backward()
        results.append([scores.detach(), *(w.grad.clone() for w in m.parameters() if w.grad is not None)])
    assert len(starts) > 6
    for a,b in zip(*results): torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)

@pytest.mark.parametrize('family', FAMILIES)
def test_no_gradient_flows_between_documents_or_from_the_future(family):
    m = model(family)
    ids,_ = ids_and_documents(family, B=1, T=20)
    documents = torch.tensor([[0]*6 + [1]*9 + [2]*5])
    felt = {}
    hook = m.embed.register_forward_hook(lambda module, args, out: felt.update(x=out.requires_grad_() if not out.requires_grad else out) or felt['x'].retain_grad())
    m(ids, documents_BT=documents)[0, 10].square().sum().backward()
    hook.remove()
    seen = (felt['x'].grad[0].abs().amax(-1) > 0).nonzero().flatten().tolist()
    assert seen==list(range(6, 11 if m.config.causal else 15))

@pytest.mark.parametrize('family', FAMILIES)
def test_every_kernel_gives_the_same_model(family):
    "Also that a kernel can be changed on a model that exists."
    m = model(family)
    ids,_ = ids_and_documents(family)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        usual = m(ids)
        for m.kernel in ('plain', 'flex', *TRAINS): torch.testing.assert_close(m(ids), usual, atol=2e-5, rtol=1e-4)

def test_documents_of_a_wrong_shape_or_with_padding_are_refused():
    m = model('mpt')
    ids,documents = ids_and_documents('mpt')
    with pytest.raises(ValueError, match='a number for each token'): m(ids, documents_BT=documents[:, 1:])
    with pytest.raises(ValueError, match='leave out documents_BT'): m(ids, real_BT=torch.ones_like(ids, dtype=torch.bool), documents_BT=documents)
    with pytest.raises(ValueError, match="Unknown kernel 'flash'"): LM(preset('mpt-tiny'), kernel='flash')

# The choice

def test_a_choice_is_measured_once_and_gives_reasons(monkeypatch):
    calls = []
    monkeypatch.setitem(KERNELS, 'sdpa', lambda sight: calls.append(1) or module.sdpa(sight))
    monkeypatch.setitem(KERNELS, 'xformers', lambda sight: (_ for _ in ()).throw(RuntimeError('made for another PyTorch')))
    module._choose.cache_clear()
    first = choose(1, 32, 2, 1, 8, alibi=True, rounds=1)
    n = len(calls)
    assert n and choose(1, 32, 2, 1, 8, alibi=True, rounds=1) is first and len(calls)==n
    why = {name: why for name,*_,why in first.rows}
    assert set(why)=={'dense', 'blocked', 'sdpa', 'flex', 'xformers'} and why[first.kernel]==''
    assert 'made for another PyTorch' in why['xformers'] and 'CPU' in why['flex']
    slower = next(n for n in ('dense', 'sdpa', 'blocked') if n != first.kernel)
    assert 'times the time of' in why[slower]
    assert all(name in repr(first) for name in why) and 'taken' in repr(first)
    module._choose.cache_clear()

def test_a_kernel_that_is_wrong_here_is_not_taken(monkeypatch):
    "However fast it is."
    monkeypatch.setitem(KERNELS, 'sdpa', lambda sight: lambda *qkv: 1.5*module.sdpa(sight)(*qkv))
    module._choose.cache_clear()
    try:
        choice = choose(1, 32, 2, 1, 8, kernels=('dense', 'sdpa'), rounds=1)
        assert choice.kernel=='dense' and 'output is off by' in choice.rows[1][3]
        with pytest.raises(ValueError, match='No kernel of sdpa runs'): choose(1, 32, 2, 1, 8, kernels=('sdpa',), rounds=1)
    finally: module._choose.cache_clear()

@pytest.mark.filterwarnings('ignore:xFormers')
def test_a_model_asks_for_its_own_shape():
    shape = repr(fastest_kernel(preset('palm-tiny'), texts=2, T=16))
    assert '2 x 16 tokens, 4 heads of 32, 1 for keys and values' in shape and 'ALiBi' not in shape
    assert 'ALiBi' in repr(fastest_kernel(preset('mpt-tiny'), texts=1, T=16)) and 'both ways' in repr(fastest_kernel(preset('bert-tiny'), texts=1, T=16))

def test_nothing_is_measured_unless_asked(monkeypatch):
    monkeypatch.setattr(module, '_cost', lambda *a: pytest.fail('measured'))
    m = LM(preset('mpt-tiny', layers=1))
    m(torch.zeros(1, 8, dtype=torch.int64))
    assert m.kernel is None and usual_kernel(Sight(8, 4, alibi=True)) in TRAINS + ['blocked']

@pytest.mark.parametrize('broken', ['missing', 'mismatched', 'without GPU'])
def test_a_useless_xformers_warns_once_and_goes_on(broken, monkeypatch):
    import types
    for name in [n for n in sys.modules if n.split('.')[0]=='xformers']: monkeypatch.delitem(sys.modules, name)
    if broken=='missing': monkeypatch.setitem(sys.modules, 'xformers', None)
    else:
        fake,ops = types.ModuleType('xformers'), types.ModuleType('xformers.ops')
        fake.__path__,fake.__version__,fake._cpp_lib = [], '0.0.1', types.SimpleNamespace(_built_with_cuda=False)
        monkeypatch.setitem(sys.modules, 'xformers', fake)
        monkeypatch.setitem(sys.modules, 'xformers.ops', None if broken=='mismatched' else ops)
    xformers_problem.cache_clear()
    try:
        with pytest.warns(UserWarning, match='other kernels are used') as said: assert xformers_problem()
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            assert xformers_problem()
            with pytest.raises(RuntimeError): KERNELS['xformers'](Sight(4, 1))
        assert len(said)==1
        ids = torch.arange(12)[None]
        assert torch.equal(LM(preset('mpt-tiny'), kernel='xformers')(ids), LM(preset('mpt-tiny'))(ids))      # a model goes on, too
        assert choose(1, 16, 2, 2, 8, kernels=('dense', 'xformers'), rounds=1+['missing', 'mismatched', 'without GPU'].index(broken)).kernel=='dense'
    finally: xformers_problem.cache_clear()

# On a GPU

@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32])
@pytest.mark.parametrize('D', [64, 128])
@pytest.mark.parametrize('packed', [False, True])
@pytest.mark.parametrize('alibi', [False, True])
@pytest.mark.parametrize('name', ['dense', 'sdpa', 'varlen', 'flex', 'xformers'])
def test_a_kernel_is_the_plain_one_on_a_gpu(name, alibi, packed, D, dtype):
    if name=='xformers' and xformers_problem(): pytest.skip(xformers_problem())
    if name=='varlen' and dtype==torch.float32: pytest.skip('it is for 16 bits')
    shape = 2, 512, 8, 1, D
    documents = random_documents(2, 512, 1).cuda() if packed else None
    sight = Sight(512, 8, 'cuda', alibi=alibi, documents_BT=documents)
    ours,wanted = (with_gradients(KERNELS[n](sight), qkv(shape, dtype=dtype, device='cuda')) for n in (name, 'plain'))
    for a,b in zip(ours, wanted): assert (a.float()-b.float()).abs().max() <= (.03 if dtype==torch.bfloat16 else 2e-3)*b.float().abs().max()

@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('name', [None, 'plain', 'dense', 'sdpa'])
@pytest.mark.parametrize('packed', [False, True])
def test_nothing_is_left_on_the_cpu_when_the_model_is_not(family, name, packed):
    "A device without numbers in place of a GPU: an operation between it and the CPU would fail."
    with torch.device('meta'): m = LM(preset(f'{family}-tiny', layers=1), kernel=name)
    ids = torch.zeros(2, 48, dtype=torch.int64, device='meta')
    scores = m(ids, documents_BT=ids.int() if packed else None)
    assert scores.device.type=='meta' and scores.shape==(2, 48, m.config.vocab)
    scores.sum().backward()

def test_the_usual_kernel_of_a_gpu_needs_no_square_of_numbers():
    assert usual_kernel(Sight(64, 2, 'meta', alibi=True))==usual_kernel(Sight(64, 2, 'meta', documents_BT=torch.zeros(1, 64, device='meta')))=='sdpa'

@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('name', [None, 'flex'])
def test_packed_documents_are_what_they_are_alone_on_a_gpu(family, name):
    m = model(family, name).cuda()
    ids,documents = (x.cuda() for x in ids_and_documents(family, B=1, T=256))
    place,_ = places(documents)
    starts = [*(place[0]==0).nonzero().flatten().tolist(), 256]
    with torch.no_grad(): packed,alone = m(ids, documents_BT=documents), torch.cat([m(ids[:, a:b]) for a,b in zip(starts, starts[1:])], 1)
    torch.testing.assert_close(packed, alone, atol=2e-3, rtol=1e-2)

@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('documents', [1, 4])
def test_a_choice_on_a_gpu_measures_what_trains_there(documents):
    choice = fastest_kernel(preset('mpt-100m'), 2, 1024, 'cuda', torch.bfloat16, documents)
    measured = {name for name,ms,*_ in choice.rows if ms}
    assert {'dense', 'sdpa', 'flex'} <= measured, choice
    assert choice.kernel in measured - {'dense'}, choice
