"""From image files to a trained network in small steps: what the library gives to a reader who works with paths, tensors and loops before meeting a `Learner`."""
import pytest

from fastbook_impl.vision.all import *
from fastbook_impl.fastbook import *


@pytest.fixture(scope='module')
def digits():
    "The built-in handwritten digits."
    return untar_data(URLs.MNIST_SAMPLE)


@pytest.fixture
def based_at(monkeypatch):
    "Sets `Path.BASE_PATH`, and takes it back at the end."
    monkeypatch.setattr(Path, 'BASE_PATH', None, raising=False)
    def base(folder): Path.BASE_PATH = folder
    return base


def pixels(folder): return torch.stack([tensor(Image.open(f)) for f in folder.ls().sorted()]).float()/255


# files and images

def test_the_digits_come_in_a_training_and_a_validation_folder_and_a_table(digits):
    assert {o.name for o in digits.ls()} >= {'train', 'valid', 'labels.csv'}
    assert {o.name for o in (digits/'valid').ls()} == {'3', '7'}


def test_a_listed_folder_is_an_L_of_paths_that_can_be_sorted(digits):
    listed = (digits/'train'/'7').ls()
    assert isinstance(listed, L) and all(isinstance(o, Path) for o in listed)
    assert list(listed.sorted()) == sorted(listed)
    assert repr(listed.sorted()[0]) in repr(listed.sorted())


def test_paths_are_shown_from_the_base_path(digits, based_at):
    shown_before = repr(digits/'train')
    based_at(digits)
    assert repr(digits/'train') == "Path('train')" != shown_before


def test_a_folder_is_listed_by_the_endings_of_names(tmp_path):
    for name in 'a.pkl', 'b.txt', 'c.pkl': (tmp_path/name).touch()
    assert [o.name for o in Path(tmp_path).ls(file_exts='.pkl').sorted()] == ['a.pkl', 'c.pkl']


def test_an_image_becomes_an_array_or_a_tensor_of_bytes(digits):
    seven = Image.open((digits/'train'/'7').ls().sorted()[2])
    as_array, as_tensor = array(seven), tensor(seven)
    assert as_array.shape == as_tensor.shape == (28, 28)
    assert as_array.dtype == np.uint8 and as_tensor.dtype == torch.uint8
    assert as_array[9:12, 5:9].tolist() == as_tensor[9:12, 5:9].tolist()


def test_pixels_are_shown_as_a_shaded_table(digits):
    seven = tensor(Image.open((digits/'train'/'7').ls().sorted()[2]))
    page = pd.DataFrame(seven[3:20, 6:24]).style.set_properties(**{'font-size': '7pt'}).background_gradient('Greys')._repr_html_()
    assert 'font-size: 7pt' in page and 'background-color: #' in page


def test_show_image_draws_a_matrix(digits):
    drawn = show_image(pixels(digits/'valid'/'3').mean(0))
    assert drawn.images[0].get_array().shape == (28, 28)


def test_matplotlib_is_at_hand_with_its_settings():
    with plt.rc_context():
        matplotlib.rc('image', cmap='Greys')
        assert plt.rcParams['image.cmap'] == 'Greys'


# arrays and tensors

def test_tensor_takes_what_array_takes():
    rows = [[2, 4, 6], [1, 3, 5], [0, 0, 9]]
    assert tensor(rows).tolist() == array(rows).tolist() == rows
    assert tensor(rows).type() == 'torch.LongTensor' and (tensor(rows)/2).type() == 'torch.FloatTensor'


def test_tensor_stacks_several_arguments():
    assert tensor([1, 2], [3, 4]).shape == (2, 2)
    assert tensor(7.).ndim == 0


def test_a_gradient_is_kept_where_it_was_asked_for():
    place = tensor([1., -2.]).requires_grad_()
    (3*place**2).sum().backward()
    assert place.grad.tolist() == [6., -12.]


