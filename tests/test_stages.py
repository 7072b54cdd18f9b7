"Recipes: written and read back, refused when wrong, and with the published values."
import json
import random
import re
import sys
from dataclasses import fields, replace

import pytest

from andromeda.model import ORIGIN, PRESETS, parameter_count, preset
from andromeda.optim import learning_rate
from andromeda.sources import read_catalogue
from andromeda.stages import (HUB, NAMED, RUNGS, Corpus, Recipe, Stage, hub_corpus, named_recipes, recipe_from_dict, recipe_rate, recipe_to_dict, save_recipe, toml_text)

if sys.version_info >= (3, 11): import tomllib
else: import tomli as tomllib

STAGE = Stage(name='one', tier='high', tokens=64_000, peak_lr=1e-3, warmup_tokens=6_400)
RECIPE = Recipe(name='r', model='mpt-tiny', corpus=Corpus(sources=('a', 'b')), stages=(STAGE, replace(STAGE, name='two')), length=16, batch=4)
UGLY = ['', 'a"b', 'back\\slash', 'two\nlines', '\ttab', 'nul\x00', 'del\x7f', 'é', '😀', '# no comment', '[table]', "it's", '"""', ' ', 'a = 1']


def test_any_table_is_read_back_equal():
    "Strings of every kind, numbers, lists and tables in tables, drawn at random."
    r = random.Random(0)
    value = lambda: r.choice([r.choice(UGLY), r.randint(-10**12, 10**12), r.uniform(-1, 1)*10**r.randint(-30, 30), r.random() < .5, [r.choice(UGLY) for _ in range(r.randint(0, 3))]])
    def table(depth): return {r.choice(UGLY+['plain', 'a-b', 'x_1'])+str(i): value() if r.random() < .7 or not depth else r.choice([table(depth-1), [table(depth-1), table(depth-1)]]) for i in range(5)}
    for _ in range(300):
        t = table(2)
        assert tomllib.loads(toml_text(t)) == t, t


@pytest.mark.parametrize('name', NAMED)
def test_named_recipes_survive_toml(tmp_path, name):
    for r in NAMED[name]():
        save_recipe(r, tmp_path/'r.toml')
        assert named_recipes(str(tmp_path/'r.toml')) == (r,)


def test_ugly_prompts_and_settings_survive_toml(tmp_path):
    r = replace(RECIPE, prompts=tuple(UGLY), betas=(.9, .99), spike=1., micro_batch=2, corpus=replace(RECIPE.corpus, limit_mb={'a': 1e-5}, keep_out={'a b"c': dict(path='x', texts=['q'])}))
    save_recipe(r, tmp_path/'r.toml')
    found = named_recipes(str(tmp_path/'r.toml'))[0]
    assert replace(found, corpus=r.corpus) == r and found.corpus.limit_mb == r.corpus.limit_mb
    assert json.dumps(found.corpus.keep_out) == json.dumps(r.corpus.keep_out)


@pytest.mark.parametrize('old,new,says', [
    ('batch = 4', 'bacth = 4', "Unknown key of a Recipe 'bacth'.*Did you mean 'batch'"), ('batch = 4', 'batch = "4"', "batch of a Recipe is '4', expected int"),
    ('batch = 4', 'batch = true', 'batch of a Recipe is True, expected int'), ('batch = 4', 'batch = 0', 'batch is 0, expected 1 or more'), ('batch = 4', 'batch =', 'is not TOML'),
    ('tier = "high"', 'tier = "hi"', "Unknown tier of stage 'one' 'hi'.*Did you mean 'high'"), ('sources = ["a", "b"]', 'sources = []', 'has no sources'),
    ('tokenizer_mb = 20', 'tokenizer_mb = inf', 'expected a finite number'), ('seed = 0', 'seed = 4294967296', 'below 2\\*\\*32'),
    ('tier = "high"', 'teir = "high"', "key of a Stage 'teir'.*Did you mean 'tier'"), ('model = "mpt-tiny"', '', 'needs model'), ('vocab = 2048', 'vocabulary = 3', "Did you mean 'vocab'")])
