"""What the cells of the book's chapters 13 (convolutions), 14 (ResNets), 16 (training), 18 (class activation maps) and 19 (everything by hand) ask of the library: the same names and calls,
in small. The networks and callbacks are our own."""
import subprocess
import sys

import pytest

from fastbook_impl.callback.hook import *
from fastbook_impl.fastbook import *
from fastbook_impl.vision.all import *

pytestmark = pytest.mark.medium


@pytest.fixture(scope='module', autouse=True)
def figures_closed():
    yield
    plt.close('all')


def fitted(learn, *args, **kwargs):
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(*args, **kwargs)
    return learn


# chapter 13

def every(n): return lambda path: get_image_files(path).sorted()[::n]


@pytest.fixture(scope='module')
def threes():
    block = DataBlock((ImageBlock(cls=PILImageBW), CategoryBlock), get_items=every(8), splitter=GrandparentSplitter(), get_y=parent_label)
    return block.dataloaders(untar_data(URLs.MNIST_SAMPLE))


def test_kernels_and_channels(threes):
    xb,_ = to_cpu(first(threes.valid))
    kernels = tensor([[-1., 0, 1]]*3, [[-1., -1, -1], [0, 0, 0], [1, 1, 1]]).unsqueeze(1)
    found = F.conv2d(xb, kernels, padding=1)
    assert found.shape == (len(xb), 2, 28, 28)
    show_image(found[0, 0])
    bear = image2tensor(Image.open(image_bear()))
    _,axs = subplots(1, 3)
    for channel,ax,cmap in zip(bear, axs, ('Reds', 'Greens', 'Blues')): show_image(255 - channel, ax=ax, cmap=cmap)
    assert bear.shape == (3, 400, 480) and axs[2].images


def halving(ni, nf, act=True, bn=False):
    layers = [nn.Conv2d(ni, nf, kernel_size=3, stride=2, padding=1), *[nn.ReLU()]*act, *([nn.BatchNorm2d(nf)] if bn else [])]
    return nn.Sequential(*layers) if len(layers) > 1 else layers[0]


def test_a_cnn(threes, capsys):
    net = sequential(*[halving(a, b) for a,b in ((1, 4), (4, 8), (8, 16), (16, 32))], halving(32, 2, act=False), Flatten())
    learn = Learner(threes, net, loss_func=F.cross_entropy, metrics=accuracy)
    print(learn.summary())
    assert 'Conv2d' in capsys.readouterr().out
    assert learn.model[0][0].weight.shape == (4, 1, 3, 3)
    assert fitted(learn, 2, 0.01).recorder.values[-1][-1] > .8


def test_ten_digits_and_what_their_layers_do():
    block = DataBlock(blocks=(ImageBlock(cls=PILImageBW), CategoryBlock), get_items=every(6), splitter=GrandparentSplitter('training', 'testing'),
                      get_y=parent_label, batch_tfms=Normalize())
    dls = block.dataloaders(untar_data(URLs.MNIST), bs=64)
    dls.show_batch(max_n=9, figsize=(4, 4))
    net = sequential(*[halving(a, b, bn=True) for a,b in ((1, 8), (8, 16), (16, 32), (32, 64))], halving(64, 10, act=False), Flatten())
    learn = fitted(Learner(dls, net, loss_func=F.cross_entropy, metrics=accuracy, cbs=ActivationStats(with_hist=True)), 1, 0.06)
    for i in 0, -2: learn.activation_stats.plot_layer_stats(i)
    learn.activation_stats.color_dim(-2)
    learn.recorder.plot_sched()
    assert learn.recorder.values[-1][-1] > .6


# chapter 14

@pytest.fixture(scope='module')
def dls():
    block = DataBlock(blocks=(ImageBlock, CategoryBlock), get_items=every(10), splitter=GrandparentSplitter(valid_name='val'), get_y=parent_label,
                      item_tfms=Resize(48), batch_tfms=[*aug_transforms(min_scale=0.5, size=32), Normalize.from_stats(*imagenet_stats)])
    return block.dataloaders(untar_data(URLs.IMAGENETTE_160), bs=16)


