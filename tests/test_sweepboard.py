"What the sweep board promises: it shows what the folder says, its buttons do what they say, nothing of a sweep is lost with the kernel, and nothing foreign acts."
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

import toysweep
from andromeda.core import write_json
from andromeda.stages import named_recipes
from andromeda.sweepboard import (Scale, SpaceBoard, SweepBoard, best_of, curves_html, find_sweeps, importance_html, look, parallel_html, picked, places, scales, show_sweep, space_html,
                                  suggested, sweep_html, trial_html, trials_html)
from andromeda.sweeps import STOPPED, Range, Sweep, at_work, create_sweep, end_workers, launch_sweep, stop_trial, trials, work
from hostile import TEXTS
from toysweep import SPACE

pytest.importorskip('optuna')


@pytest.fixture(scope='module')
def data(tmp_path_factory): return toysweep.made(tmp_path_factory.mktemp('data'))


@pytest.fixture(scope='module')
def finished(tmp_path_factory, data):
    recipe,made = data
    sweep = create_sweep(tmp_path_factory.mktemp('finished')/'done', recipe, SPACE, **made, trials=8, method='random', heartbeat=1)
    stop_trial(sweep, 5)
    os.environ['ANDROMEDA_TOY'] = '0'
    try: work(sweep, toysweep.train)
    finally: del os.environ['ANDROMEDA_TOY']
    return sweep


@pytest.fixture
def sweep(tmp_path, data):
    recipe,made = data
    return create_sweep(tmp_path/'sweeps'/'s', recipe, SPACE, **made, trials=6, method='random', heartbeat=1)


def board(sweep, **more): return SweepBoard(sweep, every=1000, launch=toysweep.launch, **more)


def wait_for(condition, seconds=60):
    end = time.monotonic()+seconds
    while not (found := condition()):
        assert time.monotonic() < end, 'did not come true'
        time.sleep(.05)
    return found


def row(i=0, **more): return dict(trial=i, state='complete', shown='complete', value=1., batch=4, looks={1: 2., 27: 1.}, tries=1, seconds=3., why='', run=None, worker='') | {'stages.*.peak_lr': 1.} | more


@pytest.mark.parametrize('scale', [Scale('a', 0., 8.), Scale('b', math.log(1e-4), math.log(1e-2), log=True), Scale('c', -.5, 3.5, words=(2, 'x', None, .5))])
def test_an_axis_holds_its_values_between_its_ends_and_finds_them_again(scale):
    for v in scale.words or [(lambda x: math.exp(x) if scale.log else x)(scale.low+(scale.high-scale.low)*i/10) for i in range(11)]:
        assert -1e-9 <= scale.at(v) <= 1+1e-9
        assert scale.back(scale.at(v)) == pytest.approx(scale.on_line(v))
    assert len(scale.marks) >= 2 and all(-1e-9 <= s <= 1+1e-9 for s,_ in scale.marks)
    assert scale.at('not there') is None


def test_a_narrow_axis_has_marks(): assert len(Scale('a', math.log(3.1), math.log(3.4), log=True).marks) >= 2


def test_what_is_inside_every_brush_is_selected():
    rows = [row(0, batch=2, value=1.), row(1, batch=4, value=2.), row(2, batch=4, value=1.2), row(3, batch=4, value=None, state='pruned')]
    axes = scales(SPACE, rows)
    assert picked(axes, rows, {}) == {0, 1, 2, 3}
    assert picked(axes, rows, {'batch': (.5, 1.5)}) == {1, 2, 3}
    assert picked(axes, rows, {'batch': (.5, 1.5), 'value': (0, 1.5)}) == {2}
    assert picked(axes, rows, {'value': (5, 6)}) == set()
    assert picked(axes, rows, {'gone': (0, 1)}) == {0, 1, 2, 3}           # an axis that the sweep does not have


