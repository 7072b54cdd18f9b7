"Many strings, models and layouts for andromeda.likelihood; the page shows the few that teach."
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from andromeda import likelihood
from andromeda.adapters import Question
from andromeda.checkpoint import save_checkpoint
from andromeda.likelihood import Cut, cut, likelihoods
from andromeda.model import LM, preset
from andromeda.tokenizer import END_ID, Encoder, train_tokenizer

FAMILIES = 'palm', 'mpt', 'gpt3', 'andromeda'
TEXT = 'the water was here. The answer is yes. Answers are exceptional; an exception: no. ' * 3


@pytest.fixture(scope='module')
def encoder(): return Encoder(train_tokenizer([TEXT], 320))


def model(family, max_len=48, **more): return LM(preset(f'{family}-tiny', vocab=384, max_len=max_len, layers=2, **more), seed=1)


def plain(m, c):
    "One text at a time through the model as it is."
    out = []
    for a in c.answers:
        ids = (c.context+a)[-m.config.max_len-1:]
        with torch.no_grad(): log_p = m(torch.tensor([ids[:-1]]))[0].double().log_softmax(-1)
        n = len(ids)-1-len(a)
        out.append((log_p[range(n, len(ids)-1), a].sum().item(), bool((log_p[n:].argmax(-1) == torch.tensor(a)).all())))
    return out


def random_cuts(rng, n, vocab=320):
    "Questions of all lengths, with beginnings in common, equal answers, and answers of one token."
    ids = lambda low, high: rng.integers(1, vocab, rng.integers(low, high)).tolist()
    begin,cuts = ids(0, 30), []
    for _ in range(n):
        context = (begin if rng.random() < .7 else []) + ids(1, 30)
        answers = [ids(1, 8) for _ in range(rng.integers(1, 5))]
        if rng.random() < .5: answers.append(answers[0][:1] + ids(1, 3))
        if rng.random() < .3: answers.append(answers[0])
        cuts.append(Cut(context, answers, False))
    return cuts


@pytest.mark.parametrize('family', FAMILIES)
def test_any_layout_gives_what_one_text_at_a_time_gives(family):
    m = model(family)
    for seed in range(6):
        rng = np.random.default_rng(seed)
        cuts = random_cuts(rng, 8)
        found = likelihoods(m, cuts, batch_tokens=int(rng.choice([1, 50, 300, 5000])))
        for c,log_p,greedy in zip(cuts, found.log_p, found.greedy):
            expected = plain(m, c)
            np.testing.assert_allclose(log_p, [p for p,_ in expected], rtol=2e-6)
            assert greedy.tolist() == [g for _,g in expected]
        assert found.tokens <= found.plain_tokens


def test_a_common_beginning_is_read_once(monkeypatch):
    m,rng = model('gpt3', max_len=120),np.random.default_rng(0)
    begin = rng.integers(1, 300, 60).tolist()
    cuts = [Cut(begin+rng.integers(1, 300, 5).tolist(), [[1, 2], [3]], False) for _ in range(10)]
    shared = likelihoods(m, cuts)
    monkeypatch.setattr(likelihood, 'WORTH', 10_000)
    alone = likelihoods(m, cuts, batch_tokens=1)
    assert shared.tokens < 60+10*8 < alone.tokens
    for a,b in zip(shared.log_p, alone.log_p): np.testing.assert_allclose(a, b, rtol=2e-6)


def test_random_strings_are_never_scored_wrongly(encoder):
    "What is scored are the tokens of the whole text, all of the answer's among them; no string is an error but an empty answer."
    rng = np.random.default_rng(0)
    pieces = ['the wat', 'er', 'Ans', 'wer', ' ', '\n', 'é', '中', '<|endoftext|>', 'ye', 's', '\ud83d'.encode('utf-8', 'replace').decode(), '.', 'ception', ' ex']
    moved = 0
    for _ in range(300):
        context,*answers = (''.join(rng.choice(pieces, rng.integers(n, 5))) for n in (0, 1, 1, 1))
        [c] = cut(encoder, [Question(context, tuple(answers), 0)])
        moved += c.moved
        for text,ids in zip(answers, c.answers):
            whole = encoder.encode(context+text)
            assert ([] if c.context == [END_ID] and not whole[:1] == [END_ID] else c.context)+ids == whole and ids
            assert encoder.decode(whole[:len(whole)-len(ids)]) == encoder.decode(c.context)
            assert (context.rstrip()+' ').startswith(encoder.decode(c.context)) or '\ufffd' in encoder.decode(c.context)      # the answer is in what is scored
    assert moved > 10


def test_the_border_that_the_harness_loses(encoder):
    "'the wat' + 'er' leaves no token for the answer there, and 'Ans' + 'wer' scores tokens of another string."
    for context,answer in (('the wat', 'er'), ('Ans', 'wers')):
        whole,alone = encoder.encode(context+answer), encoder.encode(context)
        assert whole[:len(alone)] != alone
        [c] = cut(encoder, [Question(context, (answer, 'x'), 0)])
        assert c.moved and c.context+c.answers[0] == whole or c.context == [END_ID]
        assert encoder.decode(c.answers[0]).endswith(answer)


