"No trial of a sweep is lost or left running, whoever dies; a trial is a run."
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from andromeda.core import write_json
from andromeda.runs import control, fork_run
from andromeda.stages import Corpus, Recipe, Stage, named_recipes, recipe_to_dict
from andromeda.sweeps import (STOPPED, Range, Refused, Sweep, at_work, best_trial, create_sweep, give_back, launch_sweep, promote, read_space, run_sweep, stop_trial, train_trial, trials,
                              validation_bits, varied, work)

optuna = pytest.importorskip('optuna')
SPACE = {'stages.*.peak_lr': Range(.25, 4, log=True, times=True), 'batch': [2, 4, 8]}


@pytest.fixture
def recipe():
    stage = Stage(name='one', tier='high', tokens=24*4*16, peak_lr=3e-3)
    return Recipe(name='count', model='mpt-tiny', corpus=Corpus(sources=('numbers',), vocab=300), length=16, batch=4, checkpoint_every=5, evaluation_bytes=500, stages=(stage,))


def toy(sweep, index, recipe, report, seconds=0.):
    best = abs(math.log(recipe.stages[0].peak_lr/6e-3)) + .2*abs(math.log2(recipe.batch/4))
    for i in range(20):
        report(recipe.stages[0].tokens*i/20, 1+best+math.exp(-i/5))
        time.sleep(seconds/20)
    return 1+best


def points(sweep): return [{w: r[w] for w in SPACE} for r in trials(sweep)]


WORKER = """
import sys
sys.path.insert(0, sys.argv[3])
from pathlib import Path
from test_sweeps import toy
from andromeda.sweeps import Sweep, work
work(Sweep(Path(sys.argv[1])), lambda *a: toy(*a, seconds=float(sys.argv[4])), worker=int(sys.argv[2]))
"""


def starter(seconds, pids):
    "Starts workers whose trials take `seconds`; notes their process ids."
    def start(sweep, workers, first=0):
        new = [subprocess.Popen([sys.executable, '-c', WORKER, str(sweep.folder), str(first+i), str(Path(__file__).parent), str(seconds)]) for i in range(workers)]
        pids.extend(p.pid for p in new)
        return new
    return start


def killed_sweep(folder, recipe, data, trials_, kills, seconds, method='random', storage=''):
    "A sweep with two workers of which one is killed `kills` times in the middle of a trial."
    import random
    r,pids,killed,due = random.Random(0),[],0,time.time()+3
    sweep = create_sweep(folder, recipe, SPACE, **data, trials=trials_, method=method, heartbeat=1, retries=kills, storage=storage)
    for rows in run_sweep(sweep, 2, every=.1, start=starter(seconds, pids)):
        running = [t for t in rows if t['state'] == 'running' and t['worker']]
        if killed < kills and running and time.time() > due:
            pid = int(r.choice(running)['worker'].split(':')[1])
            if pid in pids:
                try: os.kill(pid, signal.SIGKILL)
                except ProcessLookupError: continue
                pids.remove(pid)
                killed,due = killed+1,time.time()+r.uniform(.2, 2)
    return sweep,killed


def assert_nothing_lost(sweep, calm, kills):
    states = [t.state.name for t in sweep.study.get_trials()]
    assert 'RUNNING' not in states and 'WAITING' not in states                                    # no zombies
    assert [r['state'] for r in trials(sweep)] == ['complete']*len(trials(calm))                  # no lost results
    assert sum(r['tries'] for r in trials(sweep)) >= len(trials(calm))+kills                      # the kills were felt
    assert [r['value'] for r in trials(sweep)] == [r['value'] for r in trials(calm)] and points(sweep) == points(calm)
    assert {k: best_trial(sweep)[k] for k in ('trial', 'value', *SPACE)} == {k: best_trial(calm)[k] for k in ('trial', 'value', *SPACE)}


def test_two_workers_one_killed_twice_lose_no_trial(tmp_path, recipe, data):
    calm = create_sweep(tmp_path/'calm', recipe, SPACE, **data, trials=6, method='random', heartbeat=1)
    work(calm, toy)
    sweep,killed = killed_sweep(tmp_path/'shaken', recipe, data, 6, 2, 1.5)
    assert killed == 2
    assert_nothing_lost(sweep, calm, 2)