def test_to_np_takes_values_out_of_the_graph():
    values = to_np(tensor([1., 2.]).requires_grad_()*2)
    assert type(values) is np.ndarray and values.tolist() == [2., 4.]


# figures

def test_gv_draws_a_graph_as_an_image_with_its_labels():
    svg = gv('''
    wash->dry->fold
    dry->wash[label="still wet"]
    ''')._repr_svg_()
    for word in 'wash', 'dry', 'fold', 'still': assert word in svg


def test_a_function_is_plotted_over_a_range_with_titles():
    def drop(t): return 5*t**2
    plot_function(drop, 'seconds', 'meters')
    assert (plt.gca().get_xlabel(), plt.gca().get_ylabel()) == ('seconds', 'meters')
    plot_function(torch.tanh, title='tanh', min=-3, max=3)
    assert plt.gca().get_title() == 'tanh' and plt.gca().lines[0].get_xdata().min() == -3
    plot_function(F.relu)
    assert len(plt.gca().lines) == 1


# loops of the reader's own

def test_a_parabola_is_fitted_by_steps_down_the_gradient():
    at = torch.linspace(-2, 2, 25)
    heights = 1.5*at**2 - at + .5
    weights = torch.zeros(3).requires_grad_()
    def loss():
        a, b, c = weights
        return ((a*at**2 + b*at + c - heights)**2).mean()
    begin = loss()
    for _ in range(300):
        loss().backward()
        weights.data -= .05*weights.grad.data
        weights.grad = None
    assert loss() < begin/100
    torch.testing.assert_close(weights.detach(), tensor([1.5, -1., .5]), atol=.05, rtol=0)


def test_distances_of_all_images_to_a_mean_are_taken_at_once(digits):
    mean, images = pixels(digits/'train'/'3').mean(0), pixels(digits/'valid'/'3')
    at_once = (images - mean).abs().mean((-1, -2))
    assert at_once.shape == images.shape[:1]
    torch.testing.assert_close(at_once[4], F.l1_loss(images[4], mean))
    torch.testing.assert_close(((images[4] - mean)**2).mean(), F.mse_loss(images[4], mean))


# loaders, optimizer, learner

def test_a_loader_shuffles_and_cuts_any_collection_into_batches():
    batches = list(DataLoader(range(22), batch_size=8, shuffle=True))
    assert [len(b) for b in batches] == [8, 8, 6]
    assert torch.cat(batches).tolist() != sorted(torch.cat(batches).tolist()) == list(range(22))


def test_a_loader_collates_pairs_of_number_and_text():
    letters = L(enumerate(string.ascii_lowercase))
    numbers, names = zip(*DataLoader(letters, batch_size=10, shuffle=True))
    assert [len(o) for o in numbers] == [len(o) for o in names] == [10, 10, 6]
    assert all(string.ascii_lowercase[n] == c for ns, cs in zip(numbers, names) for n, c in zip(ns, cs))


def ink(n=400):
    "Rows of ten numbers; whether the first five outweigh the others."
    set_seed(5)
    x = torch.rand(n, 10)
    return list(zip(x, (x[:, :5].sum(1) > x[:, 5:].sum(1)).float().unsqueeze(1)))


@pytest.fixture
def loaders():
    rows = ink()
    return DataLoaders(DataLoader(rows[:320], batch_size=64), DataLoader(rows[320:], batch_size=64))


def wrong_by(out, wanted): return torch.where(wanted == 1, 1 - out.sigmoid(), out.sigmoid()).mean()
def hits(out, wanted): return ((out > 0) == wanted).float().mean()


def test_a_loader_without_shuffle_begins_with_the_first_items(loaders):
    x, y = first(loaders.train)
    assert x.shape == (64, 10) and y.shape == (64, 1)
    assert torch.equal(x[0], loaders.train_ds[0][0])


class Descent:
    "An optimizer with the two methods that a loop calls."
    def __init__(self, weights, rate): self.weights, self.rate = list(weights), rate
    def step(self, *args, **kwargs):
        for w in self.weights: w.data -= self.rate*w.grad.data
    def zero_grad(self, *args, **kwargs):
        for w in self.weights: w.grad = None


