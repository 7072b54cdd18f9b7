"What the dashboard promises: it sends nothing when nothing changed, its buttons write what was asked, and no run is lost or orphaned whoever watches it dies."
import json
import multiprocessing
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from andromeda import view
from andromeda.clean import clean, kept
from andromeda.core import write_json
from andromeda.dashboard import SHARE, Batches, Dashboard, Tail, Watched, batch_html, find_runs, follow, loss_html, show, status_html
from andromeda.mixture import Mixture
from andromeda.runs import Run, control, create_run, sole_trainer
from andromeda.shards import Shards, build_shards
from andromeda.sources import Source, read_source
from andromeda.stages import Corpus, Recipe, Stage, recipe_mixture
from andromeda.tokenizer import build_tokenizer


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "Shards of made-up text with what they were made from, and a recipe for them."
    root = tmp_path_factory.mktemp('dashboard')
    (root/'in').mkdir()
    (root/'in'/'all.jsonl').write_text('\n'.join(json.dumps(dict(text=f'{i} is followed by {i+1}, says the line. '*8)) for i in range(400)))
    cleaned = clean(read_source(Source('numbers', 'high', 'prose', 'files', '', '', dict(path=str(root/'in'))), root/'documents', workers=1), root/'clean', workers=1)
    tokenizer = build_tokenizer(root/'tokenizer', [d['text'] for d in kept(cleaned, ['text'])], 300, {})
    shards = build_shards(lambda: kept(cleaned), root/'shards'/'numbers', tokenizer, dict(clean=cleaned))
    stage = Stage(name='high', tier='high', tokens=20_000*2*16, peak_lr=3e-3)
    recipe = Recipe(name='count', model='palm-tiny', corpus=Corpus(sources=('numbers',), vocab=300), length=16, batch=2, stages=(stage,), max_epochs=1e9, checkpoint_every=50, evaluation_bytes=500)
    return lambda folder, **changes: create_run(folder, replace(recipe, **changes), dict(numbers='high'), dict(numbers=shards), tokenizer)


@pytest.fixture
def run(made, tmp_path):
    "A run that says it was running; no process trains it."
    run = made(tmp_path/'runs'/'count')
    lines = [dict(step=i, stage='high', tokens=32*i, loss=3-i/1000, lr=1e-3, gradient_norm=1., seconds=.01, data_seconds=0.) for i in range(1, 301)]
    (run.folder/'metrics.jsonl').write_text(''.join(json.dumps(r)+'\n' for r in lines))
    write_json(run.folder/'status.json', dict(state='running', step=300, steps=20_000, loss=2.7, tokens_per_second=1000., eta_seconds=60., saved=250, updated=time.time()))
    return run


def test_a_tail_is_the_file_whatever_happens_to_it(tmp_path):
    "Appended to, cut back, replaced by a file of the same length, gone and back: at each look the whole lines of the file."
    tail,path = Tail(tmp_path/'x.jsonl'),tmp_path/'x.jsonl'
    def whole(): return [json.loads(line) for line in path.read_bytes().split(b'\n')[:-1]] if path.exists() else []
    steps = [lambda: path.write_text(''.join(f'{{"a": {i}}}\n' for i in range(50))), lambda: path.open('a').write('{"a": 50}\n{"a'), lambda: path.open('a').write('": 51}\n'),
             lambda: path.write_text(''.join(f'{{"a": {i}}}\n' for i in range(20))), lambda: path.write_text(''.join(f'{{"b": {i}}}\n' for i in range(20))),
             lambda: path.unlink(), lambda: path.write_text('{"a": "größer"}\n'), lambda: path.write_text('')]
    for step in steps:
        step()
        assert tail.look() == whole() == tail.look()


def test_nothing_is_drawn_or_sent_while_nothing_changes(run, monkeypatch):
    panel,drawn,sent = Dashboard([run], every=1000),[],[]
    monkeypatch.setattr('andromeda.dashboard.loss_html', lambda *_: drawn.append(1) or loss_html([Watched(run)]))
    try:
        panel.status.observe(lambda _: sent.append(1), 'value')
        for _ in range(3): panel.update()
        assert not sent and not drawn
        write_json(run.folder/'status.json', run.status | dict(loss=2.5))
        panel.rest = 0
        panel.update()
        assert len(sent) == len(drawn) == 1 and '2.500' in panel.status.value
    finally: panel.close()


def test_curves_are_drawn_less_often_when_drawing_takes_longer(run, monkeypatch):
    "After a drawing of t seconds none for t/SHARE; what the run says of itself is sent all the same."
    monkeypatch.setattr('andromeda.dashboard.loss_html', lambda *_: [sum(range(1000)) for _ in range(3000)] and view.Html('drawn'))
    panel = Dashboard([run], every=1000)
    try:
        assert panel.rest > time.monotonic()+.01/SHARE
        monkeypatch.setattr('andromeda.dashboard.loss_html', lambda *_: pytest.fail('drawn again'))
        for i in range(5):
            write_json(run.folder/'status.json', run.status | dict(loss=2+i/10))
            panel.update()
            assert f'{2+i/10:.3f}' in panel.status.value
    finally: panel.close()


