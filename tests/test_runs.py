"Resuming is exact, and leaving out any piece of it is noticed."
import json
import random
import shutil
from dataclasses import replace

import pytest
import torch

import andromeda.trainer as module
from andromeda.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from andromeda.runs import Run, control, create_run, fork_run, mirror
from andromeda.stages import NAMED, Corpus, Recipe, Stage, model_config, recipe_from_dict, recipe_to_dict
from andromeda.trainer import train_run


def measure(model, stage, last): return dict(weight=float(next(model.parameters()).detach().abs().sum()), last=last)
def sample(model, stage): return [dict(stage=stage, prompt='', text=str(torch.is_grad_enabled()))]


class Killed(BaseException): pass


@pytest.fixture
def one():
    stage = Stage(name='one', tier='high', tokens=12*4*16, peak_lr=3e-3, warmup_tokens=3*4*16)
    return Recipe(name='count', model='palm-tiny', corpus=Corpus(sources=('numbers',), vocab=300), length=16, batch=4, checkpoint_every=5,
                  stages=(stage, replace(stage, name='two', tokens=8*4*16, warmup_tokens=0)))


@pytest.fixture(params=['palm-tiny', 'mpt-tiny'])
def recipe(request, one): return replace(one, model=request.param)


def outcome(run):
    forget = [{k: v for k,v in r.items() if not k.endswith('seconds')} for r in run.metrics()]
    tensors,_ = load_checkpoint(newest_checkpoint(run.folder/'checkpoints'))
    return forget, run.evals(), run.samples(), {f'{a}.{b}': t.numpy().tobytes() for a,n in tensors.items() for b,t in n.items()}


def train_and_die(run, monkeypatch, where, at):
    "Train until the `at`-th call of one of the functions that training calls, and die there."
    calls = 0
    with monkeypatch.context() as m:
        def dying(f):
            def call(*a, **k):
                nonlocal calls
                calls += 1
                if calls == at: raise Killed
                return f(*a, **k)
            return call
        target = module if where in ('append_jsonl', 'training_state') else __import__('andromeda.checkpoint').checkpoint
        m.setattr(target, where, dying(getattr(target, where)))
        try: train_run(run.folder, measure, sample)
        except Killed: return True
    return False


@pytest.mark.parametrize('where', ['append_jsonl', 'training_state', 'save_checkpoint', 'save_file', 'sha256_file', 'write_json'])
def test_killed_at_any_call_it_ends_the_same(tmp_path, monkeypatch, recipe, data, where):
    calm = create_run(tmp_path/'calm', recipe, **data)
    train_run(calm.folder, measure, sample)
    r,deaths = random.Random(where),0
    run = create_run(tmp_path/'killed', recipe, **data)
    for _ in range(4): deaths += train_and_die(run, monkeypatch, where, r.randint(1, 12 if where == 'append_jsonl' else 3))
    train_run(run.folder, measure, sample)
    assert deaths and run.status['state'] == 'finished'
    assert outcome(run) == outcome(calm)


def test_a_run_of_hidden_tokens_that_is_killed_ends_the_same(tmp_path, monkeypatch, data):
    stage = Stage(name='one', tier='high', tokens=12*4*16, peak_lr=3e-3, warmup_tokens=3*4*16)
    recipe = Recipe(name='gaps', model='bert-tiny', corpus=Corpus(sources=('numbers',), vocab=300), length=16, batch=4, checkpoint_every=5, stages=(stage,))
    calm = create_run(tmp_path/'calm', recipe, **data)
    train_run(calm.folder, measure, sample)
    run = create_run(tmp_path/'killed', recipe, **data)
    assert train_and_die(run, monkeypatch, 'append_jsonl', 9)
    train_run(run.folder, measure, sample)
    assert outcome(run) == outcome(calm)
    assert model_config(recipe).vocab > 300 and {r['tokens'] for r in run.metrics()} == {64*s for s in range(1, 13)}


