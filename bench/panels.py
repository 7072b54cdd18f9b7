"""How long the inspection panels take on 100,000 and 1,000,000 documents: recounting after a threshold moved, a page of documents, a filter, the first matches of a search.

Made-up documents with the columns and row groups that `clean` writes; the signals are drawn at random, so that every rule removes some. Times are wall-clock
medians of 5 on one core, in this process: what a slider waits for before the browser gets its answer. And the CPU time that the dashboard takes to say how
a run is and to draw its curves, for runs of 1,000 to 100,000 steps. Appends to data/records/panels.jsonl.
"""
import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
from andromeda.clean import RULE_SETS, RULES                           # noqa: E402
from andromeda.core import append_jsonl, build, plain, write_json      # noqa: E402
from andromeda.dashboard import SHARE, Watched, charts_html, loss_html, status_html        # noqa: E402
from andromeda.inspect import Browse, Search, Shelf, Thresholds        # noqa: E402
from andromeda.runs import Run                                         # noqa: E402
from andromeda.signals import SIGNALS                                  # noqa: E402
from andromeda.stages import Corpus, Recipe, Stage, recipe_to_dict     # noqa: E402

WORDS = [f'word{i}' for i in range(3000)]


def made_up(folder, name, n, rules, seed, part=25_000):
    "A clean artefact of `n` documents."
    r = np.random.default_rng(seed)
    text = [' '.join(r.choice(WORDS, 60)) for _ in range(200)]
    def make(out):
        for p in range(0, n, part):
            size = min(part, n-p)
            columns = {s: pa.array(np.abs(r.normal(.5, .5, size)).astype(np.float32)) for s in SIGNALS}
            columns |= dict(bytes=pa.array(r.lognormal(7, 1, size).astype(np.float32)))
            ids = [f'{seed:04x}{p+i:012x}' for i in range(size)]
            failed = [[dict(rule=rules[int(k)].name, value=.1, threshold=.5)] if k >= 0 else [] for k in np.where(r.random(size) < .1, r.integers(0, len(rules), size), -1)]
            texts = [f'{i} ' + text[i % len(text)] for i in range(p, p+size)]
            t = pa.table(dict(id=ids, source=[name]*size, file=['made-up']*size, row=list(range(p, p+size)), group=ids, text=texts, meta=['{}']*size) | columns
                         | dict(language=['en']*size, digest=ids, failed=pa.array(failed, pa.list_(pa.struct([('rule', pa.string()), ('value', pa.float64()), ('threshold', pa.float64())]))),
                                quarantined=['']*size, spared=[False]*size, cuts=pa.array([[]]*size, pa.list_(pa.int64()))))
            (out/f'part-{p//part:05d}').mkdir()
            pq.write_table(t, out/f'part-{p//part:05d}'/'documents.parquet', row_group_size=500, compression='zstd')
        return dict(read=n)
    return build(folder/name, made_by='clean', version=0, config=dict(rules=plain(rules), own={}, cut_lines=False), make=make)


def median_ms(f, times=5):
    took = []
    for i in range(times):
        began = time.perf_counter()
        f(i)
        took.append(1000*(time.perf_counter()-began))
    return round(statistics.median(took), 2)


def measured(n, folder):
    rules = dict(prose=RULES['prose'], code=RULES['code'], web=tuple(dict.fromkeys([*RULE_SETS['gopher'], *RULE_SETS['c4'], *RULE_SETS['fineweb']])))
    share = dict(prose=.3, code=.2, web=.5)
    cleaned = {s: made_up(folder/str(n), s, int(n*share[s]), r, i) for i,(s,r) in enumerate(rules.items())}
    began = time.perf_counter()
    shelf = Shelf(cleaned, dict(prose='high', code='medium', web='low'))
    browse = Browse(shelf)
    first = time.perf_counter()-began
    began = time.perf_counter()
    panel = Thresholds(shelf)
    panel.source.value = 'web'
    ready = time.perf_counter()-began
    name = 'gopher: few words'
    r = np.random.default_rng(0)
    def moved(i): panel.thresholds[f'web/{name}'] = .3 + .01*i; panel._recount()
    def slid(i): panel.sliders['fineweb: short lines'].value = .2 + .1*i
    def turned(i): browse.page.value = int(r.integers(1, browse.page.max))
    def filtered(i): browse.rule.value = browse.shelf.rules[i]
    return dict(documents=n, rules=sum(map(len, rules.values())), recount_ms=median_ms(moved), slider_with_examples_ms=median_ms(slid), page_ms=median_ms(turned),
                filter_ms=median_ms(filtered), first_page_s=round(first, 2), thresholds_ready_s=round(ready, 2),
                search_first_match_ms=median_ms(lambda i: Search(shelf, f'{n//4+i} word', np.arange(n)).upto(1, 60)))


def dashboard(steps, folder):
    "CPU milliseconds of a look at a run of that many steps."
    run = folder/f'run-{steps}'
    run.mkdir()
    stage = Stage(name='high', tier='high', tokens=32*2*steps, peak_lr=1e-3)
    recipe = Recipe(name='made-up', model='palm-tiny', corpus=Corpus(sources=('a',)), stages=(stage,), length=32, batch=1)
    write_json(run/'recipe.json', dict(recipe=recipe_to_dict(recipe), tiers=dict(a='high'), fingerprint='0'*16))
    write_json(run/'status.json', dict(state='running', step=steps, steps=2*steps, loss=3., lr=1e-3, gradient_norm=1., tokens_per_second=1e5, eta_seconds=9., updated=time.time()))
    r = np.random.default_rng(0)
    for i in range(1, steps+1):
        loss = 3+4*np.exp(-i/steps*9)+r.normal()/9
        record = dict(step=i, stage='high', tokens=32*i, loss=round(loss, 4), lr=1e-3, gradient_norm=1+loss/9, seconds=.01, data_seconds=0.)
        with open(run/'metrics.jsonl', 'a' if i > 1 else 'w') as f: f.write(json.dumps(record)+'\n')
    watched = [Watched(Run(run))]
    def cpu_ms(f):
        took = []
        for _ in range(5):
            began = time.process_time()
            f()
            took.append(1000*(time.process_time()-began))
        return round(statistics.median(took), 2)
    watched[0].metrics
    return dict(steps=steps, say_ms=cpu_ms(lambda: status_html(watched)), draw_ms=cpu_ms(lambda: (loss_html(watched), charts_html(watched))), drawing_share_of_a_core=SHARE)


if __name__ == '__main__':
    asked = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    asked.add_argument('--documents', type=int, nargs='*', default=[100_000, 1_000_000])
    asked.add_argument('--steps', type=int, nargs='*', default=[1000, 10_000, 100_000])
    asked.add_argument('--dry', action='store_true', help='print, and record nothing')
    asked = asked.parse_args()
    where = dict(made=time.strftime('%Y-%m-%d'), python=platform.python_version(), numpy=np.__version__, pyarrow=pa.__version__, machine=platform.machine(), cores=1, load=round(os.getloadavg()[0], 1))
    with tempfile.TemporaryDirectory() as folder:
        for what,sizes,measure in (('panels', asked.documents, measured), ('dashboard', asked.steps, dashboard)):
            for n in sizes:
                record = dict(bench=what) | where | measure(n, Path(folder))
                print(record)
                if not asked.dry: append_jsonl(ROOT/'data'/'records'/'panels.jsonl', record)
