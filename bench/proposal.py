"""A mixture for the sources of this machine, found with small models and tried against the even one: nbs/43_proposal. Appends to data/records/proposal.jsonl.

`proposal.py` alone does it all, in about ten minutes on one core; the small models that are trained already are kept in $ANDROMEDA_HOME/proposal.
"""
import json
import sys
import time
from dataclasses import asdict, replace

import torch

from andromeda.core import home
from andromeda.journey import evaluation_texts, prepare
from andromeda.model import parameter_count
from andromeda.proposal import Proof, Proxy, best_mixture, draw_mixtures, fit_response, matched, propose, train_proxy
from andromeda.shards import Shards
from andromeda.stages import tiny
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODELS,REAL,LONGER,SECONDS = 20,2_000_000,2.5,float(sys.argv[1]) if len(sys.argv) > 1 else 1e9


def main():
    began = time.monotonic()
    torch.set_num_threads(1)
    out = home()/'proposal'
    corpus = replace(tiny()[0].corpus, vocab=1024)
    p = prepare(corpus, out, workers=1)
    shards = {n: Shards(a) for n,a in p.shards.items()}
    texts = evaluation_texts(p.shards, p.tokenizer, 'validation', 20_000)
    proxy = Proxy()
    longer = replace(proxy, tokens=round(proxy.tokens*LONGER))
    unique = {n: len(s.tokens('train')) for n,s in shards.items()}
    done = json.loads((out/'done.json').read_text()) if (out/'done.json').exists() else {}
    def kept(key, how, shares, seed):
        if key not in done:
            if time.monotonic()-began > SECONDS: sys.exit('call again to go on')
            done[key] = train_proxy(matched(shards, how.tokens, REAL, how.length), shares, texts, corpus.vocab, how, seed)
            (out/'done.json').write_text(json.dumps(done))
        return done[key]
    mixtures = draw_mixtures(unique, REAL, MODELS)
    bits = [kept(f'{i}', proxy, m, 0) for i,m in enumerate(mixtures)]
    response = fit_response(mixtures, bits)
    best = best_mixture(response, unique, REAL)
    mean = lambda b: sum(b.values())/len(b)
    new,old = ([kept(f'{name}-{seed}', longer, m, seed) for seed in (1, 2, 3)] for name,m in (('best', best), ('even', mixtures[0])))
    proof = Proof(tuple(mean(a)-mean(b) for a,b in zip(new, old)))
    record = dict(what='a mixture for the text of this machine', date=time.strftime('%Y-%m-%d'), torch=torch.__version__, models=MODELS, parameters=parameter_count(proxy.config(corpus.vocab)), **{k: v for k,v in asdict(proxy).items() if k != 'warmup'},
                  real_tokens=REAL, longer=longer.tokens, unique=unique, even=mixtures[0], mixture=best, rank=response.rank, differences=proof.differences, better=proof.better,
                  bits=dict(best=new, even=old), spread=[min(map(mean, bits)), max(map(mean, bits))])
    with open(ROOT/'data'/'records'/'proposal.jsonl', 'a') as f: f.write(json.dumps(record)+'\n')
    print(proof, record['mixture'], f'rank {response.rank:.2f}')
    print(propose(ROOT/'data'/'sources.toml', best, mixtures[0], proof, MODELS) or 'Nothing is proposed.')


if __name__ == '__main__': main()