@pytest.mark.parametrize('missing', ['model', 'optimizer', 'step'])
def test_leaving_out_a_piece_of_the_state_is_noticed(tmp_path, monkeypatch, recipe, data, missing):
    "A negative control: without weights, optimiser or position the numbers differ."
    calm = create_run(tmp_path/'calm', recipe, **data)
    train_run(calm.folder, measure, sample)
    run = create_run(tmp_path/'killed', recipe, **data)
    assert train_and_die(run, monkeypatch, 'append_jsonl', 9)
    checkpoint = newest_checkpoint(run.folder/'checkpoints')
    tensors,state = load_checkpoint(checkpoint)
    if missing == 'model': tensors['model'] = {k: t*1.001 for k,t in tensors['model'].items()}
    elif missing == 'optimizer': tensors['optimizer'] = {k: torch.zeros_like(t) for k,t in tensors['optimizer'].items()}
    else: state['step'] -= 1
    shutil.rmtree(checkpoint)
    save_checkpoint(run.folder/'checkpoints', 5, tensors, state)
    train_run(run.folder, measure, sample)
    assert outcome(run)[0] != outcome(calm)[0]


def test_a_damaged_checkpoint_costs_time_and_not_the_run(tmp_path, monkeypatch, recipe, data):
    calm = create_run(tmp_path/'calm', recipe, **data)
    train_run(calm.folder, measure, sample)
    run = create_run(tmp_path/'killed', recipe, **data)
    train_and_die(run, monkeypatch, 'append_jsonl', 14)
    path = sorted((run.folder/'checkpoints').glob('step_1*/model.safetensors'))[-1]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.warns(UserWarning, match='were committed'): train_run(run.folder, measure, sample)
    assert outcome(run) == outcome(calm)


@pytest.mark.parametrize('name', ['SIGTERM', 'SIGINT'])
def test_a_signal_saves_and_stops(tmp_path, one, data, name):
    import os, signal
    run,before = create_run(tmp_path/'run', one, **data),signal.getsignal(signal.SIGINT)
    def ask(model, stage): os.kill(os.getpid(), getattr(signal, name)); return []
    train_run(run.folder, measure, ask)
    assert run.status['state'] == 'stopped' and 12 <= run.status['step'] < 20
    assert newest_checkpoint(run.folder/'checkpoints').name == f"step_{run.status['step']}"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL and signal.getsignal(signal.SIGINT) is before
    control(run, want='run')
    train_run(run.folder, measure, sample)
    assert run.status['state'] == 'finished'


def test_shards_that_were_made_anew_are_refused(tmp_path, recipe, data):
    run = create_run(tmp_path/'run', recipe, **data)
    plan = run.plan
    plan['shards']['numbers']['fingerprint'] = '0'*16
    (run.folder/'recipe.json').write_text(json.dumps(plan))
    with pytest.raises(ValueError, match='make it again as it was'): train_run(run.folder, measure, sample)


@pytest.mark.parametrize('name', NAMED)
def test_named_recipes_survive_json_and_are_comparable(name):
    recipes = NAMED[name]()
    for r in recipes: assert recipe_from_dict(json.loads(json.dumps(recipe_to_dict(r)))) == r
    assert len({json.dumps(recipe_to_dict(r)['stages']) for r in recipes}) == 1 and len({r.model for r in recipes}) == len(recipes)


def test_switching_between_two_recipes_brings_each_back(tmp_path, recipe, data):
    "A, B, A, B in one folder: the one that is moved aside is found again, with its training."
    other = replace(recipe, seed=1)
    for _ in range(3):
        for r in (recipe, other):
            run = create_run(tmp_path/'run', r, **data)
            assert run.recipe == r
            if run.status['state'] == 'new': train_run(run.folder, measure, sample)
            assert run.status['state'] == 'finished'
    assert len(list(tmp_path.glob('run*'))) == 2


def test_a_run_is_another_when_the_preset_changes(tmp_path, monkeypatch, recipe, data):
    import andromeda.model as model
    before = create_run(tmp_path/'a', recipe, **data).fingerprint
    monkeypatch.setitem(model.PRESETS, recipe.model, replace(model.PRESETS[recipe.model], layers=3))
    assert create_run(tmp_path/'b', recipe, **data).fingerprint != before


def test_a_commit_that_is_not_json_is_damage(tmp_path, monkeypatch, recipe, data):
    run = create_run(tmp_path/'run', recipe, **data)
    train_and_die(run, monkeypatch, 'append_jsonl', 14)
    (newest_checkpoint(run.folder/'checkpoints')/'COMMIT.json').write_text('{"ste')
    with pytest.warns(UserWarning, match='no whole COMMIT.json'): assert newest_checkpoint(run.folder/'checkpoints').name == 'step_10'


