"One sentence for each threshold, a ledger that balances and restores, questions that agree with answers, and kills."
import json
import random
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from andromeda import clean as module
from andromeda.clean import (C4_RULES, FINEWEB_RULES, GOPHER_QUALITY, GOPHER_REPETITION, RULE_SETS, RULES, Measured, Rule, balance, clean, digest, failed, kept, load_signals, removals,
                             restore, rules_for, signals_of, suggest, texts_at, values_of, what_if)
from andromeda.core import damage, open_artefact
from andromeda.signals import SIGNALS, signals
from andromeda.sources import Source, read_rows, read_source

GOOD = 'The mean of some numbers is their sum, divided by how many there are.\n'
PROSE = ''.join(GOOD.replace('mean', w) for w in ('mean', 'average', 'centre', 'middle'))
CODE = 'def mean(xs):\n    total = 0\n    for x in xs:\n        total += x\n    return total / len(xs)\n\n'
LONG = ''.join(f'{who} and {what} have to be with that {thing}.\n' for who in ('Ann', 'Bob', 'Cleo', 'Dan') for what in ('the sea', 'a song') for thing in ('green hat', 'old boat', 'tea'))
NAMES = ' '.join(f'w{i}' for i in range(60))

BREAKS = {       # rule: a text that it is there for, and the reason
    ('prose', 'short'): (GOOD, 'one sentence is too little to learn from'),
    ('prose', 'short words'): ('a b c d '*60, 'single letters are the remains of a formula or of spaced-out headings'),
    ('prose', 'long words'): ('antidisestablishmentarianism '*20, 'very long words are identifiers, paths or a language without spaces'),
    ('prose', 'words without letters'): (PROSE + '12 34 56 78 90 '*60, 'a third of numbers is a table'),
    ('prose', 'few letters'): (PROSE + ' -- '.join(['####']*200), 'rulers and boxes are drawings'),
    ('prose', 'repeated lines'): (PROSE + 'Home\n'*40, 'a menu repeats its lines'),
    ('code', 'short'): (CODE, 'one small function is too little to learn from'),
    ('code', 'long line'): (CODE*3 + 'x = "' + 'a'*1000 + '"\n', 'a line of a thousand characters is data or minified'),
    ('code', 'wide'): (('value = compute(' + 'argument, '*12 + ')\n')*5, 'lines of a hundred on average were written by a program'),
    ('code', 'symbols'): ('}{][)(*&^%$#@!'*30 + 'abc', 'a file of symbols says nothing'),
    ('dialogue', 'short'): ('User: hi', 'a greeting alone teaches nothing'),
    ('dialogue', 'repeated lines'): (PROSE + 'ok\n'*40, 'somebody who says one thing forty times is a program'),
    ('gopher', 'gopher: few words'): (GOOD, 'fewer than 50 words hold no thought'),
    ('gopher', 'gopher: many words'): ('word '*100_001, 'more than 100,000 words are a dump of many texts'),
    ('gopher', 'gopher: short words'): ('of a b '*60, 'words of under three letters on average are fragments'),
    ('gopher', 'gopher: long words'): ('antidisestablishmentarianism '*60, 'words of over ten letters on average are no running text'),
    ('gopher', 'gopher: number signs'): ('a # '*60, 'one # for ten words is a list of tags'),
    ('gopher', 'gopher: ellipses'): ('read on ... '*60, 'one ellipsis for ten words is a page of teasers'),
    ('gopher', 'gopher: bullets'): ('- a point to make\n'*60, 'nine lines in ten with bullets are a list, not a text'),
    ('gopher', 'gopher: lines left open'): ('the rest of this is behind the link...\n'*20, 'a third of the lines cut off: a page of previews'),
    ('gopher', 'gopher: words without letters'): (LONG + '12 34 56 '*60, 'a fifth of the words without a letter is a table'),
    ('gopher', 'gopher: stop words'): (NAMES, 'English without the, of, and is a list of names'),
    ('gopher', 'gopher: repeated paragraphs'): ((GOOD+'\n')*5 + LONG, 'a third of the paragraphs twice: a page template'),
    ('gopher', 'gopher: text in repeated paragraphs'): ((GOOD*3+'\n')*5 + LONG, 'a fifth of the text in copies of paragraphs'),
    ('gopher', 'gopher: repeated lines'): (LONG + 'Home\n'*40, 'a third of the lines stood before: a menu'),
    ('gopher', 'gopher: text in repeated lines'): (LONG + GOOD*20, 'a fifth of the text in copies of lines'),
    **{('gopher', f'gopher: commonest {n}-gram'): ('buy this now today '*60 + LONG, f'one phrase of {n} words makes up a sixth of the text: advertising') for n in (2, 3, 4)},
    **{('gopher', f'gopher: repeated {n}-grams'): ((NAMES+' ')*3, f'runs of {n} words come again all the time: a loop or a template') for n in range(5, 11)},
    ('c4', 'c4: few sentences'): (GOOD*4, 'fewer than five sentences with end marks: a menu or a caption'),
    ('c4', 'c4: lorem ipsum'): (LONG + 'Lorem ipsum dolor sit amet.', 'a page with filler text is unfinished'),
    ('c4', 'c4: curly bracket'): (LONG + 'Then write f() {} and that is all.', 'natural text has no curly brackets; code does'),
    ('fineweb', 'fineweb: lines without an end mark'): ('Home page\nAbout us\n'+'Contact\nImprint\n'*5, 'lines that end in nothing are navigation'),
    ('fineweb', 'fineweb: short lines'): ('A line.\n'*3 + 'Another.\n'*3 + 'Yes.\n', 'two thirds of the lines under 30 characters: a list'),
    ('fineweb', 'fineweb: text in copied lines'): (LONG + GOOD*2, 'one character in a hundred in copies of lines'),
    ('fineweb', 'fineweb: lists'): ('one\ntwo words\n'*30, 'a line feed for each three words: a list'),
    ('english', 'not English'): ('Das Haus steht auf dem Berg, und von dort kann man alles sehen, was sie gebaut haben. '*4, 'German is for another source'),
    ('private', 'keys'): (PROSE + 'AKIA'+'ABCDEFGH12345678', 'a key that opens a door must not be learned'),
    ('private', 'e-mail addresses'): ('ann@example.org bob@example.org '*9, 'a list of people'),
}


