"Planted questions are found where they were planted, and nothing else is."
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from andromeda.clean import Rule, clean
from andromeda.core import damage, open_artefact
from andromeda.dedup import dedup
from andromeda.leakage import (CANARIES, Item, Overlap, build_index, evaluation_index, find_canary, leakage, leaked_ids, leaked_text, matches,
                               read_items, verdicts)
from andromeda.sources import Source, read_rows, read_source

VOCABULARY = [''.join(p) for p in __import__('itertools').product('bdfgklmnprst', 'aeiou', 'bdfgklmnprst', 'aeiou')]
ANY = (Rule('empty', 'bytes', least=1),)


def words(r, n): return r.choices(VOCABULARY, k=n)


def fired(text, question, overlap=Overlap(), common=()):
    "Rules that fire on `text` for one question, and the match."
    index = build_index([question], overlap)
    found = index.find(text)
    if not found: return (), None
    mask = np.zeros(len(index.length), bool)
    mask[list(common)] = True
    [m] = matches(found, index, mask)
    return m.rules, m


def corpus(folder, files, name='mine', **options):
    "A clean artefact of a folder of texts."
    (folder/name).mkdir(exist_ok=True)
    for file,text in files.items(): (folder/name/file).write_text(text)
    source = Source(name, 'high', 'prose', 'text', '', '', dict(path=str(folder/name)))
    return clean(read_source(source, folder/'documents'/name, workers=1), folder/'clean'/name, ANY, workers=1)


def bytes_of(artefact): return {n: h for n,(_,h) in artefact.manifest['files'].items()}


# ---- one text against one question

def test_thirteen_words_in_a_row_are_found_and_twelve_are_not():
    r = random.Random(0)
    for at in (0, 7, 27):
        question = words(r, 40)
        for n,rules in ((13, ('13-gram',)), (12, ())):
            before,after = words(r, 50),words(r, 50)
            text = ' '.join([*before, *question[at:at+n], *after])
            got,m = fired(text, ' '.join(question))
            assert got == rules
            assert (m.words, text[m.start:m.end]) == (n, ' '.join(question[at:at+n])) and m.start == len(' '.join(before))+1


def test_the_longest_stretch_is_shown():
    r = random.Random(15)
    question = words(r, 60)
    text = ' '.join([*question[:9], *words(r, 9), *question[20:45], *words(r, 9), *question[50:59]])
    _,m = fired(text, ' '.join(question))
    assert (m.words, text[m.start:m.end]) == (25, ' '.join(question[20:45])) and m.share == pytest.approx((2+18+2)/53)


@pytest.mark.parametrize('n, missing, share', [(17, 3, .7), (17, 4, .6), (12, 1, .8), (12, 2, .6), (27, 6, .7), (27, 7, .65)])
def test_the_line_at_seventy_percent_of_the_runs_of_eight(n, missing, share):
    "A question of n words has n-7 runs; a document without its last words lacks as many runs. 13-grams are switched off by a longer `long`."
    r = random.Random(n)
    question = words(r, n)
    rules,m = fired(' '.join(words(r, 30) + question[:n-missing] + words(r, 30)), ' '.join(question), Overlap(long=30))
    assert m.share == pytest.approx(share) and rules == (('8-gram 70%',) if share >= .7 else ())


def test_an_edited_question_of_twelve_words_is_below_the_line_and_one_with_a_changed_end_is_above():
    r = random.Random(1)
    question = words(r, 12)
    changed = lambda k: ' '.join([*words(r, 20), *(w if i != k else 'other' for i,w in enumerate(question)), *words(r, 20)])
    assert fired(changed(11), ' '.join(question))[0] == ('8-gram 70%',)        # 4 of 5 runs
    assert fired(changed(6), ' '.join(question))[0] == ()                      # each run of 8 holds the word


@pytest.mark.parametrize('n', range(5, 13))
def test_short_questions_are_found_whole_only(n):
    r = random.Random(n)
    question,around = words(r, n),words(r, 30)
    rules,m = fired(' '.join(around + question + around), ' '.join(question))
    assert rules[0] == 'whole item' and m.words == n and m.share == 1
    cut,_ = fired(' '.join(around + question[:-1] + around), ' '.join(question))
    assert 'whole item' not in cut


def test_four_words_prove_nothing():
    assert build_index(['was it really true'], Overlap()).find('was it really true') is None
    assert fired('was it really true then', 'was it really true', Overlap(least=3))[0] == ('whole item',)


