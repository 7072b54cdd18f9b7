"The command: steps on their own, numbers for machines, a model that leaves, and mistakes that are named."
import io, json, subprocess, sys
from dataclasses import replace

import pytest

from andromeda.cli import run_command
from andromeda.core import write_json
from andromeda.runs import Run
from andromeda.stages import Corpus, Recipe, Stage, named_recipes, recipe_to_dict
from owntask import own_task


@pytest.fixture(scope='module')
def road(tmp_path_factory):
    "The words for a small recipe of one's own text, in a folder."
    folder = tmp_path_factory.mktemp('road')
    (folder/'notes').mkdir()
    for i in range(60): (folder/'notes'/f'{i}.txt').write_text(f'Note {i}. ' + ' '.join(f'The {w} of day {i} came {k} steps after noon.' for k,w in enumerate(['ship', 'cat', 'king', 'rain'][i%4:]*9)))
    (folder/'notes'/'short.txt').write_text('Only this.')
    (folder/'mine.toml').write_text('[sources.notes]\ntier = "high"\nkind = "prose"\nreader = "text"\npath = "notes"\nwhy = "a test"\n')
    stage = Stage(name='high', tier='high', tokens=4*32*6, peak_lr=1e-3)
    recipe = Recipe(name='notes', model='palm-tiny', corpus=Corpus(sources=('notes',), vocab=300, tokenizer_mb=1, held_out=.1), stages=(stage,), length=32, batch=4)
    write_json(folder/'notes.json', recipe_to_dict(recipe))
    return [str(folder/'notes.json'), '--sources', str(folder/'mine.toml'), '--out', str(folder/'out'), '--workers', '1']


def said(capsys, *words):
    capsys.readouterr()
    code = run_command([*map(str, words)])
    out,err = capsys.readouterr()
    return code, out, err


def test_clean_counts_again_without_a_rule(road, capsys):
    code,out,_ = said(capsys, 'clean', *road, '--what-if', 'short=none', '--json')
    found = json.loads(out)
    assert code == 0 and found['rules'] == [dict(source='notes', rule='short', documents=1)]
    assert [r['filtered'] for r in found['sources']] == [1] and [r['kept'] for r in found['what_if']] == [61]
    assert 'Only this.' in said(capsys, 'clean', *road, '--show', 'short')[1]


@pytest.mark.parametrize('words,says', [
    (['clean', '--what-if', 'short=much'], 'expected RULE=VALUE'), (['clean', '--what-if', 'short=nan'], 'a finite number'), (['clean', '--what-if', 'short=1e400'], 'a finite number'),
    (['clean', '--what-if', '=1'], 'expected RULE=VALUE'), (['clean', '--show', 'short', '--json'], 'one after the other'), (['tokenizer', '--text', 'a', '--against', 'b'], 'one after the other'),
    (['sweep', '--vary', 'batch=.2..1.5:log'], 'whole number'), (['sweep', '--vary', 'batch=2..inf'], 'expected a finite low end'), (['sweep', '--vary', 'batch=2,4', '--seed', '-1'], 'seed is -1'),
    (['sweep', '--vary', 'batch=2,4', '--name', '../x'], 'cannot be a name here'), (['sweep', '--vary', 'batch=2,4', '--storage', 'postgresql://me:secret@db/x'], 'PGPASSWORD'), (['clean', '--what-if', 'shord=1'], "Did you mean 'short'"),
    (['clean', '--show', 'wide'], "Unknown rule"), (['shards', '--where', 'note:1'], 'expected SOURCE:TOKEN'), (['shards', '--where', 'notes:99999999'], 'there are')])
def test_a_mistake_is_named(road, capsys, words, says):
    if words[0] == 'sweep': road = road[:-2]              # without --workers, and refused before there is any data
    code,_,err = said(capsys, words[0], *road, *words[1:])
    assert code == 2 and says in err


def test_the_tokenizer_splits_a_text_and_compares(road, capsys):
    pieces = json.loads(said(capsys, 'tokenizer', *road, '--text', 'The cat came.', '--json')[1])
    assert ''.join(p['text'] for p in pieces) == 'The cat came.'
    file = road[4] + '/tokenizer/tokenizer.json'
    rows = json.loads(said(capsys, 'tokenizer', *road, '--against', file, '--json')[1])['rows']
    assert [r['tokenizer'] for r in rows] == ['this one', file] and rows[0]['tokens'] == rows[1]['tokens']


