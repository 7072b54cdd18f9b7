"Many lengths, seeds and texts for andromeda.score; the page shows the few that teach."
import lzma, math, os, sys, tracemalloc
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from andromeda import score
from andromeda.score import (ByteNgram, TokenUnigram, baselines, bits_per_byte, bits_per_byte_interval, by_tier, compare,
                             document_nats, model_scores, xz_bits)

VOCAB = 11

class Causal(torch.nn.Module):
    "Each position sees itself and all earlier ones, with weights that depend on how far back they are."
    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.embed,self.head = torch.nn.Embedding(VOCAB, 8), torch.nn.Linear(8, VOCAB)
    def forward(self, ids_BT):
        T = ids_BT.shape[1]
        back = torch.arange(T)[:, None] - torch.arange(T)
        mix = torch.where(back >= 0, 1/(1.+back.clamp(min=0)), 0.)
        return 3*self.head(mix @ self.embed(ids_BT))

def plain_nats(model, doc, window, stride, eot=0):
    "One token at a time, no batch, no padding."
    ids,total,end = [eot, *map(int, doc)], 0., min(window, len(doc))
    for t in range(1, len(ids)):
        if t > end: end = min(len(doc), end+stride)
        context = torch.tensor([ids[max(0, end-window):t]])
        with torch.no_grad(): total -= float(model(context)[0, -1].double().log_softmax(0)[ids[t]])
    return total

# ---- the model's score

def test_every_token_is_counted_once_with_enough_before_it():
    rng = np.random.default_rng(0)
    for _ in range(500):
        n,window = int(rng.integers(0, 200)), int(rng.integers(1, 40))
        stride = int(rng.integers(1, window+1))
        counted = []
        for start,first,end in score._windows(n, window, stride):
            assert 0 <= start <= first < end <= n and end-start <= window
            assert start == 0 or first-start >= window-stride
            counted += range(first, end)
        assert counted == list(range(n))

def test_a_model_without_context_gives_the_sum_over_tokens():
    "With another price for each token, a token skipped or counted twice would show in the sum."
    rng = np.random.default_rng(1)
    logits_V = torch.tensor(rng.normal(size=1000)*2, dtype=torch.float32)
    price = -logits_V.double().log_softmax(0).numpy()
    docs = [rng.integers(1, 1000, size=n).astype(np.uint16) for n in [0, 1, 2, 15, 16, 17, 18, 31, 32, 33, *rng.integers(0, 200, 30)]]
    expected = [price[d].sum() for d in docs]
    for window,stride,batch in [(16, 8, 64), (16, 16, 1), (16, 1, 500), (1, 1, 32), (7, 3, 4096), (500, 250, 4096)]:
        got = document_nats(lambda ids: logits_V.expand(*ids.shape, 1000), docs, window, stride, batch_tokens=batch)
        np.testing.assert_allclose(got, expected, rtol=1e-5)

@pytest.mark.parametrize('seed', range(6))
def test_batched_windows_agree_with_one_token_at_a_time(seed):
    rng,model = np.random.default_rng(seed), Causal(seed)
    window = int(rng.integers(2, 20))
    stride = int(rng.integers(1, window+1))
    docs = [rng.integers(1, VOCAB, size=n) for n in rng.integers(1, 60, size=12)]
    expected = [plain_nats(model, d, window, stride) for d in docs]
    for batch in (1, 40, 4096):
        np.testing.assert_allclose(document_nats(model, docs, window, stride, batch_tokens=batch), expected, rtol=1e-5)
    np.testing.assert_allclose(document_nats(model, docs[::-1], window, stride)[::-1], expected, rtol=1e-5)

def test_the_first_token_comes_after_end_of_text():
    model = Causal()
    for eot in (0, 5):
        with torch.no_grad(): after = -model(torch.tensor([[eot]]))[0, 0].log_softmax(0)
        assert document_nats(model, [np.array([3])], 8, eot=eot)[0] == pytest.approx(after[3].item(), rel=1e-6)

def test_the_default_stride_is_half_the_window():
    docs = [np.random.default_rng(2).integers(1, VOCAB, size=50)]
    assert document_nats(Causal(), docs, 8) == document_nats(Causal(), docs, 8, stride=4) != document_nats(Causal(), docs, 8, stride=8)
    assert document_nats(Causal(), docs, 1)[0] > 0

