"Duplicates: what is removed was as similar as said, the best copy stays, and nothing depends on how the work was cut."
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from andromeda.clean import digest
from andromeda.core import build, open_artefact
from andromeda.dedup import Near, _joined, _pieces, clusters, dedup, grams, jaccard, part_survivors, settle, signature, split_groups, survivors, texts_of, without
from andromeda.shards import split_of
from andromeda.sources import RowWriter, document_id, read_rows
from andromeda.words import character_tables

COLUMNS = ('id', 'source', 'file', 'row', 'group', 'text', 'failed', 'digest', 'score')


def corpus(folder, texts, source='s', parts=1, shift=0, groups=None, failed=(), score=None):
    "A clean artefact: document i is the only record of the file i.txt; `shift` turns the order in which the parts hold them."
    def make(out):
        names = list(texts)
        names = names[shift:]+names[:shift]
        for p in range(parts):
            (out/f'part-{p:05d}').mkdir(exist_ok=True)
            with RowWriter(out/f'part-{p:05d}'/'documents.parquet', COLUMNS, dict(failed='failed', score='float')) as rows:
                for name in names[p::parts]:
                    text = texts[name]
                    rows.add(dict(id=document_id(source, name, 0), source=source, file=name, row=0, group=(groups or {}).get(name, name), text=text, digest=digest(text),
                                  failed=[dict(rule='short', value=1., threshold=2.)] if name in failed else [], score=(score or {}).get(name, 0.)))
        return dict(read=len(texts))
    return build(folder, made_by='clean', version=0, config=dict(texts=texts, parts=parts, shift=shift, groups=groups, failed=list(failed), score=score), make=make)


VOCABULARY = [f'{a}{b}{c}' for a in 'bdfgklm' for b in 'aeiou' for c in 'nrst']


def prose(r, n): return r.choices(VOCABULARY, k=n)


def altered(r, words, share):
    "Words with a share of them replaced, dropped or doubled."
    out = []
    for w in words:
        if r.random() > share: out.append(w)
        else: out += r.choice([[], [r.choice(VOCABULARY)], [w, r.choice(VOCABULARY)]])
    return out


def planted(seed, n=40, copies=3):
    "Texts by name: families of ever more altered copies, and documents of their own."
    r,texts = random.Random(seed),{}
    for i in range(n):
        words = prose(r, r.randrange(40, 300))
        texts[f'{i}.txt'] = ' '.join(words)
        for c in range(r.randrange(copies+1)):
            words = altered(r, words, r.choice([0, .005, .01, .02, .05, .2]))
            texts[f'{i}-{c}.txt'] = r.choice([str, str.upper, str.title])(' '.join(words))
    return texts


def rows(artefact, name='ledger'): return list(read_rows(artefact, f'{name}.parquet'))


def outcome(artefact): return {name: sorted(map(str, rows(artefact, name))) for name in ('ledger', 'clusters', 'groups', 'ranges')}


@pytest.mark.parametrize('seed', range(6))
@pytest.mark.parametrize('threshold', [.5, .8, .95])
def test_no_removal_below_the_stated_similarity(tmp_path, seed, threshold):
    "Every removed document has a twin that was kept, and their similarity, counted here once more, is the one in the ledger and high enough."
    texts = planted(seed)
    art = dedup(dict(s=corpus(tmp_path/'c', texts)), tmp_path/'d', Near(threshold=threshold), workers=1)
    by_id = {document_id('s', n, 0): t for n,t in texts.items()}
    gone = rows(art)
    removed = {r['id'] for r in gone}
    assert len(removed) == len(gone) > 0
    for r in gone:
        assert r['value'] not in removed and r['value'] != r['id']
        true = jaccard(grams(by_id[r['id']]), grams(by_id[r['value']]))
        assert true == pytest.approx(r['similarity']) and true >= threshold
        assert (r['rule'] == 'exact') == (digest(by_id[r['id']]) == digest(by_id[r['value']]))
    assert art.counts['read'] == art.counts['kept']+art.counts['duplicate'] == len(texts)


