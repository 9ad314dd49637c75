"The book's helper: `gv` without Graphviz, `plot_function`, `setup_book`, `chapter_result`."
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest
import torch

from fastbook_impl.fastbook import (RESULT_MIME, PILImage, chapter_result, cluster_columns, draw_tree, gv, image_bear, image_cat, np, pd, plot_function, plt,
                                    setup_book)

SVG = '{http://www.w3.org/2000/svg}'

# the graphs of the book's chapters 1 and 4, and what must be seen in each: texts, and the number of arrows
BOOK_GRAPHS = [
    ('program[shape=box3d width=1 height=0.7]\ninputs->program->results', ['inputs', 'program', 'results'], 2),
    ('model[shape=box3d width=1 height=0.7]\ninputs->model->results; weights->model', ['inputs', 'model', 'results', 'weights'], 3),
    ('''ordering=in
        model[shape=box3d width=1 height=0.7]
        inputs->model->results->performance; weights->model
        performance->weights[constraint=false label=update]''', ['inputs', 'model', 'results', 'performance', 'weights', 'update'], 5),
    ('''model[shape=box3d width=1 height=0.7 label=architecture]
        inputs->model->predictions; parameters->model; labels->loss; predictions->loss
        loss->parameters[constraint=false label=update]''',
        ['inputs', 'architecture', 'predictions', 'parameters', 'labels', 'loss', 'update'], 6),
    ('init->predict->loss->gradient->step->stop\nstep->predict[label=repeat]', ['init', 'predict', 'loss', 'gradient', 'step', 'stop', 'repeat'], 6),
]


def drawn(source):
    "The parsed SVG of a graph: its texts with their places, and its arrows."
    root = ET.fromstring(gv(source)._repr_svg_())
    texts = {t.text: (float(t.get('x')), float(t.get('y'))) for t in root.iter(SVG + 'text')}
    arrows = [p.get('d') for p in root.iter(SVG + 'path') if p.get('marker-end')]
    return root, texts, arrows


@pytest.mark.parametrize('source,texts,n_arrows', BOOK_GRAPHS)
def test_the_books_graphs(source, texts, n_arrows):
    _, found, arrows = drawn(source)
    assert sorted(found) == sorted(texts)
    assert len(arrows) == n_arrows


@pytest.mark.parametrize('source', [g for g,_,_ in BOOK_GRAPHS] + ['a->b->c->d; a->d; a->c; e->d; d->a[label=back]; c->b', 'a->a', 'lonely', ''])
def test_everything_lies_on_the_page(source):
    root, _, _ = drawn(source)
    left, top, width, height = map(float, root.get('viewBox').split())
    for shape in root.iter():
        for x,y in corners(shape): assert left <= x <= left+width and top <= y <= top+height, (shape.tag, shape.attrib)


def corners(shape):
    g = lambda k: float(shape.get(k))
    kind = shape.tag.removeprefix(SVG)
    if kind == 'ellipse': return [(g('cx')+i*g('rx'), g('cy')+i*g('ry')) for i in (-1, 1)]
    if kind == 'rect': return [(g('x'), g('y')), (g('x')+g('width')-0.1, g('y')+g('height')-0.1)]
    if kind == 'text': return [(g('x'), g('y'))]
    if kind == 'path' and shape.get('marker-end'): return curve(shape.get('d'))
    return []


def curve(d):
    "Points along an SVG path made of an M and cubic C pieces."
    n = [float(o) for o in re.findall(r'-?\d+\.?\d*', d)]
    pts = list(zip(n[::2], n[1::2]))
    for i in range(0, len(pts)-1, 3):
        for t in [k/20 for k in range(21)]:
            w = (1-t)**3, 3*(1-t)**2*t, 3*(1-t)*t**2, t**3
            yield tuple(sum(a*p[j] for a,p in zip(w, pts[i:i+4])) for j in (0, 1))


def test_left_to_right_and_back():
    _, at, arrows = drawn('init->predict->loss->gradient->step->stop\nstep->predict[label=repeat]')
    xs = [at[n][0] for n in ('init', 'predict', 'loss', 'gradient', 'step', 'stop')]
    assert xs == sorted(xs) and len(set(xs)) == 6
    assert at['repeat'][1] < at['loss'][1]                                 # the arc runs above the row
    points = list(curve(arrows[-1]))
    assert points[0][0] > points[-1][0] and min(y for _,y in points) < at['loss'][1] - 30


def test_an_edge_that_skips_a_column_goes_round():
    _, at, arrows = drawn('a->b->c; a->c')
    skipping = list(curve(arrows[2]))
    assert all(abs(y - (at['b'][1]-5)) > 20 for x,y in skipping if abs(x - at['b'][0]) < 20)


def test_an_edge_without_constraint_moves_no_node():
    _, at, arrows = drawn('a->b; a->c[constraint=false]')
    assert at['c'][0] == at['a'][0] < at['b'][0] and len(arrows) == 2


def test_many_ways_through_a_graph_take_no_longer():
    ladder = '; '.join(f'a{i}->{side}{i}->a{i+1}' for i in range(30) for side in 'lr')
    assert len(drawn(ladder)[2]) == 120


def test_shapes():
    root, _, _ = drawn('a[shape=box]; b[shape=box3d]; c; d[shape=plaintext]; e[shape=circle]')
    assert len(list(root.iter(SVG + 'ellipse'))) == 2
    assert len(list(root.iter(SVG + 'rect'))) == 3         # the page, a and b
    assert root.find(SVG + 'rect').get('fill') == 'white'  # the page: legible on a dark theme


