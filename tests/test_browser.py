"The pages as their reader meets them: in JupyterLab, with a mouse."
import json
import os
import re
import signal
import time
from pathlib import Path

import pytest

from andromeda.dashboard import Batches
from andromeda.runs import Run, control, runs
from andromeda.sweeps import STOPPED, Sweep, at_work, trials
from browser import ROOT, Lab, copy_page, lacking, write_notebook

pytestmark = pytest.mark.skipif(bool(lacking()), reason=lacking() or '-')


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    with Lab(tmp_path_factory.mktemp('lab')) as lab: yield lab


def test_a_page_runs_from_top_to_bottom_and_a_failing_cell_is_noticed(lab):
    "Page 01 with a cell that fails at its end: the only one."
    copy_page('01_view', lab.folder, 'raise KeyError("so there")')
    sheet = lab.open('01_view.ipynb')
    with pytest.raises(AssertionError, match='^cell [0-9]+: KeyError: .so there.$'): sheet.run_all()
    assert sheet.find('figure.am-figure svg').count() >= 3
    sheet.find('figure.am-figure').first.scroll_into_view_if_needed()
    assert sheet.shot('01_view').stat().st_size > 10_000
    assert not lab.ran and not lab.outside


@pytest.fixture(scope='module')
def inspection(lab, tmp_path_factory):
    "Page 50, and behind it panels full of hostile documents."
    copy_page('50_inspect', lab.folder, f"""import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from hostile import TEXTS
from hostile import documents as hostile_documents
from andromeda.tokenizer import train_tokenizer
bad = Shelf(*(made := hostile_documents(Path({str(tmp_path_factory.mktemp('bad'))!r})))[:1], {{TEXTS[3]: TEXTS[11]}}, made[1])
hostile = Explore(Found(bad, Encoder(train_tokenizer(TEXTS, 400))))
for name in hostile.make: hostile.open(name)
hostile.box.add_class('t-hostile')
browse,lines,copies = (hostile.panels[n] for n in ('documents', 'thresholds', 'duplicates'))
mixer = Mixer({{t: 1000 for t in TEXTS[:8]}}, dict.fromkeys(TEXTS, TEXTS[4]))
hostile""", "mixer", "raw = clickable(Html('-'))\nraw")
    sheet = lab.open('50_inspect.ipynb')
    sheet.run_all()
    return sheet


def test_the_inspection_page_answers_its_reader(lab, inspection):
    "Page 50: filter, search, open a document, click a token, move a line, look at copies, mix."
    sheet = inspection
    explore = sheet.find('.widget-tab:not(.t-hostile)')
    explore.scroll_into_view_if_needed()
    browse = explore.locator('.am-browse')
    browse.get_by_label('search').fill('import')
    browse.get_by_label('search').press('Enter')
    lab.until("() => [...document.querySelectorAll('.widget-tab:not(.t-hostile) .am-browse .widget-label')].some(e => /^[1-9][0-9]* documents/.test(e.textContent))")
    browse.get_by_label('ended').select_option('filtered')
    lab.until("() => [...document.querySelectorAll('.widget-tab:not(.t-hostile) .am-browse tbody tr')].filter(e => e.textContent.includes('filtered')).length > 0")
    browse.locator('[data-am^="doc "]').first.click()
    browse.locator('[data-am^="token "]').nth(5).click()
    browse.get_by_text('Merges, in the order of learning').or_(browse.get_by_text('A byte: no merges.')).first.wait_for()
    assert browse.get_by_text('failed').count() >= 2
    sheet.shot('50_inspect-documents')
    explore.get_by_role('tab', name='thresholds').click()
    lines = explore.locator('.am-thresholds')
    lines.get_by_label('source').select_option('stdlib')
    lines.get_by_text('wide (at most)').wait_for()
    slider = lines.locator('[role=slider]').nth(2)
    slider.focus()
    for key in ['Home'] + ['PageUp']*3: slider.press(key)
    lines.get_by_text('wide: just removed').wait_for()
    lab.until("() => [...document.querySelectorAll('.widget-tab:not(.t-hostile) .am-thresholds td')].some(e => /^-[1-9]/.test(e.textContent))")      # fewer are kept
    sheet.shot('50_inspect-thresholds')
    explore.get_by_role('tab', name='duplicates').click()
    explore.locator('.am-copies [data-am="cluster 0"]').click()
    explore.locator('.am-copies').get_by_text('a copy of').first.wait_for()
    sheet.shot('50_inspect-duplicates')
    explore.get_by_role('tab', name='mixture').click()
    explore.locator('.am-mixer').get_by_text('passes wanted').wait_for()
    sheet.shot('50_inspect-mixture')
    assert not lab.ran and not lab.outside


