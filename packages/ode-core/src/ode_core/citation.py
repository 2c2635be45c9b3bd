"""Where a method comes from: a publication, in words and for BibTeX."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ode_core.errors import ArgumentError

_DOI = re.compile(r"10\.\d{4,9}/\S+")
_ARXIV = re.compile(r"\d{4}\.\d{4,5}|[a-z-]+/\d{7}")


@dataclass(frozen=True)
class Reference:
    """A publication to cite for a solver, a gradient method, a model or a task.

    `authors` are written "Family, Given" and separated by " and ". `doi` and `arxiv` are the bare
    identifiers, such as "10.1016/0771-050X(80)90013-3" and "1806.07366". Raises ArgumentError for
    identifiers of another form.
    """

    authors: str
    year: int
    title: str
    venue: str = ""
    doi: str = ""
    arxiv: str = ""

    def __post_init__(self) -> None:
        if self.doi and not _DOI.fullmatch(self.doi):
            raise ArgumentError(f"doi={self.doi!r} should read '10.1016/...', without an address")
        if self.arxiv and not _ARXIV.fullmatch(self.arxiv):
            raise ArgumentError(f"arxiv={self.arxiv!r} should read '1806.07366'")

    @property
    def link(self) -> str:
        """Return the address at which it is found, or an empty text."""
        if self.doi:
            return f"https://doi.org/{self.doi}"
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else ""

    @property
    def text(self) -> str:
        """Return it as a sentence of a bibliography."""
        names = self.authors.split(" and ")
        shown = names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
        parts = [f"{shown} ({self.year}). {self.title}.", f"{self.venue}." if self.venue else ""]
        return " ".join(part for part in (*parts, self.link) if part)

    def bibtex(self, key: str) -> str:
        """Return it as an entry for BibTeX, under a key."""
        fields = {
            "author": self.authors,
            "title": f"{{{self.title}}}",
            "year": str(self.year),
            "howpublished": self.venue,
            "doi": self.doi,
            "eprint": self.arxiv,
            "archiveprefix": "arXiv" if self.arxiv else "",
        }
        lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
        return "\n".join([f"@misc{{{key},", *lines, "}"])