def strokes(html): return {int(t): m for m,t in re.findall(r'<path d="[^"]*" fill="none" style="stroke:([^"]*)" stroke-width="[^"]*" stroke-opacity="[^"]*"[^>]*></path><path[^>]*data-am="trial (\d+)"', html)}


def test_a_brush_highlights_the_same_trials_on_axes_and_curves():
    rows = [row(i, value=1+i/10, batch=[2, 4, 8][i%3]) for i in range(6)]
    axes,brushes = scales(SPACE, rows),{'batch': (.5, 2.5)}
    brushed = picked(axes, rows, brushes)
    one,other = strokes(parallel_html(axes, rows, brushes)),strokes(curves_html(rows, 1000, brushed))
    assert one == other and set(one) == set(range(6))
    assert {i for i,ink in one.items() if ink == 'currentColor'} == {0, 3}                      # batch 2
    assert 'am-2' in one[1] and all('am-1' in one[i] for i in (2, 4, 5))                          # the best of the others stands out
    assert '4 selected' in parallel_html(axes, rows, brushes) and '4 selected' in curves_html(rows, 1000, brushed)


def test_trials_without_a_value_point_or_report_are_drawn_or_left_out():
    rows = [row(0, state='waiting', shown='waiting', value=None, batch=None, looks={}, **{'stages.*.peak_lr': None}), row(1, state='running', shown='running', value=None, looks={})]
    assert set(strokes(parallel_html(scales(SPACE, rows), rows))) == {1}
    assert 'no trial has reported' in curves_html(rows, 1000)
    assert 'nan' not in curves_html([row(looks={1: math.nan, 2: 3.})], 1000)
    for html in (parallel_html(scales(SPACE, []), []), trials_html([], SPACE)): assert html
    assert best_of(rows) is None and best_of([]) is None


def test_every_state_says_what_a_person_should_know(sweep, monkeypatch):
    import andromeda.sweepboard as module
    def said(**r):
        monkeypatch.setattr(module, 'trials', lambda *a: [row(0, **r)])
        return look(sweep)[0]['shown']
    host = module.socket.gethostname()
    assert said(state='running', worker='elsewhere:1') == 'running'
    assert said(state='running', worker=f'{host}:999999999') == 'its worker died'
    assert said(state='failed', why='', tries=1) == 'interrupted'
    assert said(state='failed', why='', tries=4) == 'failed' == said(state='failed', why='no luck')
    assert said(state='failed', why=STOPPED) == 'stopped'
    stop_trial_file = sweep.unwanted(0)
    stop_trial_file.parent.mkdir()
    stop_trial_file.touch()
    assert said(state='running', worker='elsewhere:1') == 'stopping' and said(state='waiting') == 'stopped'


def test_a_finished_sweep_is_shown_whole(finished):
    rows = look(finished)
    assert [r['shown'] for r in rows].count('complete') == 7 and rows[5]['shown'] == 'stopped'
    html = trials_html(rows, finished.space)
    assert all(f'data-am="trial {i}"' in html for i in range(8)) and STOPPED in html and '★' in html
    assert all(w in importance_html(finished.study) for w in SPACE) and 'once 99' in importance_html(finished.study, 99)
    assert 'have ended' in sweep_html(finished, rows, []) and '8 of 8' in sweep_html(finished, rows, [])
    assert 'stages.*.peak_lr' in trial_html(finished, rows[best_of(rows)])


def test_a_trial_that_is_a_run_shows_its_loss(finished):
    from andromeda.runs import create_run
    from andromeda.sweeps import trial_run
    run = trial_run(finished, 1, finished.recipe)
    (run.folder/'metrics.jsonl').write_text(''.join(json.dumps(dict(step=i, stage='one', tokens=64*i, loss=3-i/50, lr=1e-3, gradient_norm=1., seconds=.1, data_seconds=0.))+'\n' for i in range(1, 25)))
    assert 'training loss' in trial_html(finished, look(finished)[1])