def nothing_acted(lab, sheet, panel):
    "No text ran or asked for anything; one that nobody escaped, put into `panel`, does."
    assert (lab.ran, lab.outside) == ([], [])
    sheet.run(f"import ipywidgets; {panel}.box.children = [ipywidgets.HTML(TEXTS[20])]")
    lab.page.wait_for_timeout(500)
    assert lab.ran
    lab.ran.clear()
    lab.outside.clear()


def test_no_widget_lets_a_document_act(lab, inspection):
    "The panels in JupyterLab; at the end, text that nobody escaped in `clickable`, and in a plain HTML widget, which does run."
    sheet = inspection
    sheet.run("""for page in range(1, browse.page.max+1): browse.page.value = page
for place in range(200):
    browse.tokens.value = bool(place % 2)
    browse.open(place)
browse.search.value = '<script'
lines.sliders['short'].value = lines.sliders['short'].max
lines._clicked(dict(key='doc 0')); copies._clicked(dict(key='cluster 0')); copies._clicked(dict(key='doc 3'))""")
    for tab in ('thresholds', 'duplicates', 'documents'): sheet.find('.t-hostile').get_by_role('tab', name=tab).click()
    sheet.run("raw.value = Html('<b class=last>here</b>' + ''.join(TEXTS[::4]))")
    lab.until("() => [...document.querySelectorAll('.am-clicks b')].some(e => e.textContent === 'here')")
    lab.page.wait_for_timeout(500)
    sheet.shot('hostile')
    nothing_acted(lab, sheet, 'mixer')


def test_what_a_mouse_reaches_the_tab_key_reaches_too(lab):
    "Links, tokens, points of a curve, ends of a selection; a drawing that is made anew gives the focus back."
    write_notebook(lab.folder/'keys.ipynb', """from andromeda.sweepboard import parallel_html, scales
from andromeda.view import Html, clickable, curves
rows = [dict(trial=i, state='complete', shown='complete', value=i+1., a=2+2*(i%2)) for i in range(4)]
tokens = '<p><span data-am="doc 7" tabindex="0">seven</span></p><pre><span data-am="token 1">un</span><span data-am="token 2">seen</span></pre>'
def drawn(): return Html(curves({'a': [(i, i*i) for i in range(101)]}, 'step', '', 'the curve') + parallel_html(scales({'a': [2, 4]}, rows), rows) + tokens)
told = []
panel = clickable(drawn(), told.append)""", 'panel', 'silent = clickable(drawn())\nsilent')
    sheet = lab.open('keys.ipynb')
    sheet.run_all()
    keys,tell = lab.page.keyboard,lambda: json.loads(sheet.run('import json; print(json.dumps(told)); told.clear()'))
    chart = sheet.find('.am-clicks').first.locator('svg[role=slider]')
    chart.focus()
    for key in ('ArrowLeft', 'ArrowLeft', 'ArrowRight', 'Shift+ArrowLeft', 'Enter'): keys.press(key)
    [at] = tell()
    assert at['chart'] == 'the curve' and at['x'] == pytest.approx(98.9)
    keys.press('Tab')
    for key in ('ArrowDown', 'Shift+ArrowUp', 'Escape'): keys.press(key)
    assert tell() == [dict(brush=0, low=0, high=.95), dict(brush=0, low=.05, high=.95), dict(brush=0, low=0, high=0)]
    sheet.run("panel.value = Html(drawn() + '<p>drawn again</p>')")
    sheet.find('text=drawn again').wait_for()
    keys.press('ArrowDown')
    for key in ('Tab', 'Tab', 'Enter', 'Tab', 'Space', 'ArrowRight', 'Enter'): keys.press(key)
    assert tell() == [dict(brush=0, low=0, high=.95), dict(key='doc 7'), dict(key='token 1'), dict(key='token 2')]
    assert sheet.find('.am-clicks').nth(1).locator('svg[role=slider]').count() == 0        # nobody would listen
    assert not (found := sheet.untidy()), '\n'.join(found)


