"One stage of training: pieces, precision, processes, numbers that are not finite."
import inspect
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from andromeda.checkpoint import load_checkpoint, load_training_state, save_checkpoint, training_state
from andromeda.model import IGNORED, LM, WithHead, preset
from andromeda.mixture import documents_in
from andromeda.optim import make_optimizer
from andromeda.train import fine_tune, labelled_rows, masked_rows, masked_token, next_token, share_right, train

CONFIG = dict(layers=2, vocab=64, max_len=32)


def rows(step, rank=0, world=1):
    "Eight rows that count upwards from random numbers."
    begin = np.random.default_rng(step).integers(0, 64, (8, 1))
    return ((begin + np.arange(17)) % 64)[rank::world]


def fresh(name='palm-tiny', optimizer='adamw'):
    model = LM(preset(name, **CONFIG), seed=3)
    return model, make_optimizer(model, 3e-3, name=optimizer)


def hidden(step, rank=0, world=1):
    "The same rows with some tokens hidden; a process has every `world`-th of them."
    return np.concatenate([masked_rows(rows(step)[i:i+1], 63, 63, (0, step), i) for i in range(rank, 8, world)])


def losses(*args, **kw): return [r['loss'] for r in train(*args, **kw)]


@pytest.mark.parametrize('name', ['palm-tiny', 'mpt-tiny'])
@pytest.mark.parametrize('precision,close', [('fp32', 1e-5), ('bf16', 1e-2)])
def test_the_pieces_of_a_batch_do_not_matter(name, precision, close):
    whole = losses(*fresh(name), rows, 6, lambda s: 3e-3, precision=precision)
    for micro in (1, 3, 8, 100): assert losses(*fresh(name), rows, 6, lambda s: 3e-3, precision=precision, micro_batch=micro) == pytest.approx(whole, abs=close)
    assert whole[-1] < whole[0] - .05


def test_bf16_is_another_arithmetic_and_the_weights_stay_fp32():
    model,optimizer = fresh()
    a = losses(model, optimizer, rows, 3, lambda s: 3e-3, precision='bf16')
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert a != losses(*fresh(), rows, 3, lambda s: 3e-3) == losses(*fresh(), rows, 3, lambda s: 3e-3)
    with pytest.raises(ValueError, match="expected 'fp32' or 'bf16'"): losses(*fresh(), rows, 3, lambda s: 3e-3, precision='fp16')


@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_left_and_entered_again_it_is_bit_identical(precision):
    whole,opt = fresh()
    expected = losses(whole, opt, rows, 8, lambda s: 3e-3/(1+s), precision=precision)
    model,opt = fresh()
    got = []
    for r in train(model, opt, rows, 8, lambda s: 3e-3/(1+s), precision=precision):
        got.append(r['loss'])
        if r['step'] == 4: break
    got += losses(model, opt, rows, 8, lambda s: 3e-3/(1+s), start=4, precision=precision)
    assert got == expected
    for a,b in zip(model.parameters(), whole.parameters()): assert torch.equal(a, b)


def test_an_objective_may_leave_tokens_out():
    "With targets of -100 left out, the count says so, and the mean is over the rest."
    def every_other(model, batch):
        targets = batch[:, 1:].clone()
        targets[:, ::2] = -100
        total = torch.nn.functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1), targets.flatten(), ignore_index=-100, reduction='sum')
        return total, int((targets != -100).sum())
    [whole] = train(*fresh(), rows, 1, lambda s: 1e-3, objective=every_other)
    [pieces] = train(*fresh(), rows, 1, lambda s: 1e-3, objective=every_other, micro_batch=3)
    assert whole['tokens'] == pieces['tokens'] == 64 and whole['loss'] == pytest.approx(pieces['loss'], abs=1e-5)
    assert whole['gradient_norm'] == pytest.approx(pieces['gradient_norm'], rel=1e-4)


def test_a_gradient_is_clipped_to_the_asked_norm():
    model,optimizer = fresh()
    [r] = train(model, optimizer, rows, 1, lambda s: 0., clip=.01)
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]).item()
    assert r['gradient_norm'] > .1 and norm == pytest.approx(.01, rel=1e-3)


def test_skipped_steps_are_counted_in_a_row_only():
    calls = iter(range(100))
    def objective(model, batch):
        total,n = next_token(model, batch)
        return (total/0 if next(calls) % 2 else total), n          # every other step is infinite
    records = list(train(*fresh(), rows, 10, lambda s: 1e-3, objective=objective, most_skipped=2))
    assert sum('skipped' in r for r in records) == 5 and all(np.isfinite(r['loss']) for r in records if 'skipped' not in r)