@pytest.mark.parametrize('disguise', [str.upper, str.title, lambda t: t.replace(' ', '\n'), lambda t: t.replace(' ', ' \t\n '), lambda t: t.replace(' ', ', '),
                                      lambda t: f'"{t}"?!', lambda t: t.replace(' ', ' -- '), lambda t: t.replace('a', 'a\u200b'), lambda t: '**' + t.replace(' ', '** **') + '**'])
@pytest.mark.parametrize('n', [6, 10, 30])
def test_case_lines_punctuation_and_invisible_characters_hide_nothing(disguise, n):
    r = random.Random(2)
    question = ' '.join(words(r, n))
    text = ' '.join(words(r, 20)) + '. ' + disguise(question) + ' ' + ' '.join(words(r, 20))
    rules,m = fired(text, question)
    assert rules and m.words == n and text[m.start:m.end].strip('"?!*, -') in disguise(question)


def plain(text, question, o=Overlap()):
    "The rules by sets of tuples."
    t,q = text.split(),question.split()
    runs = lambda w, n: {tuple(w[i:i+n]) for i in range(len(w)-n+1)}
    share = len(runs(q, o.short) & runs(t, o.short))/max(len(runs(q, o.short)), 1)
    return tuple(name for name,found in zip(o.rules[1:], (
        o.least <= len(q) < o.long and runs(q, len(q)) <= runs(t, len(q)), bool(runs(q, o.long) & runs(t, o.long)), len(q) >= o.short and share >= o.share)) if found)


def test_agrees_with_sets_of_tuples_on_random_texts_of_few_words():
    "With five words in the language nearly everything overlaps somewhere: questions of all lengths, many at once, every rule."
    seen = {}
    for seed in range(60):
        r = random.Random(seed)
        o = Overlap(long=r.randint(5, 8), short=4, share=r.choice([.5, .7, 1.]), least=r.randint(2, 4))
        language = VOCABULARY[:r.randint(2, 6)]
        questions = list({' '.join(r.choices(language, k=r.randint(1, 14))) for _ in range(20)})
        text = ' '.join(r.choices(language, k=r.randint(0, 60)))
        index = build_index(questions, o)
        found = index.find(text)
        assert index.near([text, 'x', text]).tolist() == [bool(found), False, bool(found)] or not found      # near may be wrong, but loses nothing
        got = {m.text: m.rules for m in matches(found, index, np.zeros(len(index.length), bool)) if m.rules} if found else {}
        want = {i: p for i,q in enumerate(questions) if (p := plain(text, q, o))}
        assert got == want
        for rules in want.values(): seen[rules] = seen.get(rules, 0)+1
    assert len(seen) >= 5


def test_nothing_is_found_where_nothing_was_planted():
    r = random.Random(3)
    index = build_index([' '.join(words(r, r.randint(5, 40))) for _ in range(2000)], Overlap())
    assert all(index.find(' '.join(words(r, 2000))) is None for _ in range(50))


def test_all_of_many_planted_questions_are_found_and_no_other():
    r = random.Random(4)
    questions = [' '.join(words(r, r.randint(5, 40))) for _ in range(500)]
    index = build_index(questions, Overlap())
    planted = r.sample(range(500), 40)
    text = ' '.join(x for q in planted for x in (*words(r, 30), questions[q]))
    assert {m.text for m in matches(index.find(text), index, np.zeros(len(index.length), bool)) if m.rules} == set(planted)


# ---- what is everybody's

def test_a_run_is_found_although_each_shorter_run_in_it_is_the_form_of_the_exam():
    questions = ['a b c d e f', 'a b c d e one', 'a b c d e two', 'three b c d e f', 'four b c d e f']
    index = build_index(questions, Overlap(long=6, short=4, least=2, items=2))
    [m] = matches(index.find('so a b c d e f there'), index, np.zeros(len(index.length), bool))
    assert (m.text, m.rules, m.words) == (0, ('6-gram',), 6)