def test_the_model_is_scored_in_eval_mode_and_left_as_it_was():
    class Fails(Causal):
        def forward(self, ids_BT):
            assert not self.training and torch.is_inference_mode_enabled()
            raise KeyError('stop')
    model = Fails().train()
    with pytest.raises(KeyError): document_nats(model, [[1]], 8)
    assert model.training
    model = Causal().eval()
    document_nats(model, [[1]], 8)
    assert not model.training

@pytest.mark.parametrize('window,stride', [(8, 0), (8, 9), (0, None), (8, -1)])
def test_a_stride_that_would_skip_tokens_is_refused(window, stride):
    with pytest.raises(ValueError, match='Choose a stride'): document_nats(Causal(), [[1]], window, stride)

# ---- intervals

def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    "400 samples of 60 documents whose true ratio is known: 90% intervals cover it in 85 to 94 of 100 (bootstrap is a little narrow)."
    rng,inside = np.random.default_rng(0), 0
    for i in range(400):
        n_bytes = rng.integers(100, 2000, size=60)
        nats = n_bytes*math.log(2)*rng.gamma(9, 2/9, size=60)  # 2 bits per byte on average
        low,high = bits_per_byte_interval(nats, n_bytes, level=.9, draws=300, seed=i)
        inside += low <= 2 <= high
    assert .85 <= inside/400 <= .94

def test_the_interval_surrounds_the_figure_for_many_documents_too():
    rng = np.random.default_rng(0)
    nats,n_bytes = rng.gamma(2, 100, size=300_000), np.full(300_000, 100)    # more than fits one block of draws
    low,high = bits_per_byte_interval(nats, n_bytes, draws=40)
    assert low < bits_per_byte(nats, n_bytes) < high < low*1.01

# ---- unigram

def test_unigram_chances_add_up_to_one_and_follow_counts():
    tokens = np.random.default_rng(0).integers(0, 50, size=2000).astype(np.uint16)
    model = TokenUnigram.fit(tokens, 64)
    p = np.exp(-model.nats([[v] for v in range(64)]))
    assert p.sum() == pytest.approx(1)
    np.testing.assert_allclose(p, [(np.sum(tokens == v)+1)/(2000+64) for v in range(64)])
    assert model.nats([tokens, []])[0] == pytest.approx(-np.log(p[tokens]).sum())

# ---- byte n-grams

def plain_kneser_ney(docs, order):
    "Modified Kneser-Ney with dictionaries; returns P(byte, symbols before it)."
    START = 'start'
    counts = {n: Counter() for n in range(1, order+1)}
    lefts = {n: defaultdict(set) for n in range(1, order+1)}
    for doc in docs:
        symbols = [START, *doc]
        for i in range(1, len(symbols)):
            for n in range(1, min(order, i+1)+1):
                gram = tuple(symbols[i-n+1:i+1])
                counts[n][gram] += 1
                if i-n >= 0: lefts[n][gram].add(symbols[i-n])
    for n in range(1, order):
        counts[n] = {g: c if g[0] == START else len(lefts[n][g]) for g,c in counts[n].items()}
    rules = {}
    for n in counts:
        seen = [sum(c == k for c in counts[n].values()) for k in range(5)]
        D = [0, .5, .5, .5]
        if all(seen[1:]):
            y = seen[1]/(seen[1]+2*seen[2])
            D = [0] + [min(max(k-(k+1)*y*seen[k+1]/seen[k], .05), k) for k in (1, 2, 3)]
        rules[n] = D
    followers = {n: defaultdict(dict) for n in counts}
    for n in counts:
        for g,c in counts[n].items(): followers[n][g[:-1]][g[-1]] = c
    def P(byte, before, n=order):
        if n == 0: return 1/256
        context = tuple(before[len(before)-(n-1):]) if n > 1 else ()
        known = followers[n].get(context) if len(context) == n-1 else None
        if not known: return P(byte, before, n-1)
        D,total = rules[n], sum(known.values())
        take = lambda c: D[min(c, 3)]
        own = (known[byte]-take(known[byte]))/total if byte in known else 0
        return own + sum(map(take, known.values()))/total*P(byte, before, n-1)
    return lambda doc: [P(b, ['start', *doc[:i]]) for i,b in enumerate(doc)]