def test_a_wrong_recipe_file_says_what_is_wrong(tmp_path, old, new, says):
    save_recipe(RECIPE, path := tmp_path/'r.toml')
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=f'(?s){says}'): named_recipes(str(path))


def test_a_file_that_is_no_recipe_is_named(tmp_path):
    for name,content,says in (('a.toml', b'\xff\xfe', 'not text in UTF-8'), ('b.toml', b'recipes = []', 'holds no recipe'), ('c.json', b'[]', 'holds no recipe'), ('d.json', b'{', 'is not JSON')):
        (tmp_path/name).write_bytes(content)
        with pytest.raises(ValueError, match=says): named_recipes(str(tmp_path/name))
    (tmp_path/'e.toml').mkdir()
    with pytest.raises(ValueError, match='is a folder'): named_recipes(str(tmp_path/'e.toml'))
    (tmp_path/'f.json').write_text('['*100_000)
    with pytest.raises(ValueError, match='is not JSON'): named_recipes(str(tmp_path/'f.json'))


@pytest.mark.parametrize('name', RUNGS)
def test_published_learning_rates_are_those_of_the_page_of_models(name):
    said = re.search(r'(?:peak lr|its lr was) ([\d.]+e-\d)', ORIGIN[name])
    assert float(said[1]) == RUNGS[name][0]
    Recipe.from_preset(name, tokens=max(20*parameter_count(preset(name)), 10**9))


@pytest.mark.parametrize('name,tokens,lr,batch_tokens,steps,warmup,final', [   # what conceptofmind/PaLM and the llm-foundry ladder give
    ('palm-100m', 2.01e9, 6e-4, 524_288, 3836, .01, 0.), ('palm-500m', 10.08e9, 3e-4, 524_288, 19222, .01, 0.), ('palm-1b', 19.68e9, 3e-4, 1_048_576, 18766, .01, 0.),
    ('mpt-100m', 2.05e9, 6e-4, 524_288, 3908, 100, .1), ('mpt-500m', 9.94e9, 2.75e-4, 524_288, 18965, 100, .1), ('mpt-1b', 26.23e9, 2e-4, 1_048_576, 25012, 100, .1)])
def test_the_six_recipes_have_their_familys_values(name, tokens, lr, batch_tokens, steps, warmup, final):
    [r] = named_recipes(name)
    total = sum(s.tokens for s in r.stages)
    assert total == pytest.approx(tokens, rel=.002) and r.step_tokens == batch_tokens and sum(r.stage_steps()) == pytest.approx(steps, abs=4)
    assert {s.peak_lr for s in r.stages} == {lr} and {s.final_lr_share for s in r.stages} == {final} and r.clip == 1 and r.weight_decay is None and r.betas is None
    assert r.stages[0].warmup_tokens/r.step_tokens == pytest.approx(warmup if warmup > 1 else warmup*steps, rel=.01)
    assert [s.tier for s in r.stages] == ['high', 'medium', 'low'] and r.precision == 'bf16' and r.schedule_over == 'run'
    catalogue = read_catalogue()
    for s in r.corpus.sources: assert s in catalogue and catalogue[s].tier == next(t for t in HUB if s in HUB[t])
    assert {s for s in r.corpus.limit_mb} <= set(r.corpus.sources)


def test_a_schedule_over_the_run_is_one_curve():
    r = replace(RECIPE, schedule_over='run')
    got = [recipe_rate(r, i, s) for i,n in enumerate(r.stage_steps()) for s in range(n)]
    assert got == [learning_rate(s, 2000, 1e-3, 100, .1) for s in range(2000)]
    apart = [recipe_rate(RECIPE, i, s) for i,n in enumerate(RECIPE.stage_steps()) for s in range(n)]
    assert apart[1000] == 0 and apart[1100] == 1e-3 and got[1000] > 0       # the second stage warms up again