@pytest.mark.parametrize('kind, rule', BREAKS)
def test_each_rule_removes_what_it_is_for(kind, rule):
    text,reason = BREAKS[kind, rule]
    assert reason
    assert rule in [f['rule'] for f in failed(signals(text), RULE_SETS[kind])]


def test_every_rule_has_its_case_and_its_source():
    assert set(BREAKS) == {(kind, r.name) for kind,rules in RULE_SETS.items() for r in rules}
    assert all(r.origin for rules in RULE_SETS.values() for r in rules)
    for rules in RULE_SETS.values(): assert len({r.name for r in rules}) == len(rules)


def test_good_text_stays():
    assert failed(signals(PROSE), RULES['prose']) == []
    assert failed(signals(CODE*4), RULES['code']) == []
    for name in ('c4', 'fineweb', 'english', 'private'): assert failed(signals(LONG), RULE_SETS[name]) == [], name


@pytest.mark.parametrize('rules, wanted', [
    (GOPHER_QUALITY, [50, 100_000, 3, 10, .1, .1, .9, .3, .8, 2]), (GOPHER_REPETITION, [.3, .2, .3, .2, .2, .18, .16, .15, .14, .13, .12, .11, .10]), (C4_RULES, [5, 0, 0]), (FINEWEB_RULES, [.12, .67, .01, .3])])
def test_published_thresholds_are_the_published_ones(rules, wanted): assert [r.threshold for r in rules] == wanted


def test_the_ledger_says_by_how_much():
    [why] = failed(signals(GOOD), RULES['dialogue'])
    assert why == dict(rule='short', value=float(len(GOOD)), threshold=200.)


def test_a_value_on_the_line_stays():
    "A fifth is not more than .2, although the nearest 32-bit number is."
    assert not Rule('r', 'x', most=.2).fails(np.float32([1])/np.float32([5])).any()
    assert Rule('r', 'x', most=.2).fails(np.nextafter(np.float32([.2]), np.float32(1))).all()
    assert not Rule('r', 'x', least=.7).fails(np.float32([7])/np.float32([10])).any()