def test_a_run_knows_that_it_was_killed(tmp_path, recipe, data):
    run = create_run(tmp_path/'run', recipe, **data)
    (run.folder/'status.json').write_text(json.dumps(dict(state='running', step=3, steps=20, pid=1)))
    assert 'killed, step 3' in str(Run(run.folder)) and not run.alive()


SCRIPT = """
import sys, time
from pathlib import Path
from andromeda.trainer import train_run
def evaluate(model, stage, last): return dict(weight=float(next(model.parameters()).detach().abs().sum()), last=last)
import andromeda.stages as stages, andromeda.train as t
slow = float(sys.argv[2])
original = t.train
def slower(*a, **k):
    for record in original(*a, **k):
        time.sleep(slow)
        yield record
t.train = slower
train_run(Path(sys.argv[1]), evaluate, lambda model, stage: [])
"""


def start(tmp_path, run, slow=0., processes=1):
    "A process, or several under torchrun, that train the run a little slower."
    import subprocess, sys
    script = tmp_path/'script.py'
    script.write_text(SCRIPT)
    many = ['-m', 'torch.distributed.run', '--standalone', f'--nproc-per-node={processes}', '--max-restarts=3', '--monitor-interval=0.2'] if processes > 1 else []
    return subprocess.Popen([sys.executable, *many, str(script), str(run.folder), str(slow)], stdout=subprocess.DEVNULL, stderr=open(tmp_path/'log.txt', 'a'))


def until(condition, seconds=120):
    "Wait until `condition()`; what it returned."
    import time
    for _ in range(int(seconds*20)):
        if found := condition(): return found
        time.sleep(.05)
    raise AssertionError(f'not within {seconds} s')


@pytest.fixture
def longer(data):
    stage = Stage(name='one', tier='high', tokens=120*4*16, peak_lr=3e-3)
    return Recipe(name='longer', model='mpt-tiny', corpus=Corpus(sources=('numbers',), vocab=300), length=16, batch=4, checkpoint_every=1000, max_epochs=100,
                  stages=(stage, replace(stage, name='two', tokens=8*4*16)))


def test_a_process_is_paused_slowed_saved_resumed_and_stopped_through_its_folder(tmp_path, longer, data):
    import time
    run = create_run(tmp_path/'run', longer, **data)
    process = start(tmp_path, run, slow=.05)
    until(lambda: run.status['state'] == 'running' and run.status['step'] > 2)
    assert run.alive() and 'running' in str(run)
    control(run, want='pause')
    until(lambda: run.status['state'] == 'paused')
    step = len(run.metrics())
    time.sleep(1)
    assert len(run.metrics()) == step and run.alive()
    control(run, want='run', lr_scale=.25, save=True)
    until(lambda: (run.folder/'checkpoints').exists() and list((run.folder/'checkpoints').glob('step_*')))
    until(lambda: len(run.metrics()) > step+3)
    rates = [r['lr'] for r in run.metrics()]
    assert rates[step-1]*.2 < rates[step+1] < rates[step-1]*.26
    with pytest.raises(ValueError, match='is being trained by process'): train_run(run.folder, measure, sample)       # launched twice
    control(run, want='stop')
    assert process.wait(60) == 0
    assert run.status['state'] == 'stopped' and newest_checkpoint(run.folder/'checkpoints').name == f"step_{run.status['step']}" == f'step_{len(run.metrics())}'
    fork = fork_run(run, tmp_path/'fork', optimizer='adamw', clip=.5)
    assert fork.metrics() == run.metrics() and fork.fingerprint != run.fingerprint
    assert newest_checkpoint(fork.folder/'checkpoints').name == newest_checkpoint(run.folder/'checkpoints').name


