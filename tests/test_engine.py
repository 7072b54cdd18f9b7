"Tasks in several processes."
import os
import signal

import pytest

from andromeda.engine import run


def shout(item, path):
    path.write_text(item.upper())
    return dict(n=len(item))


def die_once(item, path):
    "Kills its own process the first time it sees the item 'fatal'."
    text,marker = item
    if text == 'fatal' and not os.path.exists(marker):
        open(marker, 'w').close()
        os.kill(os.getpid(), signal.SIGKILL)
    return shout(text, path)


def always_die(item, path): os.kill(os.getpid(), signal.SIGKILL)


def fail(item, path): raise ValueError(f'bad item {item}')


@pytest.fixture(scope='module')
def cluster():
    "A Ray cluster of two cores on this machine."
    ray = pytest.importorskip('ray', reason="needs Ray: pip install 'andromeda[ray]'")
    os.environ['RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO'] = '0'
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level='error',
             runtime_env=dict(env_vars=dict(PYTHONPATH=os.path.dirname(__file__))))        # the tasks below are functions of this file
    yield ray
    ray.shutdown()


@pytest.fixture(params=['processes', pytest.param('ray', marks=pytest.mark.slow)])      # a cluster takes half a minute to start
def backend(request):
    if request.param == 'ray': request.getfixturevalue('cluster')
    return request.param


ITEMS = {f'part-{i}': f'text {i} ' for i in range(5)}


def test_one_worker_two_and_ray_write_the_same_bytes(tmp_path, backend):
    assert run(shout, ITEMS, tmp_path/'1', workers=1) == run(shout, ITEMS, tmp_path/'2', workers=2, backend=backend)
    for name in ITEMS: assert (tmp_path/'1'/name).read_bytes() == (tmp_path/'2'/name).read_bytes()


def test_a_worker_that_dies_is_tried_again(tmp_path, backend):
    items = {n: ('fatal' if n == 'part-2' else t, str(tmp_path/'died')) for n,t in ITEMS.items()}
    assert run(die_once, items, tmp_path/'out', workers=2, backend=backend)['part-2'] == dict(n=5)
    assert (tmp_path/'died').exists() and (tmp_path/'out'/'part-2').read_text() == 'FATAL'


def test_a_worker_that_always_dies_is_named(tmp_path, backend):
    with pytest.raises(RuntimeError, match='died twice.*part-0'): run(always_die, dict(list(ITEMS.items())[:2]), tmp_path/'out', workers=2, backend=backend)


def test_an_exception_goes_on_as_it_is(tmp_path, backend):
    with pytest.raises(ValueError, match='bad item text'): run(fail, ITEMS, tmp_path/'out', workers=2, backend=backend)
    assert not list((tmp_path/'out').glob('part*'))


def test_an_output_that_was_cut_is_made_again(tmp_path):
    run(shout, ITEMS, tmp_path, workers=1)
    (tmp_path/'part-3').write_text('TE')
    run(shout, ITEMS, tmp_path, workers=1)
    assert (tmp_path/'part-3').read_text() == 'TEXT 3 '