@pytest.mark.parametrize('seed', range(3))
def test_what_is_alike_is_found(tmp_path, seed):
    "With bands as fine as can be, no two kept documents are as similar as the threshold: brute force over all pairs."
    texts = planted(seed, n=25)
    cleaned = corpus(tmp_path/'c', texts)
    art = dedup(dict(s=cleaned), tmp_path/'d', Near(threshold=.7, bands=100, rows=2), workers=1)
    sets = [grams(d['text']) for d in survivors(cleaned, art)]
    assert max(jaccard(a, b) for i,a in enumerate(sets) for b in sets[:i]) < .7


def test_planted_pairs_of_known_similarity_are_found_or_kept(tmp_path):
    "Pairs built to a similarity by replacing k words far apart: (n-5k)/(n+5k). Those at 0.85 go, those at 0.75 stay."
    r,texts,want = random.Random(0),{},{}
    for i in range(60):
        words = [f'{w}{j}' for j,w in enumerate(prose(r, 400))]           # no run stands twice
        k = r.choice([2, 6, 11, 15])                                     # 0.95, 0.86, 0.76, 0.68
        other = list(words)
        for j in range(k): other[10+j*25] = f'new{j}'
        texts[f'{i}a'],texts[f'{i}b'] = ' '.join(words),' '.join(other)
        want[i] = (396-5*k)/(396+5*k)
    art = dedup(dict(s=corpus(tmp_path/'c', texts)), tmp_path/'d', workers=1)
    found = {r['file'][:-1]: r['similarity'] for r in rows(art)}
    for i,true in want.items():
        if true < .8: assert str(i) not in found
        else: assert found[str(i)] == pytest.approx(true)


def test_a_chain_does_not_pull_its_end_along():
    "A~B~C with A unlike C: B goes, C stays. Random graphs: each removed one has a kept better twin, no two kept ones are a pair."
    r = random.Random(0)
    for _ in range(200):
        n = r.randrange(2, 30)
        pairs = sorted({(max(a, b), min(a, b)) for a,b in ((r.randrange(n), r.randrange(n)) for _ in range(r.randrange(1, 60))) if a != b})
        if not pairs: continue
        worse,better = map(np.array, zip(*pairs))
        alike = np.array([r.choice([.8, .9, 1.]) for _ in pairs])
        twin,similar = settle(n, better, worse, alike)
        known = {(w, b): s for w,b,s in zip(worse, better, alike)}
        for w in range(n):
            if twin[w] >= 0: assert twin[twin[w]] < 0 and known[w, twin[w]] == similar[w] == max(s for (x, b),s in known.items() if x == w and twin[b] < 0)
        assert not any(twin[w] < 0 and twin[b] < 0 for w,b in pairs)


def test_the_copy_in_the_best_tier_stays(tmp_path):
    r = random.Random(1)
    words = prose(r, 300)
    texts = {k: ' '.join(altered(r, words, .002)) for k in 'abc'}
    sources = {k: corpus(tmp_path/k, {k: t}, source=k) for k,t in texts.items()}
    for best in 'abc':
        order = {k: sources[k] for k in sorted(texts, key=lambda k: k != best)}
        art = dedup(order, tmp_path/f'd{best}', workers=1)
        assert {r['source'] for r in rows(art)} == set('abc')-{best} and {r['value'] for r in rows(art)} == {document_id(best, best, 0)}


def test_within_a_tier_quality_decides_then_order(tmp_path):
    r = random.Random(2)
    words = prose(r, 300)
    texts = dict(a=' '.join(words), b=' '.join(words[:-3]), c=' '.join(words).upper())
    kept = lambda tiers, quality=None: dedup(sources, tmp_path/f'd{tiers}{quality}', tiers=tiers, quality=quality, workers=1)
    sources = {k: corpus(tmp_path/k, {k: t}, source=k, score=dict(a=1., b=3., c=-2.)) for k,t in sorted(texts.items(), reverse=True)}     # c, b, a
    gone = lambda art: {r['source'] for r in rows(art)}
    assert gone(kept(None)) == {'a', 'b'}                                       # each source a tier of its own
    assert gone(kept(dict.fromkeys('abc', 'high'))) == {'a', 'b'}               # a and c have the most words, c comes first
    assert gone(kept(dict(a='high', b='high', c='low'))) == {'a', 'b'}          # the tier of the first source named is the best
    assert gone(kept(dict.fromkeys('abc', 'high'), 'score')) == {'a', 'c'}      # by the column, b is the best
    with pytest.raises(ValueError, match='without a tier: b'): kept(dict(a='x', c='y'))


