"""The exercises of chapters 1 to 3: what their own proofs cannot express.

Each exercise names right and wrong answers, and `proof` checks them. Here: mistakes that passed and right answers that
were refused before, as a reader would write them; and rules about all exercises of a chapter.
"""
import io
import re

import matplotlib
import numpy as np
import pytest
import torch
from fastcore.foundation import L
from PIL import Image
from torch import nn

from fastbook_impl.exercises.engine import ChoicePart, FunctionPart, ValuePart, exercises, find, judge

matplotlib.use('Agg')
CHAPTERS = '01', '02', '03'
ALL = [o for c in CHAPTERS for o in exercises(c)]
ids = [o.number for o in ALL]


def judged(number, answer):
    "The verdict on `answer` to the first part, with the right answers to the others."
    ex = find(number)
    return judge(ex, answer, *(p.reference for p in ex.parts[1:]), guard=False)


def nudged(xs, ys, w, step, rounds, loss):
    for _ in range(rounds): w = min([w, w - step, w + step], key=lambda w: loss([w*x - y for x, y in zip(xs, ys)]))
    return w


def overfits_after_a_rise(train, valid):
    "Wrong if the last value is the lowest, but others rose before."
    best = min(range(len(valid)), key=valid.__getitem__)
    if all(b < a for a, b in zip(valid, valid[1:])): return None
    return best + 1


def by_summed_error(lrs, epochs, error):
    lr = min(lrs, key=lambda lr: sum(error(lr, n) for n in epochs))
    return lr, min(epochs, key=lambda n: error(lr, n))


def from_an_error_of_one(lrs, epochs, error):
    best, found = 1., None
    for lr in lrs:
        for n in epochs:
            if error(lr, n) < best: best, found = error(lr, n), (lr, n)
    return found


def first_label(model, inputs, labels): return sum(model(x) == y for x, y in zip(inputs, labels)) > labels.count(labels[0])
def not_below(probs, sure): return [int(i) for i in probs.max(1).values.argsort() if probs[i].max() <= sure]


def unconverted(data, model, vocab):
    try: image = Image.open(io.BytesIO(data))
    except Exception: return None
    if image.mode == 'L': image = image.convert('RGB')
    probs = model(torch.tensor(np.array(image)[..., :3]).permute(2, 0, 1)[None]/255).softmax(1)[0]
    return {'label': vocab[probs.argmax()], 'probability': probs.max().item()}


def by_prefix(names):
    first = min(n.split('_')[0] for n in names)
    return [i for i, n in enumerate(names) if not n.startswith(first)], [i for i, n in enumerate(names) if n.startswith(first)]


def counts(targs, preds, n): return torch.bincount(targs*n + preds, minlength=n*n).reshape(n, n)


@pytest.mark.parametrize('number, answer', [
    ('1.6', [4000, 32, 32001, 128000]), ('1.8', (591, 18, 149, 5, (32, 3, 64, 64), (32, 64, 32, 32))),
    ('1.12', [2, 129, 0, 73]), ('1.17', [310, 10]), ('1.18', [(3125, True), (784, True), (12544, True)]),
    ('1.21', [(591, 149), (8, 2), (6, 1), False, True]), ('2.27', [0, 8, 198]), ('3.14', [10, 1005]), ('2.24', [4, 199, .02]),
    ('1.16', lambda *a: nudged(*a, loss=lambda ds: sum(map(abs, ds)))), ('1.16', lambda *a: nudged(*a, loss=lambda ds: max(map(abs, ds)))),
    ('1.23', overfits_after_a_rise), ('1.32', by_summed_error), ('1.32', from_an_error_of_one), ('1.33', first_label), ('2.4', not_below),
    ('2.9', unconverted), ('2.12', by_prefix), ('2.18', lambda *a: counts(*a).float()), ('2.18', lambda *a: counts(*a).to(torch.uint8)),
], ids=lambda o: o if isinstance(o, str) else '')
def test_a_mistake_that_passed_before_is_refused(number, answer): assert judged(number, answer).state == 'wrong'


def nested(net, n_out): return nn.Sequential(net[:-1], nn.Linear(net[-1].in_features, n_out))
def edges(training): return L(('inputs', 'model'), ('weights', 'model'), ('model', 'results')) + L([('results', 'performance'), ('performance', 'weights')]*training)


def with_the_courses_opener(data, model, vocab):
    from fastbook_impl.vision.core import PILImage
    try: image = PILImage.create(data)
    except Exception: return None
    probs = model(torch.tensor(np.array(image)).permute(2, 0, 1)[None]/255).softmax(1)[0]
    return {'label': vocab[probs.argmax()], 'probability': probs.max().item()}


def sklearn_confusion(targs, preds, n):
    return torch.tensor(pytest.importorskip('sklearn.metrics').confusion_matrix(targs, preds, labels=range(n)))