def test_a_run_that_many_documents_hold_proves_nothing_unless_the_question_is_held_whole(tmp_path):
    "Eleven pages hold the proverb that a question quotes, and one of them the whole question; eleven others have another question."
    r = random.Random(5)
    proverb,rest,copied = words(r, 13),words(r, 20),words(r, 20)
    items = [('exam', 'quotes', ' '.join(proverb + rest)), ('exam', 'copied', ' '.join(copied)), ('exam', 'short', ' '.join(proverb[:6]))]
    evaluation = evaluation_index(items, tmp_path/'evaluation')
    page = lambda *inside: ' '.join([*words(r, 40), *inside, *words(r, 40)])
    files = {f'quote{i:02}.txt': page(*proverb) for i in range(10)} | {f'copy{i:02}.txt': page(*copied) for i in range(11)} | {'whole.txt': page(*proverb, *rest)}
    leaks = leakage(dict(mine=corpus(tmp_path, files)), evaluation, tmp_path/'leakage', workers=1)
    rules = {}
    for row in read_rows(leaks, 'ledger.parquet'): rules.setdefault(row['file'], []).append(row['rule'])
    assert rules == {f: ['13-gram', '8-gram 70%'] for f in files if not f.startswith('quote')}
    found = verdicts(leaks)
    assert {k[1]: v['verdict'] for k,v in found.items()} == dict(quotes='dirty', copied='dirty', short='unknown')
    assert {k[1]: v['documents'] for k,v in found.items()} == dict(quotes=1, copied=11, short=0)


def test_ten_documents_are_not_yet_many(tmp_path):
    r = random.Random(6)
    proverb = words(r, 13)
    evaluation = evaluation_index([('exam', '1', ' '.join(proverb + words(r, 20)))], tmp_path/'evaluation')
    files = {f'{i}.txt': ' '.join(words(r, 40) + proverb) for i in range(10)}
    assert leakage(dict(mine=corpus(tmp_path, files)), evaluation, tmp_path/'leakage', workers=1).counts['leaked'] == 10


def test_copies_that_are_removed_anyway_do_not_make_a_run_common(tmp_path):
    r = random.Random(7)
    proverb = words(r, 13)
    evaluation = evaluation_index([('exam', '1', ' '.join(proverb + words(r, 20)))], tmp_path/'evaluation')
    text = ' '.join(words(r, 40) + proverb)
    mine = dict(mine=corpus(tmp_path, {f'{i:02}.txt': text for i in range(20)}))
    copies = dedup(mine, tmp_path/'dedup')
    leaks = leakage(mine, evaluation, tmp_path/'leakage', copies, workers=1)
    assert len(list(read_rows(leaks, 'ledger.parquet'))) == 1
    assert (leaks.counts['read'], leaks.counts['leaked'], leaks.counts['kept']) == (1, 1, 0)
    assert leakage(mine, evaluation, tmp_path/'all', workers=1).counts['leaked'] == 0


def test_the_form_of_the_exam_is_no_question(tmp_path):
    "101 questions begin with the same 15 words, and one field is the same in all; a page that says only that stays, a page with a question goes."
    r = random.Random(8)
    form,field = words(r, 15),words(r, 8)
    asked = [words(r, 20) for _ in range(101)]
    items = [('exam', str(i), dict(question=' '.join(form + a), hint=' '.join(field))) for i,a in enumerate(asked)]
    evaluation = evaluation_index(items, tmp_path/'evaluation')
    files = {'form.txt': ' '.join(words(r, 40) + form + words(r, 40)), 'hint.txt': ' '.join(words(r, 40) + field + words(r, 40)), 'asked.txt': ' '.join(words(r, 40) + form + asked[7] + words(r, 40))}
    leaks = leakage(dict(mine=corpus(tmp_path, files)), evaluation, tmp_path/'leakage', workers=1)
    assert {row['file'] for row in read_rows(leaks, 'ledger.parquet')} == {'asked.txt'}
    assert [k[1] for k,v in verdicts(leaks).items() if v['verdict'] == 'dirty'] == ['7']


def test_a_passage_that_many_questions_share_is_found_for_all_of_them(tmp_path):
    r = random.Random(9)
    passage = ' '.join(words(r, 60))
    items = [('exam', str(i), dict(passage=passage, question=' '.join(words(r, 9)))) for i in range(30)]
    leaks = leakage(dict(mine=corpus(tmp_path, {'a.txt': passage, 'b.txt': ' '.join(words(r, 90))})), evaluation_index(items, tmp_path/'evaluation'), tmp_path/'leakage', workers=1)
    assert leaks.counts['dirty'] == 30 and leaks.counts['leaked'] == 1
    assert {row['items'] for row in read_rows(leaks, 'ledger.parquet')} == {30}