def test_names_that_need_care():
    _, texts, arrows = drawn('"<script>alert(1)</script>"->"a & b"[label="x < y"]')
    assert sorted(texts) == ['<script>alert(1)</script>', 'a & b', 'x < y'] and len(arrows) == 1
    assert '<script>' not in gv('"<script>"').svg


@pytest.mark.parametrize('source', ['a->', 'a[shape=', 'a -> [x]'])
def test_what_is_not_a_graph(source, capsys):
    with pytest.raises(ValueError, match='gv cannot read this as a graph'): gv(source)
    assert capsys.readouterr().out == ''


def test_groups_are_refused():
    with pytest.raises(ValueError, match='arrows between single nodes only, not between groups in braces'): gv('a->{b c}')


def test_plot_function():
    plot_function(lambda x: x**2, 'x', 'x**2')
    ax = plt.gca()
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ('x', 'x**2', '')
    xs, ys = ax.lines[0].get_data()
    assert (xs[0], xs[-1]) == (-2, 2) and torch.allclose(torch.tensor(ys), torch.tensor(xs)**2)
    plot_function(torch.sigmoid, title='Sigmoid', min=-4, max=4)
    ax = plt.gca()
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ('x', 'sigmoid(x)', 'Sigmoid')
    assert ax.lines[0].get_xdata()[-1] == 4
    plt.close('all')


def test_plot_function_of_a_model_with_weights():
    layer = torch.nn.Linear(1, 1)
    plot_function(lambda x: layer(x[:, None])[:, 0])
    plt.close('all')


def test_setup_book_twice():
    setup_book(); setup_book()
    assert plt.rcParams['image.cmap'] == 'Greys'


def test_chapter_result_in_a_terminal(capsys):
    assert chapter_result('a coin', 'heads 0.500', heads=torch.tensor(0.5)) is None
    assert capsys.readouterr().out == 'a coin: heads 0.500\n'


@pytest.mark.medium
def test_chapter_result_in_a_notebook():
    from nbclient import NotebookClient
    from nbformat.v4 import new_code_cell, new_notebook
    code = "from fastbook_impl.fastbook import *\nchapter_result('a coin', f'heads {0.5:.3f}', heads=tensor(0.5), throws=2)"
    nb = new_notebook(cells=[new_code_cell(code)])
    NotebookClient(nb, timeout=600, kernel_name='python3').execute()
    [out] = [o for o in nb.cells[0].outputs if o.output_type != 'stream']
    assert out['data'] == {'text/plain': 'a coin: heads 0.500',
                           RESULT_MIME: {'trained': 'a coin', 'result': 'heads 0.500', 'metrics': {'heads': 0.5, 'throws': 2}}}


@pytest.mark.medium
def test_a_star_import_brings_what_the_book_uses():
    names = '''setup_book gv plot_function untar_data URLs Path L DataLoader DataLoaders Learner SGD Image array tensor first
        np pd plt matplotlib torch nn F partial math random re string show_image show_images'''.split()
    code = f'from fastbook_impl.fastbook import *\nmissing = [n for n in {names} if n not in globals()]\nassert not missing, missing'
    subprocess.run([sys.executable, '-c', code], check=True)


def test_widgets_are_those_of_ipywidgets():
    "Looked up when they are needed; `Image` is a widget, and not Pillow's; an upload has the book's `data`."
    import ipywidgets
    from fastbook_impl.fastbook import widgets
    assert widgets.Image is ipywidgets.Image and widgets.VBox is ipywidgets.VBox and hasattr(widgets.FileUpload, 'data')


def test_a_cat_and_a_bear():
    cat, bear = PILImage.create(image_cat()), PILImage.create(image_bear())
    assert cat.size == bear.size == (480, 400) and image_cat().read() == image_cat().read() != image_bear().read()
    r, g, b = np.array(bear).reshape(-1, 3)[np.array(bear).sum(2).ravel() < 300].mean(0) # what is dark is brown
    assert r > g > b


@pytest.fixture
def houses():
    rng = np.random.default_rng(0)
    df = pd.DataFrame({'rooms': rng.integers(1, 8, 100), 'age': rng.normal(40, 9, 100)})
    return df.assign(area=18*df.rooms + rng.normal(0, 4, 100), same=7)


def test_draw_tree(houses):
    from sklearn.tree import DecisionTreeRegressor
    draw_tree(DecisionTreeRegressor(max_leaf_nodes=4).fit(houses, houses.area*2), houses, size=7, ratio=.5)
    texts = ' '.join(o.get_text() for o in plt.gca().texts)
    assert 'area <=' in texts and 'samples = 100' in texts and tuple(plt.gcf().get_size_inches()) == (7, 3.5)
    plt.close()


def test_cluster_columns(houses):
    cluster_columns(houses)
    names = [o.get_text() for o in plt.gca().get_yticklabels()]
    assert sorted(names) == sorted(houses) and abs(names.index('area') - names.index('rooms')) == 1
    plt.close()


def test_doc_says_what_the_further_arguments_are(capsys):
    from fastbook_impl.fastbook import doc
    from fastbook_impl.vision.learner import vision_learner
    doc(vision_learner)
    shown = capsys.readouterr().out
    assert '    dls: `DataLoaders` of images' in shown and '    kwargs: passed to `create_vision_model`' in shown and '    return:' not in shown