def test_sgd_takes_the_steps_of_plain_gradient_descent(loaders):
    model = nn.Linear(10, 1)
    twin = deepcopy(model)
    for model_, optimizer in (model, SGD(model.parameters(), .5)), (twin, Descent(twin.parameters(), .5)):
        for x, y in loaders.train:
            wrong_by(model_(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    for a, b in zip(model.parameters(), twin.parameters()): torch.testing.assert_close(a, b)


def test_fit_trains_a_plain_model_and_records_a_row_for_each_epoch(loaders):
    learner = Learner(loaders, nn.Linear(10, 1), opt_func=SGD, loss_func=wrong_by, metrics=hits)
    learner.fit(6, lr=1.)
    rows = learner.recorder.values
    assert len(rows) == 6 and all(len(row) == 3 for row in rows)
    assert list(learner.recorder.metric_names) == ['epoch', 'train_loss', 'valid_loss', 'hits', 'time']
    assert rows[-1][0] < rows[0][0] and rows[-1][2] > .75


def test_the_second_argument_of_fit_is_the_learning_rate(loaders):
    learner = Learner(loaders, nn.Linear(10, 1), opt_func=SGD, loss_func=wrong_by)
    learner.fit(1, .25)
    assert {h['lr'] for h in learner.opt.hypers} == {.25}


def test_a_column_of_the_record_is_taken_by_its_number(loaders):
    learner = Learner(loaders, nn.Linear(10, 1), opt_func=SGD, loss_func=wrong_by, metrics=hits)
    learner.fit(3, .5)
    column = L(learner.recorder.values).itemgot(2)
    plt.plot(column)
    assert list(column) == [row[2] for row in learner.recorder.values]


def test_the_trained_model_is_the_learners(loaders):
    model = nn.Sequential(nn.Linear(10, 4), nn.ReLU(), nn.Linear(4, 1))
    learner = Learner(loaders, model, opt_func=SGD, loss_func=wrong_by)
    learner.fit(1, .1)
    assert learner.model is model
    weight, bias = learner.model[0].parameters()
    assert weight.shape == (4, 10) and bias.shape == (4,)


@pytest.mark.parametrize('data', ['sample', 'mnist_sample.tgz'])
def test_pixels_tell_threes_from_sevens_and_a_small_network_does_it_better(data, request, monkeypatch):
    monkeypatch.setenv('FASTBOOK_DATA', 'sample' if data == 'sample' else 'real')
    if data != 'sample': monkeypatch.setenv('FASTBOOK_MIRROR', str(request.getfixturevalue('mirror')))
    folder = untar_data(URLs.MNIST_SAMPLE)
    images = {(part, n): pixels(folder/part/n) for part in ('train', 'valid') for n in '37'}
    def nearer_to_3(x): return (x - images['train', '3'].mean(0)).abs().mean((-1, -2)) < (x - images['train', '7'].mean(0)).abs().mean((-1, -2))
    by_pixels = (nearer_to_3(images['valid', '3']).float().mean() + 1 - nearer_to_3(images['valid', '7']).float().mean())/2
    assert by_pixels >= .93

    def rows(part):
        flat = torch.cat([images[part, '3'], images[part, '7']]).flatten(1)
        return list(zip(flat, tensor([1]*len(images[part, '3']) + [0]*len(images[part, '7'])).unsqueeze(1)))
    set_seed(42)
    loaders = DataLoaders(DataLoader(rows('train'), batch_size=256), DataLoader(rows('valid'), batch_size=256))
    learner = Learner(loaders, nn.Sequential(nn.Linear(784, 30), nn.ReLU(), nn.Linear(30, 1)), opt_func=SGD, loss_func=wrong_by, metrics=hits)
    with learner.no_bar(), learner.no_logging(): learner.fit(40, .1)
    show_image(learner.model[0].weight[0].view(28, 28))
    assert learner.recorder.values[-1][2] >= .97