def test_buttons_brushes_and_what_is_kept(finished):
    one = board(finished)
    try:
        one._told(dict(brush=2, low=0., high=.4))
        assert set(one.brushes) == {'value'} and 'am-brushed' in one.parallel.value and ' selected' in one.curves.value
        one._told(dict(key='trial 3'))
        assert one.trial.value == 3 and 'Trial 3' in one.detail.value
        one.stop.click()
        assert 'ended already' in one.said.value
        one.name.value = 'third'
        one.promote.click()
        assert named_recipes(str(finished.folder/'third.toml'))[0].name == 'third'
        again = board(finished.folder)
        assert (again.brushes, again.trial.value) == (one.brushes, 3) and one.closed.is_set()
        again._told(dict(brush=2, low=.2, high=.2))
        assert again.brushes == {} and 'am-brushed' not in again.parallel.value
        again.close()
    finally: one.close()


def test_nothing_is_drawn_or_sent_while_nothing_changes(finished, monkeypatch):
    one,sent,drawn = board(finished),[],[]
    monkeypatch.setattr('andromeda.sweepboard.parallel_html', lambda *a: drawn.append(1) or parallel_html(*a))
    try:
        for panel in (one.status, one.parallel, one.curves, one.table, one.importance, one.detail): panel.observe(lambda _: sent.append(1), 'value')
        for _ in range(3): one.update()
        assert not drawn
        one.update(force=True)
        assert drawn and not sent
        one.trial.value = (one.trial.value+1) % 8
        assert sent
    finally: one.close()


def test_workers_start_are_killed_and_end_from_the_board_and_a_new_one_finds_all(sweep, monkeypatch):
    "Workers outlive the board; one that is killed is replaced by the process that keeps them; a stopped trial stays stopped; a worker that ends saves nothing as lost."
    monkeypatch.setenv('ANDROMEDA_TOY', '1.5')
    one = board(sweep)
    one.workers.value = 1
    one.start.click()
    one.start.click()
    assert 'still work' in one.said.value
    try:
        worker = wait_for(lambda: next((w for w in at_work(sweep) if w['worker'] is not None), None))
        with pytest.raises(ValueError, match='already'): launch_sweep(sweep)
        wait_for(lambda: any(r['state'] == 'running' for r in trials(sweep)))
        one.close()
        other = board(sweep)
        assert str(worker['pid']) in other.status.value
        os.kill(worker['pid'], signal.SIGKILL)
        other.trial.value = 4
        other.stop.click()
        assert 'being stopped' in other.said.value
        wait_for(lambda: any(w['worker'] is not None and w['pid'] != worker['pid'] for w in at_work(sweep)))
        wait_for(lambda: trials(sweep)[0]['state'] == 'complete')
        assert trials(sweep)[0]['tries'] == 2
        other.end.click()
        wait_for(lambda: not at_work(sweep))
        one.processes[0].wait(20)
        other.update()
        assert look(sweep)[4]['shown'] == 'stopped' and {r['shown'] for r in look(sweep)} <= {'complete', 'waiting', 'interrupted', 'stopped'}
        monkeypatch.setenv('ANDROMEDA_TOY', '0')
        work(sweep, toysweep.train)
        assert [r['shown'] for r in look(sweep)] == ['complete']*4+['stopped', 'complete']
    finally:
        end_workers(sweep)
        for p in one.processes: p.wait(20)
        other.close()


