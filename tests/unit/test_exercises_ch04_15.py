"The exercises of chapters 4, 5, 6 and 15: what their own proofs do not express."
import copy, importlib, math, re

import pytest

from fastbook_impl.exercises.engine import Exercise, FunctionPart, ValuePart, exercises, find, judge, right_answers

CHAPTERS = '04', '05', '06', '15'
READER_SEEDS = range(3)

def of(kind): return [ex for c in CHAPTERS for ex in exercises(c) if isinstance(ex.parts[0], kind)]
def number(ex): return ex.number

def neighbors(x):
    "Copies of the nested value `x` in which one integer is off by one."
    if isinstance(x, int) and not isinstance(x, bool): return [x - 1, x + 1]
    if isinstance(x, (list, tuple)): return [type(x)([*x[:i], o, *x[i+1:]]) for i,v in enumerate(x) for o in neighbors(v)]
    if isinstance(x, dict): return [{**x, k: o} for k,v in x.items() for o in neighbors(v)]
    return []

def judge_first(ex, answer, **kwargs): return judge(ex, answer, *right_answers(ex)[1:], guard=False, **kwargs)

@pytest.mark.parametrize('ex', of(ValuePart), ids=number)
def test_an_integer_off_by_one_is_refused(ex):
    truth = right_answers(ex)[0]
    assert judge_first(ex, truth)
    for near in neighbors(truth): assert not judge_first(ex, near), near

def rounded(x, digits):
    if isinstance(x, float) and x and math.isfinite(x): return round(x, digits - 1 - math.floor(math.log10(abs(x))))
    if isinstance(x, (list, tuple)): return [rounded(o, digits) for o in x]
    return {k: rounded(o, digits) for k,o in x.items()} if isinstance(x, dict) else x

@pytest.mark.parametrize('digits', (2, 3, 4))
@pytest.mark.parametrize('ex', of(ValuePart), ids=number)
def test_a_rounded_value_is_accepted(ex, digits): assert judge_first(ex, rounded(right_answers(ex)[0], digits))

@pytest.mark.parametrize('chapter', CHAPTERS)
def test_the_right_option_is_seldom_the_longest(chapter):
    choices = [ex.choice for ex in exercises(chapter) if ex.choice]
    longest = [c for c in choices if len(c.options[c.reference]) == max(map(len, c.options.values()))]
    assert len(longest) <= len(choices)/3

@pytest.mark.parametrize('ex', of((FunctionPart, ValuePart)), ids=number)
def test_the_table_has_numbers_for_each_exercise(ex):
    part = ex.parts[0]
    assert len(part.accepts) >= 2 and len(part.refuses) >= 2

def reader_inputs(n): return [args for seed in READER_SEEDS for args in find(n).parts[0].inputs(seed)]

@pytest.mark.parametrize('seed', READER_SEEDS)
def test_each_kind_of_file_name_is_tried_with_each_seed(seed):
    names = [name for name, in find('5.2').parts[0].inputs(seed)]
    assert {'pug_.jpg', 'holiday.jpg', 'pug_12.png', 'pug_12a.jpg', 'pug_7.jpg.bak', '_7.jpg', 'pug_7xjpg', 'pug_007.jpg'} <= set(names)
    assert any(name.startswith('Maine_Coon_') for name in names) and any(name.count('_') > 2 for name in names)

@pytest.mark.parametrize('seed', READER_SEEDS)
def test_the_asked_column_stands_at_several_places(seed):
    inputs = find('6.4').parts[0].inputs(seed)
    assert {list(df.columns).index(column) for df,column,_ in inputs} >= {0, 1, 2, 3}
    assert any(not df[flag].any() for df,_,flag in inputs) and any('size' in df for df,_,_ in inputs)

@pytest.mark.parametrize('seed', READER_SEEDS)
def test_rows_have_other_names_than_places(seed):
    for df,i,j in find('6.3').parts[0].inputs(seed):
        assert i != j and list(df.index)[i] != i
        try: first = df.loc[:2].values.tolist()
        except (TypeError, KeyError): continue
        assert first != df.iloc[:2].values.tolist()

@pytest.mark.parametrize('seed', READER_SEEDS)
def test_features_are_far_below_zero_in_some_batch(seed):
    assert any(out[~is_pad].max() < -50 for out,is_pad in find('15.14').parts[0].inputs(seed))

def test_a_batch_has_two_classes_and_more(): assert {2, 3, 4} <= {len(yb.unique()) for _,yb in reader_inputs('5.7')}

@pytest.mark.parametrize('n, name', [('4.6', 'torch'), ('4.7', 'l1_loss'), ('4.21', 'sigmoid'), ('4.25', 'SGD'), ('4.29', 'matmul'), ('5.10', 'cross_entropy'), ('5.13', 'softmax'),
                                     ('15.9', 'interpolate'), ('15.10', 'conv_transpose1d')])
def test_a_forbidden_means_is_named(n, name):
    ex = find(n)
    said = [judge_first(ex, f).message for f in ex.parts[0].refuses]
    assert any('is not allowed' in o and ex.parts[0].instead in o for o in said) and name in ex.parts[0].forbidden

@pytest.mark.parametrize('n', ['4.6', '4.7', '4.21', '4.25', '4.29', '5.10', '5.13', '15.9', '15.10'])
def test_without_the_ban_the_shortcut_would_pass(n):
    ex = copy.deepcopy(find(n))
    ex.parts[0].forbidden = ()
    assert any(judge_first(ex, f) for f in ex.parts[0].refuses)

WORDS = re.compile(r'\b(pictures?|grey|colou?red|whole numbers?|whoever|by heart|neighbours?|mirrored|normalis\w+|recognis\w+|generalis\w+)\b', re.I)

def texts(ex):
    yield from (ex.title, ex.task, ex.why, ex.explanation, *ex.hints)
    for p in ex.parts:
        yield p.stub
        yield from (text for _,text in p.wrong)
        yield from getattr(p, 'options', {}).values()

@pytest.mark.parametrize('chapter', CHAPTERS)
def test_the_words_are_those_of_the_style(chapter):
    found = [(ex.number, m[0]) for ex in exercises(chapter) for t in texts(ex) if (m := WORDS.search(t))]
    assert found == []

def test_sentences_name_no_index():
    "Parts are numbered from 1 in tasks, so a message does not say `[0]`."
    said = [text for c in CHAPTERS for ex in exercises(c) for p in ex.parts for _,text in p.wrong]
    assert not [t for t in said if re.search(r'in `\[\d', t)]

@pytest.mark.parametrize('chapter', ['15b', '15c', '15d'])
def test_the_further_chapters_have_five_exercises_each(chapter):
    there = [o for o in vars(importlib.import_module(f'fastbook_impl.exercises.ch{chapter}')).values() if isinstance(o, Exercise)]
    assert [o.number for o in there] == [f'{chapter}.{i}' for i in range(1, len(there) + 1)] and len(there) >= 5
    assert all(len(o.parts[0].accepts) >= 2 and len(o.parts[0].refuses) >= 2 for o in there)
    choices = [o.choice for o in there if o.choice]
    assert sum(len(c.options[c.reference]) == max(map(len, c.options.values())) for c in choices) <= len(choices)/3
    assert [(o.number, m[0]) for o in there for t in texts(o) if (m := WORDS.search(t))] == []
