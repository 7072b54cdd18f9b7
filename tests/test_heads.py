"A head is trained on a task's training split, kept beside the run's checkpoint, and asked later by another process."
import json
import warnings

import pytest
import torch

from andromeda.cli import run_command
from andromeda.heads import fit_head, load_head, save_head
from andromeda.model import LM, WithHead, preset
from andromeda.scoreboard import outcomes, score_run, tune_run
from andromeda.stages import Corpus, Recipe, Stage
from andromeda.tasks import TASKS, make_items, measure


@pytest.fixture(scope='module')
def run(data, tmp_path_factory):
    "A run of two steps."
    from andromeda.runs import create_run
    from andromeda.trainer import train_run
    recipe = Recipe(name='count', model='mpt-tiny', corpus=Corpus(sources=('numbers',), vocab=300), length=32, batch=4, stages=(Stage(name='one', tier='high', tokens=256, peak_lr=3e-3),))
    run = create_run(tmp_path_factory.mktemp('runs')/'count', recipe, **data)
    train_run(run.folder, lambda *a: {}, lambda *a: [])
    return run


@pytest.fixture(scope='module')
def texts(tmp_path_factory):
    "Files of two tasks that are learned at a glance: sentences of one letter or of the other, and passages of one word."
    folder = tmp_path_factory.mktemp('texts')
    sentences = [dict(sentence=('a '*(3+i%5) if i%2 else 'b '*(3+i%7)).strip(), label=i%2, idx=i) for i in range(160)]
    passages = [dict(id=str(i), question='what', context=f"it is {'ab'[i%2]}", answers=dict(text=['ab'[i%2]], answer_start=[6])) for i in range(96)]
    for name,rows in dict(sst2=sentences, squad=passages).items():
        for part,some in {'.train': rows[:len(rows)*2//3], '': rows[len(rows)*2//3:]}.items(): (folder/f'{name}{part}.jsonl').write_text('\n'.join(map(json.dumps, some)))
    return folder


FAST = dict(epochs=3, peak_lr=3e-3, batch=8, length=24)


def said(capsys, *words):
    capsys.readouterr()
    code = run_command([*map(str, words)])
    return code, *capsys.readouterr()


def test_a_head_is_tuned_kept_and_asked_by_the_command(run, texts, capsys):
    code,_,err = said(capsys, 'eval', run.folder, '--tasks', 'sst2', '--data', texts, '--heads')
    assert code == 2 and 'andromeda tune' in err
    words = [w for k,v in FAST.items() for w in (f"--{k.replace('_', '-')}", v)]
    code,text,_ = said(capsys, 'tune', run.folder, '--tasks', 'sst2,squad', '--data', texts, *words)
    assert code == 0 and 'sst2' in text
    before = {n: w.clone() for n,w in load_head(run.folder/'heads'/'step_2'/'sst2')[0].state_dict().items()}
    rows = {(r['task'], r['measure']): r for r in json.loads(said(capsys, 'eval', run.folder, '--tasks', 'sst2,squad', '--data', texts, '--heads', '--json')[1])['standings']}
    assert rows['sst2', 'accuracy']['says'] == 'above chance' and rows['sst2', 'accuracy']['score'] > .95 and rows['sst2', 'accuracy']['by'] == 'a trained head'
    assert rows['squad', 'best_exact']['score'] > .9 and rows['squad', 'best_f1']['random'] is None
    again,_ = load_head(run.folder/'heads'/'step_2'/'sst2')
    assert all(torch.equal(w, before[n]) for n,w in again.state_dict().items())           # asking changes nothing
    assert 'by a trained head' in said(capsys, 'eval', run.folder, '--tasks', 'sst2', '--data', texts, '--heads')[1]


def test_what_a_head_says_does_not_replace_what_the_model_says(run, texts):
    tune_run(run, [TASKS['sst2']], data=texts, **FAST | dict(epochs=1))
    score_run(run, [TASKS['sst2']], data=texts)
    score_run(run, [TASKS['sst2']], data=texts, heads=True)
    kept = outcomes(run)
    assert {'sst2', 'sst2, by a trained head'} <= kept.keys() and kept['sst2'] != kept['sst2, by a trained head']


def test_the_head_reads_as_many_tokens_as_it_was_trained_on(run, texts, tmp_path):
    "Beyond the tokens that it learned from, the text of the others would be told apart by its end."
    [note] = tune_run(run, [TASKS['sst2']], data=texts, **FAST | dict(length=6)).values()
    assert note['length'] == 6 and len(note['losses']) == 3*(106//8) and note['losses'][-1] < note['losses'][0]
    (tmp_path/'sst2.jsonl').write_text('\n'.join(json.dumps(dict(sentence=f'{w*5}{o*30}'.strip(), label=l, idx=f'{w}{o}')) for l,w in enumerate(('b ', 'a ')) for o in ('a ', 'b ')))
    found = score_run(run, [TASKS['sst2']], data=tmp_path, heads=True)['sst2']
    assert measure(found, 'accuracy').score == 1.


def test_a_new_head_replaces_the_old_one_only_when_it_is_written(tmp_path, monkeypatch):
    heads = [WithHead(LM(preset('mpt-tiny', vocab=64, max_len=8, layers=1, d_model=16, heads=2, d_head=8)), 'class', 3, seed) for seed in (0, 1)]
    save_head(tmp_path/'h', heads[0], dict(seed=0))
    with monkeypatch.context() as m:
        m.setattr('andromeda.checkpoint.write_json', lambda *a: (_ for _ in ()).throw(OSError(28, 'No space left on device')))
        with pytest.raises(OSError): save_head(tmp_path/'h', heads[1], dict(seed=1))
    assert load_head(tmp_path/'h')[1] == dict(seed=0)
    save_head(tmp_path/'h', heads[1], dict(seed=1))
    head,note = load_head(tmp_path/'h')
    assert note == dict(seed=1) and head.kind == 'class' and torch.equal(head.head.weight, heads[1].head.weight) and len(list((tmp_path/'h').glob('step_*'))) == 1
    file = next((tmp_path/'h').glob('step_*'))/'model.safetensors'
    file.write_bytes(file.read_bytes()[:-1])
    with warnings.catch_warnings(), pytest.raises(ValueError, match='holds no head'):
        warnings.simplefilter('ignore')
        load_head(tmp_path/'h')


def test_tasks_that_no_head_can_learn_are_refused_before_any_is_trained(run, texts):
    with pytest.raises(ValueError, match='No head can be trained for piqa, axb'): tune_run(run, [TASKS[n] for n in ('sst2', 'piqa', 'axb')], data=texts, limit=0)


def test_passages_whose_answer_is_not_read_are_left_out_of_training_and_not_of_the_figure(data):
    from andromeda.tokenizer import Encoder
    encoder,squad = Encoder(data['tokenizer']), TASKS['squad']
    item = lambda i, far: dict(id=str(i), question='q', context='x '*(40*far)+'is a', answers=['a'])
    items = make_items(squad, [item(i, i%2) for i in range(20)])
    model,steps = LM(preset('mpt-tiny', vocab=384, max_len=32, layers=1)), []
    fit_head(model, encoder, squad, items, epochs=1, batch=2, report=steps.append)
    assert len(steps) == 5
    with pytest.raises(ValueError, match='Of none of 10 records'): fit_head(model, encoder, squad, items[1::2], epochs=1, batch=2)
