"Every record becomes text or is refused by the name of its field; nothing is silent. Fixtures: the data sets' field names, values made up here."
import copy
import pickle
import random

import pyarrow as pa
import pytest

from andromeda.adapters import (ADAPTERS, QUESTIONS, SPEAKERS, TEST_ONLY, Question, adapter, alpaca_cot, column, conversation, dialogue, dolly,
                                grouped, guanaco, hh_rlhf, instruction, oasst1, redpajama)
from andromeda.sources import pairs, read_catalogue

MESSAGE = dict(user_id='u', created_date='2023-02-05T14:23:50+00:00', review_count=3, review_result=True, deleted=False, synthetic=False,
               model_name=None, lang='en', tree_state='ready_for_export', emojis={'name': ['+1'], 'count': [2]},
               labels={'name': ['spam', 'quality'], 'value': [0., .75], 'count': [3, 3]})


def said(own, parent, role, text, rank=None, tree='r', **more):
    return MESSAGE | dict(message_id=own, parent_id=parent, role=role, text=text, rank=rank, message_tree_id=tree) | more


ROWS = [said('r', None, 'prompter', 'How do bees find home?'),
        said('a', 'r', 'assistant', 'They guess.', 1), said('b', 'r', 'assistant', 'They watch the sun.', 0),
        said('c', 'b', 'prompter', 'And on grey days?'), said('d', 'c', 'assistant', 'They sense polarised light.', 0)]
NESTED = dict(message_tree_id='n', tree_state='ready_for_export', prompt=dict(message_id='n', text='Why knot ropes?', role='prompter', lang='en', review_count=3, replies=[
    dict(message_id='x', parent_id='n', text='For fun.', role='assistant', lang='en', rank=1, replies=[]),
    dict(message_id='y', parent_id='n', text='To hold things.', role='assistant', lang='en', rank=0, replies=[])]))
STACK = dict(hexsha='0'*40, size=21, ext='py', lang='Python', max_stars_repo_path='src/a.py', max_stars_repo_name='octo/demo', max_stars_repo_licenses=['MIT'],
             max_stars_count=3, max_issues_count=None, content='def half(n): return n/2\n', avg_line_length=13.5, max_line_length=14, alphanum_fraction=.6)
PAIR = dict(sentence1='The mill burned down.', sentence2='A mill caught fire.', idx=4)
CLAIM = dict(premise='Olga sold the boat.', hypothesis='The boat was sold', idx=4)