def test_no_panel_of_a_run_or_sweep_lets_a_document_act(lab, tmp_path):
    "Pages 51 and 52 in JupyterLab: every document behind a point, every sample, name, alarm, value and reason; at the end text that nobody escaped, which does run."
    write_notebook(lab.folder/'acts.ipynb', f"""import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
import warnings; warnings.simplefilter('ignore')
from pathlib import Path
from andromeda.dashboard import Dashboard
from andromeda.sweepboard import SpaceBoard, SweepBoard
from andromeda.sweeps import Sweep, create_sweep, work
from hostile import TEXTS
from hostile import run as hostile_run
place = Path({str(tmp_path)!r})
run = hostile_run(place)
panel = Dashboard([run, run.folder], every=1000)
panel""", """from andromeda.runs import run_artefact
given = dict(tiers=run.plan['tiers'], shards={n: run_artefact(run, p) for n,p in run.plan['shards'].items()}, tokenizer=run_artefact(run, run.plan['tokenizer']))
made = create_sweep(place/'sweeps'/'s', run.recipe, {'optimizer': TEXTS[::20]}, **given, method='grid')
work(made)
sweep = Sweep(made.folder.rename(made.folder.with_name(run.folder.name)))
board = SweepBoard(sweep, every=1000)
board""", """define = SpaceBoard(run.recipe, **given, folder=place)
define.rows[0].where.value = 'optimizer'
define""")
    sheet = lab.open('acts.ipynb')
    sheet.run_all()
    said = sheet.run("""shown = set()
for step in range(1, 301, 12):
    panel._on_curve(dict(x=step))
    shown |= {d['id'] for d in panel.shown.documents(step)}
for doc in range(200): panel._on_batch(dict(key=f'doc {doc}'))
panel.x.value = 'tokens'
for sample in (200, 300): panel.sample.value = sample
def refuse(): raise ValueError(text)
for i,text in enumerate(TEXTS):
    panel._do(refuse)
    if i%20 == 5:
        board._do(refuse)
        define.rows[0].values.value = text
for trial in range(len(board.rows)): board.trial.value = trial
board._told(dict(brush=0, low=0., high=.5))
print(len(shown), sum(t in r['why'] for t in TEXTS for r in board.rows))""")
    assert int(said.split()[0]) > 50 and int(said.split()[1]) >= 10
    lab.page.wait_for_timeout(500)
    sheet.whole('hostile-panels')
    nothing_acted(lab, sheet, 'panel')


@pytest.fixture(scope='module')
def endless(lab):
    "A run that would train for a long time, the same that page 51 makes."
    page = json.loads((ROOT/'nbs'/'51_dashboard.ipynb').read_text(encoding='utf-8'))
    cells = [''.join(c['source']) for c in page['cells'] if c['cell_type'] == 'code']
    wanted = [c for c in cells if c.startswith(('#| hide\nimport tempfile', 'sample = home()', 'def recipe_of'))]
    code = '\n'.join(c for c in wanted).replace('recipe_of(40)', 'recipe_of(200_000)').replace("Path(tempfile.mkdtemp())/'runs'", f"Path({str(lab.folder)!r})/'runs'")
    write_notebook(lab.folder/'steer.ipynb', 'from andromeda.dashboard import *\nfrom pathlib import Path\nfrom andromeda.core import home\nfrom andromeda.runs import launch\n' + code,
                   "panel = show(folder)\npanel")
    sheet = lab.open('steer.ipynb')
    sheet.run_all()
    yield lab.folder/'runs'/'watched',sheet
    control(Run(lab.folder/'runs'/'watched'), want='stop')
    for _ in range(200):
        if not any(r.alive() for r in runs(lab.folder/'runs')): break
        for r in runs(lab.folder/'runs'): control(r, want='stop')
        time.sleep(.1)