@pytest.mark.parametrize('spread', ['ddp', pytest.param('fsdp', marks=pytest.mark.slow)])
def test_one_of_two_processes_is_killed_and_both_go_on(tmp_path, longer, data, spread):
    import os, signal, subprocess
    recipe = replace(longer, spread=spread, checkpoint_every=10, stages=(replace(longer.stages[0], tokens=40*4*16), longer.stages[1]))
    calm = create_run(tmp_path/'calm', recipe, **data)
    train_run(calm.folder, measure, sample)
    run = create_run(tmp_path/'run', recipe, **data)
    process = start(tmp_path, run, slow=.05, processes=2)
    until(lambda: run.status['step'] > 14, 240)
    children = subprocess.run(['pgrep', '-P', str(process.pid)], capture_output=True, text=True).stdout.split()
    victims = [int(c) for c in children if 'script.py' in open(f'/proc/{c}/cmdline').read()]
    assert len(victims) == 2
    os.kill(next(v for v in victims if v != run.status['pid']), signal.SIGKILL)
    assert process.wait(300) == 0, (tmp_path/'log.txt').read_text()[-2000:]
    assert run.status['state'] == 'finished' and [r['step'] for r in run.metrics()] == list(range(1, 49))
    assert [r['loss'] for r in run.metrics()] == pytest.approx([r['loss'] for r in calm.metrics()], abs=1e-5)
    assert run.evals()[-1]['weight'] == pytest.approx(calm.evals()[-1]['weight'], rel=1e-5)


KILLED = """
import json, random, signal, sys, threading, os, time
from pathlib import Path
import torch
import andromeda.trainer as trainer
# a process that is born ready: forks of it train and are killed, so that each kill costs no import
folder,kills,seed,calm_seconds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
evaluate = lambda model, stage, last: dict(weight=float(next(model.parameters()).detach().abs().sum()), last=last)
dice,moments = random.Random(seed),[]
while True:
    child = os.fork()
    if not child:
        sys.stderr = open(os.devnull, 'w')
        trainer.train_run(folder, evaluate, lambda model, stage: [])
        os._exit(0)
    after = dice.uniform(.02, calm_seconds/3) if len(moments) < kills else 1e9
    began = time.monotonic()
    ended = began+after
    while (found := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < ended: time.sleep(.002)
    if found == (0, 0):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    status = json.loads((folder/'status.json').read_text()) if (folder/'status.json').exists() else {}
    moments.append(dict(after=time.monotonic()-began, step=status.get('step', 0)))
    if status.get('state') == 'finished': break
print(json.dumps(moments))
"""


@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
@pytest.mark.parametrize('kills', [10, pytest.param(200, marks=pytest.mark.slow)])
def test_sigkill_at_random_moments_of_training_changes_nothing(tmp_path, longer, data, precision, kills):
    "Losses, weights, optimiser, evaluations and the documents of every batch are those of a run that was left alone."
    import subprocess, sys
    size = 40 if kills == 10 else 600
    recipe = replace(longer, precision=precision, checkpoint_every=5, measure_every=20*64, stages=(replace(longer.stages[0], tokens=size*4*16), longer.stages[1]))
    script = tmp_path/'killed.py'
    script.write_text(KILLED)
    def trained(name, kills, calm):
        run = create_run(tmp_path/name, recipe, **data)
        done = subprocess.run([sys.executable, str(script), str(run.folder), str(kills), '0', str(calm)], capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-2000:]
        return run, json.loads(done.stdout)
    calm,[once] = trained('calm', 0, 1)
    killed,moments = trained('killed', kills, once['after'])
    assert len(moments) > min(kills, 10)*.6 and killed.status['state'] == 'finished'
    assert outcome(killed) == outcome(calm)
    for r in (calm, killed): assert [m['step'] for m in r.metrics()] == list(range(1, size+9))


@pytest.mark.parametrize('error', ['ENOSPC', 'EIO', 'EROFS'])
def test_a_full_or_broken_disk_is_an_alarm_and_not_the_end(tmp_path, monkeypatch, one, data, error):
    "Records wait, the checkpoint is tried again, and the run ends as if nothing had been."
    import errno
    recipe = one
    import andromeda.checkpoint as checkpoint
    calm = create_run(tmp_path/'calm', recipe, **data)
    train_run(calm.folder, measure, sample)
    run,alarms,room = create_run(tmp_path/'full', recipe, **data),[],[False]
    def full(f):
        def call(path, *a, **k):
            if not room[0] and 'status' not in str(path): raise OSError(getattr(errno, error), 'The disk says no', str(path))
            return f(path, *a, **k)
        return call
    monkeypatch.setattr(module, 'append_jsonl', full(module.append_jsonl))
    monkeypatch.setattr(checkpoint, 'save_checkpoint', full(checkpoint.save_checkpoint))
    note = module.Heart.note
    def listening(heart, **said):
        if said.get('alarm'): alarms.append(said['alarm'])
        if said.get('step') == 9: room[0] = True                          # somebody made room
        note(heart, **said)
    monkeypatch.setattr(module.Heart, 'note', listening)
    train_run(run.folder, measure, sample)
    assert any('metrics.jsonl' in a for a in alarms) and any('checkpoint at step 5' in a and 'tries again' in a for a in alarms)
    assert run.status['state'] == 'finished' and not run.status['alarm']
    assert outcome(run) == outcome(calm)


