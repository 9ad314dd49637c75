"""Mechanical mistakes: the source of a function with one small change at one place."""
import ast
import copy
import inspect
import textwrap

COMPARISONS = {ast.Lt: [ast.LtE, ast.Gt], ast.LtE: [ast.Lt, ast.GtE], ast.Gt: [ast.GtE, ast.Lt], ast.GtE: [ast.Gt, ast.LtE], ast.Eq: [ast.NotEq],
               ast.NotEq: [ast.Eq], ast.In: [ast.NotIn], ast.NotIn: [ast.In], ast.Is: [ast.IsNot], ast.IsNot: [ast.Is]}
OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div, ast.Mod: ast.Mult, ast.Pow: ast.Mult,
             ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd}
PAIRS = [('min', 'max'), ('argmin', 'argmax'), ('amin', 'amax'), ('sum', 'mean'), ('any', 'all'), ('sin', 'cos'), ('floor', 'ceil'), ('startswith', 'endswith'),
         ('zeros', 'ones'), ('zeros_like', 'ones_like'), ('exp', 'log'), ('relu', 'sigmoid'), ('stack', 'cat'), ('append', 'extend'), ('keys', 'values'),
         ('find', 'rfind'), ('split', 'rsplit'), ('partition', 'rpartition'), ('first', 'last'), ('minimum', 'maximum'), ('cumsum', 'cumprod'), ('ravel', 'T')]
COMMUTATIVE = {'min', 'max', 'minimum', 'maximum', 'equal', 'isclose', 'logical_and', 'logical_or'}
NAMES = {a: b for x, y in PAIRS for a, b in ((x, y), (y, x))}


def mutants(f):
    "Yield `(what, function)` for each mutant of the function `f`, whose source must be a `def`."
    tree = ast.parse(textwrap.dedent(inspect.getsource(f)))
    tree.body[0].decorator_list = []
    seen = {ast.unparse(tree)}
    kept = {id(o) for default in tree.body[0].args.defaults if not isinstance(default, ast.Constant) for o in ast.walk(default)}
    for place, node in enumerate(ast.walk(tree)):
        if id(node) in kept: continue  # `compiled` takes this from the original
        for what, mutant in _changed_at(tree, place):
            source = ast.unparse(ast.fix_missing_locations(mutant))
            if source in seen: continue
            seen.add(source)
            yield what, compiled(f, source)


def compiled(f, source):
    "The function that `source` defines, with the globals and the default arguments of `f`."
    tree = ast.parse(source)
    args, plain = tree.body[0].args, [isinstance(o, ast.Constant) for o in tree.body[0].args.defaults]
    args.defaults = [o if p else ast.Constant(None) for o, p in zip(args.defaults, plain)]  # what the others name is not known here
    ns = dict(f.__globals__)
    exec(compile(ast.fix_missing_locations(tree), f'<mutant of {f.__name__}>', 'exec'), ns)
    g = ns[tree.body[0].name]
    if plain: g.__defaults__ = tuple(new if p else old for new, old, p in zip(g.__defaults__, f.__defaults__, plain))
    return g


def _changed_at(tree, place):
    "The mutants of `tree` that differ at its node number `place`, each with a description."
    for k, (what, change) in enumerate(_changes(_node(tree, place))):
        mutant = copy.deepcopy(tree)
        _, change = list(_changes(_node(mutant, place)))[k]
        before = ast.unparse(_node(tree, place)).splitlines()[0][:80]
        new = change()
        if new is not None: _replace(mutant, _node(mutant, place), new)
        yield f'{before!r}: {what}', mutant


def _node(tree, place): return next(o for i, o in enumerate(ast.walk(tree)) if i == place)


def _replace(tree, old, new):
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if value is old: setattr(parent, name, new)
            elif isinstance(value, list): setattr(parent, name, [new if o is old else o for o in value])


def _changes(o):
    "Pairs of a description and a function that makes the change: in the node itself, or by returning another node for it."
    def put(name, value): return lambda: setattr(o, name, value)
    if isinstance(o, ast.Compare) and len(o.ops) == 1:
        for new in COMPARISONS[type(o.ops[0])]: yield f'compared by {new.__name__}', put('ops', [new()])
    elif isinstance(o, ast.BinOp) and type(o.op) in OPERATORS:
        yield f'{OPERATORS[type(o.op)].__name__} instead', put('op', OPERATORS[type(o.op)]())
        yield 'left side only', lambda: o.left
        yield 'right side only', lambda: o.right
    elif isinstance(o, ast.BoolOp):
        yield 'and instead of or, or the reverse', put('op', ast.Or() if isinstance(o.op, ast.And) else ast.And())
        yield 'without the last condition', lambda: o.values[0] if len(o.values) == 2 else ast.BoolOp(o.op, o.values[:-1])
        yield 'without the first condition', lambda: o.values[-1] if len(o.values) == 2 else ast.BoolOp(o.op, o.values[1:])
    elif isinstance(o, ast.UnaryOp): yield 'without its sign', lambda: o.operand
    elif isinstance(o, ast.Constant): yield from _constants(o, put)
    elif isinstance(o, ast.Attribute):
        if o.attr in NAMES: yield f'{NAMES[o.attr]} instead', put('attr', NAMES[o.attr])
        if isinstance(o.value, (ast.Attribute, ast.Call, ast.Subscript)): yield f'without .{o.attr}', lambda: o.value
    elif isinstance(o, ast.Name) and o.id in NAMES: yield f'{NAMES[o.id]} instead', put('id', NAMES[o.id])
    elif isinstance(o, ast.Call): yield from _calls(o, put)
    elif isinstance(o, ast.Slice):
        for bound in 'lower', 'upper', 'step':
            if getattr(o, bound): yield f'without {bound}', put(bound, None)
    elif isinstance(o, ast.IfExp):
        yield 'always the first', lambda: o.body
        yield 'always the second', lambda: o.orelse
    elif isinstance(o, ast.If):
        yield 'always', put('test', ast.Constant(True))
        yield 'never', put('test', ast.Constant(False))
    elif isinstance(o, ast.comprehension) and o.ifs: yield 'without the condition', put('ifs', [])
    elif isinstance(o, ast.Break): yield 'continue instead', lambda: ast.Continue()
    elif isinstance(o, (ast.Assign, ast.AugAssign, ast.Expr)) and not isinstance(getattr(o, 'value', None), ast.Constant): yield 'left out', lambda: ast.Pass()


def _constants(o, put):
    if isinstance(o.value, bool): yield f'{not o.value}', put('value', not o.value)
    elif isinstance(o.value, int):
        for n in (o.value + 1, o.value - 1): yield f'{n}', put('value', n)
    elif isinstance(o.value, float): yield 'a tenth more', put('value', o.value*1.1 if o.value else 0.1)


def _calls(o, put):
    name = getattr(o.func, 'attr', getattr(o.func, 'id', ''))
    if len(o.args) >= 2:
        if name not in COMMUTATIVE: yield 'arguments swapped', put('args', [o.args[1], o.args[0], *o.args[2:]])
        yield 'without the last argument', put('args', o.args[:-1])
    if len(o.args) == 1 and not isinstance(o.args[0], ast.Starred): yield 'the argument itself', lambda: o.args[0]
    if isinstance(o.func, ast.Attribute): yield 'without the method', lambda: o.func.value
    for i, k in enumerate(o.keywords): yield f'without {k.arg}=', put('keywords', [*o.keywords[:i], *o.keywords[i + 1:]])
