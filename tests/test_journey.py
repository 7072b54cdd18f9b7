"The whole road as a user walks it: by the command, with kills, wrong inputs and full disks."
import contextlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent/'bench'))
from kills import kill_everything, numbers, reached                            # noqa: E402  the benchmark does the same at full size

from andromeda.cli import run_command
from andromeda.core import damage, open_artefact
from andromeda.dedup import account
from andromeda.shards import SPLITS, Shards
from andromeda.sources import TIERS, read_rows
from andromeda.stages import Corpus, Recipe, Stage, recipe_from_dict, recipe_to_dict


def toy():
    "Two recipes that take seconds."
    corpus = Corpus(sources=('stdlib', 'manuals', 'pairs'), limit_mb=dict(stdlib=.4, pairs=.4, manuals=1), vocab=300, tokenizer_mb=.1, held_out=.15)
    stage = Stage(name='high', tier='high', tokens=12*4*32, peak_lr=3e-3)
    recipe = Recipe(name='toy-palm', model='palm-tiny', corpus=corpus, length=32, batch=4, checkpoint_every=5, evaluation_bytes=800, prompts=('def ',),
                    sample_tokens=5, stages=(stage, replace(stage, name='medium', tier='medium', replay=.3), replace(stage, name='low', tier='low', replay=.5)))
    return recipe, replace(recipe, name='toy-mpt', model='mpt-tiny')