def test_a_recipe_cannot_be_changed():
    with pytest.raises(AttributeError): RECIPE.batch = 3
    assert {f.name for f in fields(Recipe)} == set(recipe_to_dict(RECIPE))
    assert recipe_from_dict(recipe_to_dict(RECIPE)) == RECIPE
    assert set(RUNGS) <= set(PRESETS)


@pytest.mark.parametrize('old,new,says', [
    ('clip = 1.0', 'clip = -1.0', 'clip is -1.0, expected more than 0'), ('clip = 1.0', 'clip = nan', 'clip is nan'), ('max_epochs = 4.0', 'max_epochs = 0', 'max_epochs is 0'),
    ('seed = 0', 'seed = -1', 'seed is -1, expected 0 or more'), ('seed = 0', 'seed = 0\nweight_decay = nan', 'weight_decay is nan'), ('seed = 0', 'seed = 0\nbetas = [0.9]', 'betas is .*two numbers'),
    ('seed = 0', 'seed = 0\nbetas = [0.9, 1.0]', 'betas is .*two numbers'), ('sample_tokens = 60', 'sample_tokens = -3', 'sample_tokens is -3'), ('prompts = []', 'prompts = [3]', '3 is no prompt'),
    ('peak_lr = 0.001', 'peak_lr = inf', 'peak_lr is inf'), ('peak_lr = 0.001', 'peak_lr = nan', 'peak_lr is nan'), ('sources = ["a", "b"]', 'sources = [3]', 'sources of a Corpus names 3'),
    ('tokenizer_mb = 20', 'tokenizer_mb = -1', 'tokenizer_mb of a Corpus: it is -1'), ('high = 0.5', 'high = "x"', "tokenizer_weight of a Corpus: high is 'x'"),
    ('[corpus.limit_mb]', '[corpus.limit_mb]\na = -1', 'limit_mb of a Corpus: a is -1'), ('[corpus.keep_out]', '[corpus.keep_out]\npiqa = 3', 'piqa in keep_out of a Corpus is 3')])
def test_a_value_that_nothing_can_be_trained_with_is_named(tmp_path, old, new, says):
    save_recipe(RECIPE, path := tmp_path/'r.toml')
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=f'(?s){says}'): named_recipes(str(path))


def test_no_limit_is_a_value_too(tmp_path):
    save_recipe(replace(RECIPE, clip=float('inf'), max_epochs=float('inf')), tmp_path/'r.toml')
    assert named_recipes(str(tmp_path/'r.toml'))[0].clip == float('inf')


def test_a_small_budget_still_cuts_every_large_data_set():
    "0 would stand for: all of it."
    assert min(hub_corpus(100_000).limit_mb.values()) > 0


def test_a_model_of_hidden_tokens_refuses_packed_rows_before_anything_is_made():
    "Rows of two layers would lose their last layer instead of their last token."
    from andromeda.stages import model_config
    recipe = replace(RECIPE, model='bert-tiny')
    assert not model_config(recipe).causal
    with pytest.raises(ValueError, match='cannot yet read'): model_config(replace(recipe, packed='within'))


@pytest.mark.parametrize('change,says', [(lambda r: replace(r, optimizer='adam'), "Did you mean 'adamw'"),
                                         (lambda r: replace(r, stages=(replace(r.stages[0], schedule='cosin'),)), "Did you mean 'cosine'")])
def test_an_unknown_optimiser_or_schedule_is_refused_before_any_work(change, says):
    with pytest.raises(ValueError, match=says): change(named_recipes('tiny')[0])


@pytest.mark.parametrize('how', [dict(path='x', texts='question'), dict(path=3, texts=['question']), dict(path='x', texts=[]), dict(path='x', texts=['question'], idd='id')])
def test_questions_that_cannot_be_kept_out_are_refused_with_the_recipe(how):
    with pytest.raises(ValueError, match='piqa in keep_out'): Corpus(sources=('a',), keep_out=dict(piqa=how))


def test_the_tiers_of_stages_are_those_of_the_catalogue():
    from andromeda.sources import TIERS
    from andromeda.stages import TIER_SHARES
    assert tuple(TIER_SHARES) == TIERS