@pytest.mark.parametrize('parts, shift, workers', [(3, 0, 1), (5, 20, 1), (4, 3, 2)])
def test_the_result_does_not_depend_on_parts_their_order_or_workers(tmp_path, parts, shift, workers):
    texts = planted(11, n=30)
    whole = dedup(dict(s=corpus(tmp_path/'c', texts)), tmp_path/'d', Near(threshold=.6), pieces='line', piece_words=5, workers=1)
    other = dedup(dict(s=corpus(tmp_path/'c2', texts, parts=parts, shift=shift)), tmp_path/'d2', Near(threshold=.6), pieces='line', piece_words=5, workers=workers)
    assert outcome(whole) == outcome(other) and rows(whole)


def test_small_ranges_and_chunks_change_nothing(tmp_path, monkeypatch):
    "Memory is bounded by cutting the hashes in ranges and the pairs in chunks: with cuts everywhere the result is the same."
    texts = planted(3)
    whole = dedup(dict(s=corpus(tmp_path/'c', texts, parts=3)), tmp_path/'d', pieces='line', piece_words=5, workers=1)
    monkeypatch.setattr('andromeda.dedup.AT_ONCE', 16)
    monkeypatch.setattr('andromeda.dedup.GRAMS_AT_ONCE', 300)
    assert outcome(dedup(dict(s=corpus(tmp_path/'c', texts, parts=3)), tmp_path/'d2', pieces='line', piece_words=5, workers=1)) == outcome(whole)


def test_a_full_bucket_stays_linear_and_loses_nothing_that_the_best_covers(tmp_path):
    "A template filled in 500 times: all go for the best one, though their bucket gives a few pairs for each."
    r = random.Random(4)
    words = prose(r, 400)
    texts = {f'{i}': ' '.join([*words, *prose(r, 3)]) for i in range(500)}
    art = dedup(dict(s=corpus(tmp_path/'c', texts)), tmp_path/'d', workers=1)
    assert art.counts['duplicate'] == 499
    assert np.load(art/'similarities.npy').shape[1] <= 500*80 < 500*499/2


def test_adding_documents_keeps_the_work_and_gives_the_result_of_a_fresh_start(tmp_path, monkeypatch):
    "The second call signs the new part only and counts new pairs only; the artefact is that of a call from nothing, byte for byte."
    import andromeda.dedup as module
    old,new = planted(5),planted(6)
    two = lambda: dict(a=corpus(tmp_path/'a', old, source='a', parts=3), b=corpus(tmp_path/'b', new, source='b'))
    dedup(dict(a=two()['a']), tmp_path/'d', workers=1)
    signed,counted = [],[]
    sign,verify = module.sign_part,module.verify_task
    monkeypatch.setattr(module, 'sign_part', lambda item, out: signed.append(item['part']) or sign(item, out))
    monkeypatch.setattr(module, 'verify_task', lambda item, out: counted.append(len(item['left'])) or verify(item, out))
    grown = dedup(two(), tmp_path/'d', workers=1)
    assert [p.split('/')[-2] for p in signed] == ['b']
    first = sum(counted)
    fresh = dedup(two(), tmp_path/'fresh', workers=1)
    assert sum(counted)-first > first > 0                                       # all pairs, against the new ones
    assert grown.manifest['files'] == fresh.manifest['files'] and grown.fingerprint == fresh.fingerprint


def grown(tmp_path, stages, **how):
    "`dedup` in one folder, one stage after the other; the manifest of each, and of a call from nothing."
    for i,cleaned in enumerate(stages):
        one,other = dedup(cleaned, tmp_path/'grown', workers=1, **how),dedup(cleaned, tmp_path/f'fresh{i}', workers=1, **how)
        yield one, other


@pytest.fixture
def looked_at(monkeypatch):
    "For each search for candidates, whether all documents were looked at, and whether it was enough."
    import andromeda.dedup as module
    seen,find = [],module._candidates
    def noted(corpus, others, past, *rest):
        found = find(corpus, others, past, *rest)
        seen.append(('all' if past is None else 'touched', found is not None))
        return found
    monkeypatch.setattr(module, '_candidates', noted)
    return seen


