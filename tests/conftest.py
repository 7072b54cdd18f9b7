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