def test_buttons_write_what_was_asked(run):
    panel = Dashboard([run], every=1000)
    try:
        for button,want in ((panel.pause, 'pause'), (panel.stop, 'stop')):
            button.click()
            assert run.control['want'] == want and want in panel.said.value
        panel.save.click()
        panel.lr_scale.value = 2
        assert run.control['saves'] == 1 and run.control['lr_scale'] == 2
        panel.fork.click()
        assert 'no checkpoint' in panel.said.value
        panel.fork_name.value = '../../outside'
        panel.fork.click()
        assert 'cannot be a name' in panel.said.value and not (run.folder.parent.parent.parent/'outside').exists()
    finally: panel.close()


def test_a_dead_run_is_not_said_to_live(run):
    assert Watched(run).state == 'killed' and 'killed' in status_html([Watched(run)])
    with sole_trainer(run): assert Watched(run).state == 'running'


def test_only_stages_that_were_reached_are_marked(made, tmp_path, run):
    assert 'high' in loss_html([Watched(run)]) and '>200k<' not in loss_html([Watched(run)])


def test_a_step_shows_the_documents_that_its_batch_holds(run):
    "Those that the mixture names for the batch before the step was done, with all their rules passed."
    batches = Batches(run)
    mixture = recipe_mixture(run.recipe, run.plan['tiers'], {n: Shards(s.artefact) for n,s in batches.shards.items()})
    for step in (1, 57, 300):
        named = {d['id'] for d in mixture.documents(0, step-1)}
        assert {d['id'] for d in batches.documents(step)} == named and named
        assert all(i[:12] in batch_html(batches, step) for i in named) and '6 of 6' in batch_html(batches, step)
    with pytest.raises(ValueError, match='no step 20001'): batches.documents(20_001)


@pytest.fixture
def interruptible():
    "Ctrl-C as a person has it; what starts a job in the background lets it ignore that."
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_of_follow_asks_for_a_pause_with_a_checkpoint(run, interruptible):
    def trainer():
        "Obeys as the training process does."
        while run.control['want'] != 'pause': time.sleep(.01)
        write_json(run.folder/'status.json', run.status | dict(state='paused', saved=300))
    threading.Thread(target=trainer, daemon=True).start()
    threading.Timer(.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    with sole_trainer(run): said = follow(run, every=.01)
    assert run.control['want'] == 'pause' and run.control['saves'] == 1 and said.startswith('count') and run.status['saved'] == 300


def session(folder, button, pipe):
    "What a kernel does: find the run, show a panel, press a button, and be killed."
    panel = show(folder)
    if button: getattr(panel, button).click()
    pipe.send([w.name for w in panel.watched])
    time.sleep(60)


@pytest.mark.parametrize('tens', [2, pytest.param(10, marks=pytest.mark.slow)])
def test_sessions_that_die_lose_no_run_and_leave_no_process(made, tmp_path, tens):
    "Each attaches, presses a button and is killed; the run goes on as asked, and at the end nothing is left that trains it."
    run = made(tmp_path/'runs'/'count')
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['andromeda.dashboard', 'ipywidgets', 'anywidget'])
    buttons,pids = ['start', '', 'pause', 'save', 'start', '', 'lr', 'pause', '', 'start']*tens,set()
    for i,button in enumerate(buttons):
        ours,theirs = context.Pipe()
        kernel = context.Process(target=session, args=(tmp_path, '' if button == 'lr' else button, theirs), daemon=True)
        kernel.start()
        assert ours.poll(60) and ours.recv() == ['count'], f'session {i}'
        os.kill(kernel.pid, signal.SIGKILL)
        kernel.join()
        if button == 'start':
            end = time.monotonic()+60
            while run.status['state'] != 'running' or not run.alive(): assert time.monotonic() < end; time.sleep(.02)
            pids.add(run.status['pid'])
        if button == 'pause': assert run.control['want'] == 'pause'
        assert run.alive() and len(pids) == 1, f'session {i}'
    control(run, want='stop')
    end = time.monotonic()+30
    while run.alive(): assert time.monotonic() < end; time.sleep(.02)
    assert run.status['state'] == 'stopped' and find_runs(tmp_path)[0].folder == run.folder
    def trains(pid):
        try: return str(tmp_path).encode() in Path(f'/proc/{pid}/cmdline').read_bytes() and b'Z' != Path(f'/proc/{pid}/stat').read_bytes().rsplit(b')', 1)[1].split()[0]
        except OSError: return False
    end = time.monotonic()+20
    while left := [p for p in os.listdir('/proc') if p.isdigit() and trains(p)]: assert time.monotonic() < end, left; time.sleep(.05)


def test_a_model_that_fills_gaps_is_drawn_too():
    "It is measured in nats of a hidden token, and has no bits per byte."
    from types import SimpleNamespace
    from andromeda.dashboard import _bits
    gaps = SimpleNamespace(name='bert', evals=[dict(step=s, validation=dict(a=dict(nats=4.-s, tokens=10))) for s in (1, 2)])
    writes = SimpleNamespace(name='mpt', evals=[dict(step=s, validation=dict(a=dict(bits_per_byte=4.-s, bytes=10))) for s in (1, 2)])
    assert 'nats of a hidden token' in str(_bits([gaps], 'step')) and 'nats of a hidden token' in str(_bits([gaps, writes], 'step'))
    assert 'bits per byte' in str(_bits([writes], 'step'))