def test_runs_of_eight_that_many_documents_hold_do_not_add_up(tmp_path):
    "Eleven pages hold eleven words of a question of twelve: 80% of its runs, and everybody's. Ten would be removed."
    r = random.Random(16)
    question = words(r, 12)
    evaluation = evaluation_index([('exam', '1', ' '.join(question))], tmp_path/'evaluation')
    pages = {f'{i:02}.txt': ' '.join(words(r, 40) + question[:11] + words(r, 40)) for i in range(11)}
    for n,leaked,verdict in ((11, 0, 'unknown'), (10, 10, 'dirty')):
        leaks = leakage(dict(mine=corpus(tmp_path, dict(list(pages.items())[:n]), f'mine{n}')), evaluation, tmp_path/'leakage', workers=1)
        assert leaks.counts['leaked'] == leaked and verdicts(leaks)['exam', '1']['verdict'] == verdict


def test_the_ledger_names_the_question_of_which_most_is_there(tmp_path):
    r = random.Random(17)
    half,whole = words(r, 40),words(r, 20)
    evaluation = evaluation_index([('exam', 'half', ' '.join(half)), ('exam', 'whole', ' '.join(whole))], tmp_path/'evaluation')
    leaks = leakage(dict(mine=corpus(tmp_path, {'a.txt': ' '.join(words(r, 20) + half[:30] + words(r, 20) + whole + words(r, 20))})), evaluation, tmp_path/'leakage', workers=1)
    assert {row['rule']: (row['value'], row['items']) for row in read_rows(leaks, 'ledger.parquet')} == {'13-gram': ('exam/whole', 2), '8-gram 70%': ('exam/whole', 1)}


def test_lines_that_cleaning_cut_are_not_looked_at(tmp_path):
    "A question in a line that C4's rules take away is not trained on; one elsewhere is, and the place shown is in the text without those lines."
    r = random.Random(18)
    lost,there = words(r, 20),words(r, 20)
    sentence = lambda w: ' '.join(w).capitalize() + '.'
    (tmp_path/'mine').mkdir()
    lines = [*(sentence(words(r, 12)) for _ in range(6)), ' '.join(lost) + ' javascript.', sentence(there), *(sentence(words(r, 12)) for _ in range(6))]
    (tmp_path/'mine'/'a.txt').write_text('\n'.join(lines))
    source = Source('mine', 'high', 'prose', 'text', '', '', dict(path=str(tmp_path/'mine')))
    cleaned = dict(mine=clean(read_source(source, tmp_path/'documents', workers=1), tmp_path/'clean', (), workers=1, cut_lines=True))
    leaks = leakage(cleaned, evaluation_index([('exam', 'lost', ' '.join(lost)), ('exam', 'there', ' '.join(there))], tmp_path/'evaluation'), tmp_path/'leakage', workers=1)
    assert {k[1]: v['verdict'] for k,v in verdicts(leaks).items()} == dict(lost='clean', there='dirty')
    assert {leaked_text(cleaned, row)[1] for row in read_rows(leaks, 'ledger.parquet')} == {sentence(there)[:-1]}


def test_pieces_that_were_cut_as_duplicates_are_not_looked_at(tmp_path):
    "A paragraph with a question stands in three documents and is cut from two: of these, one stays. A question behind the cut is found in the other, and its place is that in the whole text."
    r = random.Random(19)
    twice,once = words(r, 20),words(r, 20)
    notes = [' '.join(words(r, 40)) for _ in range(2)]
    files = {'a.txt': f"{notes[0]} {' '.join(words(r, 40))}\n\n{' '.join(twice)}\n", 'b.txt': f"{notes[1]}\n\n{' '.join(twice)}\n\nend.\n", 'c.txt': f"{notes[1].upper()} so\n\n{' '.join(twice)}\n\n{' '.join(once)}\n"}
    mine = dict(mine=corpus(tmp_path, files))
    evaluation = evaluation_index([('exam', 'twice', ' '.join(twice)), ('exam', 'once', ' '.join(once))], tmp_path/'evaluation')
    pieces = dedup(mine, tmp_path/'dedup', pieces='paragraph', workers=1)
    assert pieces.counts['cut_ranges'] == 2
    found = lambda duplicates: {row['file'] for row in read_rows(leakage(mine, evaluation, tmp_path/'leakage', duplicates, workers=1), 'ledger.parquet')}
    assert found(None) == set(files) and found(pieces) == {'a.txt', 'c.txt'}
    cut = leakage(mine, evaluation, tmp_path/'leakage', pieces, workers=1)
    assert {leaked_text(mine, row)[1] for row in read_rows(cut, 'ledger.parquet') if row['file'] == 'c.txt'} == {' '.join(once)}


