# SPDX-License-Identifier: MIT
"""report.json and report.html of a demo run, and the pictures beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import jinja2
from PIL import Image

from oeqa.runtime.xen_dmabuf import picture

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Xen dma-buf demo</title>
<style>
body { font: 16px/1.45 sans-serif; margin: 2em auto; max-width: 80em; color: #222; padding: 0 1em }
table { border-collapse: collapse; width: 100% }
td, th { border-bottom: 1px solid #ccc; padding: .4em .6em; text-align: left; vertical-align: top }
.yes { color: #067a2b; font-weight: bold } .no { color: #b00020; font-weight: bold }
.beside { display: flex; gap: 1.2em; align-items: flex-start }
figure { flex: 0 1 50%; margin: .6em 0; min-width: 0 }
img { max-width: 100%; border: 1px solid #888 }
</style></head><body>
<h1>A DomU's screen on Dom0's Weston, without a copy</h1>
<p>{{ report.machine }}</p>
{% for line in report.product %}<p>{{ line }}</p>
{% endfor %}
<p class="{{ 'yes' if report.held else 'no' }}">
{{ "Every proof held." if report.held else "Not every proof held." }}</p>
<table><tr><th>proof</th><th>held</th><th>what was seen</th><th>seconds</th></tr>
{% for proof in report.proofs %}<tr><td>{{ proof.claim }}</td>
<td class="{{ 'yes' if proof.held else 'no' }}">{{ "yes" if proof.held else "no" }}</td>
<td>{{ proof.seen }}</td><td>{{ "%.1f"|format(proof.seconds) }}</td></tr>
{% endfor %}</table>
<h2>Pictures</h2>
{% for row in report.pictures %}<div class="beside">
{% for caption, file in row %}<figure><img src="{{ file }}" alt="{{ caption }}">
<figcaption>{{ caption }}</figcaption></figure>
{% endfor %}</div>
{% endfor %}</body></html>
"""


@dataclass
class Proof:
    """One claim, whether it held, and what was seen."""

    claim: str
    held: bool
    seen: str
    seconds: float


@dataclass
class Report:
    """Everything that a demo run found out."""

    machine: str = ""
    product: list[str] = field(default_factory=list)
    """Where the product's files came from."""
    proofs: list[Proof] = field(default_factory=list)
    pictures: list[list[tuple[str, str]]] = field(default_factory=list)
    """What is side by side: (caption, file name) pairs."""
    seconds: float = 0.0

    @property
    def held(self) -> bool:
        """Whether there were proofs and all held."""
        return bool(self.proofs) and all(proof.held for proof in self.proofs)

    def write(self, folder: Path) -> None:
        """Write report.json and report.html."""
        data = asdict(self) | {"held": self.held}
        (folder / "report.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        page = jinja2.Environment(autoescape=True).from_string(PAGE).render(report=self)
        (folder / "report.html").write_text(page, encoding="utf-8")


def save(shown: picture.Picture, file: Path) -> None:
    """Write a picture as PNG."""
    _image(shown).save(file)


def animate(film: Sequence[picture.Picture], file: Path) -> None:
    """Write pictures as an animated WebP, half a second each, without loss."""
    first, *rest = map(_image, film)
    first.save(file, save_all=True, append_images=rest, duration=500, loop=0, lossless=True)


def _image(rows: picture.Picture) -> Image.Image:
    return Image.frombytes("RGB", (len(rows[0]) // 3, len(rows)), b"".join(rows))