@pytest.mark.parametrize('seed', range(4))
def test_a_corpus_that_grows_by_a_few_documents_is_that_of_a_fresh_start(tmp_path, looked_at, seed):
    "Sources come before, between and behind the others, with copies of old documents that are better or worse than they; the last threshold is another one."
    r,pool = random.Random(seed),planted(seed, n=60)
    names = r.sample(list(pool), len(pool))
    some = lambda n: {k: r.choice([pool[k], pool[k].upper(), pool[k]+' and more']) for k in r.sample(names[:-20], n)} | {k: pool[k] for k in r.sample(names[-20:], 2)}
    base = {'m': corpus(tmp_path/'m', {k: pool[k] for k in names[:-20]}, source='m', parts=4)}
    a,b,c = (corpus(tmp_path/x, some(6), source=x) for x in 'abc')
    stages = [base, base | dict(b=b), dict(a=a) | base | dict(b=b), dict(a=a) | base | dict(c=c, b=b)]
    for one,other in grown(tmp_path, stages, near=Near(threshold=.6)): assert one.manifest['files'] == other.manifest['files'] and one.counts == other.counts
    assert looked_at.count(('touched', True)) == 3
    looked_at.clear()
    strict,other = dedup(stages[-1], tmp_path/'grown', Near(threshold=.9), workers=1),dedup(stages[-1], tmp_path/'strict', Near(threshold=.9), workers=1)
    assert strict.manifest['files'] == other.manifest['files'] and looked_at[0] == ('touched', True)


def test_a_full_bucket_that_grows_is_looked_at_again(tmp_path, looked_at):
    "A new document may take a place among the best of a bucket, and with it the pairs of another: then all are searched, and the result is that of a fresh start."
    r = random.Random(4)
    words = prose(r, 400)
    filled = lambda n, tail: {f'{tail}{i}': ' '.join([*words, *prose(r, tail)]) for i in range(n)}
    base = dict(s=corpus(tmp_path/'s', filled(100, 3), source='s', parts=3))
    stages = [base, base | dict(t=corpus(tmp_path/'t', filled(3, 9), source='t'))]
    for one,other in grown(tmp_path, stages, tiers=dict(s='high', t='high')): assert one.manifest['files'] == other.manifest['files']
    assert ('touched', False) in looked_at


@pytest.mark.parametrize('change', ['order', 'tier', 'gone', 'same.npy', 'similarities.npy', 'parts.json'])
def test_what_is_known_is_not_used_where_it_no_longer_holds(tmp_path, looked_at, change):
    "Another order, another tier, a source that left, a damaged file: everything is searched."
    a,b = (corpus(tmp_path/x, planted(i, n=20), source=x) for i,x in enumerate('ab'))
    tiers = dict(a='high', b='high')
    first = dedup(dict(a=a, b=b), tmp_path/'d', tiers=tiers, workers=1)
    if '.' in change: (first/change).write_bytes((first/change).read_bytes()[:-1]+b'}')
    more = dict(a=a, b=b, c=corpus(tmp_path/'c', planted(3, n=3), source='c'))
    if change == 'order': more = dict(b=b, a=a, c=more['c'])
    if change == 'gone': more.pop('b')
    tiers = dict(a='high', b='low' if change == 'tier' else 'high', c='high')
    looked_at.clear()
    one,other = (dedup(more, tmp_path/name, tiers={s: tiers[s] for s in more}, workers=1) for name in ('d', 'fresh'))
    assert looked_at == [('all', True)]*2 and one.manifest['files'] == other.manifest['files']


def test_filtered_documents_take_no_part(tmp_path):
    texts = dict(a='one two three four five six seven eight '*5, b='ONE two three four five six seven eight '*5)
    assert dedup(dict(s=corpus(tmp_path/'c', texts, failed=['a'])), tmp_path/'d', workers=1).counts['read'] == 1


@pytest.mark.parametrize('texts, removed', [({}, 0), (dict(a=''), 0), (dict(a='', b=''), 1), (dict(a='!!!', b='???', c='! ! !'), 0), (dict(a='!!!', b=' !!!\n'), 1),
                                             (dict(a='one', b='One', c='two'), 1), (dict(a='one two', b='one, two'), 1), (dict(a='漢字漢字漢字', b='漢字漢字漢字。'), 1)])