def test_a_killed_process_is_not_at_work(sweep):
    hold = "import sys, time\nfrom pathlib import Path\nfrom andromeda.sweeps import Sweep, _present\nwith _present(Sweep(Path(sys.argv[1])), 3):\n    print('here', flush=True)\n    time.sleep(60)"
    p = subprocess.Popen([sys.executable, '-c', hold, str(sweep.folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert p.stdout.readline() == 'here\n'
        assert [(w['worker'], w['pid']) for w in at_work(sweep)] == [(3, p.pid)]
    finally:
        p.kill()
        p.wait()
    assert at_work(sweep) == [] == list((sweep.folder/'workers').glob('*.json')) and end_workers(sweep) == []


def test_what_is_suggested_can_be_trained(data):
    recipe = data[0]
    recipe = replace(recipe, stages=(recipe.stages[0], replace(recipe.stages[0], name='two', tier='medium', replay=.3)))
    assert {'batch', 'stages.*.peak_lr', 'stages.two.replay'} <= set(places(recipe)) and not {'corpus', 'name', 'stages.*.name', 'seed'} & set(places(recipe))
    for where in places(recipe): assert where in space_html(recipe, {where: suggested(recipe, where)}, 3, 'random')


def test_points_that_cannot_be_trained_are_shown_as_such(data): assert 'cannot be trained' in space_html(data[0], {'batch': [4, 100_000]}, 8, 'random')


def test_a_space_is_defined_created_and_refused_with_widgets(data, tmp_path):
    recipe,made = data
    define = SpaceBoard(recipe, **made, folder=tmp_path, launch=toysweep.launch)
    assert define.space == {'stages.*.peak_lr': Range(.25, 4, log=True, times=True)}
    define.vary('batch')
    define.rows[1].values.value = '2, 4,8'
    define.vary('weight_decay')
    define.rows[2].kind.value,define.rows[2].values.value = 'values','none, 0.1'
    assert define.space == SPACE | {'weight_decay': [None, .1]} and 'batch=2,4,8' in define.said.value
    define.rows[2].where.value = 'batch'
    assert 'named twice' in define.said.value and not define.preview.value
    define.rows[2].remove.click()
    assert define.space == SPACE
    define.method.value = 'grid'
    assert 'needs lists' in define.said.value
    define.create.click()
    assert 'not done' in define.said.value and define.board is None
    define.method.value,define.name.value = 'random','../x'
    define.create.click()
    assert 'cannot be a name' in define.said.value
    define.name.value,define.trials.value = 'mine',4
    define.create.click()
    assert define.board.sweep.folder == tmp_path/'mine' and len(define.board.rows) == 4
    define.board.close()
    assert [s.folder.name for s in find_sweeps(tmp_path)] == ['mine']


def test_the_newest_sweep_is_found(tmp_path, data):
    recipe,made = data
    for i,name in enumerate(('old', 'new')):
        create_sweep(tmp_path/'x'/'sweeps'/name, recipe, {'batch': [2, 4]}, **made, method='grid')
        for p in (tmp_path/'x'/'sweeps'/name).glob('*.*'): os.utime(p, (1e9+i, 1e9+i))
    shown = show_sweep(tmp_path)
    assert shown.sweep.folder.name == 'new'
    shown.close()
    with pytest.raises(ValueError, match='holds no sweep'): SweepBoard(tmp_path)


def test_nothing_foreign_acts(sweep):
    "Names of places, words, reasons and folders are text, whatever they hold."
    for text in TEXTS:
        rows = [row(i, shown=text, why=text, worker=text, **{text: text}) for i in range(2)] + [row(2, state='pruned', value=None, **{text: text})]
        space = {text: [text, None], 'batch': [2, 4]}
        axes = scales(space, rows)
        for html in (parallel_html(axes, rows, {text: (-.5, .5)}, 1), curves_html(rows, 1000, {0}, 1), trials_html(rows, space, {1}), sweep_html(sweep, rows, [dict(worker=0, pid=text)])):
            inside = re.sub(r'</?(?:b|br|caption|circle|div|figcaption|figure|p|path|rect|span|svg|table|tbody|td|text|th|thead|title|tr)\b[^<>]*>', '', html)
            assert '<' not in inside and not re.search(r'<[^<>]*\son[a-z]+\s*=', re.sub(r'"[^"]*"', '""', html))
