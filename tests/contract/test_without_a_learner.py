"""A data set, a loader with processes of its own, a training loop and callbacks, all of the reader's own, on the small tools of the library."""
import subprocess
import sys

import pytest

SCRIPT = '''
import sys
from fastbook_impl.vision.all import *
files = L(glob.glob(f'{sys.argv[1]}/**/*.jpg', recursive=True)).map(Path).sorted()
kinds = files.map(lambda file: file.parent.name).unique()
number_of = kinds.val2idx()

class Toys:
    def __init__(self, files): store_attr()
    def __len__(self): return len(self.files)
    def __getitem__(self, i):
        image = Image.open(self.files[i]).convert('RGB').resize((24, 24))
        return tensor(image).float()/255, tensor(number_of[self.files[i].parent.name])

def together(places, toys): return tuple(map(torch.stack, zip(*(toys[i] for i in places))))

class Batches:
    def __init__(self, toys, size=9, processes=2): store_attr()
    def __iter__(self):
        order = L.range(self.toys).shuffle()
        parts = [order[a:a + self.size] for a in range(0, len(order), self.size)]
        with ProcessPoolExecutor(self.processes) as pool: yield from pool.map(together, parts, toys=self.toys)

class Loop:
    def __init__(self, network, batches, helpers, rate=.05):
        store_attr()
        self.losses = []
        for helper in helpers: helper.loop = self
    def tell(self, event):
        for helper in self.helpers: getattr(helper, event, noop)()
    def run(self, rounds):
        try:
            for self.round in range(rounds):
                for self.batch in progress_bar(self.batches, leave=False): self.learn()
        except CancelFitException: pass
    def learn(self):
        self.tell('ready')
        x, y = self.batch
        loss = F.cross_entropy(self.network(x), y)
        loss.backward()
        self.losses.append(float(loss))
        for p in self.network.parameters():
            p.data -= self.rate*p.grad
            p.grad = None
        self.tell('learned')

class Helper(GetAttr): _default = 'loop'
class ChannelsFirst(Helper):
    def ready(self):
        x, y = to_device(self.batch, default_device())
        self.loop.batch = x.permute(0, 3, 1, 2), y
class EndSoon(Helper):
    def learned(self):
        if self.round == 1: raise CancelFitException

network = nn.Sequential(ConvLayer(3, 8, stride=2), ConvLayer(8, 8, stride=2), nn.AdaptiveAvgPool2d(1), Flatten(), nn.Linear(8, 3)).to(default_device())
assert network(torch.rand(2, 3, 24, 24).to(default_device())).shape == (2, 3) # before the first process begins
loop = Loop(network, Batches(Toys(files)), [ChannelsFirst(), EndSoon()])
loop.run(4)
print('images', len(files), 'round', loop.round, 'batches', len(loop.losses))
'''


@pytest.mark.medium
def test_everything_is_written_by_the_reader_in_a_script(tmp_path, toy_shelves):
    (tmp_path/'by_hand.py').write_text(SCRIPT)
    done = subprocess.run([sys.executable, str(tmp_path/'by_hand.py'), str(toy_shelves)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == 'images 60 round 1 batches 8'