def test_the_smallest_corpora(tmp_path, texts, removed):
    "No document, empty ones, no words, fewer words than a run."
    cleaned = corpus(tmp_path/'c', texts)
    assert dedup(dict(s=cleaned), tmp_path/'d', workers=1).counts['duplicate'] == removed
    assert dedup(dict(s=cleaned), tmp_path/'p', pieces='paragraph', workers=1).counts['duplicate'] == removed


def test_without_near_only_equal_text_goes(tmp_path):
    texts = dict(a='x = a - b and more words here', b='X = a - b  and more words\nhere', c='x = a + b and more words here')
    exact,near = (dedup(dict(s=corpus(tmp_path/'c', texts)), tmp_path/f'd{n}', n, workers=1) for n in (None, Near()))
    assert [r['rule'] for r in rows(exact)] == ['exact'] and exact.counts['duplicate'] == 1
    assert sorted(r['rule'] for r in rows(near)) in (['exact', 'near'], ['near', 'near'])


def test_clusters_hold_everyone_and_name_the_best(tmp_path):
    texts = planted(7)
    cleaned = corpus(tmp_path/'c', texts)
    art = dedup(dict(s=cleaned), tmp_path/'d', workers=1)
    gone = {r['id']: r for r in rows(art)}
    found = clusters(art)
    assert [len(c) for c in found] == sorted((len(c) for c in found), reverse=True) and len(found) == art.counts['clusters']
    for c in found:
        assert len(c) > 1 and c[0]['id'] == c[0]['cluster'] and c[0]['twin'] == ''
        for r in c: assert (r['twin'] == '') == (r['id'] not in gone) and gone.get(r['id'], r).get('value', '') == r['twin']
    assert sum(r['twin'] != '' for c in found for r in c) == len(gone)
    assert set(texts_of(dict(s=cleaned), {r['id'] for r in found[0]})) == {r['id'] for r in found[0]}


def test_no_cluster_straddles_a_split(tmp_path):
    "Documents that both stay, though a removed one joins them, have one group, and so have all documents of their groups."
    r = random.Random(8)
    base = [f'{w}{j}' for j,w in enumerate(prose(r, 500))]
    swap = lambda words, at: [f'new{j}' if j in at else w for j,w in enumerate(words)]
    b = base
    a,c = swap(b, range(50, 250, 25)), swap(b, range(260, 460, 25))         # each 0.85 from b, 0.72 from each other
    texts = dict(a=' '.join([*a, 'longest', 'of', 'all']), b=' '.join(b), c=' '.join(c), d='something else '*20)
    cleaned = corpus(tmp_path/'c', texts, groups=dict(a='book 1', b='book 2', c='book 3', d='book 3'))
    art = dedup(dict(s=cleaned), tmp_path/'d', workers=1)
    assert [r['file'] for r in rows(art)] == ['b']
    [[other, name]] = split_groups(art).items()
    assert {other, name} == {'book 1', 'book 3'} and {d['file']: d['group'] for d in survivors(cleaned, art)} == dict(a=name, c=name, d=name)


def test_documents_that_come_take_none_from_training_to_a_held_out_split():
    "Clusters grow and join: each group that was for training stays there."
    r = random.Random(4)
    moved = 0
    for _ in range(50):
        links = [[f'group {r.randrange(300)}' for _ in range(r.randint(2, 4))] for _ in range(60)]
        few,all_ = _joined(links[:40]),_joined(links)
        split = lambda names, g: split_of(names.get(g, g), .25)
        for g in {g for groups in links for g in groups}:
            before,after = split(few, g),split(all_, g)
            assert before != 'train' or after == 'train'
            moved += before != after
        for groups in links: assert len({all_.get(g, g) for g in groups}) == 1
    assert moved                                            # some held-out ones do go to training


def test_the_survivors_of_each_part_are_those_of_the_source(tmp_path):
    r = random.Random(2)
    texts = {f'{i}': prose(r, 80) for i in range(30)} | {f'copy {i}': '' for i in range(6)}
    texts = {k: ' '.join(v or texts[k[-1]]) for k,v in texts.items()}
    cleaned = corpus(tmp_path/'c', texts, parts=4)
    art = dedup(dict(s=cleaned), tmp_path/'d', workers=1)
    parts = sorted(cleaned.folder.glob('part-*'))
    columns,leaked = ('id', 'group', 'text'),{document_id('s', '3', 0)}
    found = [list(part_survivors(p, art.folder, columns, leaked)) for p in parts]
    assert len(parts) == 4 and art.counts['duplicate'] == 6
    assert sum(found, []) == list(survivors(cleaned, art, list(columns), leaked=leaked)) and all(found)
    assert {d['id'] for f in found for d in f} == {d['id'] for d in survivors(cleaned, art)} - leaked


