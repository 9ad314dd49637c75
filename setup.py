"""Packaging: everything it says is read from `settings.ini`, the one place where versions and requirements are kept."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

config = ConfigParser(delimiters=['='])
config.read(Path(__file__).parent/'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']

# The setting `text_requirements` is the extra `text`, and so on; the extra `all` joins those that `all_extras` lists.
extras = {key[:-len('_requirements')]: value.split() for key, value in cfg.items() if key.endswith('_requirements') and key != 'locked_requirements'}
extras['all'] = [o for extra in cfg['all_extras'].split() for o in extras[extra]]

setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    long_description=Path('README.md').read_text(encoding='utf-8') if Path('README.md').exists() else cfg['description'],
    long_description_content_type='text/markdown',
    author=cfg['author'],
    author_email=cfg['author_email'],
    url=cfg['git_url'],
    license='Apache-2.0',
    license_files=['LICENSE'],
    keywords=cfg['keywords'],
    python_requires=f">={cfg['min_python']}",
    packages=find_packages(include=[cfg['lib_path'], f"{cfg['lib_path']}.*"]),
    install_requires=cfg['requirements'].split(),
    extras_require=extras,
    entry_points={'console_scripts': cfg['console_scripts'].split()},
    include_package_data=True,
    zip_safe=False,
)
