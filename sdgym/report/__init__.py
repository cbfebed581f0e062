"""From run folders to one offline HTML page and the numbers in it.

``load.py`` reads per-item files · ``tables.py`` computes rows · ``figures.py`` curves · ``transcripts.py`` episodes ·
``page.py`` writes the file. Nothing here trusts a printed number.
"""

from sdgym.report.page import load_folder, table_rows, write_report

__all__ = ["load_folder", "table_rows", "write_report"]
