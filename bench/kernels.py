"""Attention on one CPU core, forward and backward, by kernel: one document a row, and several that do not see each other.

CPU milliseconds, all kernels of a shape in turn, medians of five after one that is not counted; tiny numbers are flushed to zero, as in training. `plain` is
the formula with all scores in memory. Appends to data/records/kernels.jsonl; nbs/20_kernels shows it.
"""
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

os.environ['OMP_NUM_THREADS'] = '1'
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch                                                                          # noqa: E402

from andromeda.attention import quick_cpu                                             # noqa: E402
from andromeda.kernels import KERNELS, Sight, usual_kernel                            # noqa: E402

SHAPES = [(16, 128, 4, 1, 32, False), (16, 128, 4, 4, 32, True), (8, 256, 4, 4, 64, True), (4, 512, 8, 8, 64, True), (4, 512, 8, 1, 64, False),
          (1, 2048, 8, 8, 64, True), (1, 2048, 8, 1, 128, False)]                     # texts, positions, heads, key/value heads, width, ALiBi


def milliseconds(shape, documents, rounds=5):
    "CPU milliseconds by kernel, for those that run; and which one is the usual."
    B,T,H,G,D,alibi = shape
    numbers = (torch.arange(T)*documents//T).expand(B, T) if documents > 1 else None
    qkv = [torch.randn(B, T, n, D, generator=torch.Generator().manual_seed(0)).requires_grad_() for n in (H, G, G)]
    took = {name: [] for name in KERNELS if name not in ('varlen', 'flex', 'xformers')}
    for _ in range(1+rounds):
        for name in [*took]:
            began = time.process_time()
            try: torch.autograd.grad(KERNELS[name](Sight(T, H, alibi=alibi, documents_BT=numbers))(*qkv).square().sum(), qkv)
            except RuntimeError: del took[name]                                       # says what it is not made for
            else: took[name].append(1000*(time.process_time()-began))
    return {name: round(statistics.median(t[1:]), 1) for name,t in took.items()}, usual_kernel(Sight(T, H, alibi=alibi, documents_BT=numbers))


def main(first=0, last=None):
    torch.set_num_threads(1)
    quick_cpu()
    about = dict(date=time.strftime('%Y-%m-%d'), torch=torch.__version__, python=platform.python_version(), machine=platform.machine())
    with open(ROOT/'data'/'records'/'kernels.jsonl', 'a') as f:
        for shape in SHAPES[first:last]:
            for documents in (1, max(2, shape[1]//256)):
                ms,usual = milliseconds(shape, documents)
                r = about | dict(zip(('texts', 'T', 'heads', 'groups', 'd_head', 'alibi'), shape), load=round(os.getloadavg()[0], 1), documents=documents, ms=ms, usual=usual)
                f.write(json.dumps(r)+'\n')
                f.flush()
                print(f'{str(shape):36}{documents:3} documents  ' + ', '.join(f'{k} {v}' for k,v in ms.items()) + f'   usual: {usual}', flush=True)


if __name__ == '__main__': main(*map(int, sys.argv[1:]))              # a part of the shapes, by their numbers: for a machine that is shared