@pytest.mark.parametrize('order', range(1, 6))
@pytest.mark.parametrize('letters,sizes', [(b'ab', [3, 1, 4]), (b'abcdefgh', [200, 1, 90, 0, 500]), (bytes(range(256)), [300])])
def test_ngram_agrees_with_dictionaries(order, letters, sizes):
    rng = np.random.default_rng(order)
    skew = rng.dirichlet(np.full(len(letters), .5))
    draw = lambda n: bytes(rng.choice(list(letters), size=n, p=skew).astype(np.uint8))
    docs,held = [draw(n) for n in sizes], [draw(40), b'', b'z'+draw(10)]
    plain = plain_kneser_ney(docs, order)
    expected = [p for d in held for p in plain(d)]
    np.testing.assert_allclose(np.exp(-ByteNgram.fit(docs, order).byte_nats(held)), expected, rtol=1e-9)

@pytest.mark.parametrize('order', range(1, 8))
@pytest.mark.parametrize('distinct', [True, False])
def test_ngram_chances_add_up_to_one_after_any_context(order, distinct):
    rng = np.random.default_rng(order)
    docs = [bytes(rng.integers(0, 256, size=300, dtype=np.uint8)), Path(score.__file__).read_bytes(), b'a', b'']
    model = ByteNgram.fit(docs, order, distinct=distinct)
    for context in [b'', b'd', b'de', b'def ', b'\xff\x00', docs[0][:9], docs[0][-5:], bytes(rng.integers(0, 256, size=9, dtype=np.uint8))]:
        p = np.exp(model.nats([context]) - model.nats([context+bytes([b]) for b in range(256)]))
        assert p.sum() == pytest.approx(1, abs=1e-9) and p.min() > 0

def test_contexts_stop_at_documents():
    parts,held = [b'abab', b'cdcdc', b'', b'a'], [b'abcd', b'', b'dcba']
    model = ByteNgram.fit(parts, 3)
    np.testing.assert_allclose(model.byte_nats(held), ByteNgram.fit(parts[::-1], 3).byte_nats(held))     # order of documents
    assert model.nats([b'bc']) != ByteNgram.fit([b''.join(parts)], 3).nats([b'bc'])                     # joined is another text
    np.testing.assert_allclose(model.nats(held), [model.nats([d])[0] for d in held])
    assert model.nats(held)[1] == 0 and model.nats([]).shape == (0,)

def stdlib_split():
    files = [p for p in sorted(Path(os.__file__).parent.glob('*.py')) if p.stat().st_size][:120]
    return [p.read_bytes() for i,p in enumerate(files) if i%6], [p.read_bytes() for i,p in enumerate(files) if i%6 == 0]

def test_longer_contexts_predict_real_text_better():
    train,held = stdlib_split()
    size = sum(map(len, held))
    found = [bits_per_byte(ByteNgram.fit(train, order).nats(held).sum(), size) for order in range(1, 7)]
    assert 4 < found[0] < 5.5 and 1.3 < found[-1] < 2.5
    assert all(longer < shorter for shorter,longer in zip(found, found[1:]))

def test_counting_needs_bounded_memory():
    "60 MB of text must fit in well under 3 GB: at most 30 bytes for each byte."
    train,_ = stdlib_split()
    tracemalloc.start()
    ByteNgram.fit(train, 6)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30*sum(map(len, train))

@pytest.mark.parametrize('docs,order,says', [(b'text', 5, 'list of documents'), ('text', 5, 'list of documents'), ([b'x'], 0, 'choose 1 to 7'),
                                             ([b'x'], 8, 'choose 1 to 7'), ([], 5, 'missing or empty'), ([b'', b''], 5, 'missing or empty')])
def test_ngram_refuses(docs, order, says):
    with pytest.raises(ValueError, match=says): ByteNgram.fit(docs, order)

# ---- xz

def xz_growth(train, text): return 8*(len(lzma.compress(train+text, preset=9)) - len(lzma.compress(train, preset=9)))

def test_xz_bits_are_the_growth_of_the_file():
    train,held = stdlib_split()
    train = b''.join(train)[:150_000]    # more than one piece
    texts = dict(first=held[0][:9_000], known=train[1000:90_000], none=b'', noise=np.random.default_rng(0).bytes(5000), newline=b'\n'*100)
    expected = {name: xz_growth(train, text) for name,text in texts.items()}
    assert xz_bits(train, texts) == xz_bits(train, texts, fork=False) == expected
    assert expected['none'] == 0 and expected['noise'] >= 40_000 and expected['known'] < expected['first']
    assert xz_bits(b'', dict(a=texts['first'])) == dict(a=xz_growth(b'', texts['first']))

