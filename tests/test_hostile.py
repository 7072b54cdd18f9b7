"Two hundred hostile documents through every public view, in a real browser: nothing runs, nobody is asked for anything."
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from andromeda import sweepboard, view
from andromeda.clean import what_if
from andromeda.dashboard import Batches, Watched, batch_html, charts_html, loss_html, samples_html, status_html
from andromeda.inspect import Shelf, Thresholds, at_the_line, beside_html, cluster_html, clusters_html, document_html, mix_html, page_html, recount_html, token_html, tokens_html
from andromeda.dedup import clusters
from andromeda.report import beside, render
from andromeda.tokenizer import Encoder, train_tokenizer
from browser import Browser, lacking
from hostile import TEXTS, documents
from hostile import run as hostile_run
from test_report import hostile, made_up_result

pytestmark = pytest.mark.skipif(bool(lacking()), reason=lacking() or '-')


@pytest.fixture(scope='module')
def shelf(tmp_path_factory):
    cleaned,duplicates = documents(tmp_path_factory.mktemp('hostile'))
    return Shelf(cleaned, {TEXTS[3]: TEXTS[11]}, duplicates)


def of_view(t):
    "Each function of page 01 with a text wherever it takes one."
    rows = [{t: t, 'n': 1}]
    yield from (view.safe(t), view.table(rows, caption=t), view.table(rows, columns={'n': t, t: t}), view.tree(t), view.marked(t), view.table(view.hidden(t)))
    yield view.curves({t: [(1, 2), (2, 1)], 'b': [(1, 1), (3, None)]}, t, t, t, marks=[(1, t)])
    yield view.bars({t: {t: 1, 'b': None}}, t, t)
    yield view.document(dict(id=t, source=t, text=t, meta={t: t}))


def of_inspect(shelf, encoder):
    "Each function of page 50 over all documents."
    yield page_html(shelf, range(200))
    for place in range(200): yield document_html(shelf, place, encoder if place % 2 else None)
    for t in TEXTS: yield tokens_html(t, encoder)
    for token in range(1, encoder.vocab, 7): yield token_html(encoder, token, {TEXTS[2]: np.ones(encoder.vocab, int)})
    panel = Thresholds(shelf)
    rule = panel.measured.rules[TEXTS[3]][1]
    stay,go = at_the_line(panel.measured, rule, TEXTS[3], 50)
    yield beside_html(shelf, {TEXTS[6]: stay, TEXTS[7]: go})
    yield recount_html(what_if(panel.measured), what_if(panel.measured, {rule.name: 90}))
    found = clusters(shelf.duplicates)
    yield clusters_html(found)
    yield cluster_html(shelf, found[0])
    for i in range(0, 200, 10): yield mix_html({t: 1000+j for j,t in enumerate(TEXTS[i:i+10])}, {t: 1+j for j,t in enumerate(TEXTS[i:i+10])}, 30_000)


def of_dashboard(run):
    "Each function of page 51 over the run: alone and beside one of another name, each text as alarm, message and stage; all documents behind its points."
    one,batches = Watched(run),Batches(run)
    other = SimpleNamespace(name=TEXTS[8], run=run, state=TEXTS[9], metrics=one.metrics, evals=one.evals, samples=one.samples)
    for several in ([one], [one, other]):
        for x in ('step', 'tokens'): yield from (loss_html(several, x), charts_html(several, x))
    yield from (samples_html(one), samples_html(one, 200))
    for t in TEXTS:
        said = SimpleNamespace(status=dict(state='failed', step=1, stage=t, saved=t, alarm=t, message=t), control=dict(lr_scale=1.))
        yield status_html([SimpleNamespace(name=t, run=said, state=t), SimpleNamespace(name=t, run=said, state='failed')])
    shown = set()
    for step in range(1, 401, 8):
        yield batch_html(batches, step)
        shown |= {d['place'] for d in batches.documents(step)}
    assert len(shown) > 100
    for place in range(200): yield document_html(batches.shelf, place)