# name of the adapter: a record, the fields it cannot do without, and a piece of the text that must be there
RECORDS = {
    'column.text': (dict(text='One page.\n\nIts second part.'), ['text'], 'One page.\n\nIts second part.'),
    'column.content': (dict(content='A page about looms.', url='http://example.com/loom', timestamp='2019-04-18T21:03:07', dump='CC-MAIN-2019-18', segment='1', image_urls=[['http://example.com/i.png', 'a loom']]), ['content'], 'A page about looms.'),
    'column.TEXT': (dict(TEXT='A short book.', SOURCE='gutenberg', METADATA='{}'), ['TEXT'], 'A short book.'),
    'column.body': (dict(body='A comment on soup.', author='k'), ['body'], 'A comment on soup.'),
    'redpajama': (dict(text='We bound a sum.', meta='{"arxiv_id": "2301.00001"}', red_pajama_subset='arxiv'), ['text'], 'We bound a sum.'),
    'code': (STACK, ['content'], 'def half(n): return n/2\n'),
    'glue.cola': (dict(sentence='The goat slept.', label=1, idx=0), ['sentence', 'label'], 'The goat slept.\nQuestion: Does this sentence make sense?\nAnswer: yes\n'),
    'glue.sst2': (dict(sentence='a dull evening ', label=0, idx=0), ['sentence', 'label'], 'a dull evening \nQuestion: Is this sentence positive or negative?\nAnswer: negative\n'),
    'glue.mrpc': (PAIR | dict(label=1), ['sentence1', 'sentence2', 'label'], 'Sentence 1: The mill burned down.\nSentence 2: A mill caught fire.\nQuestion: Do both sentences mean the same thing?\nAnswer: yes\n'),
    'glue.qqp': (dict(question1='How old is oak?', question2='What is the age of oak?', label=0, idx=0), ['question1', 'question2', 'label'], 'Question: Do both questions ask the same thing?\nAnswer: no\n'),
    'glue.stsb': (PAIR | dict(label=4.5), ['sentence1', 'sentence2', 'label'], 'from 0 to 5?\nAnswer: 5\n'),
    'glue.mnli': (CLAIM | dict(label=1), ['premise', 'hypothesis', 'label'], 'Question: The boat was sold. True, False or Neither?\nAnswer: Neither\n'),
    'glue.qnli': (dict(question='Where is the key?', sentence='It hangs inside.', label=0, idx=0), ['question', 'sentence', 'label'], 'Where is the key?\nIt hangs inside.\nQuestion: Does this response answer the question?\nAnswer: yes\n'),
    'glue.rte': (PAIR | dict(label=0), ['sentence1', 'sentence2', 'label'], 'Question: A mill caught fire. True or False?\nAnswer: True\n'),
    'glue.wnli': (PAIR | dict(label=0), ['sentence1', 'sentence2', 'label'], 'True or False?\nAnswer: False\n'),
    'super_glue.boolq': (dict(question='is tin a metal', passage='Tin is a metal.', idx=0, label=1), ['question', 'passage', 'label'], 'Tin is a metal.\nQuestion: is tin a metal?\nAnswer: yes\n'),
    'super_glue.cb': (CLAIM | dict(label=1), ['premise', 'hypothesis', 'label'], 'The boat was sold. True, False, or Neither?\nAnswer: False\n'),
    'super_glue.copa': (dict(premise='The lamp went out.', choice1='The oil was gone.', choice2='It was Monday.', question='cause', idx=0, label=0), ['premise', 'choice1', 'choice2', 'question', 'label'], 'The lamp went out because the oil was gone.\n'),
    'super_glue.multirc': (dict(paragraph='Ove dug. He rested.', question='Who rested?', answer='Ove', idx=dict(paragraph=0, question=1, answer=2), label=1), ['paragraph', 'question', 'answer', 'label'], 'Question: Who rested?\nAnswer: Ove\nIs the answer correct? yes\n'),
    'super_glue.record': (dict(passage='Eva met Jon in Riga.\n@highlight\nEva and Jon meet', query='@placeholder flew to Riga.', entities=['Eva', 'Jon', 'Riga'], entity_spans=dict(text=['Eva', 'Jon', 'Riga'], start=[0, 8, 15], end=[3, 11, 19]), answers=['Jon'], idx=dict(passage=0, query=0)), ['passage', 'query', 'entities', 'answers'], 'Eva met Jon in Riga.\n\n  - Eva and Jon meet.\n  - Jon flew to Riga.\n'),
    'super_glue.rte': (CLAIM | dict(label=1), ['premise', 'hypothesis', 'label'], 'Question: The boat was sold True or False?\nAnswer: False\n'),
    'super_glue.wic': (dict(word='spring', sentence1='The spring broke.', sentence2='We met in spring.', start1=4, end1=10, start2=10, end2=16, idx=0, label=0), ['sentence1', 'sentence2', 'start1', 'end1', 'label'], "Is the word 'spring' used in the same way in the two sentences above?\nAnswer: no\n"),
    'super_glue.wsc.fixed': (dict(text='Ada asked Bo whether he could stay .', span1_index=2, span2_index=4, span1_text='Bo', span2_text='he', idx=0, label=1), ['text', 'span1_text', 'span2_index', 'span2_text', 'label'], 'Passage: Ada asked Bo whether *he* could stay.\nQuestion: In the passage above, does the pronoun "*he*" refer to "*Bo*"?\nAnswer: yes\n'),
    'piqa': (dict(goal='Sharpen a pencil', sol1='Turn it in a sharpener.', sol2='Boil it.', label=0), ['goal', 'sol1', 'sol2', 'label'], 'Question: Sharpen a pencil\nAnswer: Turn it in a sharpener.\n'),
    'oasst1': (dict(message_tree_id='r', messages=ROWS), ['messages', 'message_tree_id'], 'User: How do bees find home?\n\nAssistant: They watch the sun.\n\nUser: And on grey days?\n\nAssistant: They sense polarised light.\n'),
    'sharegpt': (dict(id='s_0', conversations=[{'from': 'human', 'value': 'Greet me'}, {'from': 'gpt', 'value': 'Hello.', 'markdown': None}]), ['conversations'], 'User: Greet me\n\nAssistant: Hello.\n'),
    'wizard_vicuna': (dict(id='w_0', conversations=[{'from': 'human', 'value': 'Shorten X'}, {'from': 'gpt', 'value': 'X.'}, {'from': 'human', 'value': 'More'}, {'from': 'gpt', 'value': 'x'}]), ['conversations'], 'Assistant: X.\n\nUser: More'),
    'hh_rlhf': (dict(chosen='\n\nHuman: Can I dry mint?\n\nAssistant: Yes, hang it up.', rejected='\n\nHuman: Can I dry mint?\n\nAssistant: No.'), ['chosen'], 'User: Can I dry mint?\n\nAssistant: Yes, hang it up.\n'),
    'ta_prompt': (dict(text='Talks.\n\n-----\n\nHuman: Add two numbers.\n\nAssistant: a + b\n\n-----\n'), ['text'], 'Talks.\n\n-----\n\nUser: Add two numbers.\n\nAssistant: a + b\n\n-----\n'),
    'alpaca': (dict(instruction='Put in French.', input='cat', output='chat'), ['instruction', 'input', 'output'], '### Instruction\nPut in French.\n\n### Input\ncat\n\n### Answer\nchat\n'),
    'alpaca_cot': (dict(instruction='Compute 4+5. Let us think first.', input='', output='4+5=9 The final answer: 9.'), ['instruction', 'input', 'output'], 'first.\n\n### Answer\n4+5=9'),
    'guanaco': (dict(instruction='User: Name a tree.\nAssistant: Elm.', input='User: Another?', output='Ash.'), ['instruction', 'input', 'output'], 'User: Name a tree.\n\nAssistant: Elm.\n\nUser: Another?\n\nAssistant: Ash.\n'),
    'dolly': (dict(instruction='Who built it?', context='Monks built it.[3]', response='Monks[3].', category='closed_qa'), ['instruction', 'context', 'response'], '### Input\nMonks built it.\n\n### Answer\nMonks.\n'),
}
RECORDS['super_glue.wsc'] = RECORDS['super_glue.wsc.fixed']


