"""The page that the demo writes: one file, no script, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fafafa; margin: 0 auto;
       max-width: 62rem; padding: 2rem 1.5rem 4rem; }
h1 { font-size: 1.9rem; margin-bottom: 0; }
h2 { font-size: 1.2rem; margin: 0; }
section { background: #fff; border: 1px solid #e3e3e3; border-radius: 8px; margin-top: 1.5rem;
          padding: 1.2rem 1.4rem; }
figure { margin: .9rem 0 0; }
img { display: block; max-width: 100%; border-radius: 4px; }
figcaption { color: #777; font-size: .85rem; }
table { border-collapse: collapse; margin-top: .6rem; font-size: .95rem; }
th, td { text-align: left; padding: .15rem 1.6rem .15rem 0; vertical-align: top; }
th { font-weight: 600; }
.time { color: #777; font-size: .85rem; margin: .6rem 0 0; }
p { margin: .4rem 0 0; max-width: 50rem; }
"""


@dataclass(frozen=True)
class Figure:
    """A picture of the page, by its file name."""

    file: str
    caption: str


@dataclass(frozen=True)
class Section:
    """One call of ConvLens: what it was asked, what came, how long it took."""

    title: str
    text: str
    figures: Sequence[Figure] = ()
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    milliseconds: Mapping[str, float] = field(default_factory=dict)


def render(title: str, introduction: str, sections: Sequence[Section]) -> str:
    """The page as HTML."""
    body = "\n".join(_section(section) for section in sections)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<p>{escape(introduction)}</p>
{body}
</body>
</html>
"""


def _section(section: Section) -> str:
    figures = "\n".join(
        f'<figure><img src="{escape(figure.file)}" alt="{escape(figure.caption)}">'
        f"<figcaption>{escape(figure.caption)}</figcaption></figure>"
        for figure in section.figures
    )
    times = ", ".join(f"{name} {value:,.0f} ms" for name, value in section.milliseconds.items())
    return f"""<section>
<h2>{escape(section.title)}</h2>
<p>{escape(section.text)}</p>
{figures}
{_table(section)}
<p class="time">{escape(times)}</p>
</section>"""


def _table(section: Section) -> str:
    if not section.rows:
        return ""
    rows = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in section.rows]
    if section.head:
        rows.insert(0, "".join(f"<th>{escape(cell)}</th>" for cell in section.head))
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>"