def wait_for(condition, seconds=60, what=''):
    "Wait until a function of this process gives something true."
    end = time.monotonic()+seconds
    while not (found := condition()):
        assert time.monotonic() < end, f'{what or condition} did not come true in {seconds} s'
        time.sleep(.005)
    return found


def test_a_run_is_steered_by_its_buttons(lab, endless):
    "Pause, learning rate, checkpoint, fork, a click on the curve; the panel comes back after a reload."
    run,sheet = Run(endless[0]),endless[1]
    wait_for(lambda: run.status['state'] == 'running' and run.status['step'] > 20, what='the run trains')
    lab.until("() => /running/.test(document.querySelector('.am-status').textContent)")
    for button,want,state in (('.am-pause', 'pause', 'paused'), ('.am-start', 'run', 'running')):        # how soon: bench/dashboard.py
        sheet.find(button).first.click()
        wait_for(lambda: run.control['want'] == want and run.status['state'] == state)
    sheet.find('.am-save').click()
    wait_for(lambda: run.control['saves'] == 1)
    wait_for(lambda: run.status.get('saved'), what='a checkpoint')
    slider = sheet.find('.am-dashboard').get_by_label('learning rate ×').or_(sheet.find('.am-dashboard [role=slider]')).first
    slider.focus()
    slider.press('ArrowLeft')
    wait_for(lambda: run.control['lr_scale'] < 1)
    sheet.find('.am-loss svg').click(position=dict(x=500, y=150))
    links = sheet.find('.am-batch [data-am^="doc "]')
    links.first.wait_for()
    first = sheet.find('.am-batch caption').text_content()
    batch = Batches(run).documents(int(re.search('step ([0-9,]+)', first)[1].replace(',', '')))
    assert sorted(links.all_text_contents()) == sorted(d['id'][:12] for d in batch) and batch       # the documents of that batch
    passed,rules = re.search('([0-9]+) of ([0-9]+)', sheet.find('.am-batch tbody tr').first.text_content()).groups()
    links.first.click()
    sheet.find('.am-doc').get_by_text(batch[[d['id'][:12] for d in batch].index(links.first.text_content())]['id']).wait_for()
    assert passed == rules and sheet.find('.am-doc td').get_by_text('passed', exact=True).count() == int(passed) > 0      # and the rules it passed
    sheet.find('.am-loss svg').focus()                                                  # another point, by the keyboard, though the curve is drawn anew
    sheet.page.evaluate("() => document.querySelector('.am-loss svg').dataset.old = 1")
    lab.until("() => !document.querySelector('.am-loss svg').dataset.old")
    for key in ('ArrowLeft', 'Enter'): lab.page.keyboard.press(key)
    lab.until(f"() => document.querySelector('.am-batch caption').textContent !== {json.dumps(first)}", what='the batch of another step')
    sheet.find('.am-dashboard').scroll_into_view_if_needed()
    sheet.shot('51_dashboard')
    sheet.find('.am-fork').click()
    lab.until("() => /watched-fork/.test(document.querySelector('.am-status').textContent)")
    sheet.save()
    sheet.reload()
    step = "() => { const e = document.querySelector('.am-status'); return e && e.textContent }"
    first = lab.until(step)
    lab.until(f"() => {{ const e = document.querySelector('.am-status'); return e && e.textContent !== {json.dumps(first)} }}", what='the panel is live again')
    sheet.shot('51_dashboard-reloaded')