def test_memory_that_is_not_enough_for_one_row_is_said():
    class Full(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.zeros(1))
        def forward(self, ids): raise torch.OutOfMemoryError('no')
    model = Full()
    with pytest.raises(MemoryError, match='1 sequences of 16 tokens.*shorter length'): losses(model, torch.optim.AdamW(model.parameters()), rows, 1, lambda s: 1e-3)


def test_what_is_hidden_depends_on_the_row_and_its_place_only():
    whole = masked_rows(rows(5), 63, 63, (1, 5))
    assert np.array_equal(whole[3:6], masked_rows(rows(5)[3:6], 63, 63, (1, 5), first=3))
    assert not np.array_equal(whole, masked_rows(rows(5), 63, 63, (1, 6))) and not np.array_equal(whole[:2], whole[2:4])
    seen,asked = whole.swapaxes(0, 1)
    assert (seen[asked == IGNORED] == rows(5)[:, :-1][asked == IGNORED]).all() and (asked[asked != IGNORED] == rows(5)[:, :-1][asked != IGNORED]).all()
    many = np.concatenate([masked_rows(rows(s), 63, 63, (s,)) for s in range(60)])
    asked = many[:, 1] != IGNORED
    assert .12 < asked.mean() < .19 and asked.any(1).all() and .7 < (many[:, 0][asked] == 63).mean() < .9
    ends = masked_rows(np.zeros((2, 17), np.int64), 63, 63, (0,))
    assert (ends[:, 1] == IGNORED).all()                                     # nothing there that may be hidden


def test_the_pieces_of_a_masked_batch_do_not_matter():
    expected = losses(*fresh('bert-tiny'), hidden, 4, lambda s: 3e-3, objective=masked_token)
    assert losses(*fresh('bert-tiny'), hidden, 4, lambda s: 3e-3, objective=masked_token, micro_batch=3) == pytest.approx(expected, abs=1e-5)


def test_a_batch_that_asks_for_nothing_is_refused():
    nothing = lambda step: masked_rows(np.zeros((2, 17), np.int64), 63, 63, (0,))
    with pytest.raises(ValueError, match='step 0 asks for nothing'): losses(*fresh('bert-tiny'), nothing, 1, lambda s: 3e-3, objective=masked_token)


@pytest.mark.parametrize('name,kind', [('bert-tiny', 'class'), ('palm-tiny', 'class'), ('bert-tiny', 'span')])
def test_fine_tuning_is_the_same_in_pieces_and_when_entered_again(name, kind):
    texts = [r[:4+i%9].tolist() for i,r in enumerate(np.concatenate([rows(s) for s in range(4)]))]
    answers = [t[0] % 2 if kind == 'class' else (len(t)-2, len(t)-1) for t in texts]
    data = labelled_rows(texts, answers, 16)
    make = lambda: WithHead(LM(preset(name, **CONFIG), seed=3), kind)
    whole = make()
    expected = [r['loss'] for r in fine_tune(whole, data, epochs=2, peak_lr=1e-3, batch=8, seed=4)]
    pieces = [r['loss'] for r in fine_tune(make(), data, epochs=2, peak_lr=1e-3, batch=8, seed=4, micro_batch=3)]
    assert pieces == pytest.approx(expected, abs=1e-4) and len(expected) == 8
    model = make()
    how = dict(epochs=2, peak_lr=1e-3, batch=8, seed=4, optimizer=make_optimizer(model, 1e-3))
    first = fine_tune(model, data, **how)
    got = [next(first)['loss'] for _ in range(3)]
    first.close()
    assert got + [r['loss'] for r in fine_tune(model, data, start=3, **how)] == expected
    assert all(torch.equal(a, b) for a,b in zip(model.parameters(), whole.parameters()))
    assert 0 <= share_right(model, data) <= 1 and model.training


def test_labels_that_cannot_be_learned_are_refused():
    with pytest.raises(ValueError, match='2 texts and 1 answers'): labelled_rows([[1], [2]], [0], 4)
    with pytest.raises(ValueError, match='answer of text 1 ends at token 5, but 4 tokens are read'): labelled_rows([[1, 2], [1]*9], [(0, 1), (2, 5)], 4)
    with pytest.raises(ValueError, match='3 labelled rows do not make one batch of 32'): list(fine_tune(WithHead(fresh('bert-tiny')[0], 'class'), labelled_rows([[1]]*3, [0]*3, 4)))