def test_a_disk_that_stays_full_ends_with_its_name(tmp_path, monkeypatch, recipe, data):
    import errno
    run = create_run(tmp_path/'full', recipe, **data)
    def full(path, record): raise OSError(errno.ENOSPC, 'No space left on device', str(path))
    with monkeypatch.context() as m:
        m.setattr(module, 'append_jsonl', full)
        with pytest.raises(OSError, match='metrics.jsonl'): train_run(run.folder, measure, sample)
    assert run.status['state'] == 'failed' and run.status['mend'] and 'No space' in run.status['message']
    train_run(run.folder, measure, sample)
    assert run.status['state'] == 'finished' and len(run.metrics()) == 20


@pytest.mark.parametrize('change,says', [(dict(precision='fp16'), "Did you mean 'bf16'|Did you mean 'fp32'"), (dict(spread='zero'), 'fsdp'), (dict(micro_batch=0), 'micro_batch is 0'),
                                         (dict(spike=-1.), 'spike is -1'), (dict(optimizer='adamW'), "Did you mean 'adamw'")])
def test_a_recipe_that_cannot_be_trained_is_refused(tmp_path, recipe, data, change, says):
    with pytest.raises(ValueError, match=says): create_run(tmp_path/'x', replace(recipe, **change), **data)
    assert not (tmp_path/'x').exists()


def test_a_run_with_another_kernel_and_compiled_blocks_learns_the_same(tmp_path, monkeypatch, recipe, data):
    "Training goes through the compiled blocks, measuring does not, and what is saved has the usual names."
    compiling,real = {'training': set(), 'measuring': set()},module.compile_model
    def traced(model, how):                                                              # the default backend would call a C++ compiler
        return real(model, how, backend=lambda graph, inputs: lambda *a: compiling[state].add(how) or graph.forward(*a))
    def look(model, stage, last):
        nonlocal state
        state = 'measuring'
        with torch.no_grad(): model(torch.zeros(2, 9, dtype=torch.int64))
        state = 'training'
        return dict(kernel=model.kernel, **measure(model, stage, last))
    monkeypatch.setattr(module, 'compile_model', traced)
    losses,names = [],[]
    for changes in (dict(), dict(kernel='plain', compile='blocks'), dict(kernel='sdpa', compile='graphs')):
        torch._dynamo.reset()
        state = 'training'
        run = create_run(tmp_path/str(changes.get('compile')), replace(recipe, **changes), **data)
        train_run(run.folder, look, sample)
        assert {e['kernel'] for e in run.evals()} == {changes.get('kernel')}
        losses.append([r['loss'] for r in run.metrics()])
        names.append({f'{a}.{b}' for a,n in load_checkpoint(newest_checkpoint(run.folder/'checkpoints'))[0].items() for b in n})
    assert compiling == {'training': {'blocks', 'graphs'}, 'measuring': set()}
    assert losses[1] == pytest.approx(losses[0], abs=1e-3) and losses[2] == pytest.approx(losses[0], abs=1e-3)
    assert names[0] == names[1] == names[2]


def test_a_recipe_with_an_unknown_kernel_is_refused(recipe):
    with pytest.raises(ValueError, match="Did you mean 'flex'"): replace(recipe, kernel='flexx')
    with pytest.raises(ValueError, match='blocks, graphs'): replace(recipe, compile='all')


