"""What report promises, over many made-up results: the page holds the numbers, loads nothing, survives hostile text and gaps."""
import copy, json, math, re
from random import Random

import pytest

from andromeda import report
from andromeda.report import render, summary_text, tier_bits, verdict
from test_view import HOSTILE, Seen

TAGS = set('''a b body caption circle div figcaption figure h1 h2 h3 head header html i li link meta nav p path pre rect section span
    style svg table tbody td text th thead title tr ul'''.split())
ATTRIBUTES = set('''aria-label charset class colspan content cx cy d data-am-x fill fill-opacity font height href http-equiv id lang name r rel
    role stroke stroke-dasharray stroke-linejoin stroke-opacity stroke-width style text-anchor viewbox width x y'''.split())
TIERS = dict(pydocs='high', topics='high', stdlib='medium', pairs='low', packages='low')

def made_up_result(seed=0, models=('palm-tiny', 'mpt-tiny'), steps=400):
    "A result with the shape of a real one. Every number in it is made up."
    r = Random(seed)
    def scores(level): return {s: dict(bits_per_byte=level*r.uniform(.8, 1.2), bytes=r.randrange(2_000, 90_000)) for s in TIERS}
    def ledger(source, tier):
        row = dict(kept=r.randrange(100, 9000), filtered=r.randrange(900), duplicate=r.randrange(300), quarantined=r.randrange(3))
        rules = dict(short=row['filtered']//2, repetition=row['filtered']-row['filtered']//2)
        return dict(source=source, tier=tier, read=sum(row.values()), kept_bytes=r.randrange(10**7), rules=rules, **row)
    def model(family):
        curve = [dict(step=10*i, tokens=20_480*i, stage=('high', 'medium', 'low')[3*i//steps], lr=1e-3*min(1, i/20)*(1-i/steps*.9),
                      loss=3 + 4.6*math.exp(-i/60) + r.gauss(0, .12)) for i in range(steps)]
        ends = [curve[min(steps-1, (k+1)*steps//3)] for k in range(3)]
        stages = [dict(stage=name, step=e['step'], tokens=e['tokens'], validation=scores(2.6-.2*k))
                  for k,(name,e) in enumerate(zip(('high', 'medium', 'low'), ends))]
        samples = [dict(stage=name, prompt='def mean(values):', text='\n    "The mean."\n    return sum(values)/len(values)\n'*(k+1))
                   for k,name in enumerate(('high', 'medium', 'low'))]
        return dict(parameters=r.randrange(300_000, 900_000), family=family, tokens=curve[-1]['tokens'], curve=curve, stages=stages,
                    test=scores(2.3), samples=samples)
    made = {name: model(name.split('-')[0]) for name in models}
    baselines = {name: dict(validation=scores(level), test=scores(level))
                 for name,level in dict(unigram=4.8, ngram2=3.7, ngram5=2.5, xz=2.3).items()}
    comparisons = []
    for name,m in made.items():
        for other,b in baselines.items():
            mine,theirs = tier_bits(m['test'], TIERS), tier_bits(b['test'], TIERS)
            comparisons += [dict(model=name, baseline=other, split='test', tier=t, model_bits_per_byte=mine[t],
                                 baseline_bits_per_byte=theirs[t], beats=mine[t] < theirs[t]) for t in ('high', 'medium', 'low')]
    mixture = [dict(stage=stage, tier=tier, source=s, share=.2, tokens=200_000, unique_tokens=r.randrange(50_000, 900_000),
                    epochs=r.uniform(.2, 4)) for stage in ('high', 'medium', 'low') for s,tier in TIERS.items()]
    return dict(recipe='made-up numbers', made_with=dict(andromeda='0.1.0', python='3.11.7', torch='2.13.0'),
                command='andromeda run tiny --out runs/tiny', tiers=TIERS, ledger=[ledger(*x) for x in TIERS.items()],
                tokenizer=dict(vocab=2048, bytes_per_token={s: r.uniform(2.5, 4) for s in TIERS}), mixture=mixture, models=made,
                baselines=baselines, comparisons=comparisons,
                questions=dict(standings=[dict(model='palm-tiny', task='how the text goes on', measure='accuracy', score=.4, low=.3, high=.5, n=90, random=.25, constant=.3, centred=.2, says='above chance', clean=None, dirty=None)], duels=[]),
                lineage='run tiny  4c1d09e\n├─ shards  a93be77  812,000 tokens\n│  └─ clean  77f0d21\n└─ tokenizer  10f3c2d',
                files=[dict(path='runs/tiny/report.html', bytes=81_233, what='this page'),
                       dict(path='runs/tiny/palm-tiny/model.safetensors', bytes=1_700_000, what='weights')],
                timing=dict(documents=12.3, clean=4.4, tokenizer=7.9, training=188.0, scoring=21.5))

def body(page): return page[page.index('<body>'):]

def nothing_acts(page):
    "The page has only elements and attributes we wrote, no script, and its only address is the empty icon."
    seen = Seen(page)
    assert seen.tags <= TAGS and seen.attributes <= ATTRIBUTES, (seen.tags-TAGS, seen.attributes-ATTRIBUTES)
    assert not [v for n,v in seen.values if n == 'href' and v != 'data:,' and not re.fullmatch('#[a-z]+', v)]
    assert not [v for n,v in seen.values if n == 'style' and 'url' in v]
    assert [o.lower() for o in seen.other] == ['doctype html']
    assert page.count('<style>') == page.count('</style>') == 1 and 'url(' not in page[page.index('<style>'):page.index('</style>')]
    page.encode()

def hostile(value, text):
    "The same result with `text` for every string and in every key that names something of the user's."
    fixed = set('''recipe made_with command tiers ledger tokenizer mixture models baselines comparisons lineage files timing
        source tier read kept filtered duplicate quarantined kept_bytes rules vocab bytes_per_token stage share tokens unique_tokens epochs parameters
        family curve step loss lr stages validation test samples prompt text bits_per_byte bytes model baseline split
        model_bits_per_byte baseline_bits_per_byte beats path what
        questions standings duels task measure score low high n random constant centred says clean dirty'''.split())
    if isinstance(value, dict): return {(k if k in fixed else f'{k}{text}'): hostile(v, text) for k,v in value.items()}
    if isinstance(value, list): return [hostile(v, text) for v in value]
    return f'{value}{text}' if isinstance(value, str) else value

@pytest.mark.parametrize('text', HOSTILE)
def test_hostile_text_anywhere_stays_text(text):
    "Names, rules, samples, files, versions: whatever a stranger could have written."
    result = hostile(made_up_result(steps=30), text)
    page = render(result)
    nothing_acts(page)
    said = summary_text(result)
    assert all(ord(c) >= 32 and not 127 <= ord(c) < 160 for c in said.replace('\n', ''))
    assert len(said.split('\n')) == len(summary_text(made_up_result()).split('\n'))     # no line is smuggled in

@pytest.mark.parametrize('seed', range(8))
def test_every_score_and_every_comparison_is_on_the_page(seed):
    result = made_up_result(seed)
    page = render(result)
    nothing_acts(page)
    for scores in [m['test'] for m in result['models'].values()] + [b['test'] for b in result['baselines'].values()] + \
                  [s['validation'] for m in result['models'].values() for s in m['stages']]:
        for v in scores.values(): assert f">{v['bits_per_byte']:.3f}<" in page
    rows = page[page.index('<section id="comparisons">'):].split('</section>')[0].split('<tr>')[2:]
    assert len(rows) == len(result['comparisons'])
    assert sum('does not beat' in row for row in rows) == sum(not c['beats'] for c in result['comparisons'])
    for row in result['ledger']: assert f"{row['read']:,}" in page and f"repetition {row['rules']['repetition']:,}" in page
    for f in result['files']: assert f['path'] in page

@pytest.mark.parametrize('seed', range(50))
def test_the_verdict_names_each_baseline_once_on_the_right_side(seed):
    "For each model and tier: the sentence, read back, gives the comparisons."
    result = made_up_result(seed)
    said = verdict(result)
    assert len(said) == 6
    for sentence in said:
        form = r'(\S+), (\S+) tier \(test\): (?:beats (.*?))?(?:; )?(?:does not beat (.*))?\.'
        model,tier,won,lost = re.fullmatch(form, sentence).groups(default='')
        for c in result['comparisons']:
            if (c['model'], c['tier']) == (model, tier):
                assert (c['baseline'] in re.findall(r'\w+', won)) == c['beats']
                assert (c['baseline'] in re.findall(r'\w+', lost)) == (not c['beats'])

def test_a_loss_is_said_in_the_headline():
    result = made_up_result()
    for c in result['comparisons']: c.update(model_bits_per_byte=9., beats=False)
    head = body(render(result)).split('<nav>')[0]
    assert head.count('does not beat unigram, ngram2, ngram5 and xz') == 6 and ': beats' not in head

def test_a_verdict_against_its_numbers_is_refused():
    result = made_up_result()
    c = next(c for c in result['comparisons'] if not c['beats'])
    c['beats'] = True
    for f in (render, summary_text, verdict):
        with pytest.raises(ValueError, match='not fewer'): f(result)

def test_the_headline_is_about_the_test_split_though_all_are_listed():
    "300 comparisons on another split do not reach the verdict, and every one is in the table."
    result = made_up_result()
    dev = dict(result['comparisons'][0], split='dev', baseline='only on dev', beats=False)
    result['comparisons'] = [dev]*300 + result['comparisons']
    assert len(verdict(result)) == 6 and all('(test)' in s and 'only on dev' not in s for s in verdict(result))
    assert render(result).count('<td style="text-align:left">only on dev</td>') == 300

def test_the_lowest_of_each_row_is_bold():
    row = dict(a=2., b=1., c=1., d=None, name='x')
    assert report._best_bold(row, ['a', 'b', 'c', 'd']) == row | dict(b='<b>1.000</b>', c='<b>1.000</b>')
    assert report._best_bold(dict(a=2., b=None), ['a', 'b']) == dict(a=2., b=None)           # nothing to compare with

def test_a_sample_shows_its_prompt_once():
    "Whether or not the text repeats it."
    for text in ('def f(x): return x', ' return x'):
        m = dict(samples=[dict(stage='high', prompt='def f(x):', text=text)])
        assert '<b>def f(x):</b> return x<' in render(dict(models=dict(m=m)))

def test_validation_is_used_and_named_where_there_is_no_test():
    result = made_up_result()
    for c in result['comparisons']: c['split'] = 'validation'
    assert all('(validation)' in s for s in verdict(result))

@pytest.mark.parametrize('seed', range(50))
def test_tier_bits_are_all_bits_over_all_bytes(seed):
    "Merging two sources of a tier into one changes no number; a tier with a source missing has none."
    r = Random(seed)
    scores = {f's{i}': dict(bits_per_byte=r.uniform(.5, 8), bytes=r.randrange(1, 10**6)) for i in range(6)}
    tiers = {s: r.choice(['high', 'low', 'odd']) for s in scores}
    out = tier_bits(scores, tiers)
    assert list(out)[-1] == 'all' and min(s['bits_per_byte'] for s in scores.values()) <= out['all'] <= 8
    a = r.choice(list(tiers)); b = next((s for s in tiers if s != a and tiers[s] == tiers[a]), None)
    if b:
        n = scores[a]['bytes'] + scores[b]['bytes']
        both = dict(bits_per_byte=sum(scores[s]['bits_per_byte']*scores[s]['bytes'] for s in (a, b))/n, bytes=n)
        merged = {s: v for s,v in scores.items() if s not in (a, b)} | dict(both=both)
        again = tier_bits(merged, {s: t for s,t in tiers.items() if s not in (a, b)} | dict(both=tiers[a]))
        assert {t: pytest.approx(v) for t,v in out.items()} == again
    without = tier_bits({s: v for s,v in scores.items() if s != a}, tiers)
    assert without[tiers[a]] is None and without['all'] is None
    assert all(without[t] == out[t] for t in out if t not in (tiers[a], 'all'))

OF_MODELS = dict(training='curve', stages='stages', test='test', samples='samples')             # section -> key
OF_RUN = dict(comparisons='comparisons', questions='questions', data='ledger', mixture='mixture', lineage='lineage')

@pytest.mark.parametrize('part', OF_MODELS | OF_RUN)
def test_a_missing_part_is_left_out_and_named(part):
    result = made_up_result()
    whole = render(result)
    for holder in result['models'].values() if part in OF_MODELS else [result]: del holder[(OF_MODELS | OF_RUN)[part]]
    page = render(result)
    nothing_acts(page)
    title = next(title for name,title,_ in report._PARTS if name == part)
    assert f'<section id="{part}">' in whole and 'nothing for' not in whole
    assert f'<section id="{part}">' not in page and f'nothing for: {title}.' in page
    summary_text(result)

@pytest.mark.parametrize('key', ['tiers', 'baselines', 'models', 'tokenizer', 'made_with', 'command', 'files', 'timing', 'recipe'])
def test_any_key_may_be_missing_or_empty(key):
    for empty in (lambda r: r.pop(key), lambda r: r.update({key: None}) if key != 'recipe' else None):
        result = made_up_result()
        empty(result)
        nothing_acts(render(result))
        assert summary_text(result)

def test_nothing_at_all_gives_a_page_without_a_number():
    page = body(render({}))
    assert 'no verdict' in page and not re.search(r'\d', re.sub('h[123]>|8 is', '', page))
    assert 'no model' in summary_text({})

def test_one_model_without_baselines():
    result = made_up_result(models=['palm-tiny'])
    result['baselines'], result['comparisons'] = {}, []
    page = render(result)
    nothing_acts(page)
    assert 'beats' not in body(page) and 'no verdict' in page

def test_a_baseline_that_lacks_a_source_has_no_tier_number():
    result = made_up_result()
    del result['baselines']['xz']['test']['pairs']
    line = next(x for x in summary_text(result).split('\n') if x.startswith('xz'))
    assert line.split()[-2:] == ['–', '–'] and line.split()[-3] != '–'             # low and all; medium is whole
    nothing_acts(render(result))

def test_a_ledger_that_does_not_add_up_is_said():
    result = made_up_result()
    result['ledger'][1]['read'] += 3
    page = render(result)
    assert page.count('+3 not accounted for') == 2 and page.count('adds up') == len(TIERS)-1      # its row, and the sum of all

def test_diverged_training_is_shown_as_it_is():
    "nan losses leave a counted gap; a model whose score is nan beats nothing and has no fake number."
    result = made_up_result()
    for r in result['models']['mpt-tiny']['curve'][100:]: r['loss'] = float('nan')
    for s in result['models']['mpt-tiny']['test'].values(): s['bits_per_byte'] = float('nan')
    for c in result['comparisons']:
        if c['model'] == 'mpt-tiny': c.update(model_bits_per_byte=float('nan'), beats=False)
    page = render(result)
    nothing_acts(page)
    assert '300 values cannot be drawn' in page and '>nan<' in page
    assert sum('does not beat' in s and s.startswith('mpt') for s in verdict(result)) == 3

def test_stage_marks_are_shared_or_named():
    result = made_up_result()
    def labels(): return [label for _,label in report._stage_marks(result['models'])]
    assert labels() == ['high', 'medium', 'low']
    result['models']['mpt-tiny']['stages'][0]['tokens'] += 1000
    assert len(labels()) == 6 and 'mpt-tiny: medium' in labels()

def test_rendering_changes_nothing_and_is_the_same_after_json():
    "The journey writes the result to a file; a page made from the file is the same page."
    result = made_up_result()
    before = copy.deepcopy(result)
    page = render(result)
    assert result == before and render(json.loads(json.dumps(result))) == page == render(result)

def test_long_curves_stay_small():
    assert len(render(made_up_result(steps=50_000))) < 250_000
