"""Training steps and greedy generation on one CPU core, beside the peers.

    python bench/model.py                 everything, about 20 minutes; or name parts: tiny, small, long, generate, loss
    python bench/model.py tiny --rounds 3

Each contender is a process of its own (peers and ours in bench/.venv, with the same torch), held to one core, and takes a step when
it is its turn: one step to warm up, then `--rounds` of them, interleaved. A number is the median of CPU seconds. A step is forward, loss, backward
and optimiser, on equal token ids. Peers take AdamW as PyTorch ships it; so that this choice can be seen apart, the record holds the time
of loss and gradients by itself, and `times_faster_same_optimizer` gives every peer our optimiser's time in place of its own.
Appends to data/records/model.jsonl.
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = os.environ.get('PEERS', str(ROOT/'bench'/'.venv'/'bin'/'python'))
SHAPES = {
    'tiny': dict(d=256, layers=6, heads=4, d_head=64, vocab=8192, T=256, B=8),
    'small': dict(d=768, layers=12, heads=12, d_head=64, vocab=50432, T=512, B=1),
    'long': dict(d=256, layers=6, heads=4, d_head=64, vocab=8192, T=2048, B=1),
}
PALM_SMALL = dict(heads=8, d_head=128)                                      # as the published 150m
MPT_PEERS = ('transformers_mpt', 'transformers_neox', 'transformers_llama', 'litgpt', 'x_transformers')
CONTENDERS = {
    'tiny': ('mpt', *MPT_PEERS, 'x_transformers_alibi', 'palm', 'palm_rlhf', 'palm_rlhf_flash'),
    'small': ('mpt', *MPT_PEERS, 'palm', 'palm_rlhf', 'palm_rlhf_flash'),
    'long': ('mpt', 'transformers_mpt', 'x_transformers_alibi', 'palm', 'palm_rlhf', 'palm_rlhf_flash'),
}
LIBRARY = dict(transformers='transformers', litgpt='litgpt', x='x-transformers', palm='PaLM-rlhf-pytorch')


def ours(family, s):
    from andromeda.attention import quick_cpu
    from andromeda.model import LM, ModelConfig, objective_loss
    from andromeda.optim import make_optimizer
    quick_cpu()
    model = LM(ModelConfig(family, s['d'], s['layers'], s['heads'], s['d_head'], s['vocab'], s['T']))
    return model, lambda ids: objective_loss(model, ids), make_optimizer(model, 1e-4)


def peer(name, s):
    "A peer's model, and its loss as a function of token ids BT1: the model reads all but the last of each text, as ours does."
    import torch
    if name.startswith('transformers'):
        from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM, MptConfig, MptForCausalLM
        if name == 'transformers_mpt':
            model = MptForCausalLM(MptConfig(d_model=s['d'], n_heads=s['heads'], n_layers=s['layers'], vocab_size=s['vocab'], max_seq_len=s['T']))
        elif name == 'transformers_neox':
            model = GPTNeoXForCausalLM(GPTNeoXConfig(hidden_size=s['d'], num_hidden_layers=s['layers'], num_attention_heads=s['heads'], intermediate_size=4*s['d'],
                                                     vocab_size=s['vocab'], max_position_embeddings=s['T'], tie_word_embeddings=True, attn_implementation='sdpa'))
        else:
            model = LlamaForCausalLM(LlamaConfig(hidden_size=s['d'], num_hidden_layers=s['layers'], num_attention_heads=s['heads'], intermediate_size=8*s['d']//3,
                                                 vocab_size=s['vocab'], max_position_embeddings=s['T'], tie_word_embeddings=True, attn_implementation='sdpa'))
        return model, lambda ids: model(input_ids=ids[:, :-1], labels=ids[:, :-1], use_cache=False).loss
    if name == 'litgpt':
        from litgpt import GPT, Config
        from litgpt.utils import chunked_cross_entropy
        model = GPT(Config(name='as-pythia', n_embd=s['d'], n_layer=s['layers'], n_head=s['heads'], intermediate_size=4*s['d'], vocab_size=s['vocab'],
                           padded_vocab_size=s['vocab'], block_size=s['T'], rotary_percentage=.25, parallel_residual=True, bias=True, mlp_class_name='GptNeoxMLP'))
        with torch.no_grad():
            for w in model.parameters(): w.copy_(.02*torch.randn_like(w) if w.ndim > 1 else torch.ones_like(w))       # it comes unset
        return model, lambda ids: chunked_cross_entropy(model(ids[:, :-1]), ids[:, 1:])
    if name.startswith('x_transformers'):
        from x_transformers import AutoregressiveWrapper, Decoder, TransformerWrapper
        places = dict(alibi_pos_bias=True, alibi_num_heads=s['heads']) if name.endswith('alibi') else dict(rotary_pos_emb=True)
        model = AutoregressiveWrapper(TransformerWrapper(num_tokens=s['vocab'], max_seq_len=s['T'], tie_embedding=True, use_abs_pos_emb=False, attn_layers=Decoder(
            dim=s['d'], depth=s['layers'], heads=s['heads'], attn_dim_head=s['d_head'], attn_flash=True, **places)))
        return model, lambda ids: model(ids)
    from palm_rlhf_pytorch import PaLM
    model = PaLM(num_tokens=s['vocab'], dim=s['d'], depth=s['layers'], heads=s['heads'], dim_head=s['d_head'], flash_attn=name.endswith('flash'))
    return model, lambda ids: model(ids, return_loss=True)


def step_worker(name, shape):
    "Takes a step per line of input; answers with CPU seconds."
    import torch
    torch.manual_seed(0)
    torch.set_num_threads(1)
    s = dict(SHAPES[shape], **(PALM_SMALL if shape == 'small' and name.startswith('palm') else {}))
    if name in ('mpt', 'palm'): model,loss_of,optimizer = ours(name, s)
    else:
        model,loss_of = peer(name, s)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(.9, .95), weight_decay=.1)
    model.train()
    dice = torch.Generator().manual_seed(1)
    say(parameters=sum(p.numel() for p in model.parameters()))
    for _ in sys.stdin:
        ids = torch.randint(s['vocab'], (s['B'], s['T']+1), generator=dice)
        began = time.process_time()
        loss = loss_of(ids)
        loss.backward()
        between = time.process_time()
        optimizer.step()
        optimizer.zero_grad()
        ended = time.process_time()
        say(gradient=between-began, step=ended-began, loss=loss.item(), peak_mb=peak_mb())


def peak_mb(): return next(int(line.split()[1]) for line in Path('/proc/self/status').read_text().split('\n') if line.startswith('VmHWM'))/1e3


def say(**what): print(json.dumps(what), flush=True)


class Worker:
    "A process that answers a line with a line of JSON."
    def __init__(self, *arguments):
        env = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1', MKL_NUM_THREADS='1', TOKENIZERS_PARALLELISM='false', HF_HUB_OFFLINE='1')
        self.name = arguments[1]
        self.process = subprocess.Popen([PEERS, '-W', 'ignore', __file__, '--worker', *arguments], env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.first = self.hear()

    def hear(self):
        for line in self.process.stdout:
            if line.startswith('{'): return json.loads(line)
        raise SystemExit(f'{self.name} gave no answer: install bench/requirements.txt in bench/.venv.')

    def ask(self):
        self.process.stdin.write('\n')
        self.process.stdin.flush()
        return self.hear()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def rounds_of(workers, rounds):
    "Answers by worker: one to warm up, which is dropped, then `rounds`, interleaved."
    answers = {w.name: [] for w in workers}
    for i in range(rounds+1):
        for w in workers:
            answer = w.ask()
            if i: answers[w.name].append(answer)
            print(f'{i}/{rounds} {w.name:22}', ' '.join(f'{k} {v:.4g}' for k,v in answer.items() if isinstance(v, (int, float))), flush=True)
    for w in workers: w.close()
    return answers


def library(name):
    known = LIBRARY.get(name.split('_')[0]) if name not in ('mpt', 'palm') else None
    return f'{known} {version_of(known)}' if known else 'andromeda'


def version_of(package):
    said = subprocess.run([PEERS, '-c', f'from importlib.metadata import version; print(version({package!r}))'], capture_output=True, text=True).stdout
    return said.strip()


def steps(shape, rounds, names=None):
    "Record of one shape."
    s,names = SHAPES[shape],names or CONTENDERS[shape]
    workers = [Worker('step', name, shape) for name in names]
    first = {w.name: w.first for w in workers}
    answers = rounds_of(workers, rounds)
    by = {}
    for name in names:
        middle = {k: statistics.median(a[k] for a in answers[name]) for k in ('step', 'gradient')}
        by[name] = dict(library=library(name), parameters=first[name]['parameters'], seconds=round(middle['step'], 4), best=round(min(a['step'] for a in answers[name]), 4),
                        gradient_seconds=round(middle['gradient'], 4), tokens_per_second=round(s['B']*s['T']/middle['step']), peak_mb=round(answers[name][-1]['peak_mb']))
    for name,r in by.items():
        own = by.get('palm' if name.startswith('palm') else 'mpt')
        if own is None or own is r: continue
        r['ours_times_faster'] = round(r['seconds']/own['seconds'], 3)
        r['times_faster_same_optimizer'] = round((r['gradient_seconds']+own['seconds']-own['gradient_seconds'])/own['seconds'], 3)
    return dict(what='step', shape=shape, **s, **(dict(palm=PALM_SMALL) if shape == 'small' else {}), by=by)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument('parts', nargs='*', default=[])
    arguments.add_argument('--rounds', type=int, default=5)
    arguments.add_argument('--only', help='contenders, by comma')
    arguments.add_argument('--dry', action='store_true', help='write no record')
    arguments.add_argument('--worker', nargs=3)
    a = arguments.parse_args()
    if a.worker: return step_worker(*a.worker[1:])
    only = tuple(a.only.split(',')) if a.only else None
    for part in a.parts or SHAPES:
        record = dict(steps(part, a.rounds, only), date=time.strftime('%Y-%m-%d'), python=platform.python_version(), torch=version_of('torch'), cores='one', rounds=a.rounds)
        print(json.dumps(record, indent=1))
        if not a.dry:
            with open(ROOT/'data'/'records'/'model.jsonl', 'a') as f: f.write(json.dumps(record)+'\n')


if __name__ == '__main__': main()