@pytest.mark.parametrize('bad', ['__import__("os")', 'a.b', 'a[0]', 'a if b else c', '2**99', '-a', 'f(a)', '"a"', 'True', 'a; b', '', 'a +', '(lambda: 1)()'])
def test_an_expression_cannot_run_anything(bad):
    with pytest.raises(ValueError, match='no expression'): signals_of(bad)
    with pytest.raises(ValueError, match='no expression'): Rule('r', bad, most=1)


def test_an_expression_is_arithmetic():
    assert values_of('(a - 1) * b / 2 + c', dict(a=np.float32([3]), b=np.float32([5]), c=np.float32([1]))).tolist() == [6]


def test_case_and_spacing_do_not_hide_a_copy():
    r = random.Random(0)
    for _ in range(100):
        words = r.choices(['mean', 'Sum', 'é', '漢字', 'x=1;'], k=20)
        spaced = ''.join(w+r.choice([' ', '\n', '\t  ']) for w in words)
        assert digest(spaced.upper()) == digest(' '.join(words)) != digest(' '.join(words[1:]))


# ---------------------------------------------------------------- artefacts

def essay(r):
    "Text that every published rule keeps: sentences of words that rarely come again in the same order."
    words = [f'{a}{b}{c}' for a in ('mo', 'ka', 'ri', 'su') for b in ('la', 'ne', 'to', 'vi') for c in ('n', 'rd', 'st', 'm', 'ck')]
    return ''.join(f"The {' '.join(r.choices(words, k=7))} and {' '.join(r.choices(words, k=6))} of the {r.choice(words)}.\n" for _ in range(12))


def texts(seed, n):
    "Good and bad documents, by name."
    r = random.Random(seed)
    pieces = [essay(r) for _ in range(20)] + [t for t,_ in BREAKS.values() if len(t) < 20_000] + [PROSE, CODE*4, LONG, 'Ümlaut … 漢字 \u202e x'*30, 'a\r\nb\x0bc\u2028d. '*20]
    return {f'{i:04d}.txt': f'{r.choice(pieces)}{r.choice(["", " ", chr(10), "tail."])}{r.choice(pieces) if r.random() < .3 else ""}' for i in range(n)}


def artefact(folder, found, out, kind='prose', **options):
    "What `read_source` makes of them."
    folder.mkdir(parents=True, exist_ok=True)
    for name,text in found.items(): (folder/name).write_bytes(text.encode())
    return read_source(Source('mine', 'high', kind, 'text', '', '', dict(path=str(folder)) | options), out, workers=1)


@pytest.fixture
def small_parts(monkeypatch): monkeypatch.setattr('andromeda.sources.PART_MB', .004)


@pytest.mark.parametrize('seed', range(6))
def test_the_ledger_balances_and_restores(tmp_path, small_parts, seed):
    found = texts(seed, 40)
    documents = artefact(tmp_path/'in', found, tmp_path/'documents')
    cleaned = clean(documents, tmp_path/'clean', rules=RULE_SETS[random.Random(seed).choice(['prose', 'gopher', 'fineweb', 'dialogue'])]+(Rule('odd', 'bytes', most=5000, origin='test'),),
                    workers=1, cut_lines=bool(seed % 2))
    assert len(list(cleaned.folder.glob('part-*'))) > 3
    files,ledger,read = balance(documents, cleaned),list(removals(cleaned)),{d['id']: d for d in read_rows(documents)}
    assert sum(f['read'] for f in files.values()) == len(found) == cleaned.counts['kept']+cleaned.counts['filtered']
    stay = {d['id']: d for d in kept(cleaned)}
    gone = {r['id'] for r in ledger}
    assert stay.keys() | gone == read.keys() and not stay.keys() & gone
    for id,doc in read.items(): assert restore(cleaned, id) == doc['text'] == found[doc['file']].replace('\r\n', '\n')
    assert cleaned.counts['kept_bytes'] == sum(len(d['text'].encode()) for d in stay.values())
    if not seed % 2: assert all(d['text'] == read[id]['text'] for id,d in stay.items())
    for r in ledger: assert r['margin'] == abs(r['value']-r['threshold']) > 0
    assert gone and stay