def start(recipe_file, out, workers=1):
    return subprocess.Popen([sys.executable, '-c', 'from andromeda.cli import main; main()', 'run', str(recipe_file), '--out', str(out), '--workers', str(workers)],
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp('journey')
    (folder/'toy.json').write_text(json.dumps([recipe_to_dict(r) for r in toy()]))
    process = start(folder/'toy.json', folder/'out')
    said = process.communicate()[1].decode()
    assert process.returncode == 0, said
    return folder


def test_the_report_holds_what_was_promised(undisturbed):
    result = numbers(undisturbed/'out')
    assert result['models'].keys() == {'palm-tiny', 'mpt-tiny'} and result['baselines'].keys() == {'unigram', 'ngram2', 'ngram5', 'xz'}
    sources = {'stdlib', 'manuals', 'pairs'}
    for m in result['models'].values():
        assert [s['stage'] for s in m['stages']] == ['high', 'medium', 'low']
        for s in m['stages']: assert s['validation'].keys() <= sources and all(v['bits_per_byte'] > 0 for v in s['validation'].values())
        assert m['test'].keys() == result['baselines']['xz']['test'].keys() and {s['stage'] for s in m['samples']} == {'high', 'medium', 'low'}
        assert m['tokens'] == 3*12*4*32
        assert m['advice'] is None or m['advice']['title'] and m['advice']['evidence']
    tiers = len(set(result['tiers'].values()))
    assert len(result['comparisons']) == 2*4*2*tiers                  # models, baselines, splits, tiers
    asked = result['questions']
    assert {r['model'] for r in asked['standings']} == {'palm-tiny', 'mpt-tiny'} and all(r['says'] in ('at chance', 'above chance', '-') for r in asked['standings'])
    assert {(r['model'], r['other'], r['measure']) for r in asked['duels']} == {('palm-tiny', 'mpt-tiny', 'accuracy'), ('palm-tiny', 'mpt-tiny', 'bits_per_byte')}
    html = (undisturbed/'out'/'report.html').read_text()
    assert html.startswith('<!doctype html>') or html.startswith('<!DOCTYPE html>')
    assert 'http://' not in html.replace('http://www.w3.org', '') and 'src=' not in html


def test_every_artefact_is_whole_and_every_record_accounted_for(undisturbed):
    out = undisturbed/'out'
    folders = [p.parent for p in out.rglob('manifest.json')]
    assert len(folders) == 3*3 + 4                                    # documents, clean, shards of each source; dedup, splits, tokenizer, baselines
    for f in folders: assert not damage(open_artefact(f))
    by_source = lambda step: {n: open_artefact(out/step/n) for n in ('manuals', 'stdlib', 'pairs')}
    found = account(by_source('documents'), by_source('clean'), open_artefact(out/'dedup'))
    kept = {n: sum(c['kept'] for c in files.values()) for n,files in found.items()}
    assert kept == {n: sum(a.counts[f'{s}_documents'] for s in SPLITS) for n,a in by_source('shards').items()}


def test_a_function_and_its_file_are_in_the_same_split(undisturbed):
    "What `pairs` asks about in the test split was not in the training text of `stdlib`."
    out,split_of_file = undisturbed/'out',{}
    for source in ('stdlib', 'pairs'):
        file_of = {d['id']: d['file'] for d in read_rows(open_artefact(out/'clean'/source), columns=['id', 'file'])}
        for split in SPLITS:
            for doc in Shards(out/'shards'/source).documents(split):
                assert split_of_file.setdefault(file_of[doc.id], split) == split


def test_run_again_changes_nothing(undisturbed):
    stamp = lambda: {p: p.stat().st_mtime_ns for p in (undisturbed/'out').rglob('*') if p.is_file() and not p.name.endswith('.lock')}
    before = stamp()
    out = io.StringIO()
    with contextlib.redirect_stdout(out): assert run_command(['run', str(undisturbed/'toy.json'), '--out', str(undisturbed/'out'), '--workers', '1']) == 0
    assert stamp() == before and 'report.html' in out.getvalue()


def test_killed_and_started_again_it_ends_with_the_same_numbers(undisturbed, tmp_path):
    kills(undisturbed, tmp_path/'killed', 4)


@pytest.mark.slow
def test_killed_thirty_times(undisturbed, tmp_path): kills(undisturbed, tmp_path/'killed', 30)


def kills(undisturbed, out, n):
    "Kills at random moments between two finished steps: the waiting goes by what is done, since a busy machine takes longer for it."
    clock,states = random.Random(0),set()
    for i in range(n):
        before = str(reached(out))
        process = start(undisturbed/'toy.json', out, workers=2)
        with contextlib.suppress(subprocess.TimeoutExpired):
            for _ in range(1200):
                if str(reached(out)) != before or process.poll() is not None: break
                time.sleep(.05)
            process.wait(clock.uniform(0, 1.5))
        kill_everything(process, out)
        states.add(str(reached(out)))
    assert len(states) > 1                                            # the kills fell at different places
    process = start(undisturbed/'toy.json', out)
    said = process.communicate()[1].decode()
    assert process.returncode == 0, said
    assert numbers(out) == numbers(undisturbed/'out')


def test_killed_alone_its_trainers_are_found_again(undisturbed, tmp_path):
    "Only the command is killed: the training processes go on, and the next command watches them instead of starting more."
    out = tmp_path/'out'
    for step in ('documents', 'clean', 'dedup', 'splits', 'tokenizer', 'shards', 'baselines'):
        source = undisturbed/'out'/step
        shutil.copytree(source, out/step)
    process = start(undisturbed/'toy.json', out)
    try:
        until = time.monotonic()+60
        while time.monotonic() < until and not (out/'runs'/'toy-mpt'/'status.json').exists(): time.sleep(.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        pid = json.loads((out/'runs'/'toy-mpt'/'status.json').read_text())['pid']
        os.kill(pid, 0)                                               # it lives
        process = start(undisturbed/'toy.json', out)
        assert process.wait() == 0
        assert json.loads((out/'runs'/'toy-mpt'/'status.json').read_text())['pid'] == pid
        assert numbers(out) == numbers(undisturbed/'out')
    finally: kill_everything(process, out)


def said(*argv):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try: code = run_command([str(a) for a in argv])
        except SystemExit as e: code = e.code
    return code,out.getvalue()


def catalogue(tmp_path, **files):
    "A catalogue over `files`, which are in each tier once; returns its path."
    (tmp_path/'texts').mkdir()
    for name,data in files.items(): (tmp_path/'texts'/name.replace('_', '.')).write_bytes(data)
    path = tmp_path/'mine.toml'
    path.write_text(''.join(f'[sources.{tier}]\ntier = "{tier}"\nkind = "prose"\nreader = "text"\npath = "texts"\n' for tier in TIERS))
    return path


def test_wrong_inputs_get_one_message_and_code_2_and_leave_nothing(tmp_path):
    out = tmp_path/'out'
    (tmp_path/'a').mkdir(), (tmp_path/'b').mkdir(), (tmp_path/'c').mkdir()
    missing = catalogue(tmp_path/'a')
    (tmp_path/'a'/'texts').rmdir()
    cases = {
        "Did you mean 'small'": ('run', 'smal', '--out', out),
        'no catalogue at': ('run', 'tiny', '--out', out, '--sources', tmp_path/'none.toml'),
        'which does not exist: set `path`': ('run', 'tiny', '--out', out, '--sources', missing),
        'byte 0xff at offset 4': ('run', 'tiny', '--out', out, '--sources', catalogue(tmp_path/'b', x_txt=b'text\xff')),
        'is empty': ('run', 'tiny', '--out', out, '--sources', catalogue(tmp_path/'c', x_txt=b' \n')),
    }
    for message,words in cases.items():
        code,text = said(*words)
        assert code == 2 and message in text and 'Traceback' not in text, text
        assert len(text.strip().split('\n')) == 1
        assert not [p for p in out.rglob('*') if p.is_file() and not p.name.endswith('.lock')]


def test_a_full_disk_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: shutil._ntuple_diskusage(10**9, 10**9-1000, 1000))
    code,text = said('run', 'tiny', '--out', tmp_path/'out')
    assert code == 2 and 'disk is full' in text and '1.0 kB free' in text
    assert not [p for p in (tmp_path/'out').rglob('*.parquet')]


def test_a_disk_that_fills_while_writing(undisturbed, tmp_path, monkeypatch):
    "On a real file system of two megabytes."
    disk = tmp_path/'disk'
    disk.mkdir()
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', str(disk)], capture_output=True).returncode:
        pytest.skip('mounting a small file system needs root')
    try:
        monkeypatch.setattr('andromeda.sources.need_space', lambda *_: None)         # the disk fills after the check
        code,text = said('run', undisturbed/'toy.json', '--out', disk/'out', '--workers', '1')
        assert code == 2 and 'disk is full' in text, text
        for f in disk.rglob('manifest.json'):
            if not any(part.startswith('.') for part in f.relative_to(disk).parts): assert not damage(open_artefact(f.parent))
    finally: subprocess.run(['umount', '-l', str(disk)], check=True)


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')
def test_a_folder_one_may_not_write(tmp_path):
    (tmp_path/'locked').mkdir(mode=0o500)
    code,text = said('run', 'tiny', '--out', tmp_path/'locked'/'out')
    assert code == 2 and 'Cannot write there' in text


def test_a_failed_trainer_is_reported_with_code_1(undisturbed, tmp_path):
    "A learning rate that explodes ends the run with the step, the reason and the way out."
    wild = [replace(r, stages=tuple(replace(s, peak_lr=1e18) for s in r.stages)) for r in toy()[:1]]
    (tmp_path/'wild.json').write_text(json.dumps([recipe_to_dict(r) for r in wild]))
    for step in ('documents', 'clean', 'dedup', 'splits', 'tokenizer', 'shards', 'baselines'): shutil.copytree(undisturbed/'out'/step, tmp_path/'out'/step)
    code,text = said('run', tmp_path/'wild.json', '--out', tmp_path/'out', '--workers', '1')
    assert code == 1 and 'Lower peak_lr' in text and 'Traceback' not in text, text
    assert not (tmp_path/'out'/'report.json').exists()


def grown_corpus(folder):
    "A source of small files, in parts of a few of them, and a function that reads, cleans and encodes it; gives the parts that were encoded."
    import andromeda.shards
    from andromeda.journey import prepare
    from andromeda.sources import Source
    r,mine = random.Random(1),Source('mine', 'high', 'prose', 'text', '', '', dict(path=str(folder/'texts')))
    words = [f'{a}{b}{c}' for a in 'bdfgklm' for b in 'aeiou' for c in 'nrst']
    def add(name): (folder/'texts'/name).write_text(' '.join(r.choices(words, k=600)))
    (folder/'texts').mkdir()
    for i in range(60): add(f'{i}.txt')
    def go(out, tokenizer=None):
        made,task = [],andromeda.shards.write_part
        def seen(item, part):
            made.append(part)
            return task(item, part)
        with pytest.MonkeyPatch.context() as m:
            m.setattr('andromeda.shards.write_part', seen)
            m.setattr('andromeda.sources.PART_MB', .02)
            corpus = Corpus(sources=('mine',), vocab=400, tokenizer_mb=.04, held_out=.1, tokenizer=tokenizer and str(tokenizer))
            return prepare(corpus, folder/out, dict(mine=mine), workers=1),len(made)
    return add, go


def content(artefact): return {n: f for n,f in artefact.manifest['files'].items() if n != 'layout.json'}     # which names its tokenizer


def test_a_file_that_comes_costs_the_encoding_of_its_part(tmp_path):
    "And the result is that of doing all of it; also where the tokenizer is trained again and comes out the same."
    add,go = grown_corpus(tmp_path)
    first,parts = go('out')
    assert parts == len(first.parts('mine')) > 5 and len(Shards(first.shards['mine']).layout['parts']) == parts
    add('one more.txt')
    second,made = go('out')
    anew,every = go('anew')
    assert 1 <= made <= 2 < every and content(second.shards['mine']) == content(anew.shards['mine'])
    assert second.shards['mine'].fingerprint == anew.shards['mine'].fingerprint != first.shards['mine'].fingerprint
    assert go('out')[1] == 0


def test_a_kept_tokenizer_lets_everything_be_taken_over(tmp_path):
    add,go = grown_corpus(tmp_path)
    kept = go('out')[0].tokenizer.folder/'tokenizer.json'
    shutil.copy(kept, tmp_path/'tokenizer.json')
    first,_ = go('kept', tmp_path/'tokenizer.json')
    for i in range(2): add(f'more {i}.txt')
    second,made = go('kept', tmp_path/'tokenizer.json')
    assert 1 <= made <= 4 < len(second.parts('mine')) and second.tokenizer.fingerprint == first.tokenizer.fingerprint
    assert content(second.shards['mine']) == content(go('anew', tmp_path/'tokenizer.json')[0].shards['mine'])


def test_the_tokenizer_reads_the_training_split_by_tier(undisturbed):
    "Never a document that is held out; of each tier the share that the corpus asks for."
    from andromeda.journey import Prepared, training_texts
    from andromeda.shards import read_splits
    out,corpus = undisturbed/'out',toy()[0].corpus
    tiers = dict(manuals='high', stdlib='medium', pairs='low')
    p = Prepared(tiers=tiers, cleaned={n: open_artefact(out/'clean'/n) for n in tiers}, duplicates=open_artefact(out/'dedup'), splits=read_splits(open_artefact(out/'splits')))
    split = {d['text']: p.splits[n].of(d) for n in tiers for d in p.left(n)}
    source = {d['text']: n for n in tiers for d in p.left(n)}
    read = list(training_texts(p, corpus))
    assert {split[t] for t in read} == {'train'}
    size = {n: sum(len(t.encode()) for t in read if source[t] == n) for n in tiers}
    assert sum(size.values()) >= 1e5 and all(size[n] >= share*1e5 for n,share in dict(manuals=.5, stdlib=.3, pairs=.2).items())


def test_a_recipe_with_a_kept_tokenizer_is_saved_and_read(tmp_path):
    "And a tokenizer that does not fit it is refused with the way out."
    recipe = toy()[0]
    kept = replace(recipe, packed='within', corpus=replace(recipe.corpus, tokenizer='tokenizer.json', tokenizer_weight=dict(high=1., medium=1., low=2.)))
    held = json.loads(json.dumps(recipe_to_dict(kept)))
    assert recipe_from_dict(held) == kept and kept.corpus.rows == 384
    held['corpus']['tokenizer'] = 3
    with pytest.raises(ValueError, match='tokenizer of a Corpus is 3'): recipe_from_dict(held)
    with pytest.raises(ValueError, match="Did you mean 'within'"): replace(recipe, packed='withn')
    add,go = grown_corpus(tmp_path)
    with pytest.raises(ValueError, match='there is no .*none.json: correct its path'): go('out', tmp_path/'none.json')
