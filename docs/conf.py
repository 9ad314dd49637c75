"""Configure the documentation site: `make docs` collects the pages in `_docs/source` and calls Sphinx with this file."""
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT/'tools'))
from setup_env import read_settings  # noqa: E402
from site_pages import slug  # noqa: E402, F401 (myst_heading_slug_func names it)

cfg = read_settings(ROOT)
project, author, release, language = cfg['lib_name'], cfg['author'], cfg['version'], 'en'
copyright = cfg['copyright']

extensions = ['myst_nb', 'sphinx_copybutton', 'sphinx_design']
nb_execution_mode = 'off'
nb_merge_streams = True
nb_code_prompt_show = 'Show the code'
nb_code_prompt_hide = 'Hide the code'
myst_enable_extensions = ['dollarmath', 'colon_fence', 'attrs_block']
myst_heading_anchors = 6
myst_heading_slug_func = 'site_pages.slug'
copybutton_selector = '.highlight pre'
copybutton_exclude = '.linenos, .gp, .go'

python_maximum_signature_line_length = 88
python_display_short_literal_types = True
add_module_names = False
toc_object_entries_show_parents = 'hide'
suppress_warnings = ['ref.python']  # a type in a signature is a short name, and two modules may have a class of that name
highlight_language = 'none'
html_theme = 'pydata_sphinx_theme'
html_title = project
html_static_path = ['static']
html_css_files = ['site.css']
html_baseurl = f'{cfg["doc_host"]}{cfg["doc_baseurl"]}/'
html_show_sourcelink = False
html_copy_source = False
html_sidebars = {'index': []}
html_theme_options = {
    'icon_links': [{'name': 'GitHub', 'url': cfg['git_url'], 'icon': 'fa-brands fa-github'}],
    'navbar_align': 'left',
    'header_links_before_dropdown': 6,
    'show_toc_level': 2,
    'navigation_depth': 2,
    'show_nav_level': 1,
    'use_edit_page_button': False,
    'footer_start': ['copyright'],
    'footer_end': [],
    'search_bar_text': 'Search the course and the API',
}