def test_all_failed_rules_are_in_the_ledger(tmp_path):
    documents = artefact(tmp_path/'in', {'a.txt': 'Home\n'*30, 'b.txt': PROSE}, tmp_path/'documents')
    cleaned = clean(documents, tmp_path/'clean', workers=1)
    assert {r['rule'] for r in removals(cleaned)} == {'short', 'repeated lines'}
    assert {f['rule'] for f in failed(signals('Home\n'*30), RULES['prose'])} == {'short', 'repeated lines'}


def test_cut_lines_leave_what_c4_would(tmp_path):
    text = 'Menu | Home\n'+PROSE+'Copyright 2024\n'
    documents = artefact(tmp_path/'in', {'a.txt': text}, tmp_path/'documents')
    cleaned = clean(documents, tmp_path/'clean', workers=1, cut_lines=True)
    [doc] = kept(cleaned)
    assert doc['text'] == PROSE.strip()
    assert doc['digest'] == digest(PROSE)
    assert [d['text'] for d in kept(cleaned, ['text'])] == [PROSE.strip()]
    assert restore(cleaned, doc['id']) == text


def test_a_spared_document_stays(tmp_path):
    documents = artefact(tmp_path/'in', {'a.txt': 'x', 'b.txt': PROSE}, tmp_path/'documents')
    [gone] = {r['id'] for r in removals(clean(documents, tmp_path/'clean', workers=1))}
    cleaned = clean(documents, tmp_path/'clean', workers=1, spare=[gone])
    assert (cleaned.counts['kept'], cleaned.counts['spared'], cleaned.counts['filtered']) == (2, 1, 0)
    assert list(removals(cleaned)) == []


def moody(text):
    if 'BOOM' in text: raise RuntimeError('no mood for this')
    return float('nan') if 'NAN' in text else text.count('e')


def test_a_signal_of_yours_that_raises_puts_its_document_in_quarantine(tmp_path, small_parts):
    found = texts(0, 30) | {'bad.txt': PROSE+'BOOM', 'nan.txt': PROSE+'NAN', 'tiny.txt': 'BOOM'}
    documents = artefact(tmp_path/'in', found, tmp_path/'documents')
    with pytest.warns(UserWarning, match=r'3 documents are in quarantine. First: (bad|nan|tiny).txt, row 0: moody: '):
        cleaned = clean(documents, tmp_path/'clean', rules=[Rule('short', 'bytes', least=200), Rule('many e', 'moody', most=1e6)], own=dict(moody=moody), workers=1)
    rows = {r['file']: r for r in removals(cleaned) if r['rule'] == 'moody'}
    assert {f: r['value'] for f,r in rows.items()} == {'bad.txt': 'RuntimeError: no mood for this', 'tiny.txt': 'RuntimeError: no mood for this', 'nan.txt': 'it gave nan'}
    assert {r['stage'] for r in rows.values()} == {'clean'}
    assert cleaned.counts['quarantined'] == 3
    assert sum(c['quarantined'] for c in balance(documents, cleaned).values()) == 3
    assert not rows.keys() & {d['file'] for d in kept(cleaned)}
    for r in rows.values(): assert restore(cleaned, r['id']) == found[r['file']]
    stored = load_signals(dict(mine=cleaned))
    assert stored.columns['moody'].max() > 0
    [row] = what_if(stored)
    assert (row['kept'], row['kept_bytes']) == (cleaned.counts['kept'], cleaned.counts['kept_bytes'])


def test_an_expression_without_a_value_is_no_verdict(tmp_path):
    documents = artefact(tmp_path/'in', {'a.txt': PROSE, 'b.txt': PROSE+'#'}, tmp_path/'documents')
    with pytest.warns(UserWarning, match='a.txt, row 0: per sign: words / hashes is inf'):
        cleaned = clean(documents, tmp_path/'clean', rules=[Rule('per sign', 'words / hashes', most=1e9)], workers=1)
    assert (cleaned.counts['kept'], cleaned.counts['quarantined']) == (1, 1)


