"""More than one label for an image, read from a table, and a point in an image: `DataBlock` from its bare form on, thresholds, regression."""
import pytest

import toys
from fastbook_impl.vision.all import *
from fastbook_impl.fastbook import *


@pytest.fixture(scope='module')
def folder(toy_box): return toy_box


@pytest.fixture(scope='module')
def table(folder):
    "A row for each image: its file, what is true of it (none, one or two words), and whether it validates."
    words = {'red_ball': 'round warm', 'blue_brick': 'cold', 'green_bar': ''}
    files = get_image_files(folder).sorted()
    return pd.DataFrame({'file': [f.name for f in files], 'traits': [words[f.stem[:-3]] for f in files], 'held_out': [i % 4 == 0 for i in range(len(files))]})


def traits(row): return row['traits'].split()
def held_out(table): return table.index[~table['held_out']].tolist(), table.index[table['held_out']].tolist()


@pytest.fixture(scope='module')
def block(folder):
    return DataBlock(blocks=(ImageBlock, MultiCategoryBlock), splitter=held_out, get_x=lambda row: folder/row['file'], get_y=traits,
                     item_tfms=RandomResizedCrop(32, min_scale=.5))


@pytest.fixture(scope='module')
def loaders(block, table):
    set_seed(2)
    return block.dataloaders(table, bs=8)


@pytest.fixture(scope='module')
def learner(loaders):
    learner = vision_learner(loaders, resnet18, metrics=partial(accuracy_multi, thresh=.3))
    with learner.no_bar(), learner.no_logging(): learner.fine_tune(2, base_lr=3e-3, freeze_epochs=1)
    return learner


# the block

def test_a_bare_block_gives_each_row_twice_in_two_parts(table):
    sets = DataBlock().datasets(table)
    assert len(sets.train) + len(sets.valid) == len(table) and len(sets.valid) == len(table)//5
    first_row, again = sets.train[0]
    assert first_row['file'] == again['file'] and first_row['file'] in set(table['file'])


def test_getters_take_what_they_want_from_a_row(table):
    sets = DataBlock(get_x=lambda row: row['file'], get_y=lambda row: row['traits']).datasets(table)
    assert tuple(sets.train[0]) in set(zip(table['file'], table['traits']))


def test_labels_become_ones_at_their_places_in_the_vocabulary(block, table):
    sets = block.datasets(table)
    image, hot = sets.train[0]
    assert isinstance(image, PILImage) and type(hot) is TensorMultiCategory
    assert list(sets.vocab) == ['cold', 'round', 'warm'] and set(hot.unique().tolist()) <= {0., 1.}
    for i in range(0, len(sets.train), 9):
        places = torch.where(sets.train[i][1] == 1.)[0]
        assert set(sets.train.vocab[places]) == set(sets.train.items.iloc[i]['traits'].split())


def test_a_function_of_the_table_can_split_it(block, table):
    sets = block.datasets(table)
    assert (len(sets.train), len(sets.valid)) == (45, 15)
    assert sets.valid.items['held_out'].all() and not sets.train.items['held_out'].any()


def test_labels_of_an_image_are_shown_above_it(loaders):
    loaders.show_batch(nrows=1, ncols=4)
    titles = [ax.get_title() for ax in plt.gcf().axes if ax.images]
    assert len(titles) == 4 and {w for t in titles for w in t.split(';')} <= {'cold', 'round', 'warm', ''}


# losses and thresholds

def test_a_network_has_an_output_for_each_label(learner, loaders):
    x, y = to_cpu(loaders.train.one_batch())
    out = learner.model.cpu()(x)
    assert out.shape == y.shape == (8, loaders.c) == (8, 3)


def test_several_labels_are_trained_with_binary_cross_entropy(learner, loaders):
    for having in learner, loaders: assert type(having.loss_func).__name__ == 'BCEWithLogitsLossFlat'
    out, y = torch.randn(5, 3), TensorMultiCategory((torch.rand(5, 3) > .5).float())
    right = torch.where(y == 1, out.sigmoid(), 1 - out.sigmoid())
    for loss in loaders.loss_func, nn.BCEWithLogitsLoss(): torch.testing.assert_close(plain(loss(out, y)), plain(-right.log().mean()))