def test_pieces_are_cut_where_a_better_document_has_them_and_can_be_put_back(tmp_path):
    licence = 'Permission is hereby granted to any person to use this text for what they like\nwithout any kind of warranty or other promise by those who wrote it\n'
    texts = dict(a='Words of the first.\n\n'+licence+'\nMore of the first.', b='É words of the second 漢字.\n  \n'+licence+'\n\nMore of the second.\n', c=licence.upper())
    sources = {k: corpus(tmp_path/k, {k: t}, source=k) for k,t in texts.items()}
    art = dedup(sources, tmp_path/'d', pieces='paragraph', workers=1)
    after = {k: [d['text'] for d in survivors(s, art)] for k,s in sources.items()}
    assert after == dict(a=[texts['a']], b=[texts['b'].replace(licence+'\n\n', '')], c=[])
    assert [(r['source'], r['rule'], r['value']) for r in rows(art)] == [('c', 'pieces', document_id('a', 'a', 0))]
    assert [d['text'] for d in survivors(sources['b'], art, whole=True)] == [texts['b']]
    [cut] = rows(art, 'ranges')
    assert texts['b'][cut['begin']:cut['end']] == licence+'\n\n' and art.counts['cut_characters'] == len(licence)+2
    lines = dedup(sources, tmp_path/'l', pieces='line', piece_words=12, workers=1)
    assert [d['text'] for d in survivors(sources['b'], lines)] == [texts['b'].replace(licence, '')]


@pytest.mark.parametrize('paragraphs', [False, True])
def test_pieces_cover_the_text(paragraphs):
    "With no least length the pieces that have words follow each other and hold all words."
    r = random.Random(9)
    for _ in range(200):
        text = ''.join(r.choice(['word', 'é漢', ' ', '\n', '\n\n', '\t', '.', '\n \n']) for _ in range(r.randrange(40)))
        data = np.frombuffer(text.encode(), np.uint8)
        found = _pieces(data, np.array([0, len(data)]), np.array([0]), 0, *character_tables(), paragraphs, 1)
        spans = [(int(b), int(e)) for b,e in zip(found[2], found[3])]
        assert all(a[1] <= b[0] for a,b in zip(spans, spans[1:])) and all(0 <= b < e <= len(text) for b,e in spans)
        outside = without(text, spans)
        assert not any(c.isalnum() for c in outside)
        for b,e in spans:
            assert b == 0 or text[b-1] == '\n'
            inner = text[b:e].strip(' \t\n')
            assert ('\n' not in inner) if not paragraphs else not any(line.strip(' \t') == '' for line in inner.split('\n'))


def test_another_dedup_is_made_for_other_settings(tmp_path):
    cleaned = dict(s=corpus(tmp_path/'c', planted(1, n=10)))
    marks = {dedup(cleaned, tmp_path/'d', **k, workers=1).fingerprint for k in (dict(), dict(near=Near(threshold=.9)), dict(near=None), dict(pieces='line'), dict(quality='score'))}
    assert len(marks) == 5


@pytest.mark.parametrize('wrong', [dict(threshold=0), dict(threshold=1.1), dict(run=0), dict(bands=0), dict(rows=0)])
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ValueError): Near(**wrong)


def test_signatures_never_change():
    "They are kept in artefacts and compared with later ones."
    assert signature('to be or not to be that is the question', Near(bands=1, rows=3)).tolist() == [1001173036, 2135559936, 62036232]


MEGABYTE = {'spaces': ' '*1_000_000, 'marks': 'a'+'\u0301'*500_000, 'one run': 'to be or '*111_111, 'lines': 'a\n'*500_000, 'indented': ' '*300_000+'\n\n'+' '*700_000+'x',
            'Han': '漢'*333_333, 'overrides': '\u202ea '*200_000, 'empty lines': '\n \n'*300_000}