def test_a_moved_border_does_not_change_the_choice(encoder):
    "All answers are scored with the same piece of the question: the differences are those of the texts as wholes."
    m = model('mpt', max_len=60)
    [c] = cut(encoder, [Question('here the wat', ('er', 'ch', 'er was'), 0)])
    assert c.moved
    wholes = [plain(m, Cut([END_ID], [encoder.encode('here the wat'+a)], False))[0][0] for a in ('er', 'ch', 'er was')]
    free = Cut([END_ID]+c.context, c.answers, False)
    [again] = likelihoods(m, [free]).log_p
    np.testing.assert_allclose(again-again[0], np.array(wholes)-wholes[0], rtol=1e-4)


def test_long_questions_lose_their_beginning_and_are_counted(encoder):
    m = model('palm', max_len=20)
    cuts = [Cut(list(range(1, 40)), [[5, 6], [7]], False), Cut([1, 2], [[3]], False)]
    found = likelihoods(m, cuts)
    assert found.shortened == 2
    np.testing.assert_allclose(found.log_p[0], [p for p,_ in plain(m, cuts[0])], rtol=2e-6)
    with pytest.raises(ValueError, match='reads 20 at once'): likelihoods(m, [Cut([1], [[2]*21], False)])


def test_a_model_is_left_as_it_was_and_no_questions_are_no_error():
    m = model('mpt').train()
    assert likelihoods(m, []).log_p == []
    likelihoods(m, [Cut([1], [[2]], False)])
    assert m.training


def test_first_score_without_network_and_heavy_libraries(encoder, tmp_path):
    "With every socket refused: a model, its tokenizer and a file of questions to a figure, and neither transformers nor datasets is loaded."
    save_checkpoint(tmp_path, 1, dict(model=model('mpt').state_dict()), dict(step=1))
    encoder.tokenizer.save(str(tmp_path/'tokenizer.json'))
    (tmp_path/'piqa.jsonl').write_text('\n'.join(json.dumps(dict(goal='go', sol1='the water', sol2='yes', label=i%2)) for i in range(6)))
    code = f'''
import socket, sys
def refuse(*a, **k): raise AssertionError('a network call')
class Refused(socket.socket):
    def __init__(self, *a, **k): refuse()
socket.socket = Refused; socket.create_connection = refuse; socket.getaddrinfo = refuse
from pathlib import Path
from andromeda.checkpoint import load_checkpoint, newest_checkpoint
from andromeda.model import LM, preset
from andromeda.tasks import TASKS, ask_model, measure, read_task
from andromeda.tokenizer import Encoder
task = TASKS['piqa']
model = LM(preset('mpt-tiny', vocab=384, max_len=48, layers=2))
model.load_state_dict(load_checkpoint(newest_checkpoint(Path({str(tmp_path)!r})))[0]['model'])
print(measure(ask_model(model, Encoder(Path({str(tmp_path/"tokenizer.json")!r}), compiled=False), task, read_task(task, Path({str(tmp_path/"piqa.jsonl")!r}))), 'accuracy'))
heavy = {{'transformers', 'datasets', 'lm_eval', 'sklearn', 'pandas', 'evaluate', 'requests', 'httpx'}} & set(sys.modules)
assert not heavy, heavy
'''
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('accuracy 0.500')


def test_the_command_to_ask_a_run_loads_no_compiler(data, tmp_path):
    "`andromeda eval` of a run that was not looked through for leaks; the compiler alone would take half a second of CPU time to load."
    from andromeda.runs import create_run
    from andromeda.stages import Corpus, Recipe, Stage
    from andromeda.trainer import train_run
    recipe = Recipe(name='count', model='mpt-tiny', corpus=Corpus(sources=('numbers',), vocab=300), length=16, batch=4, stages=(Stage(name='one', tier='high', tokens=128, peak_lr=3e-3),))
    run = create_run(tmp_path/'runs'/'count', recipe, **data)
    train_run(run.folder, lambda *a: {}, lambda *a: [])
    (tmp_path/'piqa.jsonl').write_text('\n'.join(json.dumps(dict(goal='go', sol1='the water', sol2='yes', label=i%2)) for i in range(6)))
    code = f'''
import gc, sys
from andromeda.cli import run_command
assert run_command(['eval', {str(run.folder)!r}, '--tasks', 'piqa', '--data', {str(tmp_path)!r}]) == 0
heavy = {{'numba', 'pandas', 'scipy', 'pyarrow.parquet', 'transformers', 'datasets', 'sklearn', 'matplotlib'}} & set(sys.modules)
assert not heavy, heavy
assert gc.isenabled()
'''
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert done.returncode == 0, done.stderr
    assert 'at chance' in done.stdout