@pytest.mark.slow
@pytest.mark.parametrize('method', ['random', 'tpe'])
def test_fifty_trials_two_workers_ten_kills(tmp_path, recipe, data, method):
    calm = create_sweep(tmp_path/'calm', recipe, SPACE, **data, trials=50, method=method, heartbeat=1)
    work(calm, toy)
    sweep,killed = killed_sweep(tmp_path/'shaken', recipe, data, 50, 10, 1., method)
    assert killed == 10
    if method == 'random': assert_nothing_lost(sweep, calm, 10)
    else:                                            # what TPE draws depends on what had finished when it was asked
        assert [r['state'] for r in trials(sweep)] == ['complete']*50 and points(sweep)[:10] == points(calm)[:10]
        assert {t.state.name for t in sweep.study.get_trials()} <= {'COMPLETE', 'FAIL'}
    keep_record(sweep, calm, '50 trials, 2 workers, 10 kills', method)


def keep_record(sweep, calm, what, method):
    "To the file that ANDROMEDA_RECORD names: data/records/sweeps.jsonl was made so."
    if not (out := os.environ.get('ANDROMEDA_RECORD')): return
    states = [t.state.name for t in sweep.study.get_trials()]
    with open(out, 'a') as f:
        f.write(json.dumps(dict(what=what, date=time.strftime('%Y-%m-%d'), method=method, zombies=sum(s in ('RUNNING', 'WAITING') for s in states), lost=sum(r['state'] != 'complete' for r in trials(sweep)),
                                tries=sum(r['tries'] for r in trials(sweep)), best=best_trial(sweep)['value'], best_undisturbed=best_trial(calm)['value'], optuna=optuna.__version__))+'\n')


@pytest.mark.slow
@pytest.mark.skipif('ANDROMEDA_POSTGRES' not in os.environ, reason='ANDROMEDA_POSTGRES names no empty database, as postgresql+psycopg://USER@HOST/NAME')
def test_a_sweep_on_postgresql(tmp_path, recipe, data):
    calm = create_sweep(tmp_path/'calm', recipe, SPACE, **data, trials=10, method='random', heartbeat=1)
    work(calm, toy)
    sweep,killed = killed_sweep(tmp_path/'shaken', recipe, data, 10, 2, 1.5, storage=os.environ['ANDROMEDA_POSTGRES'])
    assert killed == 2
    assert_nothing_lost(sweep, calm, 2)
    keep_record(sweep, calm, '10 trials, 2 workers, 2 kills, PostgreSQL', 'random')


def test_a_worker_killed_before_its_first_sign_of_life_leaves_no_zombie(tmp_path, recipe, data):
    "Optuna's own check passes over such a trial."
    sweep = create_sweep(tmp_path/'s', recipe, SPACE, **data, trials=3, method='random', heartbeat=1)
    with pytest.warns(UserWarning, match='Heartbeat'): sweep.study.ask()                                 # taken, and never heard of again
    assert [r['state'] for r in trials(sweep)].count('running') == 1
    assert give_back(sweep) == []                     # it may still be about to begin
    time.sleep(3.1)
    assert give_back(sweep) == [0]
    assert work(sweep, toy) == 3 and [r['state'] for r in trials(sweep)] == ['complete']*3


def test_a_trial_is_given_up_only_for_a_reason_or_after_its_tries(tmp_path, recipe, data):
    sweep = create_sweep(tmp_path/'s', recipe, SPACE, **data, trials=3, method='random', heartbeat=1, retries=2)
    tried = []
    def bad(sweep, index, recipe, report):
        tried.append(index)
        if index == 0: raise Refused('the disk is full')
        if index == 1: return float('nan')
        raise KeyboardInterrupt
    for _ in range(9):
        try: work(sweep, bad)
        except KeyboardInterrupt: pass
    assert tried == [0, 1, 2, 2, 2]
    rows = trials(sweep)
    assert [r['state'] for r in rows] == ['failed']*3 and [r['why'] for r in rows] == ['the disk is full', 'its value is nan', ''] and rows[2]['tries'] == 3
    with pytest.raises(ValueError, match='no complete trial'): best_trial(sweep)


