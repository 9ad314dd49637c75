"""Arithmetic and layout of the results: medians, ratios, floors, Markdown. Needs nothing but the standard library."""
from dataclasses import dataclass
from pathlib import Path
from statistics import median


@dataclass(frozen=True)
class Measure:
    "One thing that every contender of a row reports: its key in the worker's answer, how it is printed, and whether more is better."
    key:str
    label:str
    unit:str = 's'
    more_is_better:bool = False


@dataclass(frozen=True)
class Floor:
    "A promise: the median of `measure` for `ours`, divided by the median for `other`, is `at_most` or `at_least` so much."
    measure:str
    ours:str
    other:str
    at_most:float|None = None
    at_least:float|None = None

    def met(self, ratio:float) -> bool:
        if self.at_most is not None and ratio > self.at_most: return False
        return self.at_least is None or ratio >= self.at_least

    @property
    def limit(self) -> str:
        return f'≤ {self.at_most:g} ×' if self.at_most is not None else f'≥ {self.at_least:g} ×'


def values(runs:list[dict], key:str) -> list[float]:
    "What the runs of one contender report under `key`; a run that does not report it is left out."
    return [r[key] for r in runs if r.get(key) is not None]


def centre(runs:list[dict], key:str) -> float|None:
    "Median over the runs of one contender, `None` where no run reports it."
    found = values(runs, key)
    return median(found) if found else None


def ratio(results:dict, key:str, contender:str, base:str) -> float|None:
    "Median of `contender` over median of `base`, `None` where one of them is missing or the base is zero."
    top, bottom = centre(results.get(contender, []), key), centre(results.get(base, []), key)
    return None if top is None or not bottom else top/bottom


def number(x:float|None, unit:str='') -> str:
    "Three significant digits; seconds below a tenth as milliseconds."
    if x is None: return '–'
    if unit == 's' and abs(x) < 0.1: x, unit = x*1000, 'ms'
    digits = f'{x:,.0f}' if abs(x) >= 100 else f'{x:.3g}'
    return f'{digits} {unit}'.strip()


def markdown(header:list[str], rows:list[list[str]]) -> str:
    "A Markdown table whose columns also line up when it is read as plain text."
    widths = [max(len(str(r[i])) for r in [header, *rows]) for i in range(len(header))]
    line = lambda cells: '| ' + ' | '.join(str(c).ljust(w) for c, w in zip(cells, widths)) + ' |'
    return '\n'.join([line(header), '|' + '|'.join('-'*(w + 2) for w in widths) + '|', *map(line, rows)])


def measures_table(measures:list[Measure], results:dict, names:dict, base:str) -> str:
    "One line for each measure and contender: median, spread, ratio to `base`."
    rows = []
    for m in measures:
        for contender, runs in results.items():
            found = values(runs, m.key)
            if not found: continue
            r = ratio(results, m.key, contender, base)
            spread = f'{number(min(found), m.unit)} to {number(max(found), m.unit)}'
            rows.append([m.label, names[contender], number(median(found), m.unit), spread, '–' if r is None else f'{r:.2f}'])
    if not rows: return ''
    return markdown(['measured', 'by', 'median', 'lowest to highest', f'× {names[base]}'], rows)


def floors_table(floors:list[Floor], measures:list[Measure], results:dict, names:dict) -> str:
    "One line for each floor: what was promised, what came out, whether it holds."
    labels, rows = {m.key: m.label for m in measures}, []
    for f in floors:
        r = ratio(results, f.measure, f.ours, f.other)
        met = 'not measured' if r is None else 'yes' if f.met(r) else '**no**'
        rows.append([labels[f.measure], f'{names[f.ours]} {f.limit} {names[f.other]}', '–' if r is None else f'{r:.2f}', met])
    return markdown(['floor for', 'promised', 'measured', 'met'], rows)


def plain_list(facts:list[tuple[str, str]]) -> str:
    "Labels and texts, one pair a line."
    width = max(len(a) for a, _ in facts)
    return '\n'.join(f'{a:<{width}}  {b}' for a, b in facts)


def section(title:str, *parts:str) -> str:
    "One row of the benchmarks as a Markdown section."
    return '\n\n'.join([f'## {title}', *(p.strip() for p in parts if p and p.strip())]) + '\n'


def split_report(text:str) -> tuple[str, dict[str, str]]:
    "A report taken apart: what stands before the first section, and the sections by title."
    head, *rest = ('\n' + text).split('\n## ')
    return head.strip(), {r.split('\n', 1)[0].strip(): '## ' + r.strip() + '\n' for r in rest}


def merge_report(old:str, head:str, sections:dict[str, str], order:list[str]) -> str:
    """The new report: `head`, then the sections in `order`.
    A section that was not measured now is kept from `old` where it was measured on the same machine with the same versions."""
    old_head, kept = split_report(old)
    if old_head != head.strip(): kept = {}
    merged = {**kept, **sections}
    return '\n\n'.join([head.strip(), *(merged[t].strip() for t in order if t in merged)]) + '\n'


def write_report(path:Path, head:str, sections:dict[str, str], order:list[str]):
    "Merge the sections into the report at `path`; the file is replaced whole."
    old = path.read_text(encoding='utf-8') if path.exists() else ''
    part = path.with_suffix('.part')
    part.write_text(merge_report(old, head, sections, order), encoding='utf-8')
    part.replace(path)