def text_of(name, record):
    (title,text), = adapter(name)(record)
    assert isinstance(title, str) and isinstance(text, str) and text.strip() and '\n' not in title
    return text


def test_every_adapter_has_a_record_here():
    assert set(ADAPTERS) | {'column.body'} == set(RECORDS)


@pytest.mark.parametrize('name', RECORDS)
def test_a_whole_record_becomes_the_text_it_says(name):
    record,_,part = RECORDS[name]
    before = copy.deepcopy(record)
    assert part in text_of(name, record)
    assert record == before                                              # adapters do not change what they read
    assert text_of(name, record | dict(extra=[1], note=None)) == text_of(name, record)
    assert text_of(name, pa.Table.from_pylist([record]).to_pylist()[0]) == text_of(name, record)    # as a Parquet file gives it back
    assert pickle.loads(pickle.dumps(adapter(name)))(record) == adapter(name)(record)               # it can go to a worker process


WRONG = [None, 3.7, 12345, True, [], [None], {}, b'bytes', 'half \ud83d', '']


@pytest.mark.parametrize('name', RECORDS)
def test_a_missing_field_is_named_with_those_that_are_there(name):
    record,needed,_ = RECORDS[name]
    for key in needed:
        with pytest.raises(ValueError, match=key) as e: adapter(name)({k: v for k,v in record.items() if k != key})
        assert 'there are' in str(e.value)