def test_a_trial_given_to_another_is_not_taken_back(tmp_path, recipe, data):
    "A worker that slept (a closed laptop) finds its trial ended by others, says so, and goes on."
    sweep = create_sweep(tmp_path/'s', recipe, SPACE, **data, trials=2, method='random', heartbeat=1)
    def slept(sweep, index, recipe, report):
        if index == 0 and trials(sweep)[0]['tries'] == 1:
            running = sweep.study.get_trials(states=(optuna.trial.TrialState.RUNNING,))
            sweep.study.tell(running[0].number, state=optuna.trial.TrialState.FAIL)
        return toy(sweep, index, recipe, lambda *a: None)
    with pytest.warns(UserWarning, match='slept so long'): work(sweep, slept)
    assert [r['state'] for r in trials(sweep)] == ['complete']*2


@pytest.mark.parametrize('method', ['grid', 'random'])
def test_a_point_that_cannot_be_trained_is_refused_and_the_others_go_on(tmp_path, recipe, data, method):
    sweep = create_sweep(tmp_path/'s', recipe, {'batch': [4, 100]}, **data, trials=6, method=method, heartbeat=1)
    work(sweep, toy)
    rows = trials(sweep)
    assert {(r['batch'], r['state']) for r in rows} == {(4, 'complete'), (100, 'failed')} and len(rows) == (2 if method == 'grid' else 6)
    assert all('less than one step' in r['why'] for r in rows if r['batch'] == 100)


def test_the_same_seed_draws_the_same_points(tmp_path, recipe, data):
    a,b,c = (create_sweep(tmp_path/n, recipe, SPACE, **data, trials=5, method='random', seed=s) for n,s in (('a', 1), ('b', 1), ('c', 2)))
    assert points(a) == points(b) != points(c)
    assert all(.25 <= p['stages.*.peak_lr'] <= 4 and p['batch'] in (2, 4, 8) for p in points(c))


@pytest.mark.parametrize('space,says', [({'bach': [1]}, "Did you mean 'batch'"), ({'stages.two.tokens': [1]}, "Unknown stage"), ({'model': Range(1, 2)}, 'is a word'), ({}, 'empty'),
                                        ({'batch': []}, 'no values'), ({'corpus.vocab': [1]}, 'field of a Recipe')])
def test_a_space_that_the_recipe_does_not_have_is_refused(tmp_path, recipe, data, space, says):
    with pytest.raises(ValueError, match=says): create_sweep(tmp_path/'x', recipe, space, **data)
    assert not (tmp_path/'x').exists()


def test_words_of_the_command_line():
    assert read_space(['optimizer=adamw,lion', 'weight_decay=none,0.1', 'clip=0.5..2']) == {'optimizer': ['adamw', 'lion'], 'weight_decay': [None, .1], 'clip': Range(.5, 2)}
    for bad in ('batch', 'batch=', 'clip=1..2:lag', 'clip=a..b'):
        with pytest.raises(ValueError): read_space([bad])


def test_varied_changes_what_it_says_and_nothing_else(recipe):
    two = replace(recipe, stages=(*recipe.stages, replace(recipe.stages[0], name='two', peak_lr=1e-3)))
    assert varied(two, {'stages.two.tokens': 3000}) == replace(two, stages=(two.stages[0], replace(two.stages[1], tokens=3000)))
    assert [s.peak_lr for s in varied(two, {'stages.*.peak_lr': .5}, SPACE).stages] == [1.5e-3, 5e-4]
    assert [s.peak_lr for s in varied(two, {'stages.*.peak_lr': .5}).stages] == [.5, .5]


def test_trials_are_runs_watched_stopped_forked_and_promoted(tmp_path, recipe, data):
    "A real training through the command's worker; the promoted recipe begins with the very loss of its trial."
    sweep = create_sweep(tmp_path/'s', recipe, {'stages.*.peak_lr': [.01]}, **data, method='grid', heartbeat=2)
    for _ in run_sweep(sweep, 1): pass
    rows = trials(sweep)
    assert [r['state'] for r in rows] == ['complete'], (sweep.folder/'workers.log').read_text()[-2000:]
    best = best_trial(sweep)
    run = sweep.run(best['trial'])
    assert best['value'] == validation_bits(run) and run.status['state'] == 'finished' and len(best['looks']) >= 1
    fork = fork_run(run, tmp_path/'fork', clip=.5)
    assert fork.metrics() == run.metrics()
    winner = promote(sweep, 'winner')
    [read] = named_recipes(str(sweep.folder/'winner.toml'))
    assert recipe_to_dict(read) == recipe_to_dict(winner) and winner.name == 'winner'
    from andromeda.runs import create_run
    from andromeda.trainer import train_run
    again = create_run(tmp_path/'again', read, **data)
    train_run(again.folder, lambda *a: {}, lambda *a: [])
    assert [r['loss'] for r in again.metrics()] == [r['loss'] for r in run.metrics()]