@pytest.mark.parametrize('to,package', [('wandb', 'wandb'), ('trackio', 'trackio'), ('tensorboard', 'torch.utils.tensorboard')])
def test_records_are_carried_to_other_programs(tmp_path, monkeypatch, one, data, to, package):
    import sys, types
    said,ends = [],[]
    class SummaryWriter:
        def __init__(self, folder): assert folder.endswith('run/tensorboard')
        def add_scalar(self, name, value, step): said.append((step, {name: value}))
        def close(self): ends.append(1)
    fake = types.SimpleNamespace(init=lambda project, name, config: said.clear(), log=lambda values, step: said.append((step, values)), finish=lambda: ends.append(1), SummaryWriter=SummaryWriter)
    monkeypatch.setitem(sys.modules, package, fake)
    run = create_run(tmp_path/'run', one, **data)
    train_run(run.folder, measure, sample)
    assert mirror(run, to) == 22 and ends == [1]
    steps = [s for s,_ in said]
    assert steps == sorted(steps)                            # Weights & Biases drops what comes late
    assert {s: v['metrics/loss'] for s,v in said if 'metrics/loss' in v} == {r['step']: r['loss'] for r in run.metrics()}
    assert [v['evals/weight'] for _,v in said if 'evals/weight' in v] == [r['weight'] for r in run.evals()]


def test_a_writer_that_is_not_there_is_named(tmp_path, monkeypatch, one, data):
    import sys
    run = create_run(tmp_path/'run', one, **data)
    monkeypatch.setitem(sys.modules, 'wandb', None)
    with pytest.raises(ValueError, match='wandb is not installed: pip install wandb'): mirror(run, 'wandb')
    with pytest.raises(ValueError, match="Did you mean 'tensorboard'"): mirror(run, 'tensorbord')


def test_measured_within_a_stage_a_killed_run_ends_the_same(tmp_path, monkeypatch, one, data):
    recipe = replace(one, measure_every=3*64)
    calm = create_run(tmp_path/'calm', recipe, **data)
    train_run(calm.folder, measure, sample)
    assert [e['step'] for e in calm.evals()] == [3, 6, 9, 12, 15, 18, 20]
    for at in (9, 20):                                       # in the middle, and while something was measured
        run = create_run(tmp_path/f'killed{at}', recipe, **data)
        assert train_and_die(run, monkeypatch, 'append_jsonl', at)
        train_run(run.folder, measure, sample)
        assert outcome(run) == outcome(calm)


def test_a_loop_in_a_cell_is_interrupted_anywhere_and_goes_on(one, data):
    "Also while something is measured, when the step is done and its record not yet seen."
    import io
    from andromeda.shards import Shards
    from andromeda.stages import recipe_mixture
    shards = {n: Shards(a) for n,a in data['shards'].items()}
    make = lambda **how: module.Training(one, recipe_mixture(one, data['tiers'], shards), out=io.StringIO(), **how)
    calm = make()
    for _ in calm: pass
    def stop(model, step):
        if step == 6: raise KeyboardInterrupt
        return {}
    training = make(functions=dict(stop=stop), every=3*64)
    with pytest.raises(KeyboardInterrupt):
        for _ in training: pass
    assert training.done == 6
    seen = [r for r in training]
    assert [r['step'] for r in seen] == list(range(7, 21)) and [r['step'] for r in seen if 'measured' in r] == [9, 12, 15, 18]
    assert [r['loss'] for r in training.records] == [r['loss'] for r in calm.records]
    assert all(torch.equal(a, b) for a,b in zip(training.model.parameters(), calm.model.parameters()))


def test_a_plan_is_right_about_what_is_written(tmp_path, one, data):
    run = create_run(tmp_path/'run', one, **data)
    p = module.plan(one, run.folder)
    assert not (run.folder/'checkpoints').exists()
    train_run(run.folder, measure, sample)
    tensors,_ = load_checkpoint(newest_checkpoint(run.folder/'checkpoints'))
    assert {n: tuple(t.shape) for n,t in tensors['model'].items()} == p['shapes'] and sum(t.numel() for t in tensors['model'].values()) == p['parameters']
    size = sum(f.stat().st_size for f in newest_checkpoint(run.folder/'checkpoints').iterdir())
    assert size == pytest.approx(p['checkpoint'], rel=.02) and sum(p['steps'].values()) == 20 == len(run.metrics()) and p['tokens'] == run.metrics()[-1]['tokens']
    assert len(list((run.folder/'checkpoints').glob('step_*'))) <= p['kept']-1 and not p['wrong']


def test_a_plan_says_what_would_go_wrong(tmp_path, monkeypatch, one):
    import collections
    monkeypatch.setattr(module.shutil, 'disk_usage', lambda path: collections.namedtuple('usage', 'free')(10**6))
    text = module.plan_text(module.plan(one, tmp_path/'not'/'there', devices=3))
    assert 'WRONG    4 sequences cannot be shared evenly by 3 devices' in text and 'WRONG    1.0 MB are free for 5 checkpoints of' in text
    with pytest.raises(ValueError, match="Did you mean 'H100'"): module.plan(one, gpu='H1000')