def of_sweepboard(run, study):
    "Each function of page 52 with a text as place, value, state, worker, reason and name."
    recipe = replace(run.recipe, stages=run.recipe.stages[:1])
    base = dict(trial=0, state='complete', value=1., batch=4, looks={1: 2., 27: 1.}, tries=2, seconds=3., run=None)
    for t in TEXTS:
        rows = [base | dict(trial=i, shown=t, why=t, worker=t, **{t: t}) for i in range(2)] + [base | dict(trial=2, state='pruned', shown='pruned', why='', worker='', value=None, **{t: t})]
        space = {t: [t, None], 'batch': [2, 4]}
        axes = sweepboard.scales(space, rows)
        sweep = SimpleNamespace(recipe=recipe, space={'optimizer': [t, 'lion']}, folder=SimpleNamespace(name=t), run=lambda _: run if t in TEXTS[:3] else SimpleNamespace(folder=run.folder/'none'))
        yield sweepboard.parallel_html(axes, rows, {t: (-.5, .5)}, 1)
        yield sweepboard.curves_html(rows, 1000, {0}, 1)
        yield sweepboard.trials_html(rows, space, {1})
        yield sweepboard.sweep_html(sweep, rows, [dict(worker=0, pid=t)])
        yield sweepboard.trial_html(sweep, rows[0] | dict(optimizer=t))
        yield sweepboard.space_html(recipe, sweep.space, 4, 'random')
    yield sweepboard.importance_html(study)


def study_of(names):
    "Optuna's record of eight complete trials over places of these names."
    import optuna
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    made = optuna.create_study()
    line = {n: optuna.distributions.FloatDistribution(0, 1) for n in names}
    for i in range(8): made.add_trial(optuna.trial.create_trial(params={n: (i*(j+1)%8)/8 for j,n in enumerate(names)}, distributions=line, value=i/8))
    return made


def load(browser, path, html):
    "What a page with this body did: scripts that ran, machines that were asked."
    path.write_text(f'<!DOCTYPE html><meta charset=utf-8><body>{html}</body>', encoding='utf-8')
    browser.ran.clear()
    browser.outside.clear()
    browser.page.goto(path.as_uri())
    browser.page.wait_for_timeout(500)
    return len(browser.ran), len(browser.outside)


def test_the_browser_would_have_noticed(tmp_path):
    "The same texts without any escaping do run scripts and do ask."
    with Browser() as browser:
        harmful = [t for t in TEXTS if not any(word in t for word in ('http-equiv', '<base', '<xmp', '<noscript', '<template', '<textarea', '<!--', '<style', '<select'))]
        ran,asked = load(browser, tmp_path/'open.html', ''.join(harmful))
    assert ran >= 20 and asked >= 5


@pytest.mark.filterwarnings('ignore:.* is small')
def test_no_view_lets_a_document_act(shelf, tmp_path):
    pytest.importorskip('optuna')
    encoder,run = Encoder(train_tokenizer(TEXTS, 400)),hostile_run(tmp_path)
    pages = dict(view=[p for t in TEXTS for p in of_view(t)], inspect=list(of_inspect(shelf, encoder)), dashboard=list(of_dashboard(run)),
                 sweepboard=list(of_sweepboard(run, study_of(TEXTS[::40]))))
    with Browser() as browser:
        for name,parts in pages.items():
            assert len(parts) > 200 and load(browser, tmp_path/f'{name}.html', '\n'.join(parts)) == (0, 0), name
        two = lambda bad, t: beside({t: bad, f'{t}2': bad}, {f'{t}: m': {t: t}, f'{t}2: m': {t: 1}})
        for i,t in enumerate(TEXTS[::4]):                                # every script; the ways out are the same for all
            page = render((two if i%5 == 4 else lambda bad, t: bad)(hostile(made_up_result(steps=4), t), t))
            assert 'Content-Security-Policy' in page
            (tmp_path/f'{i}.html').write_text(page.replace('http-equiv="Content-Security-Policy"', 'name="none"'), encoding='utf-8')      # it must hold without
        assert load(browser, tmp_path/'report.html', ''.join(f'<iframe src="{i}.html"></iframe>' for i in range(50))) == (0, 0)