# ---- canaries

@pytest.mark.parametrize('canary', CANARIES)
@pytest.mark.parametrize('spelled', [str, str.upper, str.title])
def test_a_canary_is_refused_in_any_case_and_its_place_is_right(canary, spelled):
    text = f'Straße İ 漢字 \U0001f600 {spelled(canary)} end'
    whose,start,end = find_canary(text)
    assert text[start:end] == spelled(canary) and whose == CANARIES[canary]


def test_documents_with_canaries_are_removed_and_counted(tmp_path):
    r = random.Random(10)
    evaluation = evaluation_index([('exam', '1', ' '.join(words(r, 20)))], tmp_path/'evaluation')
    files = {'a.txt': ' '.join(words(r, 50)), 'b.txt': ' '.join(words(r, 50)) + '\n# Canary GUID 00000000-0000\n' + ' '.join(words(r, 50)), 'c.txt': 'A canary is a bird. '*9}
    leaks = leakage(mine := dict(mine=corpus(tmp_path, files)), evaluation, tmp_path/'leakage', workers=1)
    [row] = read_rows(leaks, 'ledger.parquet')
    assert (row['file'], row['rule'], row['value']) == ('b.txt', 'canary', 'any') and leaked_text(mine, row)[1] == 'Canary GUID '
    assert leaks.counts['by_rule']['canary'] == 1 and leaks.counts['clean'] == 1


# ---- the artefact

@pytest.fixture
def case(tmp_path):
    "Three sources of 30 documents, 40 questions; which are planted where is decided here."
    r = random.Random(11)
    questions = [' '.join(words(r, 6 if i % 4 == 0 else 25)) for i in range(40)]
    planted,cleaned = {},{}
    for s,name in enumerate(('one', 'two', 'three')):
        files = {}
        for i in range(30):
            inside = [r.randrange(30)] if i % 5 == 0 else []           # questions 30 to 39 are never planted
            if inside: planted[name, f'{i:02}.txt'] = inside[0]
            files[f'{i:02}.txt'] = ' '.join([*words(r, 60), *(questions[q] for q in inside), *words(r, 60)])
        cleaned[name] = corpus(tmp_path, files, name)
    evaluation = evaluation_index([('exam', str(i), q) for i,q in enumerate(questions)] + [('exam', 'brief', 'why so')], tmp_path/'evaluation')
    return cleaned,evaluation,questions,planted


def test_ledger_verdicts_and_counts_are_what_was_planted(case, tmp_path):
    cleaned,evaluation,questions,planted = case
    leaks = leakage(cleaned, evaluation, tmp_path/'leakage', workers=1)
    rows = list(read_rows(leaks, 'ledger.parquet'))
    assert {(row['source'], row['file']): int(row['value'].split('/')[1]) for row in rows} == planted
    for row in rows:
        before,found,after = leaked_text(cleaned, row)
        assert found == questions[planted[row['source'], row['file']]]
        assert before + found + after == (tmp_path/row['source']/row['file']).read_text()      # restored, bit for bit
        assert row['stage'] == 'leakage'
    dirty = set(map(str, planted.values()))
    assert {k[1]: v['verdict'] for k,v in verdicts(leaks).items()} == {str(i): 'dirty' if str(i) in dirty else 'clean' for i in range(40)} | dict(brief='unknown')
    assert leaks.counts['dirty'] == len(dirty) and leaks.counts['clean'] == 40-len(dirty) and leaks.counts['unknown'] == 1
    assert (leaks.counts['read'], leaks.counts['leaked'], leaks.counts['kept']) == (90, len(planted), 90-len(planted))
    assert sum(leaks.counts['by_source'].values()) == len(planted) == len(leaked_ids(leaks))