@pytest.mark.parametrize('name,peak', [('NVIDIA H100 80GB HBM3', 989e12), ('NVIDIA A100-SXM4-80GB', 312e12), ('NVIDIA H100 PCIe', None), ('NVIDIA H100 NVL', None), ('NVIDIA GeForce RTX 4090', 165e12),
                                       ('NVIDIA GeForce RTX 4090 D', None), ('NVIDIA GeForce RTX 4090 Laptop GPU', None), ('NVIDIA GeForce GTX 1080', None), ('Something else', None)])
def test_the_share_of_a_peak_is_said_of_known_gpus_only(name, peak): assert module.known_peak(name) == peak


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data)//2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize('damage,says', [
    (lambda c: (c/'model.safetensors').write_bytes((c/'model.safetensors').read_bytes()[:-7]), r'model.safetensors has [\d,]+ bytes, [\d,]+ were committed'),
    (lambda c: flip(c/'optimizer.safetensors'), 'optimizer.safetensors has changed since it was committed'),
    (lambda c: flip(c/'state.json'), 'state.json has changed since it was committed'),
    (lambda c: (c/'optimizer.safetensors').unlink(), 'optimizer.safetensors is missing'),
    (lambda c: (c/'COMMIT.json').unlink(), 'no whole COMMIT.json')], ids=['truncated', 'weights flipped', 'state flipped', 'file missing', 'manifest missing'])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(tmp_path, monkeypatch, one, data, damage, says):
    run = create_run(tmp_path/'run', one, **data)
    train_and_die(run, monkeypatch, 'append_jsonl', 14)
    folder = run.folder/'checkpoints'
    newest = sorted(int(p.name[5:]) for p in folder.glob('step_*'))
    assert len(newest) > 1
    damage(folder/f'step_{newest[-1]}')
    with pytest.warns(UserWarning, match=says): assert newest_checkpoint(folder).name == f'step_{newest[-2]}'
    with pytest.warns(UserWarning, match='Going on from the one before'): train_run(run.folder, measure, sample)
    assert run.status['state'] == 'finished'


class Gadget:
    def __reduce__(self): return (exec, ("open('/tmp/andromeda-gadget', 'w').close()",))


def test_a_checkpoint_that_is_a_pickle_is_not_run(tmp_path):
    import os, pickle
    from andromeda.core import sha256_file, write_json
    there = save_checkpoint(tmp_path, 3, dict(model=dict(w=torch.ones(3))), {})
    path = there/'model.safetensors'
    path.write_bytes(pickle.dumps(Gadget()))
    write_json(there/'COMMIT.json', dict(step=3, files={p.name: [p.stat().st_size, sha256_file(p)] for p in there.iterdir() if p.name != 'COMMIT.json'}))
    assert newest_checkpoint(tmp_path) == there
    with pytest.raises(ValueError, match='model.safetensors holds no tensors'): load_checkpoint(there)
    assert not os.path.exists('/tmp/andromeda-gadget')


def test_a_checkpoint_of_a_newer_version_is_refused(tmp_path, monkeypatch, one, data):
    run = create_run(tmp_path/'run', one, **data)
    train_and_die(run, monkeypatch, 'append_jsonl', 14)
    path = newest_checkpoint(run.folder/'checkpoints')/'COMMIT.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | dict(format=2)))
    with pytest.raises(ValueError, match='has format 2, this version of Andromeda reads up to 1'): train_run(run.folder, measure, sample)
    assert run.status['state'] == 'failed' and run.status['mend']


@pytest.mark.parametrize('change,says', [(dict(model='mpt-tiny'), 'of another model'), (dict(corpus=Corpus(sources=('numbers',), vocab=500)), 'of another model: embed.weight has shape'),
                                         (dict(optimizer='decoupled_lionw'), 'saved by another optimiser')])
