"""How often the advice of nbs/43_advice names the planted cause first, and how often it finds fault with a healthy run.

Made-up runs (bench/planted.py, seeds that no rule was tuned on) and the real ones of data/records/advice_runs.jsonl. Appends to data/records/advice.jsonl.
"""
import collections
import json
import sys
import time
from pathlib import Path

import numpy as np
from planted import KINDS, planted

from andromeda.advice import account_of, advise, fit_curve

ROOT = Path(__file__).resolve().parent.parent
NAMES = {'healthy': None, 'learning rate too high': 'lr_high', 'learning rate too low': 'lr_low', 'overfitting': 'overfitting', 'a stage hurts a source': 'hurts'}


def first(a): return next((f.cause for f in advise(a)), None)


def main(of=25, healthy=60, begin=90_000):
    right,wrong = {},collections.Counter()
    for kind in KINDS[1:]:
        told = [first(planted(kind, begin+i)) for i in range(of)]
        right[kind] = told.count(kind)
        wrong.update(f'{kind} as {t}' for t in told if t != kind)
    told = [first(planted('healthy', begin+i)) for i in range(healthy)]
    inside = []
    for i in range(30):
        a = planted(('healthy', 'too_short')[i % 2], begin+1000+i)
        _,low,high = fit_curve(a).gain(2)
        inside.append(low <= float(a.name.split('-')[-1]) <= high)
    real = [json.loads(line) for line in open(ROOT/'data'/'records'/'advice_runs.jsonl')]
    outcome = {r['name']: (r['planted'], first(account_of(r))) for r in real}
    record = dict(what='advice on planted cases', date=time.strftime('%Y-%m-%d'), numpy=np.__version__, seeds_from=begin, of=of, right=right, wrong=dict(wrong), healthy=healthy,
                  false_alarms=sum(t is not None for t in told), alarms=dict(collections.Counter(t for t in told if t)), gain_inside_90=sum(inside)/len(inside), real=outcome)
    with open(ROOT/'data'/'records'/'advice.jsonl', 'a') as f: f.write(json.dumps(record)+'\n')
    print(json.dumps(record, indent=1))


if __name__ == '__main__': main(*map(int, sys.argv[1:]))
