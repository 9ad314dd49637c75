"""What chapter 3 exports: shares with intervals, errors by group, the model card for all kinds of data; and what its notebook reached."""
import re

import pytest
import torch
from torch import nn

from fastbook_impl.course.ethics import Card, error_by_group, model_card, share_interval
from fastbook_impl.tabular.all import *
from fastbook_impl.text.all import AWD_LSTM, TextDataLoaders, text_classifier_learner
from fastbook_impl.vision.all import CategoryBlock, DataBlock, DataLoaders, ImageBlock, MultiCategoryBlock, PILImage, Resize, accuracy_multi

QUESTIONS = dict(intended='a', not_for='b', affected='c', contact='d')


# Shares and groups

@pytest.mark.parametrize('k, n, low, high', [(1, 10, .0179, .4042), (10, 100, .0552, .1744), (0, 10, 0., .2775), (10, 10, .7225, 1.), (0, 0, 0., 1.)])
def test_intervals_as_published_for_wilson(k, n, low, high):
    assert share_interval(k, n) == pytest.approx((low, high), abs=1e-4)


def test_an_interval_holds_its_share_and_shrinks():
    for n in (1, 3, 30, 300):
        for k in range(n + 1):
            low, high = share_interval(k, n)
            assert 0 <= low <= k/n <= high <= 1
    widths = [high - low for low, high in (share_interval(n//10, n) for n in (10, 100, 1000))]
    assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize('k, n', [(3, 2), (-1, 5)])
def test_no_share(k, n):
    with pytest.raises(ValueError, match=f'{k} of {n} is no share: the first number must be from 0 to the second'): share_interval(k, n)


def test_errors_are_counted_group_by_group():
    table = error_by_group(torch.tensor([True, False, False, True, False]), ['b', 'b', 'b', 'a', 3])
    assert table.index.tolist() == [3, 'a', 'b'] and table.n.tolist() == [1, 1, 3]
    assert table.error.tolist() == pytest.approx([0, 1, 1/3])
    assert ((table.low <= table.error) & (table.error <= table.high)).all()


def test_who_is_not_told_is_a_group_too():
    table = error_by_group([True, False, True, 0], [float('nan'), None, 'a', float('nan')])
    assert table.index.tolist() == ['a', 'not told'] and table.n.tolist() == [1, 3] and table.error.tolist() == pytest.approx([1, 1/3])


def test_groups_that_do_not_fit():
    with pytest.raises(ValueError, match='each result is right or wrong, False or True, and there are other numbers among these'): error_by_group([.2, .9], ['a', 'b'])
    with pytest.raises(ValueError, match='2 results and 1 groups: each result needs the group of its item'): error_by_group([True, False], ['a'])
    with pytest.raises(ValueError, match='there is nothing to measure: no results'): error_by_group([], [])


# The model card

def people(n=60):
    rng = np.random.default_rng(0)
    df = pd.DataFrame({'trade': rng.choice(['baker', 'smith'], n), 'age': rng.integers(20, 60, n)})
    return df.assign(pay=np.where(df.age > 40, '>=50k', '<50k'), sum=df.age*100.)


def table_learner(y='pay', n=60, **kwargs):
    set_seed(42)
    to = TabularPandas(people(n), [Categorify, Normalize], ['trade'], ['age'], y, splits=(range(n*2//3), range(n*2//3, n)))
    return tabular_learner(to.dataloaders(bs=8, device='cpu'), layers=[5], **kwargs)


def lines_of(card, heading): return card.split(f'## {heading}')[1].split('\n## ')[0].strip().splitlines()


def test_a_card_counts_what_there_is():
    learn = table_learner(metrics=accuracy)
    card = model_card(learn, 'pay', **QUESTIONS)
    assert isinstance(card, Card) and card._repr_markdown_() == str(card) and card.startswith('# Model card: pay\n')
    preds, targs = learn.get_preds()
    wrong = (preds.argmax(1) != targs.flatten())
    assert f'- wrong in {wrong.float().mean():.3f} of 20 cases' in card and f'- `accuracy` {1 - wrong.float().mean():.4f}' in card
    table = people()
    for name, row in zip(('`<50k`', '`>=50k`'), (table.pay == '<50k', table.pay == '>=50k')):
        line = next(o for o in lines_of(card, 'By class') if name in o)
        assert line.startswith(f'| {name} | {row[:40].sum()} | {row[40:].sum()} | ')


def test_what_nobody_answered_is_seen():
    card = model_card(table_learner(), 'pay', intended='to show')
    assert card.count('*not filled in*') == 3
    assert lines_of(card, 'Open points')[:4] == ['- Not filled in: what it must not be used for.', '- Not filled in: who is affected, and was asked.',
                                                 '- Not filled in: where to complain, and who can overrule it.', '- It is no better than always the same answer.']
    assert lines_of(card, 'Open points')[-1] == '- Nobody has measured whom it fails: there are no errors by group.'


def test_groups_of_a_table_and_few_items():
    learn = table_learner()
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(15, 5e-2)
    age = {v: i for i, v in enumerate(sorted(learn.dls.valid_ds.items.age))}
    card = model_card(learn, 'pay', group_of=lambda row: 'young|old'[:5] if age[row.age] < 10 else 'young|old', **QUESTIONS)
    rows = [o for o in lines_of(card, 'By group')[2:]]
    assert rows[0].startswith('| `young` | ') and rows[1].startswith('| `young\\|old` | ')
    assert sum(int(re.findall(r'\| (\d+) \|', o)[0]) for o in rows) == 20
    assert all('items: too few to tell.' in o for o in lines_of(card, 'Open points')) and 'no better' not in card


class FromBrightness(nn.Module):
    "Right about bright pictures, and wrong about dark ones."
    def __init__(self): super().__init__(); self.w = nn.Parameter(torch.ones(1))
    def forward(self, x): return self.w*torch.tensor([5., -5.]).expand(len(x), 2)


def picture_learner(tmp_path, blocks, get_y, loss_func=None, model=None, **kwargs):
    for i in range(80): PILImage.create(np.full((8, 8, 3), i, np.uint8)).save(tmp_path/f'{i:02}.png')
    files = sorted(tmp_path.glob('*.png'))
    dls = DataBlock(blocks=blocks, get_items=lambda _: files + files, get_y=get_y, splitter=lambda o: (range(80), range(80, 160)),
                    item_tfms=Resize(8), **kwargs).dataloaders(tmp_path, bs=16)
    return Learner(dls, model or FromBrightness(), loss_func=loss_func)


def test_a_difference_between_groups_is_said(tmp_path):
    learn = picture_learner(tmp_path, (ImageBlock, CategoryBlock), lambda f: 'dark' if int(f.stem) < 41 else 'light')
    card = model_card(learn, 'brightness', group_of=lambda f: 'first' if int(f.stem) < 41 else 'second', **QUESTIONS)
    assert lines_of(card, 'Open points') == ['- It is no better than always the same answer.',
                                             '- It is wrong for `second` in 1.000 of the cases, for `first` in 0.000: more than chance explains.']
    assert f'- wrong in {39/80:.3f} of 80 cases' in card and f'always the same answer: {39/80:.3f}' in card


def test_of_many_classes_those_with_the_largest_error(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 20))
    card = model_card(picture_learner(tmp_path, (ImageBlock, CategoryBlock), lambda f: str(int(f.stem) % 20), model=model), 'many', **QUESTIONS)
    assert '## By class (the 10 of 20 with the largest error)' in card
    found = [float(o.split('|')[-2]) for o in lines_of(card, 'By class (the 10 of 20 with the largest error)')[2:]]
    assert len(found) == 10 and found == sorted(found, reverse=True)


def test_targets_that_are_no_classes(tmp_path):
    learn = table_learner(y='sum', y_range=(0, 9000), metrics=rmse)
    card = model_card(learn, 'sum', **QUESTIONS)
    assert '- `rmse` ' in card and 'wrong in' not in card and '## By class' not in card
    with pytest.raises(ValueError, match='errors by group need one class for each item, and these targets are something else: leave group_of out'):
        model_card(learn, 'sum', group_of=lambda row: row.trade)
    with pytest.raises(TypeError, match=re.escape("group_of is a function from an item to its group, such as lambda row: row['trade'], and this is 'trade'")): model_card(learn, 'sum', group_of='trade')
    several = picture_learner(tmp_path, (ImageBlock, MultiCategoryBlock), lambda f: ['x'] if int(f.stem) % 2 else ['x', 'y'])
    several.metrics = accuracy_multi
    assert '- `accuracy_multi` ' in model_card(several, 'several') and 'wrong in' not in model_card(several, 'several')


def test_a_card_of_texts_keeps_their_order():
    df = pd.DataFrame({'text': [('good ' if i % 2 else 'bad ')*(i % 7 + 1) for i in range(60)], 'label': [('neg', 'pos')[i % 2] for i in range(60)]})
    set_seed(42)
    dls = TextDataLoaders.from_df(df, text_col='text', label_col='label', bs=8, min_freq=1, seed=42)
    learn = text_classifier_learner(dls, AWD_LSTM, config=dict(emb_sz=16, n_hid=24, n_layers=1), pretrained=False)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(3, 3e-2)
    card = model_card(learn, 'words', group_of=lambda row: row.label, **QUESTIONS)
    by_class = {o.split('|')[1]: o.split('|')[3:5] for o in lines_of(card, 'By class')[2:]}
    by_group = {o.split('|')[1]: o.split('|')[2:4] for o in lines_of(card, 'By group')[2:]}
    assert by_class == by_group and len(by_class) == 2         # the groups are the classes, so nothing may have been mixed up


def test_plain_tensors_without_names():
    x = torch.arange(40.)[:, None]
    pairs = [(o, int(o > 20)) for o in x]
    dls = DataLoaders.from_dsets(pairs, pairs, bs=8, device='cpu')
    card = model_card(Learner(dls, nn.Linear(1, 2), loss_func=CrossEntropyLossFlat()), 'plain', group_of=lambda pair: pair[1], **QUESTIONS)
    assert '| `1` | 19 | 19 | ' in card and '| `0` | 21 | ' in card


def test_without_a_validation_set_there_is_no_card():
    pairs = [(torch.zeros(1), 0)]*8
    learn = Learner(DataLoaders.from_dsets(pairs, bs=4, device='cpu'), nn.Linear(1, 2), loss_func=CrossEntropyLossFlat())
    with pytest.raises(ValueError, match='a model card says how good a model is on items it has not seen: these data have no validation set'): model_card(learn, 'none')


def test_making_a_card_changes_nothing():
    learn = table_learner(metrics=accuracy)
    before = {k: v.clone() for k, v in learn.model.state_dict().items()}
    assert model_card(learn, 'twice') == model_card(learn, 'twice')
    assert all(torch.equal(v, learn.model.state_dict()[k]) for k, v in before.items())


# What the notebook reached

def test_figures_of_the_chapter(saved_figures):
    f = saved_figures('03_ethics')
    assert f['pale'] > f['dark'] + .3 and f['overall'] < .25                       # fine on average, and not for some
    assert f['pale_threshold'] < .15 and f['dogs_threshold'] > .4                  # the threshold's bill
    assert f['pale_added'] < f['pale']/3 and f['dogs_added'] < .3                  # that of the data
    assert f['confirmed'] > .9 and f['honest'] < .75 and f['quiet_recorded'] > .95 and f['quiet_per_patrol'] < .5
    assert f['agreement'] > .9