TOGETHER = """
import json, sys, torch
sys.path.insert(0, {here!r})
from test_train import *
from andromeda.train import join, processes, rank, spread
join()
torch.set_num_threads(1)
found = {{}}
for case in sys.argv[1:]:
    how,precision,spoil = case.split('-')
    masked = spoil == 'masked'
    model = spread(LM(preset('bert-tiny' if masked else 'palm-tiny', **CONFIG), seed=3), how, precision)
    optimizer = make_optimizer(model, 3e-3, betas=(.9, .95), eps=1e-8, weight_decay=.1)
    at,tried = [],[]
    def batch_at(s):
        at.append(s)
        return (hidden if masked else rows)(s, rank(), processes())
    def objective(model, batch):
        tried.append(len(batch))
        if spoil == 'full' and rank() == 1 and len(batch) > 1+(at[-1] == 0): raise torch.OutOfMemoryError('as a GPU says it')      # less room from the second step on
        total,n = (masked_token if masked else next_token)(model, batch)
        return (total*float('nan') if spoil == 'spoiled' and rank() == 1 and at[-1] == 2 else total), n
    records = train(model, optimizer, batch_at, 6, lambda s: 3e-3, precision=precision, micro_batch=2 if spoil in ('whole', 'masked') else None, objective=objective)
    found[case] = [(r['loss'], r['gradient_norm'], r.get('skipped')) for r in records]
    found[case+' tried'] = tried
for how in ('ddp', 'fsdp'):                       # go on from what one process saved, and save what one process will go on from
    model = spread(LM(preset('palm-tiny', **CONFIG), seed=99), how)
    optimizer = make_optimizer(model, 3e-3, betas=(.9, .95), eps=1e-8, weight_decay=.1)
    load_training_state(model, optimizer, load_checkpoint(Path(f'{folder}/alone/step_3'))[0])
    found[how] = losses(model, optimizer, lambda s: rows(s, rank(), processes()), 6, lambda s: 3e-3, start=3)
    tensors = training_state(model, optimizer)
    if rank() == 0: save_checkpoint(Path(f'{folder}/{{how}}'), 6, tensors, {{}})
open(f'{folder}/{{rank()}}.json', 'w').write(json.dumps(found))
torch.distributed.destroy_process_group()
"""

CASES = ('ddp-fp32-whole', 'fsdp-fp32-whole', 'ddp-fp32-spoiled', 'fsdp-fp32-spoiled', 'ddp-bf16-whole', 'fsdp-bf16-whole', 'ddp-fp32-masked', 'fsdp-fp32-masked', 'ddp-fp32-full')


@pytest.fixture(scope='module')
def together(tmp_path_factory):
    "By case, what each of two processes recorded."
    folder = tmp_path_factory.mktemp('together')
    model,optimizer = fresh()
    losses(model, optimizer, rows, 3, lambda s: 3e-3)
    save_checkpoint(folder/'alone', 3, training_state(model, optimizer), {})
    (folder/'run.py').write_text(TOGETHER.format(here=str(Path(__file__).parent), folder=folder))
    done = subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2', str(folder/'run.py'), *CASES],
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder/f'{r}.json').read_text()) for r in range(2)] + [folder]


@pytest.mark.parametrize('case', CASES)
def test_two_processes_learn_what_one_learns(together, case):
    one,other = (t[case] for t in together[:2])
    how,precision,spoil = case.split('-')
    spoiled = {2} if spoil == 'spoiled' else ()                        # the third step, on the second process only
    for found in (one, other): assert [i for i,r in enumerate(found) if r[2]] == list(spoiled)
    name,batches,objective = ('bert-tiny', hidden, masked_token) if spoil == 'masked' else ('palm-tiny', rows, next_token)
    model = LM(preset(name, **CONFIG), seed=3)
    optimizer = make_optimizer(model, 3e-3, betas=(.9, .95), eps=1e-8, weight_decay=.1)
    alone = [r for r in train(model, optimizer, batches, 6, lambda s: 3e-3, precision=precision, passed_over=spoiled, objective=objective) if r['loss']]
    close = 1e-5 if precision == 'fp32' else 2e-2
    for found in (one, other):
        assert [r[0] for r in found if r[0]] == pytest.approx([r['loss'] for r in alone], abs=close)
        assert [r[1] for r in found if r[1]] == pytest.approx([r['gradient_norm'] for r in alone], abs=10*close)


def test_two_processes_agree_on_what_fits_both(together):
    "The second has room for two rows of its four, and for one when the optimiser is there; the first halves with it, and `test_two_processes_learn_what_one_learns` holds."
    for t in together[:2]: assert t['ddp-fp32-full tried'] == [4, 2] + [2]*2 + [2, 1] + [1]*4*5
    for t in together[:2]: assert t['ddp-fp32-whole tried'] == [2, 2, 2]*2 + [2, 2]*4