def test_accuracy_of_several_labels_depends_on_the_threshold():
    probs, truth = tensor([[.1, .6, .95], [.4, .2, .7]]), tensor([[0, 1, 1], [1, 0, 1]])
    found = [float(accuracy_multi(probs, truth, thresh=t, sigmoid=False)) for t in (.3, .5, .9)]
    assert found == pytest.approx([6/6, 5/6, 3/6])
    assert float(accuracy_multi(probs.logit(), truth, thresh=.5)) == pytest.approx(5/6)


def test_a_metric_given_later_is_the_one_that_validate_reports(learner):
    results = []
    for threshold in .01, .999:
        learner.metrics = partial(accuracy_multi, thresh=threshold)
        with learner.no_bar(): results.append(learner.validate())
    assert all(len(r) == 2 for r in results) and results[0][0] == pytest.approx(results[1][0]) and results[0][1] != results[1][1]


def test_predictions_of_the_validation_set_are_probabilities_for_each_threshold_to_try(learner):
    with learner.no_bar(): preds, truth = learner.get_preds()
    assert preds.shape == truth.shape == (15, 3) and 0 <= preds.min() and preds.max() <= 1
    thresholds = torch.linspace(.1, .9, 7)
    curve = [accuracy_multi(preds, truth, thresh=t, sigmoid=False) for t in thresholds]
    plt.plot(thresholds, curve)
    assert all(0 <= a <= 1 for a in curve)


def test_results_are_shown_and_one_row_is_predicted(learner, table):
    with learner.no_bar(): learner.show_results(nrows=1, ncols=2)
    labels, mask, probs = learner.predict(table.iloc[4])
    assert mask.shape == probs.shape == (3,) and len(labels) == int(mask.sum())
    assert set(labels) <= {'cold', 'round', 'warm'}


# a point

def lamp_of(file): return tensor([float(o) for o in file.with_suffix('.txt').read_text().split(',')])


@pytest.fixture(scope='module')
def rooms(tmp_path_factory): return toys.draw_lamps(tmp_path_factory.mktemp('lamps')/'rooms')


@pytest.fixture(scope='module')
def lamps(rooms):
    set_seed(4)
    block = DataBlock(blocks=(ImageBlock, PointBlock), get_items=get_image_files, get_y=lamp_of, splitter=FuncSplitter(lambda f: f.parent.name == 'room2'),
                      batch_tfms=aug_transforms(size=(48, 64)))
    return block.dataloaders(rooms, bs=8)


def test_a_function_of_the_file_decides_what_validates(lamps):
    assert {f.parent.name for f in lamps.valid_ds.items} == {'room2'} and len(lamps.train_ds) == 16


def test_points_are_scaled_to_the_image_and_move_with_it(lamps):
    x, y = lamps.one_batch()
    assert x.shape == (8, 3, 48, 64) and y.shape == (8, 1, 2) and type(y) is TensorPoint
    inside = plain(y.abs().amax((1, 2)) < .95)
    for image, (point,) in zip(plain(x)[inside], plain(y)[inside]):
        column, row = ((point + 1)/2*tensor([64., 48.], device=point.device)).long()
        assert image[:, row, column].mean() > image.mean() + .1    # the lamp is lit


def test_points_are_shown_on_their_images(lamps):
    lamps.show_batch(max_n=4, figsize=(5, 4))
    assert tuple(plt.gcf().get_size_inches()) == (5, 4) and len([ax for ax in plt.gcf().axes if ax.collections]) == 4


def test_a_point_is_learned_by_squared_error_within_a_range(lamps, rooms):
    learner = vision_learner(lamps, resnet18, y_range=(-1, 1))
    assert type(lamps.loss_func).__name__ == 'MSELossFlat' and lamps.c == 2
    with learner.no_bar(), learner.no_logging():
        learner.lr_find(num_it=8, show_plot=False)
        learner.fine_tune(1, 1e-2)
        learner.show_results(ds_idx=1, nrows=2, figsize=(4, 6))
    assert math.sqrt(learner.recorder.values[-1][1]) < 2
    point, _, raw = learner.predict(get_image_files(rooms)[0])
    assert type(point) is TensorPoint and raw.abs().max() <= 1
    assert 0 <= point[..., 0].max() <= 160 and 0 <= point[..., 1].max() <= 120