@pytest.mark.parametrize('name', RECORDS)
def test_a_field_of_another_type_is_named(name):
    record,needed,_ = RECORDS[name]
    for key in needed:
        for wrong in WRONG:
            if wrong == '' and (key in ('input', 'context') or (name, key) == ('guanaco', 'instruction')): continue     # may be empty
            if (name, wrong) == ('glue.stsb', 3.7) and key == 'label': continue                                         # a grade
            with pytest.raises(ValueError, match=key): adapter(name)(record | {key: wrong})


@pytest.mark.parametrize('name', RECORDS)
@pytest.mark.parametrize('record', [None, [], 'text', 7, {}])
def test_what_is_not_a_record_is_refused(name, record):
    with pytest.raises(ValueError, match='expected named fields|no field'): adapter(name)(record)


def test_half_a_character_is_refused_with_its_place():
    with pytest.raises(ValueError, match="'text' holds half a character .* at position 5"): column('text')(dict(text='half \udc00'))
    with pytest.raises(ValueError, match=r"'conversations\[1\]\.value'"):
        conversation(dict(conversations=[{'from': 'human', 'value': 'a'}, {'from': 'gpt', 'value': '\ud800'}]))
    assert column('text')(dict(text='whole 😀', url='bad \ud800')) == [('bad ?', 'whole 😀')]      # a title is only decoration


LABELS = {'glue.cola': 'no yes', 'glue.sst2': 'negative positive', 'glue.mrpc': 'no yes', 'glue.qqp': 'no yes', 'glue.mnli': 'True Neither False',
          'glue.qnli': 'yes no', 'glue.rte': 'True False', 'glue.wnli': 'False True', 'super_glue.boolq': 'no yes', 'super_glue.cb': 'True False Neither',
          'super_glue.multirc': 'no yes', 'super_glue.rte': 'True False', 'super_glue.wic': 'no yes', 'super_glue.wsc.fixed': 'no yes',
          'super_glue.copa': 'gone. Monday.', 'piqa': 'sharpener. it.'}


@pytest.mark.parametrize('name', LABELS)
def test_each_label_says_its_own_word(name):
    "The order of the labels, task by task; text such as '1' counts as the number."
    for label,word in enumerate(LABELS[name].split()):
        for given in (label, str(label)):
            assert text_of(name, RECORDS[name][0] | dict(label=given)).split()[-1] == word


@pytest.mark.parametrize('name', QUESTIONS)
def test_unlabelled_records_say_so(name):
    key = 'answers' if name == 'super_glue.record' else 'label'
    for none in ([[], None] if key == 'answers' else [-1, None, -1.] + ['-1']*(name != 'glue.stsb')):
        with pytest.raises(ValueError, match=f"unlabelled .*{key}.*test splits are not for training"): adapter(name)(RECORDS[name][0] | {key: none})


@pytest.mark.parametrize('name', [n for n in QUESTIONS if n != 'super_glue.record'])
@pytest.mark.parametrize('label', [6, 99, -2, True, False, 1.5e9, float('nan'), 'entailment', '', '١', [1], {}])
def test_labels_out_of_range_are_refused(name, label):
    with pytest.raises(ValueError, match="'label' is"): adapter(name)(RECORDS[name][0] | dict(label=label))


@pytest.mark.parametrize('name', QUESTIONS)
def test_evaluation_and_training_read_the_same_words(name):
    question = QUESTIONS[name](RECORDS[name][0])
    assert isinstance(question, Question) and question.answered() == text_of(name, RECORDS[name][0])
    assert question.context == question.context.rstrip() and len(set(question.choices)) == len(question.choices) >= 2
    for choice in question.choices: assert choice[0] in ' \n' and choice[1] != ' '


def test_stsb_rounds_to_the_nearest_digit():
    for grade,digit in ((0, 0), (.4, 0), (.5, 1), (1.5, 2), (2.5, 3), (4.49, 4), (4.8, 5), (5., 5)):
        assert text_of('glue.stsb', PAIR | dict(label=grade)).endswith(f'Answer: {digit}\n')
    with pytest.raises(ValueError, match="'label' is 5.1"): adapter('glue.stsb')(PAIR | dict(label=5.1))


@pytest.mark.parametrize('name', TEST_ONLY)
def test_sets_with_a_test_split_only_are_refused_by_name(name):
    with pytest.raises(ValueError, match='kept for evaluation'): adapter(name)


