"""Training steps and greedy generation on one CPU core, beside the peers.

    python bench/model.py                        everything, about 20 minutes; or name parts
    python bench/model.py tiny-mpt generate-100m-8

Parts are a shape and a family (tiny-mpt ... long-palm), greedy generation with 1 or 8 texts at a time, and the loss by itself.

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
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = os.environ.get('PEERS', str(ROOT/'bench'/'.venv'/'bin'/'python'))
SHAPES = {
    'tiny': dict(d=256, layers=6, heads=4, d_head=64, vocab=8192, T=256, B=8),
    'small': dict(d=768, layers=12, heads=12, d_head=64, vocab=50432, T=512, B=1),
    'long': dict(d=256, layers=6, heads=4, d_head=64, vocab=8192, T=2048, B=1),
}
PALM_SMALL = dict(heads=8, d_head=128)                                      # as the published 150m
GENERATE = {'100m': dict(d=768, layers=9, heads=12, vocab=50432, max_len=2048, prompt=32, new=64),                 # presets mpt-100m and mpt-small
            'small': dict(d=256, layers=6, heads=8, vocab=4096, max_len=512, prompt=32, new=64)}
LOSS = dict(positions=2048, d=768, vocab=50432)
MPT_PEERS = ('transformers_mpt', 'transformers_neox', 'transformers_llama', 'litgpt', 'x_transformers')
PALM_PEERS = ('palm_rlhf', 'palm_rlhf_flash')
CONTENDERS = {
    'tiny-mpt': ('mpt', *MPT_PEERS, 'x_transformers_alibi'), 'tiny-palm': ('palm', *PALM_PEERS),
    'small-mpt': ('mpt', *MPT_PEERS), 'small-palm': ('palm', *PALM_PEERS),
    'long-mpt': ('mpt', 'transformers_mpt', 'x_transformers_alibi'), 'long-palm': ('palm', *PALM_PEERS),
    **{f'generate-{m}-{n}': ('ours', 'transformers') for m in GENERATE for n in (1, 8)}, 'loss': ('ours', 'plain'),
}
LIBRARY = dict(plain='torch', transformers='transformers', litgpt='litgpt', x='x-transformers', palm='PaLM-rlhf-pytorch')


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


def generate_worker(name, model, texts):
    "Writes on, per line of input; both from the same weights."
    import tempfile

    import torch
    from andromeda.convert import to_transformers
    from andromeda.model import LM, ModelConfig, generate
    torch.set_num_threads(1)
    c = GENERATE[model]
    ours = LM(ModelConfig('mpt', c['d'], c['layers'], c['heads'], c['d']//c['heads'], c['vocab'], c['max_len'])).eval()
    prompts = torch.randint(c['vocab'], (texts, c['prompt']), generator=torch.Generator().manual_seed(1))
    if name == 'transformers':
        from transformers import AutoModelForCausalLM
        with tempfile.TemporaryDirectory() as folder:
            to_transformers(ours, folder)
            theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        del ours
        write = lambda n: theirs.generate(prompts, attention_mask=torch.ones_like(prompts), do_sample=False, min_new_tokens=n, max_new_tokens=n, pad_token_id=0)[:, c['prompt']:].tolist()
    else: write = lambda n: generate(ours, prompts.tolist(), n, temperature=0)
    say(texts=texts)
    for _ in sys.stdin:
        with torch.no_grad():
            began = time.process_time()
            tokens = write(c['new'])
            took = time.process_time()-began
        say(seconds=took, tokens=tokens)


def loss_worker(name):
    "Loss and its gradients per line of input, in memory that goes back at once so that its peak can be seen."
    import torch
    import torch.nn.functional as F
    from andromeda.loss import total_nats
    torch.set_num_threads(1)
    c,dice = LOSS,torch.Generator().manual_seed(1)
    hidden,weight = (torch.randn(n, c['d'], generator=dice).mul_(scale).requires_grad_() for n,scale in ((c['positions'], 1.), (c['vocab'], .05)))
    targets = torch.randint(c['vocab'], (c['positions'],), generator=dice)
    small = lambda nats: nats(hidden[:8, :4], weight[:16, :4], targets[:8] % 16).backward()
    nats = total_nats if name == 'ours' else lambda h, w, t: F.cross_entropy(F.linear(h, w), t, reduction='sum')
    small(nats)
    say(name=name)
    for _ in sys.stdin:
        hidden.grad = weight.grad = None
        before = resident_mb()
        Path('/proc/self/clear_refs').write_text('5')
        began = time.process_time()
        loss = nats(hidden, weight, targets)
        loss.backward()
        took = time.process_time()-began
        say(seconds=took, loss=loss.item()/c['positions'], grew_mb=peak_mb()-before, gradient_mb=(hidden.numel()+weight.numel())*4/1e6)


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


def status_mb(key): return next(int(line.split()[1])*1024/1e6 for line in Path('/proc/self/status').read_text().split('\n') if line.startswith(key))
def peak_mb(): return status_mb('VmHWM')
def resident_mb(): return status_mb('VmRSS')


def say(**what): print(json.dumps(what), flush=True)


class Worker:
    "A process that answers a line with a line of JSON."
    def __init__(self, *arguments):
        plain = {'MALLOC_MMAP_THRESHOLD_': '65536', 'MALLOC_TRIM_THRESHOLD_': '65536'} if arguments[0] == 'loss' else {}
        env = dict(os.environ, **plain, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1', MKL_NUM_THREADS='1', TOKENIZERS_PARALLELISM='false', HF_HUB_OFFLINE='1')
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
    known = LIBRARY.get(name.split('_')[0]) if name not in ('mpt', 'palm', 'ours') else None
    return f'{known} {version_of(known)}' if known else 'andromeda'


def version_of(package):
    said = subprocess.run([PEERS, '-c', f'from importlib.metadata import version; print(version({package!r}))'], capture_output=True, text=True).stdout
    return said.strip()


def middle(answers, key, digits=4): return round(statistics.median(a[key] for a in answers), digits)


def steps(part, rounds, names):
    "Record of training steps at one shape."
    shape = part.split('-')[0]
    workers = [Worker('step', name, shape) for name in names]
    first = {w.name: w.first for w in workers}
    s,answers,by = SHAPES[shape],rounds_of(workers, rounds),{}
    for name,a in answers.items():
        by[name] = dict(library=library(name), parameters=first[name]['parameters'], seconds=middle(a, 'step'), best=round(min(x['step'] for x in a), 4),
                        gradient_seconds=middle(a, 'gradient'), tokens_per_second=round(s['B']*s['T']/middle(a, 'step')), peak_mb=round(a[-1]['peak_mb']))
    own = by.get(part.split('-')[1])
    for name,r in by.items():
        if own in (None, r): continue
        r['ours_times_faster'] = round(r['seconds']/own['seconds'], 3)
        r['times_faster_same_optimizer'] = round((r['gradient_seconds']+own['seconds']-own['gradient_seconds'])/own['seconds'], 3)
    return dict(s, **(PALM_SMALL if part == 'small-palm' else {}), by=by)


def generating(part, rounds, names):
    "Record of greedy generation."
    c,texts = GENERATE[part.split('-')[1]],int(part.split('-')[2])
    answers = rounds_of([Worker('generate', name, part) for name in names], rounds)
    by = {name: dict(library=library(name), seconds=middle(a, 'seconds'), tokens_per_second=round(texts*c['new']/middle(a, 'seconds'), 1)) for name,a in answers.items()}
    if len(names) > 1: by['transformers']['ours_times_faster'] = round(by['transformers']['seconds']/by['ours']['seconds'], 3)
    same = [a == b for rows in zip(*(x[0]['tokens'] for x in answers.values())) for a,b in zip(rows, rows[1:])]
    return dict(c, texts=texts, texts_equal=sum(same), by=by)


def losses(part, rounds, names):
    "Record of the loss by itself. `working_mb` is what it takes at its peak, less the gradients that remain of it."
    answers = rounds_of([Worker('loss', name, '-') for name in names], rounds)
    by = {name: dict(library=library(name), seconds=middle(a, 'seconds'), loss=a[0]['loss'], peak_mb=middle(a, 'grew_mb', 0),
                     working_mb=round(middle(a, 'grew_mb')-a[0]['gradient_mb'])) for name,a in answers.items()}
    if len(names) > 1: by['plain'] |= dict(ours_times_faster=round(by['plain']['seconds']/by['ours']['seconds'], 3), ours_times_less_memory=round(by['plain']['peak_mb']/by['ours']['peak_mb'], 2))
    return dict(LOSS, by=by)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument('parts', nargs='*', default=[])
    arguments.add_argument('--rounds', type=int, default=5)
    arguments.add_argument('--only', help='contenders, by comma; no record is written')
    arguments.add_argument('--worker', nargs=3)
    a = arguments.parse_args()
    if a.worker:
        what,name,which = a.worker
        return dict(step=lambda: step_worker(name, which), generate=lambda: generate_worker(name, which.split('-')[1], int(which.split('-')[2])), loss=lambda: loss_worker(name))[what]()
    for part in a.parts or CONTENDERS:
        names = tuple(a.only.split(',')) if a.only else CONTENDERS[part]
        what = 'generate' if part.startswith('generate') else 'loss' if part == 'loss' else 'step'
        record = dict(what=what, part=part, date=time.strftime('%Y-%m-%d'), python=platform.python_version(), torch=version_of('torch'), cores='one', rounds=a.rounds)
        record |= dict(step=steps, generate=generating, loss=losses)[what](part, a.rounds, names)
        print(json.dumps(record, indent=1))
        if not a.only:
            with open(ROOT/'data'/'records'/'model.jsonl', 'a') as f: f.write(json.dumps(record)+'\n')


if __name__ == '__main__': main()