def test_shards_say_where_a_token_came_from(road, capsys):
    place = json.loads(said(capsys, 'shards', *road, '--where', 'notes:5', '--verify', '--json')[1])
    assert place['source'] == 'notes' and place['file'].endswith('.txt') and place['before'].startswith('Note')


def test_damaged_shards_are_found(road, capsys):
    import pathlib
    said(capsys, 'shards', *road)
    path = next(pathlib.Path(road[4]).glob('shards/notes/part-*/train.bin'))
    data = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(bytes([data[0]^1])+data[1:])
    try: code,_,err = said(capsys, 'shards', *road, '--verify')
    finally: path.write_bytes(data)
    assert code == 2 and 'damaged' in err


def test_a_model_leaves_and_gives_the_same_answers(road, capsys, tmp_path):
    import torch
    from pathlib import Path
    from andromeda.cli import _parser, _steps
    from andromeda.convert import load_model
    from andromeda.runs import Run, create_run
    from andromeda.stages import named_recipes
    from andromeda.trainer import train_run, trained_model
    p = _steps(_parser().parse_args(['shards', *road]), 'shards')
    run = create_run(tmp_path/'runs'/'notes', named_recipes(road[0])[0], p.tiers, p.shards, p.tokenizer)
    assert said(capsys, 'export', run.folder, tmp_path/'early')[0] == 2
    train_run(run.folder, lambda *a: {}, lambda *a: [])
    code,out,_ = said(capsys, 'export', run.folder, tmp_path/'model.safetensors')
    assert code == 0 and out.strip() == str(tmp_path/'model.safetensors')
    asked = torch.arange(20)[None] + 5
    with torch.no_grad(): assert torch.equal(load_model(tmp_path/'model.safetensors')(asked), trained_model(Run(run.folder))(asked))
    pytest.importorskip('transformers')
    import andromeda.convert
    from transformers import AutoModelForCausalLM, AutoTokenizer
    assert said(capsys, 'export', run.folder, tmp_path/'folder')[0] == 0
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path/'folder')
    with torch.no_grad(): torch.testing.assert_close(theirs(asked).logits, trained_model(run)(asked), atol=1e-5, rtol=0)
    assert AutoTokenizer.from_pretrained(tmp_path/'folder').decode([*trained_tokens(p)]) == 'The cat'
    assert json.loads(said(capsys, 'runs', tmp_path/'runs', '--json')[1])[0]['state'] == 'finished'


def trained_tokens(p):
    from andromeda.tokenizer import Encoder
    return Encoder(p.tokenizer).encode('The cat')


