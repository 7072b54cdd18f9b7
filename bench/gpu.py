"""What one GPU does: the six presets' training step, long texts, ALiBi beside plain causal attention, and all kernels side by side.

    python bench/gpu.py                    # begins nothing after 6.5 minutes; needs torch, numpy and safetensors, nothing else
    python bench/gpu.py --only kernels     # or train, long, alibi, graphs
    python bench/gpu.py --tiny             # the same plan with tiny shapes, also on a CPU: shows that the script works, measures nothing

A training step is what `andromeda.train` does: bf16 matrix products with fp32 weights, loss, gradient clipping, fused AdamW; one warm-up, then the
median of the steps that follow. The blocks are compiled, the kernel is the fastest of those that run. Model FLOPs utilisation (MFU) is given by the
usual formula, which counts the full square of attention scores (PaLM, llm-foundry), and by the causal one, which counts half of it; both as a share
of the maker's dense bf16 figure. Appends to data/records/gpu-<device>.jsonl, a line as soon as it is known.
"""
import argparse
import json
import platform
import re
import statistics
import sys
import time
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch                                                                                       # noqa: E402

from andromeda.kernels import choose                                                               # noqa: E402
from andromeda.model import LM, PEAK, compile_model, fastest_kernel, flops_per_token, preset                      # noqa: E402
from andromeda.optim import make_optimizer                                                         # noqa: E402
from andromeda.train import next_token, train                                                                  # noqa: E402

SIX = ('palm-100m', 'mpt-100m', 'palm-500m', 'mpt-500m', 'palm-1b', 'mpt-1b')
ROWS = {'100m': 32, '500m': 16, '1b': 8}                # at 2048 tokens, to begin with; halved where memory is short


@dataclass(frozen=True)
class Job:
    "One training step to measure."
    part:str               # Of the plan: 'train', 'long', 'alibi' or 'graphs'
    model:str              # Preset
    T:int                  # Tokens in a row
    rows:int               # At a time
    pieces:int = 4         # So many times `rows` make a step
    alibi:bool = True      # False: the same model with learned positions, so that attention is plain and causal
    layers:int = None      # In place of the preset's
    how:str = 'blocks'     # 'eager'; 'blocks': each block compiled; 'graphs': the whole model compiled, played back as CUDA graphs


def plan(tiny):
    "What is measured, the most wanted first: whatever comes after the time is up is left out."
    six,T,long = (('palm-tiny', 'mpt-tiny'), 16, 32) if tiny else (SIX, 2048, 8192)
    palm,mpt = six[-2:]
    def job(part, name, T, **how): return Job(part, name, T, 2 if tiny or T == long else ROWS[name.split('-')[1]], layers=1 if tiny else None, **how)
    steps = [job('train', name, T) for name in reversed(six)]
    yield from steps[:2]
    yield job('long', mpt, long)
    yield job('alibi', mpt, T, alibi=False)
    yield from steps[2:]
    yield 'kernels'
    yield job('long', palm, long)
    yield job('alibi', mpt, long, alibi=False)
    for how in ('graphs', 'eager'):
        for name in six[:2]: yield job('graphs', name, T, how=how)


def config_of(job):
    c = preset(job.model, max_len=job.T, **({'layers': job.layers} if job.layers else {}))
    return c if job.alibi or 'alibi' not in c.positions else replace(c, positions='learned')


def measure(job, device, steps, backend, dtype):
    "A record of one training step."
    c,cuda = config_of(job),device.type == 'cuda'
    torch._dynamo.reset()
    kernel = fastest_kernel(c, job.rows, job.T, device, dtype).kernel
    model = LM(c, seed=0, kernel=kernel).to(device)
    if job.how != 'eager': compile_model(model, job.how, backend)
    optimizer = make_optimizer(model, 1e-4)
    ids = torch.randint(c.vocab, (job.rows*job.pieces, job.T+1), generator=torch.Generator().manual_seed(0)).numpy()     # the same at each step: the loss must fall
    if cuda: torch.cuda.reset_peak_memory_stats()
    began,records,ends,rows = time.perf_counter(),[],[],[]
    def objective(model, batch):
        rows.append(len(batch))                                                             # fewer than asked for, where `train` ran out of memory
        return next_token(model, batch)
    for record in train(model, optimizer, lambda step: ids, steps, lambda step: 1e-4, objective=objective, micro_batch=job.rows, precision='bf16'):
        if cuda: torch.cuda.synchronize()
        records.append(record)
        ends.append(time.perf_counter())
    seconds = statistics.median(b-a for a,b in zip(ends, ends[1:]))
    speed = job.rows*job.pieces*job.T/seconds
    peak = peak_flops(device)
    mfu = {f'mfu_{name}': round(speed*flops_per_token(c, job.T, causal=name == 'causal')/peak, 4) if peak else None for name in ('full', 'causal')}
    return dict(part=job.part, model=job.model, positions=c.positions, T=job.T, rows=rows[-1], tokens_a_step=job.rows*job.pieces*job.T, compiled=job.how, kernel=kernel,
                step_ms=round(1000*seconds, 2), tokens_per_second=round(speed), **mfu, peak_gb=round(torch.cuda.max_memory_allocated()/1e9, 2) if cuda else None,
                first_step_seconds=round(ends[0]-began, 1), steps=steps, loss=[round(records[0]['loss'], 4), round(records[-1]['loss'], 4)])