@pytest.mark.skipif(not hasattr(os, 'fork'), reason='no fork here')
def test_the_training_text_is_compressed_once():
    import resource
    train,_ = stdlib_split()
    train,texts = b''.join(train)[:1_000_000], {str(i): b'def f(): return %d' % i for i in range(6)}
    def seconds(**more):
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        xz_bits(train, texts, **more)
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    assert seconds() < seconds(fork=False)/2

def test_xz_says_why_it_failed(monkeypatch):
    monkeypatch.setattr(score.inspect, 'getsource', lambda f: 'def _xz_child(): raise MemoryError("no room")')
    with pytest.raises(RuntimeError, match='status 1 .*no room.*leave it out'): xz_bits(b'a', dict(a=b'b'))

# ---- all together

def entry(bits, size): return dict(bits_per_byte=bits/size, bytes=size)

def small_evals():
    text = lambda s: (np.frombuffer(s, np.uint8).astype(np.uint16)%10+1, s)
    return {'validation': {'one': [text(b'hello there '*9), text(b'')], 'two': [text(b'general')], 'empty': []},
            'test': {'one': [text(b'you are bold')], 'two': [text(b''), text(b'')]}}

def test_baselines_and_models_share_one_shape():
    evals = small_evals()
    docs = [b'hello there, general', b'you are a bold one']
    tokens = np.frombuffer(b''.join(docs), np.uint8)%10+1
    found = baselines(docs, tokens, VOCAB, evals)
    found['model'] = model_scores(Causal(), evals, window=16)
    assert list(found) == ['unigram', 'ngram2', 'ngram5', 'xz', 'model']
    for splits in found.values():
        assert {split: {s: x['bytes'] for s,x in scores.items()} for split,scores in splits.items()} == \
               {'validation': {'one': 108, 'two': 7}, 'test': {'one': 12}}
    pairs = evals['validation']['one']
    assert found['ngram2']['validation']['one']['bits_per_byte'] == \
           pytest.approx(bits_per_byte(ByteNgram.fit(docs, 2).nats([t for _,t in pairs]).sum(), 108))
    assert found['xz']['validation']['two']['bits_per_byte'] == pytest.approx(xz_growth(b''.join(docs), b'general')/7)
    assert found['model']['test']['one']['bits_per_byte'] == \
           pytest.approx(document_nats(Causal(), [evals['test']['one'][0][0]], 16)[0]/math.log(2)/12)
    assert list(baselines(docs, tokens, VOCAB, evals, orders=(3,), xz=False)) == ['unigram', 'ngram3']

def test_a_tier_is_its_sources_as_one_text():
    rng = np.random.default_rng(0)
    for _ in range(50):
        bits,size = rng.uniform(1, 9000, size=4), rng.integers(1, 5000, size=4)
        scores = {s: entry(b, int(n)) for s,b,n in zip('abcd', bits, size)}
        got = by_tier(scores, dict(a='low', b='high', c='low', d='low', e='medium'))
        assert list(got) == ['low', 'high']
        assert got['low']['bits_per_byte'] == pytest.approx(bits[[0, 2, 3]].sum()/size[[0, 2, 3]].sum())
        assert got['low']['bytes'] == size[[0, 2, 3]].sum() and got['high'] == pytest.approx(scores['b'])

def test_a_model_beats_only_what_it_is_below():
    tiers = dict(a='high', b='low')
    models = {'m': {'test': {'a': entry(10, 10), 'b': entry(40, 10)}}}
    rivals = {'r': {'test': {'a': entry(20, 10), 'b': entry(40, 10)}, 'validation': {}}}
    assert compare(models, rivals, tiers) == [
        dict(model='m', baseline='r', split='test', tier='high', model_bits_per_byte=1., baseline_bits_per_byte=2., beats=True),
        dict(model='m', baseline='r', split='test', tier='low', model_bits_per_byte=4., baseline_bits_per_byte=4., beats=False)]
    nan = {'m': {'test': {'a': entry(math.nan, 10), 'b': entry(1, 10)}}}
    assert [row['beats'] for row in compare(nan, rivals, tiers)] == [False, True]

@pytest.mark.parametrize('theirs', [{}, {'test': {}}, {'test': {'a': entry(20, 11)}}, {'test': {'a': entry(20, 10), 'b': entry(1, 1)}}])
def test_different_text_is_not_compared(theirs):
    with pytest.raises(ValueError, match='different text'): compare({'m': {'test': {'a': entry(10, 10)}}}, {'r': theirs}, dict(a='high', b='low'))