def test_a_run_that_a_person_stops_ends_its_trial_with_that_reason(tmp_path, recipe, data, monkeypatch):
    import andromeda.sweeps as module
    sweep = create_sweep(tmp_path/'s', recipe, {'batch': [2, 4]}, **data, method='grid', heartbeat=2)
    def stopped(run):
        write_json(run.folder/'status.json', dict(state='stopped' if run.folder.name == 'trial_000' else 'failed', step=3, message='no luck'))
    monkeypatch.setattr(module, 'launch', stopped)
    work(sweep, lambda *a: train_trial(*a, every=.01))
    assert [r['why'] for r in trials(sweep)] == ['stopped by a person', 'no luck']


def test_a_trial_that_is_given_up_stops_its_run_and_keeps_it(tmp_path, recipe, data, monkeypatch):
    import andromeda.sweeps as module
    sweep = create_sweep(tmp_path/'s', recipe, {'batch': [4, 8]}, **data, method='grid', heartbeat=2)
    def launched(run):
        (run.folder/'metrics.jsonl').write_text('{"tokens": 500, "loss": 3.5}\n')
    monkeypatch.setattr(module, 'launch', launched)
    looks = []
    def given_up(*a):
        def report(tokens, value):
            looks.append((tokens, value))
            raise optuna.TrialPruned
        return train_trial(*a[:3], report, every=.01)
    work(sweep, given_up)
    assert [r['state'] for r in trials(sweep)] == ['pruned']*2 and looks == [(500, 3.5)]*2 and sweep.run(0).control['want'] == 'stop'


def test_a_trial_that_a_person_stops_stops_its_run_keeps_it_and_is_not_tried_again(tmp_path, recipe, data, monkeypatch):
    import andromeda.sweeps as module
    sweep,begun = create_sweep(tmp_path/'s', recipe, {'batch': [2, 4, 8]}, **data, method='grid', heartbeat=2),[]
    def launched(run):
        begun.append(run.folder.name)
        if begun == ['trial_000']: stop_trial(sweep, 0)
        (run.folder/'metrics.jsonl').write_text('{"tokens": 500, "loss": 3.5}\n')
        write_json(run.folder/'status.json', dict(state='failed', step=3, message='no luck'))
    monkeypatch.setattr(module, 'launch', launched)
    stop_trial(sweep, 2)
    for _ in range(2): work(sweep, lambda *a: train_trial(*a, every=.01))
    assert [r['why'] for r in trials(sweep)] == [STOPPED, 'no luck', STOPPED] and begun == ['trial_000', 'trial_001']
    assert sweep.run(0).control['want'] == 'stop' and sweep.run(0).metrics()
    for i,says in ((0, 'ended already'), (3, 'no trial 3'), (-1, 'no trial -1')):
        with pytest.raises(ValueError, match=says): stop_trial(sweep, i)


def test_the_command_keeps_workers_in_a_process_of_its_own(tmp_path, recipe, data):
    sweep = create_sweep(tmp_path/'s', recipe, {'batch': [2, 4]}, **data, method='grid', heartbeat=2)
    for i in range(2): stop_trial(sweep, i)                  # so that none is trained, which takes longer
    process = launch_sweep(sweep, 1)
    assert os.getsid(process.pid) == process.pid
    assert process.wait(120) == 0, (sweep.folder/'workers.log').read_text()[-2000:]
    assert [r['why'] for r in trials(sweep)] == [STOPPED]*2 and at_work(sweep) == []


def test_a_password_is_not_written_down(tmp_path, recipe, data):
    with pytest.raises(ValueError, match='PGPASSWORD'): create_sweep(tmp_path/'x', recipe, SPACE, **data, storage='postgresql://me:secret@host/db')