def test_a_checkpoint_of_another_model_or_optimiser_is_refused(tmp_path, one, data, change, says):
    run = create_run(tmp_path/'run', one, **data)
    train_run(run.folder, measure, sample)
    other = create_run(tmp_path/'other', replace(one, **change), **data)
    shutil.copytree(run.folder/'checkpoints', other.folder/'checkpoints')
    with pytest.raises(ValueError, match=says): train_run(other.folder, measure, sample)
    assert other.status['state'] == 'failed' and other.status['mend']


def test_a_clock_that_jumps_changes_nothing(tmp_path, monkeypatch, one, data):
    import itertools
    calm = create_run(tmp_path/'calm', one, **data)
    train_run(calm.folder, measure, sample)
    jumps = itertools.cycle([0., 1e9, -3e8])
    run = create_run(tmp_path/'run', one, **data)
    real = module.time.time
    monkeypatch.setattr(module.time, 'time', lambda: real()+next(jumps))
    train_run(run.folder, measure, sample)
    assert outcome(run) == outcome(calm) and not run.alive()


def test_a_killed_process_is_named(tmp_path, longer, data):
    from andromeda.runs import watch
    run = create_run(tmp_path/'run', longer, **data)
    process = start(tmp_path, run, slow=.05)
    until(lambda: run.status['step'] > 1)
    process.kill()
    with pytest.raises(RuntimeError, match='Run run did not finish: its process was killed. Start it again to go on from its last checkpoint; its log is'):
        for _ in watch(run, process, .05): pass


def test_a_run_of_hidden_tokens_is_measured_by_them(tmp_path, one, data):
    from andromeda.journey import train_folder
    run = create_run(tmp_path/'run', replace(one, model='bert-tiny', prompts=('1',)), **data)
    train_folder(run.folder)
    first,last = run.evals()
    assert set(first) == {'step', 'stage', 'tokens', 'validation'} and set(last['test']['numbers']) == {'nats', 'tokens'}
    assert 0 < last['validation']['numbers']['nats'] < first['validation']['numbers']['nats'] < 7 and not run.samples()
    train_folder(run.folder)                                 # finished: nothing is done again
    assert run.evals() == [first, last]


def test_the_command_plans_and_trains_a_recipe_of_ones_own(tmp_path, monkeypatch, capsys, one, data):
    import types
    import andromeda.journey as journey
    from andromeda.cli import run_command
    from andromeda.stages import save_recipe
    save_recipe(replace(one, prompts=('1',), sample_tokens=3), tmp_path/'mine.toml')
    assert run_command(['train', str(tmp_path/'mine.toml'), '--plan', '--devices', '2']) == 0
    assert 'palm-tiny: ' in (said := capsys.readouterr().out) and '2 x 17 token ids' in said and not (tmp_path/'out').exists()
    monkeypatch.setattr(journey, 'prepare', lambda corpus, out, catalogue=None: types.SimpleNamespace(**data))
    monkeypatch.setattr(journey, 'check_recipe', lambda recipe, catalogue: None)       # numbers are in no catalogue
    assert run_command(['train', str(tmp_path/'mine.toml'), '--out', str(tmp_path/'out')]) == 0
    run = Run(tmp_path/'out'/'runs'/'count')
    assert run.status['state'] == 'finished' and [s['stage'] for s in run.samples()] == ['one', 'two']
    assert run_command(['train', str(run.folder), '--plan']) == 0 and 'palm-tiny' in capsys.readouterr().out
    monkeypatch.setitem(__import__('sys').modules, 'trackio', None)
    assert run_command(['runs', str(run.folder), '--to', 'trackio']) == 2 and 'pip install trackio' in capsys.readouterr().err


def test_measuring_within_a_stage_stays_within_its_time(tmp_path, monkeypatch, one, data):
    "A measurement that takes longer than training is made once in a stage, and then waits until 5 of 100 seconds pay for it; ends of stages are measured all the same."
    import time
    from andromeda.stages import stage_ends
    slow = lambda *a: time.sleep(.3) or measure(*a)
    monkeypatch.setattr(module, 'MEASURE_FREE', 0.)
    recipe = replace(one, measure_every=64)
    run = create_run(tmp_path/'run', recipe, **data)
    train_run(run.folder, slow, sample)
    trained = sum(r['seconds'] for r in run.metrics())
    within = [e['step'] for e in run.evals() if e['step'] not in stage_ends(recipe)]
    assert run.evals()[-1]['step'] == 20 and within[0] == 1
    assert .3*(len(within)-1) <= .05*trained < .3*20