def side_by_side(tiny, device, dtype):
    "Records of all kernels, forward and backward, at the shapes of the six presets; then with documents."
    names,T = (('palm-tiny', 'mpt-tiny'), 16) if tiny else (SIX, 2048)
    for name in reversed(names):
        for documents in (1, 8) if name.startswith('mpt') else (1,):
            c,rows = preset(name),2 if tiny else ROWS[name.split('-')[1]]                   # as in training: what was measured there is not measured again
            torch._dynamo.reset()
            choice = choose(rows, T, c.heads, c.groups, c.d_head, device, dtype, c.causal, 'alibi' in c.positions, documents)
            for kernel,ms,peak,why in choice.rows:
                yield dict(part='kernels', model=name, T=T, rows=rows, documents=documents, heads=c.heads, groups=c.groups, d_head=c.d_head, kernel=kernel,
                           ms=ms and round(ms, 3), peak_gb=peak and round(peak/1e9, 2), taken=kernel == choice.kernel, why=why)


def peak_flops(device):
    "The maker's figure, None for a device that is not in the list."
    name = torch.cuda.get_device_name(device) if device.type == 'cuda' else ''
    return next((flops for key,flops in PEAK.items() if key in name), None)


def machine(device):
    def of(package):
        try: return version(package)
        except PackageNotFoundError: return None
    name = torch.cuda.get_device_name(device) if device.type == 'cuda' else 'cpu'
    return dict(device=name, date=time.strftime('%Y-%m-%d'), torch=torch.__version__, cuda=torch.version.cuda, triton=of('triton'), xformers=of('xformers'),
                flash_attn=of('flash-attn'), python=platform.python_version(), peak_tflops=(peak_flops(device) or 0)/1e12 or None)


def line(r):
    "A record as a line for people."
    share = lambda x: '    -' if x is None else f'{100*x:4.1f}%'
    gb = '' if r['peak_gb'] is None else f"{r['peak_gb']:6.1f} GB"
    if 'problem' in r: return f"{r['part']:8}{r['model']:11}{r['T']:6}  not measured: {r['problem']}"
    if r['part'] == 'kernels':
        return f"{'kernels':8}{r['model']:11}{r['T']:6}  {r['documents']} doc  {r['kernel']:9}" + (f"{r['ms']:9.2f} ms {gb}  " if r['ms'] else '  ') + (r['why'] or 'taken')
    return (f"{r['part']:8}{r['model']:11}{r['T']:6}  {r['positions']:8}{r['kernel']:9}{r['compiled']:7}{r['rows']:3} rows {r['tokens_per_second']:10,} tokens/s  "
            f"MFU {share(r['mfu_full'])} full, {share(r['mfu_causal'])} causal {gb}")


def compare(records):
    "What ALiBi costs, by length."
    for T in sorted({r['T'] for r in records if r['part'] == 'alibi' and 'problem' not in r}):
        at = lambda plain: [r['step_ms']/r['tokens_a_step'] for r in records if r['T'] == T and 'step_ms' in r and (r['part'] == 'alibi') == plain and
                            r['model'] == next(x['model'] for x in records if x['part'] == 'alibi') and r['compiled'] == 'blocks']
        if at(True) and at(False): yield f'ALiBi beside plain causal attention at {T} tokens: {at(False)[0]/at(True)[0]-1:+.1%} time'


def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--only', nargs='*', choices=('train', 'long', 'alibi', 'graphs', 'kernels'), help='parts of the plan')
    p.add_argument('--tiny', action='store_true', help='tiny shapes, on whatever device there is; written nowhere unless --out says where')
    p.add_argument('--minutes', type=float, default=6.5, help='begin nothing after this time')
    p.add_argument('--steps', type=int, default=6)
    p.add_argument('--out', type=Path, help='file of records, in place of data/records/gpu-<device>.jsonl')
    args = p.parse_args(argv)
    if not torch.cuda.is_available() and not args.tiny:
        return print("No CUDA device here, so nothing is measured. `--tiny` runs the plan with tiny shapes on a CPU.")
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    about,backend = machine(device),'eager' if args.tiny and device.type == 'cpu' else 'inductor'
    out = args.out or (None if args.tiny else ROOT/'data'/'records'/f"gpu-{re.sub('[^a-z0-9]+', '-', about['device'].lower()).strip('-')}.jsonl")
    torch.set_float32_matmul_precision('high')
    began,records = time.perf_counter(),[]
    print(', '.join(f'{k} {v}' for k,v in about.items()))
    def note(record):
        records.append(record)
        print(line(record), flush=True)
        if out:
            out.parent.mkdir(parents=True, exist_ok=True)
            with open(out, 'a') as f: f.write(json.dumps(about | record)+'\n')
    for job in plan(args.tiny):
        part = getattr(job, 'part', job)
        if args.only and part not in args.only: continue
        told = dict(part=part, model=getattr(job, 'model', 'all'), T=getattr(job, 'T', 0), peak_gb=None)
        if time.perf_counter()-began > 60*args.minutes:
            note(told | dict(problem=f'{args.minutes:g} minutes are over'))
            continue
        try:
            if job == 'kernels':
                for record in side_by_side(args.tiny, device, torch.bfloat16): note(record)
            else: note(measure(job, device, args.steps, backend, torch.bfloat16))
        except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError, MemoryError) as e:                    # what does not run is part of the result
            note(told | dict(problem=f'{type(e).__name__}: ' + ' '.join(str(e).split())[:300]))
        if device.type == 'cuda': torch.cuda.empty_cache()
    for text in compare(records): print(text)
    print(f'{time.perf_counter()-began:.0f} seconds' + (f', records in {out}' if out else ''))
    return records


if __name__ == '__main__': main()
