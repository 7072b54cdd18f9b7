"""Small real runs for nbs/43_advice: healthy ones, and ones with a fault that was planted. Appends each to data/records/advice_runs.jsonl.

Two families of about a million parameters on the text of this machine, a minute each on one core. `advice_runs.py NAME...` makes only these.
What is kept: loss and gradient norm of each step, the learning rate, validation bits per byte by source on the way, and what was planted.
"""
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from andromeda.journey import evaluation_texts, prepare
from andromeda.runs import create_run
from andromeda.score import model_scores
from andromeda.stages import Recipe, Stage, portions, tiny
from andromeda.shards import Shards
from andromeda.tokenizer import END_ID
from andromeda.trainer import train_run

ROOT = Path(__file__).resolve().parent.parent
TOKENS = 160_000
SOURCES = ('docstrings', 'stdlib')
TIERS = dict(docstrings='high', stdlib='low')


def plan(name, model='mpt-tiny', peak=4e-3, seed=0, stages=None, tokens=TOKENS, epochs=4., parts=5):
    "A recipe of `parts` equal stretches of one tier, so that it is measured at the end of each; one schedule over all of them."
    corpus = replace(tiny()[0].corpus, sources=SOURCES, limit_mb=dict(docstrings=8, stdlib=3), vocab=1024)
    one = Stage(name='1', tier='high', tokens=tokens//parts, peak_lr=peak, warmup_tokens=tokens//20, schedule='constant', final_lr_share=1.)
    cosine = [1., 1., .8, .5, .2, .1]
    made = stages or tuple(replace(one, name=str(i+1), warmup_tokens=one.warmup_tokens*(i == 0), peak_lr=peak*cosine[i]) for i in range(parts))
    return Recipe(name=name, model=model, corpus=corpus, stages=made, length=128, batch=4, seed=seed, max_epochs=epochs, evaluation_bytes=25_000, checkpoint_every=100_000)


def runs():
    "By name: what was planted (or healthy), the recipe, and the share of the training text that is there."
    part = lambda name, tier, tokens, peak, replay=0.: Stage(name=name, tier=tier, tokens=tokens, peak_lr=peak, replay=replay, schedule='constant', final_lr_share=1.)
    out = {}
    for seed in (0, 1):
        for model in ('mpt-tiny', 'palm-tiny'): out[f'healthy-{model}-{seed}'] = ('healthy', plan('h', model, seed=seed), 1.)
    for model,high in (('mpt-tiny', 32), ('palm-tiny', 24)):
        out[f'high-{model}'] = ('learning rate too high', plan('x', model, peak=4e-3*high), 1.)
        out[f'low-{model}'] = ('learning rate too low', plan('x', model, peak=4e-3/48), 1.)
    out['overfit-mpt-tiny'] = ('overfitting', plan('x', tokens=320_000, epochs=400., parts=6), .02)
    out['hurts-mpt-tiny'] = ('a stage hurts a source', plan('x', stages=(part('1', 'high', 60_000, 4e-3), part('2', 'high', 60_000, 3e-3), part('3', 'low', 60_000, 3e-3))), 1.)
    return out


def train(name, planted, recipe, there, p, out):
    "One run's record."
    shards = {n: p.shards[n] for n in SOURCES}
    if there < 1: shards['docstrings'] = few(shards['docstrings'], there, out/'few'/'docstrings')
    run = create_run(out/'runs'/name, replace(recipe, name=name), TIERS, shards, p.tokenizer)
    texts = dict(validation=evaluation_texts({n: p.shards[n] for n in SOURCES}, p.tokenizer, 'validation', recipe.evaluation_bytes))
    began = time.process_time()
    train_run(run.folder, lambda model, stage, last: model_scores(model, texts, recipe.length, eot=END_ID), lambda *a: [])
    metrics = [r for r in run.metrics()]
    unique = {n: a.counts['train_tokens'] for n,a in shards.items()}
    return dict(name=name, planted=planted, model=recipe.model, seed=recipe.seed, date=time.strftime('%Y-%m-%d'), torch=torch.__version__, cpu_seconds=round(time.process_time()-began, 1),
                recipe=dict(length=recipe.length, batch=recipe.batch, max_epochs=recipe.max_epochs), unique=unique, tiers=TIERS,
                stages=[dict(name=s.name, tier=s.tier, tokens=s.tokens, shares=portion.shares) for s,portion in zip(recipe.stages, portions(recipe, TIERS, unique))],
                loss=[r['loss'] and round(r['loss'], 3) for r in metrics], lr=[float(f"{r['lr']:.4g}") for r in metrics], gradient_norm=[r['gradient_norm'] and round(r['gradient_norm'], 3) for r in metrics],
                evals=[dict(step=e['step'], tokens=e['tokens'], stage=e['stage'], validation={s: dict(bits_per_byte=round(v['bits_per_byte'], 4), bytes=v['bytes']) for s,v in e['validation'].items()}) for e in run.evals()])


def few(artefact, share, folder):
    "Shards of the first documents only: a set that will be repeated."
    from andromeda.shards import build_shards
    from andromeda.core import open_artefact
    if (folder/'manifest.json').exists(): return open_artefact(folder)
    from andromeda.tokenizer import load_tokenizer
    tokenizer = open_artefact(artefact.folder.parent.parent/'tokenizer')
    decode = load_tokenizer(tokenizer).decode
    docs = [dict(id=d.id, group=d.id, text=decode(list(d.tokens))) for d in Shards(artefact).documents('train', int(share*artefact.counts['train_bytes']))]
    return build_shards(lambda: iter(docs), folder, tokenizer, {})


if __name__ == '__main__':
    wanted = sys.argv[1:]
    torch.set_num_threads(1)
    import os
    out = Path(os.environ.get('ADVICE_OUT') or tempfile.mkdtemp())
    p = prepare(plan('x').corpus, out, workers=1)
    for name,(planted,recipe,there) in runs().items():
        if wanted and name not in wanted: continue
        record = train(name, planted, recipe, there, p, out)
        with open(ROOT/'data'/'records'/'advice_runs.jsonl', 'a') as f: f.write(json.dumps(record)+'\n')
        print(name, planted, record['loss'][-1], [e['validation'] for e in record['evals']][-1], record['cpu_seconds'], 's', flush=True)