def test_every_document_ends_once(case, tmp_path):
    "By file: read = kept + leaked + duplicate, filtered ones were left out before."
    cleaned,evaluation,_,planted = case
    copies = dedup(cleaned, tmp_path/'dedup')
    leaks = leakage(cleaned, evaluation, tmp_path/'leakage', copies, workers=1)
    gone,twins = leaked_ids(leaks),{row['id'] for row in read_rows(copies, 'ledger.parquet')}
    assert not gone & twins
    for name,artefact in cleaned.items():
        for doc in read_rows(artefact, columns=['id', 'file']): assert (doc['id'] in gone) == ((name, doc['file']) in planted)


def test_filtered_documents_are_not_asked(tmp_path):
    r = random.Random(12)
    question = ' '.join(words(r, 20))
    source = Source('mine', 'high', 'prose', 'text', '', '', dict(path=str(tmp_path/'mine')))
    (tmp_path/'mine').mkdir()
    for name,more in (('long.txt', 100), ('short.txt', 0)): (tmp_path/'mine'/name).write_text(question + ' ' + ' '.join(words(r, more)))
    cleaned = clean(read_source(source, tmp_path/'documents', workers=1), tmp_path/'clean', (Rule('short', 'words', least=50),), workers=1)
    leaks = leakage(dict(mine=cleaned), evaluation_index([('exam', '1', question)], tmp_path/'evaluation'), tmp_path/'leakage', workers=1)
    assert [row['file'] for row in read_rows(leaks, 'ledger.parquet') if row['rule'] == '13-gram'] == ['long.txt'] and leaks.counts['read'] == 1


def test_a_restored_document_marks_its_questions_as_trained_on(case, tmp_path):
    cleaned,evaluation,_,planted = case
    leaks = leakage(cleaned, evaluation, tmp_path/'leakage', workers=1)
    row = next(iter(read_rows(leaks, 'ledger.parquet')))
    assert row['id'] in leaked_ids(leaks) and row['id'] not in leaked_ids(leaks, [row['id']])
    assert {k[1]: v['trained_on'] for k,v in verdicts(leaks, [row['id']]).items() if v['trained_on']} == {row['value'].split('/')[1]: 1}


def test_one_worker_and_two_write_the_same_bytes(case, tmp_path):
    cleaned,evaluation,*_ = case
    one,two = (leakage(cleaned, evaluation, tmp_path/f'leakage{w}', workers=w) for w in (1, 2))
    assert bytes_of(one) == bytes_of(two) and one.fingerprint == two.fingerprint and not damage(two)


def test_a_file_more_scans_its_part_only_and_ends_with_the_same_bytes(tmp_path, monkeypatch):
    import andromeda.leakage as module
    monkeypatch.setattr('andromeda.sources.PART_MB', 1e-9)       # a part for each file
    r = random.Random(13)
    question = ' '.join(words(r, 20))
    evaluation = evaluation_index([('exam', '1', question)], tmp_path/'evaluation')
    cleaned = {n: corpus(tmp_path, {'a.txt': ' '.join(words(r, 200))}, n) for n in ('one', 'two')}
    leakage(cleaned, evaluation, tmp_path/'leakage', workers=1)
    cleaned['two'] = corpus(tmp_path, {'b.txt': ' '.join(words(r, 100)) + question}, 'two')
    scanned = []
    whole = module.scan_part
    monkeypatch.setattr(module, 'scan_part', lambda item, out: (scanned.append(item['part']), whole(item, out))[1])
    more = leakage(cleaned, evaluation, tmp_path/'leakage', workers=1)
    [part] = {row['part'] for row in read_rows(more, 'ledger.parquet')}
    assert scanned == [str((cleaned['two']/part).absolute())] and len(list(cleaned['two'].folder.glob('part-*'))) == 2
    fresh = leakage(cleaned, evaluation, tmp_path/'fresh', workers=1)
    assert bytes_of(fresh) == bytes_of(more) and fresh.fingerprint == more.fingerprint


KILLED = '''
import sys
from pathlib import Path
from andromeda.core import open_artefact
from andromeda.leakage import leakage
folder = Path(sys.argv[1])
cleaned = {n: open_artefact(folder/'clean'/n) for n in ('one', 'two', 'three')}
print('begin', flush=True)
leakage(cleaned, open_artefact(folder/'evaluation'), folder/'killed', workers=1)
print('end', flush=True)
'''