def test_pictures_are_drawn(tmp_path, recipe, data):
    pytest.importorskip('matplotlib')
    from andromeda.sweeps import PLOTS, plot_sweep, results
    sweep = create_sweep(tmp_path/'s', recipe, SPACE | {'weight_decay': [None, .1]}, **data, trials=5, method='random', heartbeat=1)
    with pytest.raises(ValueError, match='needs two or more'): plot_sweep(sweep.study)
    work(sweep, toy)
    for what in PLOTS:
        plot_sweep(sweep.study, what).savefig(tmp_path/f'{what}.png')
        assert (tmp_path/f'{what}.png').stat().st_size > 3000
    assert results(sweep)['value'].is_monotonic_increasing


def test_the_command_goes_on_with_a_sweep_and_promotes(tmp_path, recipe, data, monkeypatch, capsys):
    import andromeda.sweeps as module
    from andromeda.cli import run_command
    sweep = create_sweep(tmp_path/'s', recipe, SPACE, **data, trials=3, method='random', heartbeat=1)
    monkeypatch.setattr(module, 'train_trial', toy)
    assert run_command(['sweep', str(sweep.folder), '--promote', 'x']) == 2 and 'no complete trial' in capsys.readouterr().err
    assert run_command(['sweep', str(sweep.folder), '--worker', '0']) == 0 and '3 trials done' in capsys.readouterr().out
    assert run_command(['sweep', str(sweep.folder)]) == 0                       # nothing is left to do
    out = capsys.readouterr().out
    assert out.count('complete') == 3 and 'stages.*.peak_lr' in out
    assert run_command(['sweep', str(sweep.folder), '--promote', 'winner']) == 0 and named_recipes(str(sweep.folder/'winner.toml'))[0].name == 'winner'
    assert run_command(['sweep', str(sweep.folder), '--vary', 'batch=2,4']) == 2 and 'leave out --vary' in capsys.readouterr().err
    assert run_command(['sweep', 'tiny']) == 2 and '--vary' in capsys.readouterr().err


def test_a_recipe_does_not_take_the_place_of_the_sweeps_plan(tmp_path, recipe, data):
    sweep = create_sweep(tmp_path/'s', recipe, {'batch': [2, 4]}, **data, method='grid')
    work(sweep, toy)
    promote(sweep, 'sweep')
    assert sweep.plan['space'] == {'batch': [2, 4]}


@pytest.mark.parametrize('space,says', [({'batch': [4, 'many']}, "batch cannot be 'many': expected int"), ({'batch': [8.5]}, 'batch cannot be 8.5'), ({'stages.*.peak_lr': ['high']}, 'expected int or float'),
                                        ({'seed': [None]}, 'seed cannot be None'),
                                        ({'batch': Range(.2, 1.5, log=True)}, r'whole number, and 0.2..1.5.*batch=0.2..1.5:times'), ({'batch': Range(2.5, 8)}, 'give whole ends'), ({'batch': Range(2, 8)}, 'A grid needs lists')])
def test_a_value_of_another_type_is_refused_before_any_trial(tmp_path, recipe, data, space, says):
    with pytest.raises(ValueError, match=says): create_sweep(tmp_path/'s', recipe, space, **data, method='grid')


def test_a_model_that_fills_gaps_has_a_value_too(tmp_path):
    from andromeda.runs import Run
    run = Run(tmp_path)
    (tmp_path/'evals.jsonl').write_text(json.dumps(dict(step=1, validation=dict(a=dict(nats=2., tokens=10), b=dict(nats=4., tokens=30))))+'\n')
    assert validation_bits(run) == 3.5
    (tmp_path/'evals.jsonl').write_text(json.dumps(dict(step=1, validation={}))+'\n')
    with pytest.raises(ValueError, match='hold some text out'): validation_bits(run)


@pytest.mark.parametrize('storage', ['nope://x', 'sqlite:////nowhere/at/all.db'])
def test_a_database_that_cannot_be_used_is_named_and_not_kept(tmp_path, recipe, data, storage):
    with pytest.raises(ValueError, match='cannot be used'): create_sweep(tmp_path/'s', recipe, {'batch': [2, 4]}, **data, method='grid', storage=storage)
    assert not (tmp_path/'s'/'sweep.json').exists()
    assert create_sweep(tmp_path/'s', recipe, {'batch': [2, 4]}, **data, method='grid').plan['storage'] == ''
