"What all tests share: no network, one thread, a home of their own."
import os

os.environ['HF_HUB_OFFLINE'] = '1'
os.environ.setdefault('OMP_NUM_THREADS', '1')

import pytest
import torch

torch.set_num_threads(1)


def pytest_configure(config):
    config.addinivalue_line('markers', 'slow: minutes rather than seconds')
    config.addinivalue_line('markers', 'gpu: needs a CUDA device')


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    "Every test has its own ANDROMEDA_HOME."
    monkeypatch.setenv('ANDROMEDA_HOME', str(tmp_path/'home'))
    return tmp_path/'home'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    "300 documents that count, one source of the high tier, tokenized: what small runs train on."
    from andromeda.shards import build_shards
    from andromeda.tokenizer import build_tokenizer
    folder = tmp_path_factory.mktemp('data')
    docs = [dict(id=f'{i:016x}', group=str(i), text=f'{i} is followed by {i+1}. '*4) for i in range(300)]
    tokenizer = build_tokenizer(folder/'tokenizer', [d['text'] for d in docs], 300, {})
    return dict(tiers=dict(numbers='high'), shards=dict(numbers=build_shards(lambda: docs, folder/'shards'/'numbers', tokenizer, {})), tokenizer=tokenizer)
