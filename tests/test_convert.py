"""Weights cross a border whole or not at all: our file, folders of transformers, checkpoints of palm-rlhf-pytorch."""
import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from andromeda.convert import (from_palm_rlhf, from_transformers, load_model, save_model, to_palm_rlhf, to_transformers)
from andromeda.model import LM, ModelConfig, generate, preset

FOLDERS = {'mpt': 'MptForCausalLM', 'gpt3': 'GPT2LMHeadModel', 'palm': 'AndromedaForCausalLM', 'andromeda': 'AndromedaForCausalLM',
           'bert': 'BertForMaskedLM', 'roberta': 'RobertaForMaskedLM'}

def model(family, seed=1, **changes):
    m,g = LM(ModelConfig(family, 48, 2, 6, 8, 67, 40, **changes), seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for n,w in m.named_parameters():
            if w.ndim==1 or n=='head_bias.weight': w += .1*torch.randn(w.shape, generator=g)
            elif m.config.init != 'fan_in': w *= 6
    return m

def tokens(*shape, seed=0): return torch.randint(2, 67, shape, generator=torch.Generator().manual_seed(seed))

def same_weights(a, b):
    assert a.config==b.config
    for (n,x),y in zip(a.state_dict().items(), b.state_dict().values()): assert torch.equal(x, y), n

def edit(path, **changes): path.write_text(json.dumps(json.loads(path.read_text()) | changes))

# Our own file

@pytest.mark.parametrize('family', FOLDERS)
def test_our_file_holds_the_model(family, tmp_path):
    m = model(family)
    again = load_model(save_model(m, tmp_path/'m.safetensors'))
    same_weights(again, m)
    assert [p.name for p in tmp_path.iterdir()]==['m.safetensors'] and all(w.requires_grad for w in again.parameters())

def test_a_wrong_file_is_refused(tmp_path):
    m,path = model('mpt'), tmp_path/'m.safetensors'
    save_model(m, path)
    whole = path.read_bytes()
    for cut in (0, 1, 7, 100, len(whole)//2, len(whole)-1):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match='not a whole safetensors file'): load_model(path)
    for old in (True, False):                                                     # a pickle, in both formats of torch.save
        torch.save(m.state_dict(), path, _use_new_zipfile_serialization=old)
        for read in (load_model, from_palm_rlhf):
            with pytest.raises(ValueError, match='is a pickle'): read(path)
    header = lambda **kw: dict(format='andromeda', version='1', config=json.dumps(dict(vars(m.config)) | kw))
    weights = m.state_dict()
    for tensors,metadata,says in (
            (weights, None, 'says nothing about its model'), (weights, header(heads_=3), "Did you mean 'heads'"),
            (weights, header(vocab=68), r'\(67, 48\), expected \(68, 48\)'), (weights, header(layers=3), r'has no blocks\.2'),
            (weights, header(layers=1), 'no place for'), ({n: w for n,w in weights.items() if n != 'norm.weight'}, header(), 'has no norm.weight')):
        save_file(tensors, path, metadata)
        with pytest.raises(ValueError, match=says): load_model(path)

# Folders of transformers, without transformers

@pytest.mark.parametrize('family', FOLDERS)
def test_a_folder_is_read_back_exactly(family, tmp_path):
    m = model(family)
    same_weights(from_transformers(to_transformers(m, tmp_path/'m')), m)
    assert json.loads((tmp_path/'m'/'config.json').read_text())['architectures']==[FOLDERS[family]]
    with pytest.raises(ValueError, match='not empty'): to_transformers(m, tmp_path/'m')

@pytest.mark.parametrize('changes', [dict(kv_heads=2), dict(qk_norm=True), dict(positions='xpos'), dict(bias=True), dict(ff_mult=3), dict(norm_eps=1e-6), dict(norm='parallel')])
def test_what_mpt_cannot_say_is_not_written_as_mpt(changes, tmp_path):
    m = model('mpt', **changes)
    same_weights(from_transformers(to_transformers(m, tmp_path/'m')), m)
    assert json.loads((tmp_path/'m'/'config.json').read_text())['model_type']=='andromeda'
    if 'ff_mult' not in changes:
        with pytest.raises(ValueError, match='reads both ways'): to_transformers(model('bert', activation='gelu_tanh'), tmp_path/'b')

@pytest.mark.parametrize('family,changes,says', [
    ('mpt', dict(attn_config=dict(alibi=False)), 'alibi = False'), ('mpt', dict(attn_config=dict(qk_ln=True)), 'qk_ln = True'),
    ('mpt', dict(attn_config=dict(alibi_bias_max=16)), 'alibi_bias_max = 16'), ('mpt', dict(logit_scale=.5), 'logit_scale = 0.5'),
    ('mpt', dict(no_bias=False), 'no_bias = False'), ('mpt', dict(n_heads=5), 'not a multiple of 5'), ('mpt', dict(n_layers=3), 'blocks.2.norm_1'),
    ('mpt', dict(vocab_size=99), r'\(67, 48\), expected \(99, 48\)'), ('gpt3', dict(activation_function='relu'), "'relu'"),
    ('gpt3', dict(scale_attn_by_inverse_layer_idx=True), 'scale_attn'), ('bert', dict(position_embedding_type='relative_key'), 'relative_key'),
    ('bert', dict(is_decoder=True), 'is_decoder'), ('roberta', dict(pad_token_id=0), 'count from 1'), ('bert', dict(model_type='llama'), "Unknown model_type"),
    ('gpt3', dict(n_layer=1), 'no place for'), ('palm', dict(andromeda=dict(famly='palm')), "Did you mean 'family'")])
def test_what_would_be_computed_otherwise_is_refused(family, changes, says, tmp_path):
    folder = to_transformers(model(family), tmp_path/'m')
    edit(folder/'config.json', **changes)
    with pytest.raises(ValueError, match=says): from_transformers(folder)

def test_a_folder_that_is_not_whole_is_refused(tmp_path):
    folder = to_transformers(model('gpt3'), tmp_path/'m')
    values = json.loads((folder/'config.json').read_text())
    tensors = load_file(folder/'model.safetensors')
    save_file(tensors | {'lm_head.weight': tensors['transformer.wte.weight']+1}, folder/'model.safetensors')
    with pytest.raises(ValueError, match='lm_head.weight differs'): from_transformers(folder)
    del values['n_embd']; (folder/'config.json').write_text(json.dumps(values))
    with pytest.raises(ValueError, match='does not say n_embd'): from_transformers(folder)
    (folder/'model.safetensors').unlink(); (folder/'pytorch_model.bin').write_bytes(b'PK')
    with pytest.raises(ValueError, match='pytorch_model.bin is a pickle'): from_transformers(folder)
    (folder/'model.safetensors.index.json').write_text(json.dumps(dict(weight_map={'a': '../m/model.safetensors'})))
    with pytest.raises(ValueError, match='not a file beside it'): from_transformers(folder)
    with pytest.raises(ValueError, match='no config.json'): from_transformers(tmp_path)

def test_a_folder_in_several_files_is_read(tmp_path):
    m = model('mpt')
    folder = to_transformers(m, tmp_path/'m')
    tensors = load_file(folder/'model.safetensors'); (folder/'model.safetensors').unlink()
    files = {n: f'model-{i%3}.safetensors' for i,n in enumerate(tensors)}
    for file in set(files.values()): save_file({n: w for n,w in tensors.items() if files[n]==file}, folder/file)
    (folder/'model.safetensors.index.json').write_text(json.dumps(dict(weight_map=files)))
    same_weights(from_transformers(folder), m)

# palm-rlhf-pytorch

def test_both_ways_of_counting_gammas_are_told_apart():
    m = model('palm')
    ids = tokens(2, 30)
    with torch.no_grad():
        wanted = m(ids)
        for kind in ('plain', 'plus_one'):
            theirs = to_palm_rlhf(m, kind)
            torch.testing.assert_close(from_palm_rlhf(theirs)(ids), wanted, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(from_palm_rlhf(theirs, gamma=kind)(ids), wanted, atol=1e-5, rtol=1e-5)
            wrapped = {f'module._orig_mod.{n}': w for n,w in theirs.items()}
            torch.testing.assert_close(from_palm_rlhf(wrapped)(ids), wanted, atol=1e-5, rtol=1e-5)
    for add in (-.5, 3., -3.):                                                    # neither near 1 nor near 0
        unclear = {n: w+add if n.endswith('.gamma') else w for n,w in to_palm_rlhf(m).items()}
        with pytest.raises(ValueError, match="say gamma='plain' or"): from_palm_rlhf(unclear)
    with pytest.raises(ValueError, match="Did you mean 'plain'"): from_palm_rlhf(to_palm_rlhf(m), gamma='plan')

def test_what_is_not_such_a_palm_is_refused(tmp_path):
    good = to_palm_rlhf(model('palm'))
    beta = good | {'norm.beta': good['norm.beta']+.1}
    untied = good | {'to_logits.weight': good['to_logits.weight']+1}
    turned = good | {'layers.0.fn.rotary_emb.inv_freq': good['layers.0.fn.rotary_emb.inv_freq']*.5}
    for bad,says in ((beta, 'not a PaLM'), (untied, 'to_logits.weight differs'), (turned, 'theta 10000'), (good | {'layers.0.fn.q_scale': torch.ones(8)}, 'qk_rmsnorm'),
                     (good | {'critic.weight': torch.ones(8)}, 'holds critic.weight'), ({n: w for n,w in good.items() if n != 'layers.1.fn.attn_out.weight'}, 'has no layers.1'),
                     (model('mpt').state_dict(), 'not a checkpoint of palm-rlhf')):
        with pytest.raises(ValueError, match=says): from_palm_rlhf(bad)
    with pytest.raises(ValueError, match='all parts of PaLM'): to_palm_rlhf(model('mpt'))

# With transformers

def auto(family):
    transformers = pytest.importorskip('transformers', reason="the folders are loaded by transformers' own classes")
    return transformers.AutoModelForCausalLM if family not in ('bert', 'roberta') else transformers.AutoModelForMaskedLM

@pytest.mark.parametrize('family', FOLDERS)
def test_auto_classes_load_our_folders_and_agree(family, tmp_path):
    m = model(family)
    peer = auto(family).from_pretrained(to_transformers(m, tmp_path/'m'))
    assert type(peer).__name__==FOLDERS[family]
    ids = tokens(2, 33)
    with torch.no_grad(): torch.testing.assert_close(m(ids), peer(input_ids=ids).logits, atol=1e-5, rtol=0)
    peer.save_pretrained(tmp_path/'theirs')                                       # and back, as transformers writes it
    again = from_transformers(tmp_path/'theirs')
    for (n,x),y in zip(again.state_dict().items(), m.state_dict().values()): assert torch.equal(x, y), n

@pytest.mark.parametrize('family', ['mpt', 'gpt3', 'palm', 'andromeda'])
def test_both_write_the_same_text(family, tmp_path):
    "Greedy, one text and a batch of different lengths, with transformers' cache and without."
    m = model(family, seed=3)
    peer = auto(family).from_pretrained(to_transformers(m, tmp_path/'m'))
    text = tokens(1, 9)
    ours = generate(m, text[0].tolist(), 20, temperature=0)
    for use_cache in (True, False):
        out = peer.generate(text, max_new_tokens=20, do_sample=False, pad_token_id=0, use_cache=use_cache)
        assert out[0, 9:].tolist()==ours
    texts = [tokens(1, n, seed=n)[0].tolist() for n in (9, 4, 1)]
    ids = torch.tensor([[0]*(9-len(t)) + t for t in texts])
    mask = torch.tensor([[0]*(9-len(t)) + [1]*len(t) for t in texts])
    out = peer.generate(ids, attention_mask=mask, max_new_tokens=15, do_sample=False, pad_token_id=0)
    assert out[:, 9:].tolist()==generate(m, texts, 15, temperature=0)
    assert len({*ours, *sum(generate(m, texts, 15, temperature=0), [])}) > 2

def test_the_registered_class_trains_and_works_in_a_pipeline(tmp_path):
    transformers = pytest.importorskip('transformers', reason="the folders are loaded by transformers' own classes")
    from tokenizers import Tokenizer, models, pre_tokenizers
    words = Tokenizer(models.WordLevel({'<|endoftext|>': 0, **{f'w{i}': i for i in range(1, 67)}}, unk_token='<|endoftext|>'))
    words.pre_tokenizer = pre_tokenizers.Whitespace(); words.add_special_tokens(['<|endoftext|>'])
    words.save(str(tmp_path/'tokenizer.json'))
    m = model('palm', seed=2)
    folder = to_transformers(m, tmp_path/'m', tokenizer=tmp_path/'tokenizer.json', end=0)
    pipe = transformers.pipeline('text-generation', str(folder))
    out = pipe('w5 w9 w7', max_new_tokens=8, do_sample=False, return_full_text=False)[0]['generated_text']
    assert out.split()==[f'w{i}' for i in generate(m, [5, 9, 7], 8, temperature=0, stop=0)]
    peer = transformers.AutoModelForCausalLM.from_pretrained(folder)
    ids = tokens(2, 12)
    loss = peer(input_ids=ids, labels=ids).loss
    loss.backward()
    assert loss.item()==pytest.approx(torch.nn.functional.cross_entropy(m(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).item(), abs=1e-5)
    assert peer.lm.embed.weight.grad.abs().sum() > 0
    with torch.no_grad(): first = peer(input_ids=ids[:, :7], use_cache=True); second = peer(input_ids=ids[:, 7:], past_key_values=first.past_key_values)
    torch.testing.assert_close(torch.cat([first.logits, second.logits], 1), m(ids), atol=1e-5, rtol=0)

def test_the_module_does_not_need_transformers(tmp_path):
    "With transformers hidden, files and folders are still written and read."
    code = ("import sys; sys.modules['transformers'] = None\n"
            "import importlib.util as u; find = u.find_spec; u.find_spec = lambda n, *a: None if n=='transformers' else find(n, *a)\n"
            "from andromeda.convert import *; from andromeda.model import LM, preset\n"
            "m = LM(preset('mpt-tiny', layers=1)); again = from_transformers(to_transformers(m, sys.argv[1])); print(again.config==m.config)")
    out = subprocess.run([sys.executable, '-c', code, str(tmp_path/'m')], capture_output=True, text=True)
    assert out.stdout.strip()=='True', out.stderr

def test_the_presets_that_have_a_class_there_go_out_as_it():
    from andromeda.convert import _format
    wanted = dict(mpt='mpt', gpt3='gpt2', bert='bert', roberta='roberta', palm='andromeda', andromeda='andromeda')
    for family,kind in wanted.items(): assert _format(preset(f'{family}-100m'))==kind


def test_a_file_whose_header_is_as_long_as_a_pickle_begins_is_read(tmp_path):
    "The first bytes are the length of the header: 128 of them looked like a pickle."
    from safetensors.torch import save_file
    from andromeda.convert import _read_tensors
    for spare in range(8, 400):
        save_file({'w': torch.zeros(1)}, tmp_path/'x.safetensors', dict(note='x'*spare))
        if (tmp_path/'x.safetensors').read_bytes()[:1] == b'\x80': break
    else: raise AssertionError('no header of that length')
    assert _read_tensors(tmp_path/'x.safetensors')[0]['w'].tolist() == [0]
    torch.save({'w': torch.zeros(1)}, tmp_path/'y.safetensors')
    with pytest.raises(ValueError, match='is a pickle'): _read_tensors(tmp_path/'y.safetensors')


def test_what_the_disk_says_is_said_with_the_path(tmp_path, monkeypatch):
    "safetensors has errors of its own for a full disk and a folder that is not there."
    import andromeda.convert as module
    model = LM(preset('palm-tiny', vocab=20, layers=1))
    with pytest.raises(ValueError, match='There is no folder'): save_model(model, tmp_path/'none'/'m.safetensors')
    def full(*_):
        from safetensors import SafetensorError
        raise SafetensorError('Error while serializing: I/O error: No space left on device (os error 28)')
    monkeypatch.setattr(module, 'save_file', full)
    with pytest.raises(OSError, match='m.safetensors') as found: save_model(model, tmp_path/'m.safetensors')
    assert found.value.errno == 28 and not list(tmp_path.iterdir())
