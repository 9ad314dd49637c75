"""Two images in one item: a type of the reader's own that shows itself, a transform that makes it, a body cut from a known network and a head, trained in two groups."""
import pytest

from fastbook_impl import fastbook
from fastbook_impl.fastbook import *
from fastbook_impl.vision.all import *


class Twins(fastuple):
    "Two images, and whether they show the same kind."
    def show(self, ctx=None, **kwargs):
        pair = [o if isinstance(o, Tensor) else image2tensor(o.resize((32, 32))) for o in self[:2]]
        return show_image(torch.cat(pair, dim=1), title=f'same: {bool(self[2])}', ctx=ctx, **kwargs)


class PairUp(Transform):
    "From a file to `Twins` with another file, which is decided once for those in `fixed`."
    def __init__(self, files, kind_of, fixed=()):
        self.files, self.kind_of = files, kind_of
        self.partners = {f: self.choose(f) for f in fixed}

    def choose(self, file):
        wants_same = random.random() < .5
        return random.choice([f for f in self.files if (self.kind_of(f) == self.kind_of(file)) == wants_same]), wants_same

    def encodes(self, file:Path):
        partner, same = self.partners.get(file) or self.choose(file)
        return Twins(PILImage.create(file), PILImage.create(partner), same)


def kind_of(file): return file.name.rpartition('_')[0]
def pair_loss(scores, same): return F.cross_entropy(scores, same.long())


class Compare(Module):
    "Both images through one body, the features of both through a head."
    def __init__(self, body, head): store_attr()
    def forward(self, left, right): return self.head(torch.cat((self.body(left), self.body(right)), dim=1))


def two_groups(network): return [params(part) for part in (network.body, network.head)]


@pytest.fixture(scope='module')
def lists(toy_box):
    set_seed(8)
    files = get_image_files(toy_box)
    splits = RandomSplitter()(files)
    return TfmdLists(files, PairUp(files, kind_of, files[splits[1]]), splits=splits)


@pytest.fixture(scope='module')
def loaders(lists):
    return lists.dataloaders(bs=8, after_item=[Resize(32), ToTensor], after_batch=[IntToFloatTensor, Normalize.from_stats(*imagenet_stats)])


def test_setting_up_a_notebook_changes_only_how_things_look():
    with plt.rc_context(): assert fastbook.setup_book() is None


def test_a_splitter_puts_a_fifth_of_the_items_aside(lists):
    assert (len(lists.train), len(lists.valid)) == (48, 12)
    assert not {*lists.train.items} & {*lists.valid.items}


def test_an_item_has_the_type_that_the_transform_returns(lists):
    item = lists[0]
    assert type(item) is Twins and type(item[0]) is PILImage and isinstance(item[2], bool)


def test_pairs_of_validation_stay_the_same(lists):
    for _ in range(3): assert lists.valid[1][2] == lists.valid.tfms[0].partners[lists.valid.items[1]][1]


def test_an_item_shows_itself(lists):
    ax = Twins(*lists.train[0]).show()
    assert ax.get_title() in ('same: True', 'same: False')
    drawn = show_at(lists.valid, 0)
    assert (drawn or plt.gca()).images


def test_a_batch_is_two_stacks_of_images_and_a_stack_of_answers(loaders):
    left, right, same = loaders.one_batch()
    assert left.shape == right.shape == (8, 3, 32, 32) and same.shape == (8,)
    assert set(same.tolist()) <= {True, False} and loaders.n_inp == 2
    assert left.dtype == torch.float32 and left.min() < 0    # normalized


def test_a_batch_shows_its_pairs(loaders):
    plt.close('all')
    loaders.show_batch()
    assert {ax.get_title() for n in plt.get_fignums() for ax in plt.figure(n).axes if ax.images} <= {'same: True', 'same: False'}


def test_a_known_network_says_where_it_is_cut_and_split():
    meta = model_meta[resnet50]
    assert meta['cut'] == -2 and set(meta) == {'cut', 'split', 'stats'} and meta['stats'] == imagenet_stats


def test_a_head_pools_in_two_ways_and_has_two_linear_layers():
    assert [type(o).__name__ for o in create_head(24, 5)] == ['AdaptiveConcatPool2d', 'Flatten', *['BatchNorm1d', 'Dropout', 'Linear', 'ReLU'], *['BatchNorm1d', 'Dropout', 'Linear']]


def test_the_dropout_of_a_head_is_halved_in_its_first_layer():
    assert [o.p for o in create_head(24, 5, ps=.4) if isinstance(o, nn.Dropout)] == [.2, .4]
    assert create_head(24, 5)(torch.rand(2, 24, 3, 3)).shape == (2, 5)


def test_a_body_is_a_network_without_its_last_layers():
    body = create_body(resnet34, cut=-2)
    assert body(torch.rand(1, 3, 64, 64)).shape == (1, 512, 2, 2)


def test_a_frozen_body_waits_and_an_unfrozen_one_learns_slower_than_its_head(loaders):
    network = Compare(create_body(resnet18, cut=-2), create_head(512*2, 2, ps=.5))
    learner = Learner(loaders, network, loss_func=pair_loss, splitter=two_groups, metrics=accuracy)
    weight = params(network.body)[0]
    before = weight.detach().clone()
    with learner.no_bar(), learner.no_logging():
        learner.freeze()
        learner.fit_one_cycle(1, 3e-3)
        assert torch.equal(weight, before)
        learner.unfreeze()
        learner.fit_one_cycle(1, slice(1e-6, 1e-4))
    assert not torch.equal(weight, before)
    slow, fast = [h['lr'] for h in learner.opt.hypers]
    assert slow < fast
    assert len(learner.recorder.values) == 1 and 0 <= learner.recorder.values[0][2] <= 1