class Residual(Module):
    def __init__(self, ni, nf, stride=1):
        self.path = nn.Sequential(ConvLayer(ni, nf, stride=stride), ConvLayer(nf, nf, act_cls=None, norm_type=NormType.BatchZero))
        self.same = noop if ni == nf else ConvLayer(ni, nf, 1, act_cls=None)
        self.pool = noop if stride == 1 else nn.AvgPool2d(2, ceil_mode=True)

    def forward(self, x): return (self.path(x) + self.same(self.pool(x))).relu()


def small_resnet(n_out):
    return nn.Sequential(ConvLayer(3, 16, 3, stride=2), nn.MaxPool2d(kernel_size=3, stride=2, padding=1), Residual(16, 16), Residual(16, 32, 2),
                         nn.AdaptiveAvgPool2d(1), Flatten(), nn.Linear(32, n_out))


def test_a_resnet_by_hand(dls):
    learn = Learner(dls, small_resnet(dls.c), loss_func=nn.CrossEntropyLoss(), metrics=accuracy).to_fp16()
    assert learn.lr_find(num_it=20, show_plot=False).valley > 0
    assert fitted(learn, 1, 3e-3).recorder.values[-1][0] < 5


# chapter 16

def sgd(p, lr, **kwargs): p.data.add_(p.grad.data, alpha=-lr)

def gather(p, mom, grad_avg=None, **kwargs): return {'grad_avg': p.grad.data if grad_avg is None else grad_avg*mom + p.grad.data}
def move(p, lr, grad_avg, **kwargs): p.data.sub_(lr*grad_avg)

def gather_squares(p, sqr_mom, sqr_avg=None, **kwargs): return {'sqr_avg': (0 if sqr_avg is None else sqr_mom*sqr_avg) + (1 - sqr_mom)*p.grad.data**2}
def move_evenly(p, lr, sqr_avg, eps, **kwargs): p.data.addcdiv_(p.grad, sqr_avg.sqrt() + eps, value=-lr)


@pytest.mark.parametrize('opt_func', [SGD, partial(Optimizer, cbs=[sgd]), partial(Optimizer, cbs=[gather, move], mom=0.9),
                                      partial(Optimizer, cbs=[gather_squares, move_evenly], sqr_mom=0.99, eps=1e-7)], ids='SGD sgd momentum rms'.split())
def test_optimizers_made_of_callbacks(dls, opt_func):
    learn = Learner(dls, small_resnet(dls.c), metrics=accuracy, opt_func=opt_func)
    fitted(learn, 1, 0.003, moms=(0, 0, 0) if opt_func is SGD else None)
    assert learn.recorder.values[-1][0] < 5


def test_a_callback_that_stops(dls):
    class Stop(Callback):
        order = 9
        def after_batch(self):
            if torch.isinf(self.loss) or torch.isnan(self.loss): raise CancelFitException
    class Count(Callback):
        def before_fit(self): self.n = 0
        def after_step(self): self.n += 1
    learn = Learner(dls, nn.Sequential(small_resnet(dls.c), Lambda(lambda x: x*float('nan'))), loss_func=CrossEntropyLossFlat(), cbs=[Stop(), Count()])
    with learn.no_bar(), learn.no_logging(): learn.fit(3)
    assert learn.count.n <= 1


# chapter 18