def test_offsets_that_point_elsewhere_are_refused():
    wic,wsc = RECORDS['super_glue.wic'][0], RECORDS['super_glue.wsc'][0]
    for bad in (dict(start1=-1), dict(start1=99), dict(end1=99), dict(start1=10, end1=4), dict(start1=4, end1=4), dict(start1=3, end1=4)):
        with pytest.raises(ValueError, match='start1|end1'): adapter('super_glue.wic')(wic | bad)
    for bad in (dict(span2_index=0), dict(span2_index=-1), dict(span2_index=8), dict(span2_text='she')):
        with pytest.raises(ValueError, match='span2_index'): adapter('super_glue.wsc')(wsc | bad)
    first = dict(text='"They won," Bo said.', span1_text='Bo', span2_index=0, span2_text='they', label=0)      # a quotation mark, a capital, the first word
    assert 'Passage: "*They* won," Bo said.\n' in text_of('super_glue.wsc', first)


def test_record_refuses_what_it_cannot_ask():
    record = RECORDS['super_glue.record'][0]
    with pytest.raises(ValueError, match="'query'"): adapter('super_glue.record')(record | dict(query='Who flew?'))
    with pytest.raises(ValueError, match="'answers' begins with 'Ida'"): adapter('super_glue.record')(record | dict(answers=['Ida']))
    assert len(QUESTIONS['super_glue.record'](record | dict(entities=['Eva', 'Jon', 'Eva', 'Riga'])).choices) == 3       # each once
    with pytest.raises(ValueError, match=r"entities\[1\]"): adapter('super_glue.record')(record | dict(entities=['Jon', 3]))


def test_meta_of_any_shape_does_not_spoil_redpajama():
    for meta in (None, {}, dict(url='http://e.com', n=1), '{"url": "u"}', "{'url': 'u'}", '[1]', '{', '['*100_000, 5, []):
        assert redpajama(dict(text='Fine.', meta=meta))[0][1] == 'Fine.'
    assert redpajama(dict(text='Fine.', pred_label='__label__wiki', source='cc/2019-30'))[0][1] == 'Fine.'       # Common Crawl's rows are flat
    assert redpajama(dict(text='Fine.', meta=dict(redpajama_set_name='RedPajamaC4')))[0][1] == 'Fine.'           # SlimPajama
    for book in (dict(red_pajama_subset='book'), dict(meta=dict(redpajama_set_name='RedPajamaBook'))):
        with pytest.raises(ValueError, match='withdrawn'): redpajama(dict(text='Chapter one.') | book)


def chat(*turns): return dict(id='t', conversations=[{'from': s, 'value': v} for s,v in turns])


@pytest.mark.parametrize('alias', SPEAKERS)
def test_every_alias_of_a_speaker_is_one_of_three(alias):
    turns = [('System', alias)] if SPEAKERS[alias] == 'System' else []
    made = conversation(chat((alias, 'one'), ('human', 'two'), ('gpt', 'three'), (alias.upper(), 'four'), ('gpt', 'five')))[0][1]
    assert {line.split(':')[0] for line in made.split('\n\n') if ':' in line} <= {'User', 'Assistant', 'System'}
    assert made.startswith('System: one' if turns else 'User: one\n\ntwo' if SPEAKERS[alias] == 'User' else 'User: two')


@pytest.mark.parametrize('record, why', [
    (chat(), "'conversations' is empty"), (chat(('human', 'Hi')), 'no question with an answer'), (chat(('gpt', 'Hi'), ('human', 'ok')), 'no question with an answer'),
    (chat(('human', 'Hi'), ('gpt', ' ')), r"'conversations\[1\]\.value' is empty"), (chat(('human', 'Hi'), ('tool', 'x')), r"conversations\[1\]\.from.*'tool'"),
    (chat(('human', None), ('gpt', 'x')), r"conversations\[0\]\.value.*None"), (chat((None, 'Hi'), ('gpt', 'x')), r"conversations\[0\]\.from"),
    (dict(conversations=[{'value': 'Hi'}]), r"no field 'conversations\[0\]\.from'"), (dict(conversations=['Hi']), r"conversations\[0\] is 'Hi'"),
    (dict(conversations={'from': ['human'], 'value': ['Hi']}), "'conversations' is .*expected a list")])