def test_killed_at_several_moments_it_ends_with_the_same_bytes(case, tmp_path):
    cleaned,evaluation,*_ = case
    calm,clock = leakage(cleaned, evaluation, tmp_path/'calm', workers=1),random.Random(14)
    env = dict(os.environ, PYTHONPATH=str(Path(__file__).parent.parent))
    command = [sys.executable, '-c', KILLED, str(tmp_path)]
    for _ in range(4):
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE)
        assert process.stdout.readline() == b'begin\n'
        time.sleep(clock.uniform(0, .15))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        found = open_artefact(tmp_path/'killed')
        assert found is None or not damage(found)
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
    done = open_artefact(tmp_path/'killed')
    assert bytes_of(done) == bytes_of(calm) and done.fingerprint == calm.fingerprint


RAY = '''
import sys
from pathlib import Path
from andromeda.core import open_artefact
from andromeda.leakage import leakage
folder = Path(sys.argv[1])
leakage({n: open_artefact(folder/'clean'/n) for n in ('one', 'two', 'three')}, open_artefact(folder/'evaluation'), folder/'ray', workers=2, backend='ray')
'''


@pytest.mark.slow
def test_ray_writes_the_same_bytes(case, tmp_path):
    pytest.importorskip('ray', reason="needs Ray: pip install 'andromeda[ray]'")
    cleaned,evaluation,*_ = case
    local = leakage(cleaned, evaluation, tmp_path/'local', workers=1)
    env = dict(os.environ, PYTHONPATH=str(Path(__file__).parent.parent), RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO='0')
    subprocess.run([sys.executable, '-c', RAY, str(tmp_path)], env=env, check=True, timeout=300)
    assert bytes_of(open_artefact(tmp_path/'ray')) == bytes_of(local)


# ---- questions and errors

@pytest.mark.parametrize('kind', ['jsonl', 'parquet'])
def test_questions_are_read_from_files(tmp_path, kind):
    import json
    import pyarrow as pa
    import pyarrow.parquet as pq
    records = [dict(idx=7, passage=dict(text='A passage.'), choices=['yes', 'no'], label=0), dict(idx=8, passage=dict(text='Another.'), choices=[], label=1)]
    path = tmp_path/f'exam.{kind}'
    if kind == 'jsonl': path.write_text('\n'.join(map(json.dumps, records)))
    else: pq.write_table(pa.Table.from_pylist(records), path)
    assert list(read_items(path, 'exam', ['passage.text', 'choices'], 'idx')) == [
        Item('exam', '7', {'passage.text': 'A passage.', 'choices': 'yes no'}), Item('exam', '8', {'passage.text': 'Another.', 'choices': ''})]
    assert [i.id for i in read_items(path, 'exam', ['choices'])] == ['1', '2']


@pytest.mark.parametrize('content, columns, told', [('{"q": "a"}\n{"q": ', ['q'], 'row 2: .*not read cannot'), ('{"q": "a"}', ['text'], "no 'text'; there are q"),
                                                     ('{"q": 3}', ['q'], "holds int, expected text"), ('{"q": "a"}', ['q.text'], "no 'q.text'")])
def test_a_question_that_cannot_be_read_is_an_error(tmp_path, content, columns, told):
    (tmp_path/'exam.jsonl').write_text(content)
    with pytest.raises(ValueError, match=told): list(read_items(tmp_path/'exam.jsonl', 'exam', columns))


@pytest.mark.parametrize('items, told', [([], 'no question'), ([('a', '1', 'x'), ('a', '1', 'y')], 'come twice, the first is a/1'), ([('a', '1', dict(q=None))], 'a/1: expected texts, found NoneType'), ([('a', '1', {})], 'found none')])
def test_bad_items_are_refused(tmp_path, items, told):
    with pytest.raises(ValueError, match=told): evaluation_index(items, tmp_path/'evaluation')
    assert not (tmp_path/'evaluation').exists()


@pytest.mark.parametrize('wrong', [dict(least=9), dict(short=13), dict(share=0), dict(share=1.1), dict(least=1), dict(documents=0), dict(items=0)])
def test_thresholds_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match='expected 2 <= least'): Overlap(**wrong)


def test_a_document_that_is_no_longer_there_is_said(case, tmp_path):
    cleaned,evaluation,*_ = case
    row = next(iter(read_rows(leakage(cleaned, evaluation, tmp_path/'leakage', workers=1), 'ledger.parquet')))
    with pytest.raises(ValueError, match='Run `leakage` again'): leaked_text(cleaned, row | dict(id='0'))