def test_class_activation_maps():
    path = untar_data(URLs.PETS)/'images'
    dls = ImageDataLoaders.from_name_func(path, get_image_files(path)[::30], valid_pct=0.2, seed=21, label_func=lambda x: x[0].isupper(), item_tfms=Resize(64), bs=16)
    learn = fitted(vision_learner(dls, resnet18, metrics=error_rate, pretrained=False), 1)
    x, = first(dls.test_dl([PILImage.create(image_cat())]))
    kept, layer = {}, learn.model[0][-2]
    hooks = [layer.register_forward_hook(lambda m, i, o: kept.update(act=o.detach()[0])), layer.register_full_backward_hook(lambda m, gi, go: kept.update(grad=go[0].detach()[0]))]
    out = learn.model.eval()(x)
    out[0, 1].backward()
    for h in hooks: h.remove()
    assert (kept['grad'].mean(dim=[1, 2], keepdim=True)*kept['act']).sum(0).shape == (4, 4)
    cam = torch.einsum('ck,kij->cij', learn.model[1][-1].weight[:, :256], kept['act'])
    shown = TensorImage(dls.train.decode((x,))[0][0])
    _,ax = plt.subplots()
    shown.show(ctx=ax)
    ax.imshow(cam[1].detach().cpu(), alpha=0.6, extent=(0, 64, 64, 0), interpolation='bilinear', cmap='magma')
    assert len(ax.images) == 2 and shown.shape == (3, 64, 64) and 50 < shown.float().mean() < 250 # bytes again


# chapter 19

FROM_NOTHING = '''
from fastbook_impl.vision.all import *
path = untar_data(URLs.IMAGENETTE_160)
files = L(glob.glob(f'{path}/**/*.JPEG', recursive=True)).map(Path).sorted()[::10]
names = files.map(lambda o: o.parent.name).unique()
number = names.val2idx()

class Pictures:
    def __init__(self, files): store_attr()
    def __len__(self): return len(self.files)
    def __getitem__(self, i): return tensor(Image.open(self.files[i]).resize((64, 64)).convert('RGB')).float()/255, tensor(number[self.files[i].parent.name])

def collate(idxs, ds): return [torch.stack(o) for o in zip(*[ds[i] for i in idxs])]

class Loader:
    def __init__(self, ds, bs=16, n_workers=2): store_attr()
    def __len__(self): return -(-len(self.ds)//self.bs)
    def __iter__(self):
        idxs = L.range(self.ds).shuffle()
        with ProcessPoolExecutor(self.n_workers) as ex: yield from ex.map(collate, [idxs[n:n + self.bs] for n in range(0, len(idxs), self.bs)], ds=self.ds)

class Trainer:
    def __init__(self, model, dl, loss_func, lr, cbs):
        store_attr()
        for cb in cbs: cb.learner = self
    def __call__(self, name):
        for cb in self.cbs: getattr(cb, name, noop)()
    def fit(self, n):
        try:
            for self.epoch in range(n):
                for self.batch in progress_bar(self.dl, leave=False): self.step()
        except CancelFitException: pass
    def step(self):
        self('before_batch')
        loss = self.loss_func(self.model(self.batch[0]), self.batch[1])
        loss.backward()
        with torch.no_grad():
            for p in self.model.parameters(): p -= p.grad*self.lr; p.grad.zero_()
        self('after_batch')

class Prepare(GetAttr):
    _default = 'learner'
    def before_batch(self):
        xb,yb = to_device(self.batch, default_device())
        self.learner.batch = xb.permute(0, 3, 1, 2), yb
class Stop(GetAttr):
    _default = 'learner'
    def after_batch(self):
        if self.epoch == 1: raise CancelFitException

net = nn.Sequential(ConvLayer(3, 64, stride=2), ConvLayer(64, 32, stride=2), nn.AdaptiveAvgPool2d(1), Flatten(), nn.Linear(32, 10)).to(default_device())
assert net(torch.rand(64, 3, 64, 64).to(default_device())).shape == (64, 10) # PyTorch has made its threads before the first process begins
t = Trainer(net, Loader(Pictures(files)), F.cross_entropy, .1, [Prepare(), Stop()])
t.fit(3)
print('epoch', t.epoch, 'of', len(t.dl), 'batches')
'''


def test_everything_by_hand(tmp_path):
    (tmp_path/'by_hand.py').write_text(FROM_NOTHING)
    res = subprocess.run([sys.executable, str(tmp_path/'by_hand.py')], capture_output=True, text=True, timeout=300)
    assert res.returncode == 0 and res.stdout.splitlines()[-1] == 'epoch 1 of 7 batches', res.stdout + res.stderr