def test_completion_knows_every_command(capsys):
    script = said(capsys, 'completion', 'bash')[1]
    assert all(word in script for word in ('sources', 'tokenizer', '--what-if', '--lr-scale'))
    done = subprocess.run(['bash', '-n'], input=script, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_a_reader_that_has_seen_enough_is_no_error():
    command = [sys.executable, '-c', "from andromeda.cli import main; main(['sources', 'list', '--json'])"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.wait(timeout=60) == 0 and b'failed' not in process.stderr.read()


def test_reports_of_several_folders_are_drawn_beside_each_other(tmp_path, capsys):
    scores = dict(notes=dict(bits_per_byte=2., bytes=100))
    for name in 'ab':
        (tmp_path/name/'runs'/'r').mkdir(parents=True)
        model = dict(run='r', family='palm', parameters=10, tokens=5, curve=[dict(tokens=5, loss=2., lr=.1)], stages=[], test=scores)
        write_json(tmp_path/name/'report.json', dict(recipe='r', models=dict(tiny=model), tiers=dict(notes='high')))
        write_json(tmp_path/name/'runs'/'r'/'recipe.json', dict(recipe=dict(seed=ord(name))))
    code,out,_ = said(capsys, 'report', tmp_path/'a', tmp_path/'b', '--out', tmp_path/'both.html')
    page = (tmp_path/'both.html').read_text()
    assert code == 0 and 'a: tiny' in out and all(x in page for x in ('b: tiny', 'What differs', 'seed', '97', '98'))
    assert said(capsys, 'report', tmp_path)[0] == 2


def test_a_run_is_asked_questions(road, capsys, tmp_path):
    "Held-out text without a task; a task from a file, also with examples; two runs against each other; and a harness's task gives the same figure."
    out = road[4]
    if not (run := __import__('pathlib').Path(out)/'runs'/'notes').exists(): said(capsys, 'run', *road)
    rows = json.loads(said(capsys, 'eval', run, '--json', '--limit', 20)[1])['standings']
    assert [r['measure'] for r in rows] == ['accuracy', 'bits_per_byte'] and rows[0]['task'].endswith('notes') and rows[0]['random'] == .25
    questions = [dict(goal=f'see the {w}', sol1='look at the king', sol2='noon', label=i%2) for i,w in enumerate(['ship', 'cat', 'king', 'rain']*2)]
    for name in ('piqa.jsonl', 'piqa.train.jsonl'): (tmp_path/name).write_text('\n'.join(map(json.dumps, questions)))
    code,text,_ = said(capsys, 'eval', run, '--tasks', 'piqa', '--data', tmp_path, '--shots', 2, '--against', run)
    assert code == 0 and 'at chance' in text and 'no difference shown' in text
    code,_,err = said(capsys, 'eval', run, '--tasks', 'pica', '--data', tmp_path)
    assert code == 2 and "Did you mean 'piqa'" in err
    pytest.importorskip('lm_eval', reason="the command runs lm-evaluation-harness")
    [row,*_] = json.loads(said(capsys, 'eval', run, '--tasks', 'piqa', '--data', tmp_path, '--json')[1])['standings']
    theirs = json.loads(said(capsys, 'eval', run, '--harness', own_task(tmp_path), '--harness-files', tmp_path, '--json')[1])
    assert theirs['mine']['acc,none'] == pytest.approx(row['score'])


def test_a_recipe_in_a_folder_is_no_run(tmp_path, capsys):
    "Whoever keeps recipe.json in a folder is told so, and nothing is written beside it."
    (tmp_path/'mine').mkdir()
    write_json(tmp_path/'mine'/'recipe.json', dict(name='r', model='palm-tiny'))
    for words in (['runs', tmp_path/'mine'], ['runs', tmp_path/'mine', '--pause'], ['train', tmp_path/'mine'], ['train', tmp_path/'mine', '--plan'], ['eval', tmp_path/'mine'], ['export', tmp_path/'mine', tmp_path/'m.safetensors']):
        code,_,err = said(capsys, *words)
        assert code == 2 and 'is not the plan of a run' in err, words
    assert [p.name for p in (tmp_path/'mine').iterdir()] == ['recipe.json']
    assert said(capsys, 'runs', tmp_path)[:2] == (0, f'no runs in {tmp_path}\n')
    assert said(capsys, 'runs', tmp_path/'mine'/'recipe.json')[0] == 2


def test_a_run_is_not_forked_onto_itself_and_no_wish_is_passed_over(road, capsys):
    from pathlib import Path
    if not (run := Path(road[4])/'runs'/'notes').exists(): said(capsys, 'run', *road)
    code,_,err = said(capsys, 'runs', run, '--fork', run)
    assert code == 2 and 'choose another folder' in err and [p.name for p in run.parent.iterdir() if p.is_dir()] == ['notes']
    code,_,err = said(capsys, 'runs', run, '--lr-scale', 0)
    assert code == 2 and 'lr_scale is 0' in err
    assert said(capsys, 'runs', run, '--resume', '--processes', 0)[0] == 2


def test_text_of_ones_own_is_trained_on_by_every_command(road, capsys, tmp_path):
    "train and sweep read the catalogue that run reads, and its sources are cut where the recipe says so."
    from andromeda.cli import _recipes
    recipe,sources = road[0],road[2]
    [found],catalogue = _recipes(recipe, sources)
    assert found.corpus.sources == ('notes',) == tuple(catalogue)
    cut = json.loads(open(recipe).read())
    cut['corpus']['limit_mb'] = dict(notes=.5, other=1)
    write_json(tmp_path/'cut.json', cut)
    assert _recipes(str(tmp_path/'cut.json'), sources)[0][0].corpus.limit_mb == dict(notes=.5)
    assert _recipes('tiny', sources)[0][0].corpus.limit_mb == {}
    assert said(capsys, 'train', recipe, '--sources', sources, '--plan')[0] == 0
    for words in (['train', recipe, '--plan', '--devices', 0], ['sweep', recipe, '--workers', 0], ['sweep', recipe, '--sources', tmp_path/'none.toml', '--vary', 'batch=2,4']):
        assert said(capsys, *words)[0] == 2, words
    (tmp_path/'report.json').write_text('[]')
    code,_,err = said(capsys, 'report', tmp_path)
    assert code == 2 and 'is no report' in err


def test_a_plan_is_the_same_by_both_names_and_for_machines(capsys):
    text = said(capsys, 'plan', 'mpt-500m', '--devices', '8')[1]
    assert text == said(capsys, 'train', 'mpt-500m', '--plan', '--devices', '8')[1] and '8 H100' in text
    [found] = json.loads(said(capsys, 'plan', 'mpt-500m', '--json')[1])
    assert found['model'] == 'mpt-500m' and found['tokens'] > 9e9
    assert said(capsys, 'plan', 'mpt-600m')[0] == 2


@pytest.mark.parametrize('part,changes,says', [
    ('stages', dict(tier='hi'), "Did you mean 'high'"), ('stages', dict(tier='low'), "reads the tier 'low', but no source has it"), ('model', 'palm-tny', "Did you mean 'palm-tiny'"),
    ('corpus', dict(sources=['note']), "Unknown source 'note'"), ('corpus', dict(limit_mb=dict(note=1)), "Did you mean 'notes'"), ('corpus', dict(tokenizer_weight=dict(hihg=1)), "Did you mean 'high'"),
    ('corpus', dict(keep_out=dict(piqa=dict(path='gone.jsonl', texts=['goal']))), 'with the questions of piqa'), ('corpus', dict(tokenizer='gone.json'), 'leave it out to have one trained')])
def test_what_can_be_known_of_a_recipe_is_said_before_any_text_is_read(road, tmp_path, capsys, monkeypatch, part, changes, says):
    import andromeda.cli, andromeda.journey
    from andromeda.sources import read_catalogue
    monkeypatch.setattr(andromeda.journey, 'read_source', lambda *a, **k: pytest.fail('text was read'))
    monkeypatch.setattr(andromeda.cli, '_recipes', lambda name, sources: (named_recipes(name), read_catalogue(road[2])))      # sources as the recipe names them
    recipe = json.loads(open(road[0]).read())
    if part == 'model': recipe['model'] = changes
    else: (recipe['stages'][0] if part == 'stages' else recipe['corpus']).update(changes)
    write_json(tmp_path/'r.json', recipe)
    for words in (['run'], ['train'], ['sweep', '--vary', 'batch=2,4']):
        code,_,err = said(capsys, *words[:1], tmp_path/'r.json', '--out', tmp_path/'out', *words[1:])
        assert code == 2 and says in err, (words, err)
    assert not (tmp_path/'out').exists()


def test_an_option_is_not_passed_over(road, capsys, tmp_path):
    "What would have no effect is refused, with the option that it goes with."
    from pathlib import Path
    if not (run := Path(road[4])/'runs'/'notes').exists(): said(capsys, 'run', *road)
    for words,says in ((['runs', run, '--step', 3], '--step is of use with --fork NEW only'), (['runs', run, '--follow'], '--to WRITER'), (['runs', run, '--processes', 2], '--resume'),
                       (['runs', run, '--pause', '--to', 'wandb'], 'one after the other'), (['runs', run, '--stop', '--json'], 'one after the other'), (['runs', run, '--fork', tmp_path/'f', '--lr-scale', 2], '--lr-scale and --fork'),
                       (['train', run, '--out', tmp_path], 'leave out --out'), (['train', road[0], '--devices', 2], '--plan'), (['train', run, '--gpu', 'A100'], '--plan'),
                       (['eval', run, '--harness-files', tmp_path], '--harness'), (['eval', run, '--harness', 'x', '--tasks', 'piqa'], '--tasks and --harness')):
        code,_,err = said(capsys, *words)
        assert code == 2 and says in err, (words, err)
    assert not (tmp_path/'f').exists() and Run(run).control['want'] == 'run'


def test_a_wrong_place_for_a_result_gets_the_right_advice(road, capsys, tmp_path):
    from pathlib import Path
    if not (run := Path(road[4])/'runs'/'notes').exists(): said(capsys, 'run', *road)
    (tmp_path/'file').write_text('mine')
    (tmp_path/'folder.safetensors').mkdir()
    for words,says in ((['export', run, tmp_path/'file'], 'a name that ends in .safetensors'), (['export', run, tmp_path/'file'/'x'], 'A file is where a folder should be'),
                       (['export', run, tmp_path/'gone'/'m.safetensors'], 'make it, or choose another'), (['export', run, tmp_path/'folder.safetensors'], 'is a folder: give the path of a file'),
                       (['export', run, tmp_path/('x'*300)], 'Correct the path'), (['report', road[4], '--out', tmp_path/'gone'/'r.html'], 'make it, or choose another'), (['report', road[4], '--out', tmp_path], 'is a folder'),
                       (['runs', run, '--fork', tmp_path/'file'], 'choose a new folder'), (['clean', *road[:4], tmp_path/'file'], 'is a file, expected a folder'), (['clean', *road[:4], tmp_path/'file'/'x'], 'is a file, expected a folder'),
                       (['plan', road[0], '--sources', tmp_path], 'is a folder')):
        code,_,err = said(capsys, *words)
        assert code == 2 and says in err and 'same command again' not in err, (words, err)
    assert (tmp_path/'file').read_text() == 'mine' and not (tmp_path/'gone').exists()


class Terminal(io.StringIO):
    "Standard error, as if somebody looked at it."
    def isatty(self): return True


def test_what_takes_long_shows_progress_to_a_person_and_nobody_else(road, tmp_path, monkeypatch, capsys):
    "Each command on its own: drawn on a terminal, silent without one and for machines."
    from test_report import made_up_result
    recipe,sources,out = road[0],['--sources', road[2]],str(tmp_path/'out')
    data,run = [recipe, *sources, '--out', out, '--workers', '1'],f'{out}/runs/notes'
    (tmp_path/'told').mkdir()
    write_json(tmp_path/'told'/'report.json', made_up_result(steps=4))
    def trials(sweep, workers):
        for state in ('waiting', 'running', 'complete'): yield [dict(trial=0, state=state, value=1. if state == 'complete' else None, batch=2, why='')]
    monkeypatch.setattr('andromeda.sweeps.run_sweep', trials)
    commands = {'clean notes': ['clean', *data, '--json'], 'count again': ['clean', *data, '--what-if', 'short=1', '--json'], 'train the tokenizer': ['tokenizer', *data, '--json'],
                'measure on validation text': ['tokenizer', *data, '--json'], 'tokenize notes': ['shards', *data, '--json'], 'read every file': ['shards', *data, '--verify', '--json'],
                'notes: ': ['train', recipe, *sources, '--out', out], 'ask notes': ['eval', run, '--json'], 'export': ['export', run, str(tmp_path/'model.safetensors')],
                'look at the run': ['advise', run], 'draw': ['report', str(tmp_path/'told'), '--json'], 'sweep': ['sweep', recipe, *sources, '--out', out, '--vary', 'batch=2', '--method', 'grid']}
    steps = ''.join(json.dumps(dict(step=i, stage='high', tokens=128*i, loss=6-i/60, lr=1e-3, gradient_norm=1., seconds=.1, data_seconds=0.))+'\n' for i in range(1, 61))
    for shown,words in commands.items():
        if words[0] == 'advise': (tmp_path/'out'/'runs'/'notes'/'metrics.jsonl').write_text(steps)
        monkeypatch.setattr('sys.stderr', seen := Terminal())
        assert run_command([w for w in words if w != '--json']) == 0 and shown in seen.getvalue(), shown
        if '--json' in words:
            monkeypatch.setattr('sys.stderr', seen := Terminal())
            assert run_command(words) == 0 and not seen.getvalue(), shown
        (tmp_path/'model.safetensors').unlink(missing_ok=True)
        if words[0] not in ('train', 'sweep'):
            monkeypatch.setattr('sys.stderr', seen := io.StringIO())
            assert run_command(words) == 0 and not seen.getvalue(), shown
