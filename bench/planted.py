"""Made-up runs with a fault of which the cause is known, and healthy ones, as accounts for nbs/43_advice.

The curves are not those that advice fits: a power law of the tokens, a floor that rises with the learning rate and goes away with it, heavy-tailed
noise, single spikes that come back, stages that shift the level, and bits per byte by source that wobble from one measurement to the next.
"""
import numpy as np

from andromeda.advice import Account

KINDS = ('healthy', 'diverging', 'lr_high', 'lr_low', 'overfitting', 'hurts', 'starves', 'plateau', 'too_short')


def planted(kind, seed):
    "A run with this fault."
    r = np.random.default_rng([seed, KINDS.index(kind)])
    n,tokens = int(np.exp(r.uniform(np.log(300), np.log(4000)))),int(r.choice([2048, 8192, 65536]))
    stages = int(r.integers(1, 4)) if kind != 'hurts' else int(r.integers(2, 4))
    ends = np.cumsum(r.dirichlet(np.full(stages, 6.))*n).astype(int)
    ends[-1] = n
    stage = np.searchsorted(ends, np.arange(n), side='right')
    lr = schedule(r, n, 'constant' if kind == 'plateau' else r.choice(['cosine', 'wsd', 'constant']))
    floor,start = r.uniform(1.8, 3.6),r.uniform(7, 10.5)
    gain = r.uniform(.08, .12) if kind == 'too_short' else r.uniform(.015, .03)      # of a doubling, as a share of the loss
    beta = r.uniform(.35, .6) if kind == 'too_short' else r.uniform(.25, .5)
    rest = gain*floor/(1-2**-beta-gain)
    start = max(start, floor+3.5*rest)
    t = np.arange(1, n+1)
    t0 = n*(rest/(start-floor))**(1/beta)
    loss = floor+rest*((t+t0)/n)**-beta
    heat = r.uniform(.02, .05)*floor                          # what the learning rate keeps the loss above
    memory = max(5, n//25)
    felt = np.convolve(np.r_[np.full(memory, lr[0]), lr], np.ones(memory)/memory)[memory:memory+n]
    loss += heat*felt/lr.max()*np.minimum(1, t/(.1*n))
    norm = np.exp(r.normal(0, .15, n))*r.uniform(.3, 1.2)*(1+3*np.exp(-t/(.01*n)))
    sigma = r.uniform(.04, .2)
    if kind == 'lr_high':
        hump = r.uniform(.3, 2.)*np.exp(-np.maximum(0, t-.06*n)/(r.uniform(.1, .4)*n))*(t > .03*n)
        loss += hump + heat*r.uniform(4, 9)*felt/lr.max()
        norm *= 1+r.uniform(2, 8)*felt/lr.max()*np.exp(r.normal(0, .6, n))
        sigma *= 1.5
    lr *= np.exp(r.uniform(*np.log((.004, .06) if kind == 'lr_low' else (.3, 30))))/lr.sum()
    if kind == 'lr_low':
        pace = np.cumsum(lr)/np.cumsum(lr)[-1]
        loss = start-(start-floor)*r.uniform(.2, .45)*pace**r.uniform(.75, 1.)
    if kind == 'plateau':
        at = int(r.uniform(.15, .35)*n)
        loss[at:] = loss[at]+.15*(loss[at:]-loss[at])*r.uniform(0, .3)
    names = [f's{i}' for i in range(int(r.integers(2, 5)))]
    shares = [dict(zip(names, r.dirichlet(np.full(len(names), 8.)))) for _ in range(stages)]
    if kind in ('healthy', 'too_short', 'lr_high', 'lr_low', 'plateau', 'diverging') and r.random() < .5: shares = shares[:1]*stages
    clean = loss.copy()                                        # of text that is the same in all stages
    for i in range(1, stages):
        if shares[i] != shares[0]: loss[stage == i] += r.normal(0, .12)
    loss += sigma*r.standard_t(5, n)*.77
    for at in np.flatnonzero(r.random(n) < .001): loss[at:at+6] += r.uniform(.3, 1.5)*np.exp(-np.arange(6))[:n-at]
    if kind == 'diverging':
        at = int(r.uniform(.35, .85)*n)
        if r.random() < .25: loss[at+3:] = np.nan
        else:
            up = 1-np.exp(-np.arange(n-at)/(r.uniform(.02, .08)*n))
            up = up*r.uniform(.8, 4)
            loss[at:] += up
            clean[at:] += up
            norm[at:] *= 1+r.uniform(3, 30)*up
    unique = {s: int(n*tokens*r.uniform(.5, 3)) for s in names}
    victim = names[-1]
    if kind == 'starves':
        part = r.uniform(.002, .02)
        shares = [{s: part if s == victim else (1-part)*v/(1-d[victim]) for s,v in d.items()} for d in shares]
    if kind == 'overfitting': unique[victim] = int(n*tokens*np.mean([d[victim] for d in shares])/r.uniform(6, 40))
    if kind == 'hurts':
        part = r.uniform(0, .03)
        shares[-1] = {s: part if s == victim else (1-part)*v/(1-shares[-1][victim]) for s,v in shares[-1].items()}
        if shares[0][victim] < .1: shares[0] = dict(zip(names, np.full(len(names), 1/len(names))))
    a = Account(f'{kind}-{seed}-{rest*(((n+t0)/n)**-beta-((2*n+t0)/n)**-beta):.3f}', loss, lr, norm, stage, tokens, [dict(name=str(i), tier=('high', 'medium', 'low')[i], shares=d) for i,d in enumerate(shares)], unique, [])
    rise = r.uniform(.025, .15)
    level = {s: r.uniform(.75, 1.3) for s in names}
    steps = sorted({*ends.tolist(), *np.linspace(0, n, int(r.integers(5, 11)))[1:].astype(int).tolist()})
    for step in steps:
        bits = {s: level[s]*.42*(clean[step-1] if np.isfinite(clean[step-1]) else 9.) for s in names}
        if kind == 'starves':
            seen = max(a.seen(step)[victim], 1)
            bits[victim] = .42*(floor+r.uniform(1.02, 1.0201)*.55*floor*(seen/(a.seen(n)[victim]))**-.28)
        if kind == 'overfitting' and step > (low := int(.4*n)): bits[victim] = level[victim]*.42*clean[low]*(1+rise*(step-low)/(n-low))
        if kind == 'hurts' and step > (low := int(ends[-2])): bits[victim] = level[victim]*.42*clean[low]*(1+rise*(1-np.exp(-3*(step-low)/(n-low))))
        a.evals.append(dict(step=int(step), validation={s: dict(bits_per_byte=float(v*(1+r.normal(0, .0025))), bytes=50_000) for s,v in bits.items()}))
    return a


def schedule(r, n, kind):
    "Learning rates."
    peak,warm = 10**r.uniform(-3.5, -2),max(2, int(n*r.uniform(.01, .06)))
    t = np.arange(n)
    if kind == 'cosine': shape = .1+.9*.5*(1+np.cos(np.pi*t/n))
    elif kind == 'wsd': shape = np.where(t < .8*n, 1., np.maximum(.05, 1-np.sqrt(np.maximum(0, t-.8*n)/(.2*n))))
    else: shape = np.ones(n)
    return peak*shape*np.minimum(1, (t+1)/warm)
