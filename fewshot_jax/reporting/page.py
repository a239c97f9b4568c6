"""The HTML of a report: one file that loads nothing. All text goes through `html.escape` here, and nowhere else."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from string import Template
from typing import Any, NamedTuple

from fewshot_jax.reporting.figures import Picture

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1rem; font: 1rem/1.5 system-ui, sans-serif; color: #1a1a1a;
  background: #fff; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.35rem; border-top: 2px solid #0072b2;
  padding-top: .6rem; margin-top: 2.5rem; } h3 { font-size: 1.1rem; margin: 1.8rem 0 .4rem; }
a { color: #004f7c; }
nav ul { padding-left: 1.2rem; margin: .3rem 0; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); gap: 1rem; }
figure { margin: 0; } figure img { width: 100%; max-width: 42rem; height: auto; display: block; }
figure.wide { grid-column: 1 / -1; overflow-x: auto; } figure.wide img { min-width: 40rem; max-width: 100%; }
.scroll { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
caption { text-align: left; font-weight: 600; padding-bottom: .3rem; }
th, td { padding: .25rem .6rem; text-align: left; vertical-align: top; border-bottom: 1px solid #d5d5d5; }
th { font-weight: 600; } tbody th { font-weight: 400; min-width: 8rem; }
td.number, th.number { text-align: right; white-space: nowrap; }
tr.own th, tr.own td { font-weight: 600; background: #eef5fa; }
pre { background: #f5f5f5; padding: .7rem; font-size: .85rem; white-space: pre-wrap; }
pre.long { columns: 18rem; }
.missing { border-left: 4px solid #d55e00; padding-left: .7rem; }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } nav { display: none; }
  pre.long { columns: 3; font-size: 7.5pt; }
  figure, tr { break-inside: avoid; } h2, h3 { break-after: avoid; } .scroll { overflow: visible; }
  figure.wide img { min-width: 0; }
  .pictures { grid-template-columns: 1fr 1fr; } }
"""

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<title>$title</title>
<style>$style</style>
</head>
<body>
<header>
<h1>$title</h1>
$summary
</header>
<nav aria-label="Contents">
$contents
</nav>
<main>
$body
</main>
</body>
</html>
""")


class Section(NamedTuple):
    """A part of a report.

    Attributes:
        title: its heading.
        blocks: HTML, from the functions of this module.
        pictures: those that its blocks show.
        numbers: behind them, as JSON has it.
    """

    title: str
    blocks: Sequence[str]
    pictures: Sequence[Picture] = ()
    numbers: Any = None


def paragraph(text: str) -> str:
    """A sentence or some."""
    return f"<p>{escape(text)}</p>"


def missing(text: str) -> str:
    """A sentence in the place of something that is not there."""
    return f'<p class="missing">{escape(text)}</p>'


def code(text: str) -> str:
    """Lines as they are, many of them in columns."""
    kind = ' class="long"' if text.count("\n") > 30 else ""
    return f"<pre{kind}><code>{escape(text)}</code></pre>"


def table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]], own: Sequence[int] = ()) -> str:
    """A table whose first column names its rows; the others are numbers where they look like ones.

    Args:
        caption: what it shows.
        heads: of the columns.
        rows: of cells, as many as heads.
        own: positions of the rows to stand out.
    """
    numeric = [c > 0 and all(_is_number(row[c]) for row in rows) for c in range(len(heads))]
    kinds = [' class="number"' if one else "" for one in numeric]
    top = "".join(f'<th scope="col"{kind}>{escape(head)}</th>' for head, kind in zip(heads, kinds, strict=True))
    lines = []
    for number, (first, *rest) in enumerate(rows):
        cells = "".join(f"<td{kind}>{escape(cell)}</td>" for cell, kind in zip(rest, kinds[1:], strict=True))
        mark = ' class="own"' if number in own else ""
        lines.append(f'<tr{mark}><th scope="row">{escape(first)}</th>{cells}</tr>')
    body = "\n".join(lines)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption>\n<thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _is_number(cell: str) -> bool:
    return not cell or cell[0].isdigit() or (cell[0] in "+-−–" and not cell[1:2].isalpha())


def gallery(pictures: Sequence[Picture]) -> str:
    """Pictures side by side where there is room."""
    return '<div class="pictures">\n' + "\n".join(map(_figure, pictures)) + "\n</div>"


def _figure(picture: Picture) -> str:
    kind = ' class="wide"' if picture.wide else ""
    data = base64.b64encode(picture.png).decode()
    return f'<figure{kind}><img alt="{escape(picture.alt)}" src="data:image/png;base64,{data}"></figure>'


def page(title: str, summary: Sequence[str], chapters: Mapping[str, Mapping[str, Section]]) -> str:
    """The whole document.

    Args:
        title: of the report.
        summary: blocks that stand before the contents.
        chapters: their sections, by heading.
    """
    contents, body = [], []
    for number, (heading, sections) in enumerate(chapters.items(), start=1):
        place = f"chapter-{number}"
        inner = []
        body.append(f'<section aria-labelledby="{place}">\n<h2 id="{place}">{escape(heading)}</h2>')
        for position, section in enumerate(sections.values(), start=1):
            here = f"{place}-{position}"
            inner.append(f'<li><a href="#{here}">{escape(section.title)}</a></li>')
            head = f'<section aria-labelledby="{here}">\n<h3 id="{here}">{escape(section.title)}</h3>'
            body += [head, *section.blocks, "</section>"]
        body.append("</section>")
        contents.append(f'<li><a href="#{place}">{escape(heading)}</a><ul>{"".join(inner)}</ul></li>')
    return _PAGE.substitute(
        title=escape(title),
        style=_STYLE,
        summary="\n".join(summary),
        contents=f"<ul>{''.join(contents)}</ul>",
        body="\n".join(body),
    )
