"Lines of the package are short enough to read side by side."
from pathlib import Path

PACKAGE = Path(__file__).parents[2]/'fastbook_impl'
LATER = {'exercises'} # answers are written as readers write them


def test_lines_have_at_most_120_characters():
    long = []
    for file in sorted(PACKAGE.rglob('*.py')):
        module = file.relative_to(PACKAGE)
        if module.name == '_modidx.py' or module.parts[0].removesuffix('.py') in LATER: continue
        lines = file.read_text(encoding='utf-8').splitlines()
        long += [f'{module}:{i}' for i, line in enumerate(lines, 1) if len(line) > 120 and not line.startswith('__all__ = ')]
    assert not long