def test_refusals_name_what_is_wrong(tmp_path):
    documents = artefact(tmp_path/'in', {'a.txt': PROSE}, tmp_path/'documents')
    short = Rule('short', 'bytes', least=1)
    with pytest.raises(ValueError, match="Did you mean 'letters'"): clean(documents, tmp_path/'c', rules=[Rule('r', 'leters', most=1)])
    with pytest.raises(ValueError, match="Two rules are called 'short'"): clean(documents, tmp_path/'c', rules=[short, short])
    with pytest.raises(ValueError, match="'words' needs another name"): clean(documents, tmp_path/'c', rules=[short], own=dict(words=len))
    with pytest.raises(ValueError, match='no source code'): clean(documents, tmp_path/'c', rules=[short], own=dict(size=len))
    with pytest.raises(ValueError, match='No document'): clean(documents, tmp_path/'c', rules=[Rule('r', 'bytes', least=1e9)], workers=1)
    with pytest.raises(ValueError, match='has the id'): restore(clean(documents, tmp_path/'c', workers=1), 'nowhere')
    assert not (tmp_path/'c'/'.done').exists()


def test_the_catalogue_names_rule_sets(tmp_path):
    documents = artefact(tmp_path/'in', {'a.txt': LONG}, tmp_path/'documents', rules=['fineweb', 'c4'])
    assert rules_for(documents) == FINEWEB_RULES+C4_RULES
    assert rules_for(artefact(tmp_path/'in', {}, tmp_path/'plain', kind='code')) == RULES['code']
    with pytest.raises(ValueError, match="Did you mean 'gopher'"): rules_for(artefact(tmp_path/'in', {}, tmp_path/'other', rules=['gofer']))


def test_a_lower_tier_asks_for_more(tmp_path):
    "A tier has the rules of the one above it and more, except that code may repeat itself; sets named in the catalogue stand alone."
    for kind in RULES:
        documents = artefact(tmp_path/kind, {'a.txt': LONG}, tmp_path/f'{kind}-documents', kind=kind)
        high,medium,low = (set(rules_for(documents, tier)) for tier in ('high', 'medium', 'low'))
        assert set(RULES[kind]) == set(rules_for(documents)) == high < medium <= low and medium-high == set(RULE_SETS['private'])
        assert low-medium == (set() if kind == 'code' else set(GOPHER_REPETITION))
    named = artefact(tmp_path/'named', {'a.txt': LONG}, tmp_path/'documents', rules=['c4'])
    assert rules_for(named, 'low') == C4_RULES
    with pytest.raises(ValueError, match="Did you mean 'medium'"): rules_for(named, 'medum')


def test_the_tier_decides_what_cleaning_removes(tmp_path):
    found = {'key.txt': BREAKS['private', 'keys'][0], 'loop.txt': LONG.replace('\n', ' ')*3, 'good.txt': essay(random.Random(0))}
    documents = artefact(tmp_path/'in', found, tmp_path/'documents')
    left = lambda tier: {d['file'] for d in kept(clean(documents, tmp_path/f'{tier}', tier=tier, workers=1))}
    assert [left(t) for t in (None, 'high', 'medium')] == [set(found), set(found), {'loop.txt', 'good.txt'}] and 'loop.txt' not in left('low')


# ---------------------------------------------------------------- what if

@pytest.mark.parametrize('seed', range(4))
def test_what_if_says_what_cleaning_then_does(tmp_path, small_parts, seed):
    "Thresholds moved at random: the count over stored signals is the count of a real run."
    r = random.Random(seed)
    documents = artefact(tmp_path/'in', texts(seed, 40), tmp_path/'documents')
    stored = load_signals(dict(mine=clean(documents, tmp_path/'clean', rules=RULE_SETS['gopher'], workers=1)), dict(mine='high'))
    moved = {rule.name: None if r.random() < .2 else rule.threshold*r.uniform(.5, 2) for rule in RULE_SETS['gopher'] if r.random() < .5}
    rules = [rule.moved(moved[rule.name]) if rule.name in moved else rule for rule in RULE_SETS['gopher'] if moved.get(rule.name, 0) is not None]
    [row] = what_if(stored, moved, bytes_per_token=2)
    real = clean(documents, tmp_path/'again', rules=[*rules, Rule('never', 'bytes', least=0)], workers=1, spare=[d['id'] for d in read_rows(documents, columns=['id'])][:1])
    spared = real.counts['spared']
    assert row['kept'] == real.counts['kept']-spared
    assert {k: v for k,v in row['removed'].items() if v} == real.counts['rules'] or spared
    [again] = what_if(load_signals(dict(mine=real)))
    assert (again['kept'], again['kept_bytes']) == (real.counts['kept'], real.counts['kept_bytes'])
    assert (row['source'], row['tier'], row['documents'], row['bytes']) == ('mine', 'high', 40, documents.counts['bytes'])
    assert row['kept_tokens'] == round(row['kept_bytes']/2)


