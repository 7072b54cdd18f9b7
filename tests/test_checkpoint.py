"Checkpoints under every fault of the disk, one at a time."
import errno
import os
import random
import shutil
import warnings

import pytest
import torch

import andromeda.checkpoint as module
from andromeda.checkpoint import Saver, checkpoint_damage, load_checkpoint, newest_checkpoint, save_checkpoint, sweep_checkpoints

OLD = dict(model=dict(w=torch.arange(1000.)), optimizer={'w:mean': torch.zeros(1000)})
NEW = dict(model=dict(w=torch.arange(1000.)+1), optimizer={'w:mean': torch.ones(1000)})


class Killed(BaseException): pass


CALLS = [(os, 'fsync'), (os, 'rename'), (os, 'replace'), (module, 'save_file'), (module, 'sha256_file'), (module, 'write_json'), (module, 'sync_folder'),
         (module.shutil, 'rmtree'), (os, 'mkdir')]


def failing(monkeypatch, at, make):
    "Every call of `CALLS` counts; number `at` fails with what `make` gives. Returns the counter."
    count = [0]
    for target,name in CALLS:
        real = getattr(target, name)
        def call(*a, real=real, **k):
            count[0] += 1
            if count[0] == at: raise make()
            return real(*a, **k)
        monkeypatch.setattr(target, name, call)
    return count


def total_calls(tmp_path):
    with pytest.MonkeyPatch.context() as m:
        count = failing(m, -1, Killed)
        save_checkpoint(tmp_path/'counted', 20, NEW, dict(step=20))
    return count[0]


@pytest.mark.parametrize('make', [pytest.param(Killed, id='killed'), pytest.param(lambda: OSError(errno.ENOSPC, 'No space left on device'), id='full'),
                                  pytest.param(lambda: OSError(errno.EIO, 'Input/output error'), id='broken', marks=pytest.mark.slow),
                                  pytest.param(lambda: OSError(errno.EROFS, 'Read-only file system'), id='read-only', marks=pytest.mark.slow)])
def test_every_single_call_may_fail_and_a_whole_checkpoint_stays(tmp_path, make):
    calls = total_calls(tmp_path)
    assert calls > 12
    seen = set()
    for at in range(1, calls+1):
        folder = tmp_path/str(at)
        save_checkpoint(folder, 10, OLD, dict(step=10))
        with pytest.MonkeyPatch.context() as m:
            failing(m, at, make)
            said = False
            try: save_checkpoint(folder, 20, NEW, dict(step=20))
            except (Killed, OSError): said = True
        with warnings.catch_warnings():
            warnings.simplefilter('error')                      # a half checkpoint is not even seen
            found = newest_checkpoint(folder)
        tensors,state = load_checkpoint(found)
        wanted = NEW if state['step'] == 20 else OLD
        assert all(torch.equal(t, wanted[f][k]) for f,named in tensors.items() for k,t in named.items()) and state['step'] in (10, 20)
        assert said or state['step'] == 20                      # no error: then it is saved
        seen.add(state['step'])
        sweep_checkpoints(folder)
        save_checkpoint(folder, 20, NEW, dict(step=20))         # and the next attempt succeeds
        assert load_checkpoint(newest_checkpoint(folder))[1] == dict(step=20)
        assert not [p for p in folder.iterdir() if p.name.startswith('.')]
        shutil.rmtree(folder)
    assert 10 in seen                                           # the fault was felt


def test_any_flipped_bit_is_found(tmp_path, flips=1000):
    save_checkpoint(tmp_path, 10, NEW, dict(step=10))
    files,r = sorted((tmp_path/'step_10').iterdir()),random.Random(0)
    for _ in range(flips):
        path = r.choice(files)
        data = bytearray(path.read_bytes())
        whole = bytes(data)
        data[r.randrange(len(data))] ^= 1 << r.randrange(8)
        path.write_bytes(data)
        if path.name == 'COMMIT.json':                          # its own hash is nowhere: it must be refused, or mean the same
            assert checkpoint_damage(tmp_path/'step_10') or load_checkpoint(tmp_path/'step_10')[1] == dict(step=10)
        else: assert 'has changed since it was committed' in checkpoint_damage(tmp_path/'step_10')
        path.write_bytes(whole)
    assert checkpoint_damage(tmp_path/'step_10') is None


def test_a_full_disk_names_path_and_size(tmp_path, monkeypatch):
    from safetensors import SafetensorError
    def full(*_): raise SafetensorError('Error while serializing: I/O error: No space left on device (os error 28)')
    monkeypatch.setattr(module, 'save_file', full)
    with pytest.raises(OSError, match=r'4.0 kB to be written.*model.safetensors') as e: save_checkpoint(tmp_path, 1, dict(model=OLD['model']), {})
    assert e.value.errno == errno.ENOSPC


def test_milestones_are_kept(tmp_path):
    saver = Saver(tmp_path, keep=2, milestones=(20,))
    for step in range(10, 70, 10): saver.save(step, OLD, dict(step=step))
    saver.wait()
    assert sorted(p.name for p in tmp_path.iterdir()) == ['step_20', 'step_50', 'step_60']