@pytest.mark.parametrize('number, answer', [
    ('3.1', ['c', 'a', 'b']), ('2.6', ['a', 1, 'c', 20]), ('1.24', [.33, 0, 'a', 0, -.015]), ('1.19', ['Classification', 'Regression']*4),
    ('1.19', list('CRCRCRCR')), ('2.25', ['Grizzly', .95, 'grizzly bear', 1]), ('3.9', ['Historical bias', 'Representation bias', 'measurement', 'aggregation', 'evaluation', 'deployment']),
    ('3.17', ['Utilitarianism', 'justice', 'virtues', 'Rights', 'the common good']), ('1.26', nested), ('1.13', edges), ('2.24', [4, 199.9, .02]), ('3.12', [.1, .1, .1, .04]),
    ('2.9', with_the_courses_opener), ('2.18', sklearn_confusion), ('1.8', np.array([592, 18, 148, 5, (32, 3, 64, 64), (32, 64, 32, 32)], dtype=object)),
], ids=lambda o: o if isinstance(o, str) else '')
def test_a_right_answer_that_was_refused_before_is_accepted(number, answer):
    verdict = judged(number, answer)
    assert verdict, verdict


@pytest.mark.parametrize('number', ['2.18', '1.28'])
def test_no_input_is_empty_where_the_task_does_not_say_so(number):
    part = find(number).parts[0]
    assert all(len(args[0]) > 0 for seed in range(5) for args in part.inputs(seed))


@pytest.mark.parametrize('ex', ALL, ids=ids)
def test_an_exercise_names_further_right_and_wrong_answers(ex):
    part = ex.parts[0]
    if isinstance(part, ChoicePart): pytest.skip('letters have no variants')
    assert len(part.accepts) >= 2 and len(part.refuses) >= 2


@pytest.mark.parametrize('ex', [o for o in ALL if isinstance(o.parts[0], FunctionPart) and o.number not in ('2.11', '1.30')], ids=lambda o: o.number)
def test_the_first_input_is_an_edge_case_that_no_seed_changes(ex):
    "Functions and random pixels among the arguments are compared by their kind only."
    def form(x):
        if isinstance(x, (list, tuple)): return [form(o) for o in x]
        if isinstance(x, dict): return {k: form(v) for k, v in x.items()}
        return x if isinstance(x, (int, float, str, set)) and not isinstance(x, bool) else type(x).__name__
    firsts = [ex.parts[0].inputs(seed)[0] for seed in range(3)]
    assert form(firsts[0]) == form(firsts[1]) == form(firsts[2])


def test_an_upload_is_tried_in_every_mode_and_format():
    opened = []
    for data, *_ in find('2.9').parts[0].inputs(0):
        try: opened.append((Image.open(io.BytesIO(data)).mode, Image.open(io.BytesIO(data)).format))
        except Exception: opened.append((None, None))
    assert {m for m, _ in opened} >= {'RGB', 'L', 'RGBA', 'LA', 'P', 'CMYK', '1', None} and {f for _, f in opened} >= {'PNG', 'JPEG', 'GIF'}


@pytest.mark.parametrize('chapter', CHAPTERS)
def test_the_right_option_is_the_longest_in_at_most_a_third(chapter):
    choices = [o.choice for o in exercises(chapter) if o.choice]
    longest = [c.name for c in choices if len(c.options[c.reference]) == max(map(len, c.options.values()))]
    assert len(longest) <= len(choices)/3, longest


@pytest.mark.parametrize('ex', [o for o in ALL if o.choice], ids=lambda o: o.number)
def test_options_are_of_similar_length(ex):
    lengths = [len(o) for o in ex.choice.options.values()]
    assert max(lengths) <= 1.5*min(lengths) + 8, lengths


@pytest.mark.parametrize('ex', ALL, ids=ids)
def test_an_exercise_is_in_plain_american_english(ex):
    parts = ex.parts
    text = ' '.join([ex.title, ex.task, *ex.hints, ex.why, ex.explanation, *(s for p in parts for _, s in p.wrong),
                     *(o for p in parts for o in getattr(p, 'options', {}).values()), *(p.form for p in parts if isinstance(p, ValuePart))])
    found = re.findall(r'\b(?:pictures?|colours?|neighbours?|labell\w+|recognis\w+|organis\w+|grey|tumours?|petrol|favours?|whoever has|one gets|the share)\b', text, re.I)
    assert not found


@pytest.mark.parametrize('ex', ALL, ids=ids)
def test_several_parts_are_a_numbered_list(ex):
    assert not re.search(r'\(1\).*\(2\)', ex.task, re.S)
    assert ex.section


@pytest.mark.parametrize('ex', [o for o in ALL if o.draw], ids=lambda o: o.number)
def test_a_right_answer_is_drawn(ex):
    import matplotlib.pyplot as plt
    ex.draw(ex.parts[0].reference)
    assert plt.get_fignums()
    plt.close('all')


def test_relus_are_enough_as_computed_and_one_fewer_is_not():
    enough = find('1.15').parts[0].reference()
    for n, limit in zip(enough, (.1, .02, .001)): assert (1/(2*n))**2 < limit <= (1/(2*(n - 1)))**2


def test_generated_letters_pass_the_filter_for_duplicates():
    part = find('3.16').parts[0]
    letters = next(args[0] for args in part.inputs(0) if len(args[0]) == 243)
    assert part.reference(letters) == letters