def test_a_threshold_may_be_moved_for_one_source(tmp_path):
    documents = artefact(tmp_path/'in', {'a.txt': 'x', 'b.txt': PROSE}, tmp_path/'documents')
    cleaned = clean(documents, tmp_path/'clean', workers=1)
    stored = load_signals(dict(one=cleaned, two=cleaned))
    assert [r['kept'] for r in what_if(stored)] == [1, 1]
    assert [r['kept'] for r in what_if(stored, {'one/short': 0})] == [1, 1]          # 'x' has short words too
    assert [r['kept'] for r in what_if(stored, {'one/short': 0, 'short words': 0})] == [2, 1]
    with pytest.raises(ValueError, match="Did you mean 'one/short'"): what_if(stored, {'one/shor': 0})


@pytest.mark.parametrize('seed', range(5))
def test_a_suggestion_removes_the_share_it_promises(tmp_path, seed):
    documents = artefact(tmp_path/'in', texts(seed, 60), tmp_path/'documents')
    cleaned = clean(documents, tmp_path/'clean', workers=1)
    for s in suggest(cleaned, RULE_SETS['fineweb']+RULE_SETS['gopher'], share=.1):
        assert s['removes'] <= .1
        assert s['threshold'] == s['now'] or s['removes_now'] > .1
        rule = Rule('r', s['signal'], **{'most' if s['direction'] == 'at most' else 'least': s['threshold']})
        assert not any(rule.fails(np.float32(e['value'])) for e in s['kept_side'])
        assert all(rule.fails(np.float32(e['value'])) for e in s['removed_side'])
        for e in (*s['kept_side'], *s['removed_side']): assert e['text'] == restore(cleaned, e['id'])


def test_a_rule_that_fits_is_left_alone(tmp_path):
    documents = artefact(tmp_path/'in', {f'{i}.txt': PROSE+str(i) for i in range(20)}, tmp_path/'documents')
    for s in suggest(clean(documents, tmp_path/'clean', workers=1)): assert s['threshold'] == s['now']
    with pytest.raises(ValueError, match='share'): suggest(open_artefact(tmp_path/'clean'), share=1)


# ---------------------------------------------------------------- again, elsewhere, and killed

def content(artefact): return artefact.fingerprint, artefact.manifest['files'], artefact.counts


def test_workers_change_nothing(tmp_path, small_parts):
    documents = artefact(tmp_path/'in', texts(1, 30), tmp_path/'documents')
    assert content(clean(documents, tmp_path/'one', workers=1)) == content(clean(documents, tmp_path/'two', workers=2))


def test_one_file_more_measures_one_part(tmp_path, small_parts, monkeypatch):
    "And the result is that of a full run."
    found,measured = texts(2, 60),[]
    documents = artefact(tmp_path/'in', found, tmp_path/'documents')
    clean(documents, tmp_path/'clean', workers=1)
    monkeypatch.setattr(module, 'clean_part', lambda item, out, task=module.clean_part: measured.append(item['part'].name) or task(item, out))
    more = artefact(tmp_path/'in', {'new.txt': PROSE*3}, tmp_path/'documents')
    added = clean(more, tmp_path/'clean', workers=1)
    assert 1 <= len(measured) <= 2 < len(list(added.folder.glob('part-*')))
    assert content(added) == content(clean(more, tmp_path/'full', workers=1))
    assert damage(added) == []
    measured.clear()
    clean(more, tmp_path/'clean', rules=RULES['dialogue'], workers=1)
    assert len(measured) == len(list(more.folder.glob('part-*')))          # other rules: everything again