@pytest.mark.parametrize('name', MEGABYTE)
def test_ugly_megabytes_cost_linear_time(tmp_path, name):
    "Twice, so that they are compared; with pieces. Eight times the text costs about eight times."
    def cost(times):
        texts = dict(a=MEGABYTE[name][:len(MEGABYTE[name])//8]*times, b=MEGABYTE[name][:len(MEGABYTE[name])//8]*times+' tail', c='some other words '*10)
        cleaned = dict(s=corpus(tmp_path/f'c{times}', texts))
        dedup(dict(s=corpus(tmp_path/'warm', dict(a='a b c', b='a b c d'))), tmp_path/'warmed', pieces='paragraph', piece_words=1, workers=1)
        began = time.process_time()
        dedup(cleaned, tmp_path/f'd{times}', pieces='paragraph', piece_words=1, workers=1)
        return time.process_time()-began
    assert cost(8) < 20*cost(1)+.5


JOB = '''
import json, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_dedup import corpus, planted
import andromeda.dedup as module
from andromeda.dedup import Near, dedup
module.AT_ONCE = 256          # all stages in several tasks and, with workers, in processes
if __name__ == '__main__':
    folder = Path(sys.argv[1])
    cleaned = dict(s=corpus(folder/'c', planted(12, n=200), parts=6))
    dedup(cleaned, folder/sys.argv[2], Near(threshold=.6), pieces='line', piece_words=5, workers=int(sys.argv[3]), backend=sys.argv[4])
'''


def job(tmp_path, name, workers=1, backend='processes'):
    (tmp_path/'job.py').write_text(JOB.format(tests=os.path.dirname(__file__)))
    return [sys.executable, str(tmp_path/'job.py'), str(tmp_path), name, str(workers), backend]


def killed(tmp_path, kills):
    "The manifest after `kills` deaths at random moments, and of an undisturbed call."
    began = time.perf_counter()
    subprocess.run(job(tmp_path, 'calm'), check=True)
    whole,clock = time.perf_counter()-began,random.Random(0)
    for _ in range(kills):
        process = subprocess.Popen(job(tmp_path, 'killed'))
        try: process.wait(clock.uniform(.3*whole, whole))
        except subprocess.TimeoutExpired: process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(job(tmp_path, 'killed'), check=True)
    return [open_artefact(tmp_path/n).manifest for n in ('killed', 'calm')]


def test_a_killed_call_ends_with_the_identical_artefact(tmp_path):
    one,other = killed(tmp_path, 3)
    assert one['files'] == other['files'] and one['fingerprint'] == other['fingerprint'] and one['counts']['duplicate'] > 100


@pytest.mark.slow
def test_twenty_kills_end_with_the_identical_artefact(tmp_path):
    one,other = killed(tmp_path, 20)
    assert one['files'] == other['files'] and one['fingerprint'] == other['fingerprint']


@pytest.mark.slow
def test_ray_gives_what_this_machine_gives(tmp_path):
    for name,workers,backend in (('local', 1, 'processes'), ('two', 2, 'processes'), ('ray', 2, 'ray')): subprocess.run(job(tmp_path, name, workers, backend), check=True)
    files = [json.dumps(open_artefact(tmp_path/n).manifest['files']) for n in ('local', 'two', 'ray')]
    assert files[0] == files[1] == files[2]


def test_wanted_documents_are_read_whatever_group_they_are_in(tmp_path):
    "Of a part in row groups of 7, some documents are read with their own texts, also when they are few, all, or only at the end."
    import pyarrow as pa, pyarrow.parquet as pq
    from andromeda.dedup import _wanted_batches
    r = random.Random(0)
    failed = [[] if r.random() < .6 else [dict(rule='short', value=1., threshold=2.)] for _ in range(250)]
    kind = pa.list_(pa.struct([('rule', pa.string()), ('value', pa.float64()), ('threshold', pa.float64())]))
    pq.write_table(pa.table(dict(text=[f'text {i}' for i in range(250)], failed=pa.array(failed, kind))), tmp_path/'documents.parquet', row_group_size=7)
    kept = [f'text {i}' for i in range(250) if not failed[i]]
    for wanted in ([0], [len(kept)-1], range(len(kept)), *(sorted(r.sample(range(len(kept)), r.randint(1, 20))) for _ in range(30))):
        found = [b['text'][int(i)].as_py() for b,rows in _wanted_batches(tmp_path, ['text'], np.array(wanted)) for i in rows]
        assert found == [kept[w] for w in wanted]