SAVES = """
import json, os, random, select, signal, sys, time
from pathlib import Path
import torch
from andromeda.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint, sweep_checkpoints
folder,kills,dice = Path(sys.argv[1]),int(sys.argv[2]),random.Random(0)
torch.set_num_threads(1)
acknowledged,during,swept = 0,0,0
for _ in range(kills):                       # forks of a process that has imported everything: each saves on and on, and says what is committed
    ours,theirs = os.pipe()
    child = os.fork()
    if not child:
        sweep_checkpoints(folder)
        found = newest_checkpoint(folder)
        step = int(found.name[5:]) if found else 0
        while True:
            step += 1
            save_checkpoint(folder, step, dict(model=dict(w=torch.full((300_000,), float(step)))), dict(step=step))
            os.write(theirs, b'%d ' % step)
    os.close(theirs)
    time.sleep(dice.uniform(.01, .25))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    said = b''
    while part := os.read(ours, 1<<16): said += part
    os.close(ours)
    acknowledged = max([acknowledged, *map(int, said.split())])
    during += bool(list(folder.glob('.step_*')))
    found = newest_checkpoint(folder)        # a warning is an error here: nothing half may be visible
    now = int(found.name[5:]) if found else 0
    assert now >= acknowledged, (now, acknowledged)
    if found: assert load_checkpoint(found)[0]['model']['w'][-1].item() == now
print(json.dumps([acknowledged, during]))
"""


@pytest.mark.parametrize('kills', [30, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_kill_while_saving_loses_nothing_that_was_acknowledged(tmp_path, kills):
    import json, subprocess, sys
    (tmp_path/'saves.py').write_text(SAVES)
    done = subprocess.run([sys.executable, '-W', 'error::UserWarning', str(tmp_path/'saves.py'), str(tmp_path/'runs'), str(kills)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    acknowledged,during = json.loads(done.stdout)
    assert acknowledged > kills/10 and during > kills/10             # the kills fell where they should: in the middle of saving


def keeps_the_protocol(save, folder):
    "Whether `save` does all that a checkpoint needs to survive a power cut and bad luck, in the right order."
    names,events = {},[]
    def note(event, real):
        def call(*a, **k):
            target = names.get(os.fstat(a[0]).st_ino) if event == 'fsync' else str(a[0])
            events.append((event, target))
            return real(*a, **k)
        return call
    def opened(path, *a, **k):
        f = open(path, *a, **k)
        names[os.fstat(f.fileno()).st_ino] = str(path)
        return f
    with pytest.MonkeyPatch.context() as m:
        m.setattr(module, 'open', opened, raising=False)
        m.setattr(os, 'fsync', note('fsync', os.fsync))
        m.setattr(os, 'rename', note('rename', os.rename))
        m.setattr(module, 'sync_folder', note('sync', module.sync_folder))
        m.setattr(shutil, 'rmtree', note('rmtree', shutil.rmtree))
        for step in (10, 20, 30): save(folder, step, NEW, dict(step=step))
    if {p.name for p in folder.iterdir()} != {'step_20', 'step_30'} or checkpoint_damage(folder/'step_30'): return False
    renamed = [i for i,(e,t) in enumerate(events) if e == 'rename' and 'step_30' in t]
    pruned = [i for i,(e,t) in enumerate(events) if (e, t) == ('rmtree', str(folder/'step_10'))]
    synced = [i for i,(e,t) in enumerate(events) if (e, t) == ('sync', str(folder))]
    put = {os.path.basename(t) for i,(e,t) in enumerate(events) if e == 'fsync' and t and 'step_30' in t and renamed and i < renamed[0]}
    if not renamed or not pruned or not any(renamed[0] < i < pruned[0] for i in synced): return False
    if put < {'model.safetensors', 'optimizer.safetensors', 'state.json'}: return False
    path = folder/'step_30'/'model.safetensors'
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    return checkpoint_damage(folder/'step_30') is not None


@pytest.mark.parametrize('left_out,instead', [
    (None, None), ("with open(p, 'rb') as f: os.fsync(f.fileno())", 'pass'), ("write_json(part/'COMMIT.json', dict(format=FORMAT, step=step, files=files))", 'pass'),
    ("part,final = folder/f'.step_{step}.{os.getpid()}.part', folder/f'step_{step}'", "part = final = folder/f'step_{step}'"), ('sync_folder(folder)', 'pass'),
    ('sha256_file(p)', "'0'"), ('files[p.name] = ', 'files["state.json"] = '), ("shutil.rmtree(folder/f'step_{old}')", 'pass'), ('os.rename(part, final)', 'pass')])
def test_leaving_out_a_step_of_the_protocol_is_noticed(tmp_path, left_out, instead):
    "Negative controls: the function without one of its lines."
    import inspect
    source = inspect.getsource(module.save_checkpoint)
    if left_out:
        assert source.count(left_out) == 1
        source = source.replace(left_out, instead)
    exec(compile(source, 'mutant', 'exec'), here := dict(vars(module)))
    mutant = here['save_checkpoint']
    def save(*a, **k):
        here.update({n: v for n,v in vars(module).items() if n != 'save_checkpoint'})        # as it is patched now
        return mutant(*a, **k)
    try: kept = keeps_the_protocol(save, tmp_path)
    except OSError: kept = False
    assert kept == (left_out is None)


def test_a_model_that_is_only_asked_leaves_its_optimizer_unread(tmp_path, monkeypatch):
    import andromeda.checkpoint as module
    save_checkpoint(tmp_path, 1, dict(model=dict(w=torch.ones(3)), optimizer=dict(m=torch.ones(3))), dict(step=1))
    read,load = [],module.load_file
    monkeypatch.setattr(module, 'load_file', lambda path: read.append(path.name) or load(path))
    tensors,state = load_checkpoint(tmp_path/'step_1', 'model')
    assert list(tensors) == ['model'] and state == dict(step=1) and read == ['model.safetensors']
    assert list(load_checkpoint(tmp_path/'step_1')[0]) == ['model', 'optimizer']
