"The law that made the runs is found again, and nothing is said where nothing can be."
import math

import numpy as np
import pytest

from andromeda.scaling import FAR, NEAR, fit_law, forecast, scaling_points


def law_of(e, a, alpha, b, beta): return lambda n, d: e + a*n**-alpha + b*d**-beta


LAWS = [law_of(1.69, 406.4, .34, 410.7, .28), law_of(1.2, 60., .25, 900., .35), law_of(.6, 20., .2, 30., .22)]
SIZES = [(n, d*n) for n in (1e6, 4e6, 1.6e7, 4e7) for d in (5, 15, 45, 135)]


@pytest.mark.parametrize('which', range(3))
def test_a_larger_run_is_forecast_within_its_interval(which):
    law,r,inside,error = LAWS[which],np.random.default_rng(which),0,[]
    for _ in range(4):
        found = fit_law([(n, d, law(n, d)*math.exp(r.normal(0, .005))) for n,d in SIZES], draws=60)
        for row in forecast(found, {'a': 1e8, 'b': 4e8}):
            truth = law(row['parameters'], row['tokens'])
            inside += row['low'] <= truth <= row['high']
            error.append(abs(row['loss']/truth-1))
    assert inside >= 6 and max(error) < .05, (inside, error)


def test_without_noise_the_numbers_come_back():
    found = fit_law([(n, d, LAWS[0](n, d)) for n,d in SIZES], draws=10)
    assert found.residual < .002 and abs(found(1e8, 2e9)[0]/LAWS[0](1e8, 2e9)-1) < .005


def test_more_runs_or_less_noise_narrow_the_interval():
    def width(noise, times):
        r = np.random.default_rng(0)
        row = forecast(fit_law([(n, d, LAWS[0](n, d)*math.exp(r.normal(0, noise))) for n,d in SIZES*times], draws=60), {'a': 2e8})[0]
        return row['high']-row['low']
    assert width(.002, 1) < width(.01, 1) and width(.01, 4) < width(.01, 1)


@pytest.mark.parametrize('points', [[], [(1e6, 1e7, 3.)]*20, [(n, 1e7*k, 3.) for n in (1e6, 2e6, 3e6) for k in (1, 2, 9)], [(n, d, 3.) for n in (1e6, 1e7) for d in (1e7, 1e8, 1e9, 1e10)]])
def test_too_little_to_tell_is_refused(points):
    with pytest.raises(ValueError, match='a law needs eight'): fit_law(points)


def test_far_aims_get_no_number_and_further_ones_wider_intervals():
    r = np.random.default_rng(0)
    found = fit_law([(n, d, LAWS[0](n, d)*math.exp(r.normal(0, .004))) for n,d in SIZES], draws=60)
    near,far,never = forecast(found, {'near': 4e7*NEAR, 'far': 4e7*FAR, 'never': 4e7*FAR*1.01}, tokens=1)
    assert near['founded'] and not near['says'] and not far['founded'] and 'only if the law does' in far['says']
    assert never['loss'] is None and 'nothing can be said' in never['says'] and never['low'] is None
    assert (far['high']-far['low'])/far['loss'] > (near['high']-near['low'])/near['loss'] and far['loss'] < near['loss']


def test_runs_on_other_text_are_not_compared(tmp_path, monkeypatch):
    import andromeda.scaling as module
    from types import SimpleNamespace as S
    recipe = S(model='mpt-tiny', corpus=S(vocab=300), length=16, evaluation_bytes=100, stage_steps=lambda: [10, 5], step_tokens=64)
    def run(name, mark, state='finished'): return S(folder=tmp_path/name, status=dict(state=state), recipe=recipe, plan=dict(tokenizer=dict(fingerprint='t'), shards=dict(a=dict(fingerprint=mark))))
    monkeypatch.setattr(module, 'validation_bits', lambda run: 2.5)
    points = scaling_points([run('a', 'x'), run('b', 'x', 'failed'), run('c', 'x')])
    assert len(points) == 2 and points[0][1:] == (960., 2.5) and points[0][0] > 1e5
    with pytest.raises(ValueError, match='cannot be compared'): scaling_points([run('a', 'x'), run('b', 'y')])