def test_only_new_documents_are_measured(tmp_path, small_parts, monkeypatch):
    "Of the part that a file joins, leaves or changes in; rules, cuts and spared documents as in a full run."
    found,seen = texts(3, 60) | {'boom.txt': PROSE+'BOOM'},[]
    documents = artefact(tmp_path/'in', found, tmp_path/'documents')
    spare = [d['id'] for d in read_rows(documents, columns=['id'])][::7]
    how = dict(rules=RULES['prose']+(Rule('e', 'moody', most=1e6),), own=dict(moody=moody), cut_lines=True, spare=spare, workers=1)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        clean(documents, tmp_path/'clean', **how)
        monkeypatch.setattr(module, '_judge', lambda ids, texts, item, judge=module._judge: seen.extend(texts) or judge(ids, texts, item))
        for change in ({'new.txt': PROSE*3}, {'0005.txt': PROSE*2+'changed'}, {'another.txt': LONG, '0007.txt': CODE}):
            more = artefact(tmp_path/'in', change, tmp_path/'documents')
            seen.clear()
            added = clean(more, tmp_path/'clean', **how)
            assert sorted(seen) == sorted(change.values())
            assert content(added) == content(clean(more, tmp_path/'full', **how))
            assert damage(added) == []
            balance(more, added)
    assert added.counts['spared'] and added.counts['quarantined']


def test_a_damaged_earlier_part_is_not_used(tmp_path):
    documents = artefact(tmp_path/'in', texts(3, 20), tmp_path/'documents')
    first = clean(documents, tmp_path/'clean', workers=1)
    [part] = first.folder.glob('part-*')
    table = pq.read_table(part/'documents.parquet')
    pq.write_table(table.set_column(table.column_names.index('words'), 'words', pa.array(np.zeros(len(table), np.float32))), part/'documents.parquet')
    more = artefact(tmp_path/'in', {'new.txt': PROSE*3}, tmp_path/'documents')
    assert content(clean(more, tmp_path/'clean', workers=1)) == content(clean(more, tmp_path/'full', workers=1))


def test_a_changed_signal_of_yours_is_another_artefact(tmp_path):
    documents = artefact(tmp_path/'in', {'a.txt': PROSE}, tmp_path/'documents')
    rules = [Rule('r', 'mine', most=1e9)]
    first,second = (clean(documents, tmp_path/'clean', rules=rules, own=dict(mine=f), workers=1).fingerprint for f in (moody, lambda text: len(text)))
    assert first != second


JOB = '''
import sys
from pathlib import Path
from andromeda.clean import clean
from andromeda.core import open_artefact
clean(open_artefact(Path(sys.argv[1])), Path(sys.argv[2]), workers=int(sys.argv[3]), backend=[*sys.argv, 'processes'][4])
'''


def kill_and_compare(tmp_path, kills, seed, workers):
    documents = artefact(tmp_path/'in', texts(seed, 100), tmp_path/'documents')
    clock,command = random.Random(seed),[sys.executable, '-c', JOB, str(tmp_path/'documents'), str(tmp_path/'killed'), str(workers)]
    subprocess.run([*command[:4], str(tmp_path/'calm'), str(workers)], check=True)
    parts,fallen = len(list((tmp_path/'calm').glob('part-*'))),0
    for _ in range(kills):
        process = subprocess.Popen(command)
        far = clock.randrange(parts)
        while process.poll() is None and len(list(tmp_path.glob('.killed.*.part/.done/*'))) < far: time.sleep(.002)
        time.sleep(clock.uniform(0, .02))
        fallen += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        if (tmp_path/'killed').exists() and not damage(open_artefact(tmp_path/'killed')): break      # it was done
    subprocess.run(command, check=True)
    assert content(open_artefact(tmp_path/'killed')) == content(open_artefact(tmp_path/'calm'))
    assert damage(open_artefact(tmp_path/'killed')) == []
    balance(documents, open_artefact(tmp_path/'killed'))
    return fallen


def test_killed_at_any_moment_it_ends_the_same(tmp_path, small_parts): assert kill_and_compare(tmp_path, 2, 0, 1) >= 1


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(10))
def test_killed_twice_ten_times_over(tmp_path, small_parts, seed): kill_and_compare(tmp_path, 2, seed, 1+seed % 2)


@pytest.mark.slow
def test_ray_gives_the_same(tmp_path, small_parts):
    pytest.importorskip('ray')
    documents = artefact(tmp_path/'in', texts(1, 30), tmp_path/'documents')
    here = clean(documents, tmp_path/'here', workers=1)
    subprocess.run([sys.executable, '-c', JOB, str(tmp_path/'documents'), str(tmp_path/'ray'), '2', 'ray'], check=True)     # a cluster leaves with its process
    assert content(open_artefact(tmp_path/'ray')) == content(here)
