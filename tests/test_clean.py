"One sentence for each rule, and ugly text."
import random

import pytest

from andromeda.clean import RULES, digest, failed, signals

GOOD = 'The mean of some numbers is their sum, divided by how many there are.\n'
PROSE = ''.join(GOOD.replace('mean', w) for w in ('mean', 'average', 'centre', 'middle'))
CODE = 'def mean(xs):\n    total = 0\n    for x in xs:\n        total += x\n    return total / len(xs)\n\n'
BREAKS = {
    ('prose', 'short'): GOOD,
    ('prose', 'word length'): 'antidisestablishmentarianism '*20,
    ('prose', 'few words'): PROSE + '12 34 56 78 90 '*60,
    ('prose', 'few letters'): PROSE + ' -- '.join(['####']*200),
    ('prose', 'repeated lines'): PROSE + 'Home\n'*40,
    ('code', 'short'): CODE,
    ('code', 'long line'): CODE*3 + 'x = "' + 'a'*1000 + '"\n',
    ('code', 'wide'): ('value = compute(' + 'argument, '*12 + ')\n')*5,
    ('code', 'symbols'): '}{][)(*&^%$#@!'*30 + 'abc',
    ('dialogue', 'short'): 'User: hi',
    ('dialogue', 'repeated lines'): PROSE + 'ok\n'*40,
}


@pytest.mark.parametrize('kind, rule', BREAKS)
def test_each_rule_removes_what_it_is_for(kind, rule): assert rule in [f['rule'] for f in failed(signals(BREAKS[kind, rule]), RULES[kind])]


def test_every_rule_has_its_case(): assert set(BREAKS) == {(kind, r.name) for kind,rules in RULES.items() for r in rules}


def test_good_text_stays():
    assert failed(signals(PROSE), RULES['prose']) == []
    assert failed(signals(CODE*4), RULES['code']) == []


def test_the_ledger_says_by_how_much():
    [why] = failed(signals(GOOD), RULES['dialogue'])
    assert why == dict(rule='short', value=float(len(GOOD)), threshold=200.)


@pytest.mark.parametrize('text', ['', ' '*100_000, '\n'*100_000, 'a'*100_000, '\u0301'*50_000, '\u202e\u200b'*1000, '\ud800', '\0'*1000, 'ab '*50_000])
def test_ugly_text_gives_finite_numbers(text):
    found = signals(text)
    assert all(0 <= v < float('inf') for v in found.values())
    assert all(0 <= found[s] <= 1 for s in ('alnum', 'letters', 'alpha_words', 'duplicate_lines'))
    assert len(digest(text)) == 32


def test_signals_are_what_their_names_say():
    found = signals('Ab 1!\n\nAb 1!\nxyz')
    assert found == dict(bytes=16, words=5, mean_word=11/5, alnum=9/11, letters=7/11, alpha_words=3/5, duplicate_lines=1-2/3, longest_line=5, mean_line=13/3)


def test_case_and_spacing_do_not_hide_a_copy():
    r = random.Random(0)
    for _ in range(100):
        words = r.choices(['mean', 'Sum', 'é', '漢字', 'x=1;'], k=20)
        spaced = ''.join(w+r.choice([' ', '\n', '\t  ']) for w in words)
        assert digest(spaced.upper()) == digest(' '.join(words)) != digest(' '.join(words[1:]))