def test_runs_outlive_the_kernel_and_an_interrupt_pauses(lab, endless):
    "After a restart of the kernel show() finds the run; the stop button on a followed run pauses it, with a checkpoint."
    run = Run(endless[0])
    wait_for(lambda: run.status['state'] == 'running', what='the run trains')
    write_notebook(lab.folder/'again.ipynb', f"from andromeda.dashboard import *\nfrom pathlib import Path\npanel = show(Path({str(endless[0].parent)!r}))\npanel",
                   "print('following')\nresult = follow(next(w.run for w in panel.watched if w.name == 'watched'))\nprint(result)")
    pid = run.status['pid']
    sheet = lab.open('again.ipynb')                # ends the other notebook's kernel
    assert run.alive() and run.status['pid'] == pid
    control(run, want='run')
    saved = run.status.get('saved')
    sheet.start_all()
    lab.until("() => /watched/.test((document.querySelector('.am-status') || {textContent: ''}).textContent)")
    wait_for(lambda: run.status['state'] == 'running')
    lab.until("() => [...document.querySelectorAll('.jp-OutputArea-output pre')].some(e => /^following/.test(e.textContent))")
    sheet.find('[data-command="notebook:interrupt-kernel"]').first.click()
    wait_for(lambda: run.status['state'] == 'paused' and run.status.get('saved') not in (None, saved), what='paused with a checkpoint')
    lab.until('() => window.__done')
    assert not sheet.errors() and run.alive()
    sheet.shot('51_dashboard-followed')


def test_a_sweep_is_defined_brushed_stopped_promoted_and_found_after_a_restart(lab):
    "Page 52's boards over a toy; the workers outlive the kernel, and a killed one is replaced."
    write_notebook(lab.folder/'sweep.ipynb', f"""import os, sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
import toysweep
from andromeda.sweepboard import SpaceBoard, find_sweeps, show_sweep
os.environ['ANDROMEDA_TOY'] = '.3'
folder = Path({str(lab.folder)!r})/'toy'
recipe,data = toysweep.made(folder)
panel = show_sweep(folder) if find_sweeps(folder) else SpaceBoard(recipe, **data, folder=folder/'sweeps', launch=toysweep.launch, heartbeat=1)""", 'panel')
    sheet = lab.open('sweep.ipynb')
    sheet.run_all()
    rows = sheet.find('.am-place')
    rows.first.locator('input').nth(1).fill('9')
    sheet.find('.am-add').click()
    rows.nth(1).locator('input[placeholder]').fill('2, 4')
    sheet.find('.am-space').get_by_label('trials').fill('6')
    sheet.find('.am-space').get_by_label('method').select_option('random')
    sheet.find('.am-space').get_by_text('--vary stages.*.peak_lr=0.25..9:log:times batch=2,4').wait_for()
    sheet.shot('52_sweepboard-define')
    sheet.find('.am-create').click()
    board = sheet.find('.am-sweepboard')
    board.get_by_text('nobody works on it').wait_for()
    [path] = lab.folder.glob('toy/sweeps/*/sweep.json')
    sweep = Sweep(path.parent)
    (sweep.folder/'hold').touch()                    # the third and fourth trial are under way until it is gone
    board.locator('.am-start').click()
    board.locator('[data-am="trial 5"]').first.click()
    board.locator('.am-stop').click()
    wait_for(lambda: sweep.unwanted(5).exists(), 10)
    wait_for(lambda: [r['state'] for r in trials(sweep)[:4]] == ['complete']*2+['running']*2, 60, 'two trials are complete')
    board.get_by_text('2 running').wait_for()
    axis = board.locator('rect[data-am-brush]').nth(1)              # batch: the lower half is 2
    axis.scroll_into_view_if_needed()
    at = axis.bounding_box()
    for y,do in ((.98, lab.page.mouse.down), (.75, None), (.55, lab.page.mouse.up)):
        lab.page.mouse.move(at['x']+at['width']/2, at['y']+at['height']*y)
        if do: do()
    lab.until("() => / selected/.test(document.querySelector('.am-curves').textContent)", 10, 'the curves follow the brush')
    wait_for(lambda: list(json.loads((sweep.folder/'board.json').read_text())['brushes']) == ['batch'], 10)
    sheet.whole('52_sweepboard')
    kept = lambda: json.loads((sweep.folder/'board.json').read_text())['brushes']
    low,high = kept()['batch']
    axis.press('Escape')                             # the same by the keyboard, while the board is drawn again and again
    wait_for(lambda: not kept(), 10, 'nothing is selected')
    for i in range(10):
        lab.page.keyboard.press('ArrowDown')
        if not i%5: wait_for(lambda: kept().get('batch', [0, 9])[1] == pytest.approx(1.5-.1*(i+1), abs=1e-3), 10, f'{i+1} steps down')
    wait_for(lambda: kept().get('batch', [0, 9])[1] == pytest.approx(.5, abs=1e-3), 10, 'the lower half of the axis is selected')
    assert low < 0 < high < 1 and kept()['batch'][0] == -.5
    board.locator('.am-best').click()
    board.locator('.am-promote').click()
    wait_for((sweep.folder/'count-best.toml').exists, 10)
    wait_for(lambda: [bool(r['worker']) for r in trials(sweep)[2:4]] == [True]*2, 10)
    pids = {w['pid'] for w in at_work(sweep)}
    killed = next(w['pid'] for w in at_work(sweep) if w['worker'] is not None)
    sheet.page.evaluate("() => jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart().then(() => 1)")
    sheet.wait_ready()
    assert {w['pid'] for w in at_work(sweep)} == pids and len(pids) == 3, 'the workers outlive the kernel'
    os.kill(killed, signal.SIGKILL)
    sheet.run_all()
    board.get_by_text('2 selected').first.wait_for()         # as it was left
    (sweep.folder/'hold').unlink()
    wait_for(lambda: all(r['state'] in ('complete', 'failed') for r in trials(sweep)) and not at_work(sweep), 60, 'the sweep ends')
    board.get_by_text('6 of 6 trials have ended').wait_for()
    assert [r['state'] for r in trials(sweep)] == ['complete']*5+['failed'] and trials(sweep)[5]['why'] == STOPPED
    assert any(r['tries'] == 2 for r in trials(sweep))
    assert not lab.ran and not lab.outside