def test_broken_conversations_are_refused_with_the_place(record, why):
    with pytest.raises(ValueError, match=why): conversation(record)


def test_dialogues_alternate_begin_with_a_question_and_end_with_an_answer():
    "Any sequence of turns: what comes out alternates, and every word of it was there, in order."
    r = random.Random(0)
    made = 0
    for _ in range(2000):
        turns = [(r.choice(['User', 'Assistant']), f'w{n}') for n in range(r.randrange(9))]
        try: text = dialogue(turns)
        except ValueError as e:
            kinds = ''.join(s[0] for s,_ in turns)
            assert 'UA' not in kinds and 'no question' in str(e)
            continue
        made += 1
        speakers = [line.split(': ')[0] for line in text.strip().split('\n\n') if ': ' in line]
        assert speakers == ['User', 'Assistant']*(len(speakers)//2) and speakers
        words = [w.split(': ')[-1] for w in text.split()]
        words = [w for w in words if w.startswith('w')]
        first = int(words[0][1:])
        assert words == [f'w{n}' for n in range(first, first+len(words))]                    # one stretch, nothing left out inside
        assert all(s == 'Assistant' for s,_ in turns[:first]) and all(s == 'User' for s,_ in turns[first+len(words):])
    assert made > 1000


def test_trees_are_built_from_rows_in_any_order():
    other = [said('q', None, 'prompter', 'Second?', tree='q'), said('z', 'q', 'assistant', 'Yes.', tree='q')]
    expected = {text_of('oasst1', dict(message_tree_id='r', messages=ROWS)), 'User: Second?\n\nAssistant: Yes.\n'}
    for seed in range(20):
        rows = ROWS + other
        random.Random(seed).shuffle(rows)
        trees = list(grouped(rows, 'message_tree_id'))
        assert [len(t['messages']) for t in trees] in ([5, 2], [2, 5]) and {text_of('oasst1', t) for t in trees} == expected
    assert text_of('oasst1', NESTED) == 'User: Why knot ropes?\n\nAssistant: To hold things.\n'
    assert all('replies' not in m for m in ROWS)


def tree(*changed): return dict(message_tree_id='r', messages=[m | c for m,c in zip(copy.deepcopy(ROWS), [*changed, *[{}]*9])])


@pytest.mark.parametrize('changed, answer', [
    (({}, {}, dict(deleted=True)), 'They guess.'), (({}, {}, dict(review_result=False)), 'They guess.'), (({}, {}, dict(rank=None)), 'They guess.'),
    (({}, dict(rank=None), dict(rank=None)), 'They guess.'), (({}, dict(rank=0), dict(rank=3.)), 'They guess.'), (({}, dict(rank=None), {}), 'They watch the sun.')])
def test_the_best_reply_is_ranked_lowest_and_not_withdrawn(changed, answer):
    assert text_of('oasst1', tree(*changed)).strip().split('\n\n')[1] == f'Assistant: {answer}'


@pytest.mark.parametrize('changed, why', [
    (({}, dict(parent_id='gone')), r"'messages\[1\]\.parent_id' is 'gone'"), (({}, dict(parent_id=None)), "2 messages whose 'parent_id' is null"),
    ((dict(parent_id='d'),), "0 messages whose 'parent_id' is null"), (({}, dict(message_id='r')), r"'messages\[1\]\.message_id' is 'r' a second time"),
    (({}, dict(message_id='r', parent_id='r')), 'a second time'), ((dict(tree_state='aborted_low_grade'),), "'tree_state' is 'aborted_low_grade'"),
    ((dict(deleted=True),), 'withdrawn'), ((dict(role='robot'),), r"speaker in 'best path\[0\]\.role'"), ((dict(text=None),), r"best path\[0\]\.text"),
    (({}, {}, dict(text='\ud800')), r"best path\[1\]\.text"), (({}, dict(rank='best')), "'best path.*rank' is 'best'"), (({}, dict(rank=True)), 'rank'),
    (({}, dict(rank=float('nan'))), 'rank'), (({}, dict(message_id=3)), r"'messages\[1\]\.message_id' is 3"), ((dict(role='assistant'),), 'no question with an answer')])
def test_broken_trees_are_refused_with_the_field(changed, why):
    record = tree(*changed)
    if 'role' in changed[0] and changed[0]['role'] == 'assistant': record['messages'] = record['messages'][:3]
    with pytest.raises(ValueError, match=why): oasst1(record)


def test_no_row_is_lost_in_grouping():
    rows = [*ROWS, {k: v for k,v in ROWS[0].items() if k != 'message_tree_id'}, ROWS[0] | dict(message_tree_id=None), 7, None]
    trees = list(grouped(rows, 'message_tree_id'))
    assert sum(len(t['messages']) for t in trees) == len(rows) and len(trees) == 5
    for broken in trees[1:]:
        with pytest.raises(ValueError, match='message_tree_id'): oasst1(broken)


def test_one_message_or_a_broken_nesting_is_refused():
    with pytest.raises(ValueError, match="group the rows first, by 'message_tree_id'"): oasst1(ROWS[0])
    for prompt in (None, [], 'Why?', {}, dict(text=3, role='prompter')):
        with pytest.raises(ValueError, match='prompt'): oasst1(NESTED | dict(prompt=prompt))
    for replies in ('x', [3], dict(a=1)):
        with pytest.raises(ValueError, match='replies'): oasst1(dict(message_tree_id='n', prompt=dict(text='Why?', role='prompter', replies=replies)))


def test_a_very_deep_tree_does_not_overflow():
    node = dict(role='assistant', text='end', replies=[])
    for n in range(20_000): node = dict(role='assistant' if n % 2 else 'prompter', text=str(n), replies=[node])
    node = dict(role='prompter', text='start', replies=[node])
    assert oasst1(dict(message_tree_id='n', prompt=node))[0][1].startswith('User: start')


@pytest.mark.parametrize('chosen, why', [
    ('How?\n\nAssistant: So.', "'chosen' does not begin"), ('', "'chosen' is empty"), ('\n\nHuman: How?', "'chosen' holds no question with an answer"),
    ('\n\nHuman: How?\n\nAssistant:', r"'chosen': turn 2 \(Assistant\) is empty"), ('\n\nHuman:\n\nAssistant: So.', r"'chosen': turn 1 \(User\) is empty")])
def test_broken_preference_rows_are_refused(chosen, why):
    with pytest.raises(ValueError, match=why): hh_rlhf(dict(chosen=chosen, rejected='x'))


def test_preference_rows_with_two_turns_of_a_speaker_are_joined():
    assert hh_rlhf(dict(chosen='\n\nHuman: a\n\nHuman: b\n\nAssistant: c\nHuman: not a turn'))[0][1] == 'User: a\n\nb\n\nAssistant: c\nHuman: not a turn\n'
    assert hh_rlhf(dict(chosen='Human: a\n\nAssistant: c'))[0][1] == 'User: a\n\nAssistant: c\n'       # stripped by somebody
    with pytest.raises(ValueError, match='red-team'): hh_rlhf(dict(transcript='\n\nHuman: x\n\nAssistant: y', rating=2., tags=None))


@pytest.mark.parametrize('prefix', ['User:', 'User：', 'User :'])
@pytest.mark.parametrize('answerer', ['Assistant:', 'Assistant：', 'Asssistent:', 'Assistent:', 'Assistenz:'])
def test_guanaco_reads_every_spelling(prefix, answerer):
    made = guanaco(dict(instruction=f'{prefix} Hei\n{answerer} Hallo', input=f'{prefix} Og?', output='Ja.'))
    assert made == [('', 'User: Hei\n\nAssistant: Hallo\n\nUser: Og?\n\nAssistant: Ja.\n')]


@pytest.mark.parametrize('instruction, asked, expected', [
    ('', 'User: Hei', 'User: Hei\n\nAssistant: Ja.\n'), ('User: Hei', '', 'User: Hei\n\nAssistant: Ja.\n'), ('User: a Assistant: b', 'c', 'User: a\n\nAssistant: b\n\nUser: c\n\nAssistant: Ja.\n'),
    ('Speak like a sailor.', 'User: Hei', 'System: Speak like a sailor.\n\nUser: Hei\n\nAssistant: Ja.\n'),
    ('Describe the User: field.', '', '### Instruction\nDescribe the User: field.\n\n### Answer\nJa.\n')])
def test_guanaco_tells_talk_from_instructions(instruction, asked, expected):
    assert guanaco(dict(instruction=instruction, input=asked, output='Ja.'))[0][1] == expected


@pytest.mark.parametrize('instruction, asked, why', [
    ('User: a', 'User: b', 'do not alternate'), ('Assistant: a', 'User: b', 'do not alternate'), ('User: a\nAssistant: b', '', 'do not alternate'),
    ('User: a\nAssistant:', 'User: b', r"'instruction': turn 2 \(Assistant\) is empty"), ('', '', "'instruction' is empty"), ('', 'Good day', "'instruction' is empty")])
def test_guanaco_refuses_transcripts_that_do_not_alternate(instruction, asked, why):
    with pytest.raises(ValueError, match=why): guanaco(dict(instruction=instruction, input=asked, output='Ja.'))


def cot(text): return alpaca_cot(dict(instruction='Say it.', input='', output=text))[0][1].split('### Answer\n')[1][:-1]


@pytest.mark.parametrize('text, expected', [
    (r'One.\nTwo.', 'One.\nTwo.'), (r'One.\n\nTwo.', 'One.\n\nTwo.'), (r'a \neq b, \nabla f', r'a \neq b, \nabla f'), (r'print("a\n")', r'print("a\n")'),
    (r"s.split('\n')", r"s.split('\n')"), ('One.\nTwo \\n.', 'One.\nTwo \\n.'), (r'C:\\nA', r'C:\\nA'), (r'join "\nA"', r'join "\nA"'), (r'One. \n(A) Two', 'One. \n(A) Two')])
def test_written_out_line_breaks_are_put_right_only_where_they_must_be(text, expected):
    assert cot(text) == expected


@pytest.mark.parametrize('context, response, expected', [
    ('It rose.[1][12] Then fell.[345]', 'It fell.[12]', '### Input\nIt rose. Then fell.\n\n### Answer\nIt fell.\n'), ('', 'x[1]', '### Answer\nx[1]\n'),
    ('See a[0], [citation] and [1234].', 'ok', '### Input\nSee a[0], [citation] and [1234].\n\n### Answer\nok\n')])
def test_citation_marks_go_from_passages_only(context, response, expected):
    assert expected in dolly(dict(instruction='Tell.', context=context, response=response, category='summarization'))[0][1]


def test_an_answer_of_citation_marks_only_is_empty():
    with pytest.raises(ValueError, match="'response' is empty"): dolly(dict(instruction='Tell.', context='It rose.', response='[3]', category='closed_qa'))


def test_instructions_have_the_form_of_the_pairs_reader():
    source = 'def f(x):\n    """Give back x, doubled, whatever it may be, twice."""\n    y = x+x\n    return y\n'
    (_,pair), = pairs('m.py', source)
    ask,answer = pair.removeprefix('### Instruction\n').split('\n\n### Answer\n')
    assert instruction(ask, answer) == pair
    assert instruction('Indent.', '    x = 1\n') == '### Instruction\nIndent.\n\n### Answer\n    x = 1\n'


def test_names_lead_to_adapters_or_to_the_nearest():
    for name in ADAPTERS: assert callable(adapter(name))
    with pytest.raises(ValueError, match="Did you mean 'super_glue.boolq'"): adapter('superglue.boolq')
    with pytest.raises(ValueError, match='Unknown adapter'): adapter('column.')


def test_every_adapter_that_the_catalogue_names_is_there():
    for source in read_catalogue().values():
        named = [source.options[k] for k in ('adapter',) if k in source.options] + list(source.options.get('tasks', {}).values())
        for name in named: assert callable(adapter(name)), source.name