@pytest.mark.parametrize('how', ['ddp', 'fsdp'])
def test_one_process_then_two_then_one(together, how):
    "The losses are those of one process all along, over ten steps; and without the optimiser's state they are not."
    undisturbed = losses(*fresh(), rows, 10, lambda s: 3e-3)
    assert together[0][how] == pytest.approx(undisturbed[3:6], abs=1e-5)
    tensors,_ = load_checkpoint(together[2]/how/'step_6')
    model,optimizer = fresh()
    load_training_state(model, optimizer, tensors)
    assert losses(model, optimizer, rows, 10, lambda s: 3e-3, start=6) == pytest.approx(undisturbed[6:], abs=1e-5)
    model,optimizer = fresh()
    model.load_state_dict(tensors['model'])
    assert losses(model, optimizer, rows, 10, lambda s: 3e-3, start=6) != pytest.approx(undisturbed[6:], abs=1e-4)


MEET = """
import os, sys, time
from datetime import timedelta
import torch.distributed as dist
from andromeda.train import join
port,attempt,rank = sys.argv[1:4]
os.environ.update(MASTER_ADDR='localhost', MASTER_PORT=port, TORCHELASTIC_USE_AGENT_STORE='True', TORCHELASTIC_RESTART_COUNT=attempt,
                  RANK=rank, LOCAL_RANK=rank, WORLD_SIZE='2', LOCAL_WORLD_SIZE='2')
if rank == '1': time.sleep(1)                      # the first one looks before this one has said where it is
join(20)
print('met', flush=True)
sys.stdin.read()
"""


def test_a_second_attempt_does_not_look_for_the_dead_of_the_first(tmp_path):
    "As under torchrun: one store, two processes that meet and are killed, and two more."
    from datetime import timedelta
    store = torch.distributed.TCPStore('localhost', 0, None, True, timedelta(seconds=30), wait_for_workers=False)
    (tmp_path/'meet.py').write_text(MEET)
    for attempt in '01':
        both = [subprocess.Popen([sys.executable, str(tmp_path/'meet.py'), str(store.port), attempt, r], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for r in '01']
        try: assert [p.stdout.readline() for p in both] == ['met\n']*2
        finally:
            for p in both:
                p.kill()
                p.communicate()


class Counts(torch.nn.Module):
    "Scores each id by how often it was read, in the same document if it is told which that is."
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, ids_BT, documents_BT=None):
        seen_BTV = torch.nn.functional.one_hot(ids_BT, 64).float()
        if documents_BT is None: documents_BT = torch.zeros_like(ids_BT)
        assert documents_BT.shape == ids_BT.shape
        same_BTT = (documents_BT[:, :, None] == documents_BT[:, None]).tril().float()
        return self.weight*(same_BTT @ seen_BTV)


def packed(step=0):
    "Rows of three documents each, every one begun by end-of-text, with their numbers."
    ids = np.random.default_rng(step).integers(1, 64, (4, 24))
    ids[:, [0, 7, 15]] = 0
    return ids, np.stack([ids, documents_in(ids)], 1)


def apart(model, ids):
    "Nats of the same rows, each document read alone; the end-of-text behind it is its last target."
    ends = [0, 7, 15, 24]
    return sum(next_token(model, torch.from_numpy(ids[:, a:b+1 if b < 24 else b]))[0].item() for a,b in zip(ends, ends[1:]))


def test_packed_within_documents_are_learned_as_if_they_stood_alone():
    ids,both = packed()
    model = Counts()
    (within,n),(across,m) = next_token(model, torch.from_numpy(both)), next_token(model, torch.from_numpy(ids))
    assert n == m == 4*23 and within.item() == pytest.approx(apart(model, ids), rel=1e-6) and abs(within.item()-across.item()) > 1
    def learned(**how):
        model = Counts()
        return losses(model, torch.optim.SGD(model.parameters(), .1), lambda step: packed(step)[1], 3, lambda s: .1, **how)
    assert learned(micro_batch=3) == pytest.approx(learned(), rel=1e-6) and len(set(learned())) == 3


@pytest.mark.skipif('documents_BT' not in inspect.signature(LM.forward).parameters, reason='this model has no attention within documents')
@pytest.mark.parametrize('name', ['palm-tiny', 'mpt-tiny'])
def test_a_model_packed_within_learns_documents_as_if_they_stood_alone(name):
    ids,both = packed()
    model = fresh(name)[0].eval()
    with torch.no_grad(): assert next_token(model, torch.from_numpy(both))[0].item() == pytest.approx(apart(model, ids), rel=1e-4)