PAGES = sorted(p.stem for p in (ROOT/'nbs').glob('*.ipynb'))
PANELS = {'51_dashboard': 'shown = Dashboard([run])\nshown._on_curve(dict(x=50))\nshown._on_batch(dict(key=f"doc {shown.shown.documents(50)[0][\'place\']}"))\nshown',
          '52_sweepboard': 'shown = SweepBoard(sweep, launch=launch_toy)\nshown._told(dict(brush=1, low=0., high=.5))\nshown'}      # the pages say what they do; here they are seen


def run_page(lab, name, picture):
    "A page from top to bottom, with its picture kept; nothing asked of other computers, nothing cut, overlapping or without a name."
    copy_page(name, lab.folder, *([PANELS[name]] if name in PANELS else []))
    lab.outside.clear()
    sheet = lab.open(f'{name}.ipynb')
    sheet.run_all(600)
    sheet.whole(picture)
    assert not (found := sheet.untidy()), '\n'.join(found)
    assert not lab.outside
    lab.page.evaluate("() => jupyterapp.commands.execute('kernelmenu:shutdown').then(() => 1)")


@pytest.mark.slow
@pytest.mark.parametrize('name', PAGES)
def test_every_page_runs_in_jupyterlab(lab, name): run_page(lab, name, f'whole-{name}')


@pytest.fixture
def dark(lab):
    def theme(name, light):
        lab.page.emulate_media(color_scheme=name.lower())
        lab.page.evaluate("name => jupyterapp.commands.execute('apputils:change-theme', {theme: name}).then(() => 1)", f'JupyterLab {name}')
        lab.until(f"() => document.body.dataset.jpThemeLight === '{light}'")
    theme('Dark', 'false')
    yield lab
    theme('Light', 'true')


@pytest.mark.slow
@pytest.mark.parametrize('name', ['01_view', '50_inspect', '51_dashboard', '52_sweepboard'])
def test_the_panels_are_tidy_in_the_dark(dark, name): run_page(dark, name, f'dark-{name}')
