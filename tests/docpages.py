"""What the pages of the documentation tell to do: commands, Python, and files to write."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@dataclass(frozen=True)
class Page:
    """One page.

    Attributes:
        name: Path from the root of the project.
    """

    name: str

    @property
    def text(self) -> str:
        """All of it."""
        return (ROOT / self.name).read_text()

    def blocks(self, language: str) -> list[str]:
        """The fenced blocks of one language."""
        return re.findall(rf"^```{language}\n(.*?)^```$", self.text, re.MULTILINE | re.DOTALL)

    @property
    def commands(self) -> list[str]:
        """The lines that begin with ``$ cnnsplitter``, continued ones joined, without these."""
        shown = "".join(self.blocks("console") + self.blocks("text"))
        lines = re.sub(r" *\\\n *", " ", shown).splitlines()
        return [line[14:].strip() for line in lines if re.match(r"\$ cnnsplitter( |$)", line)]

    @property
    def calls(self) -> list[list[str]]:
        """The arguments of each command."""
        return [shlex.split(command) for command in self.commands]

    @property
    def mentioned(self) -> list[list[str]]:
        """The words of each command that stands in a sentence or in a table."""
        return [shlex.split(text) for text in re.findall(r"`cnnsplitter ([^`]+)`", self.text)]

    @property
    def python(self) -> list[str]:
        """The Python blocks."""
        return self.blocks("python")

    def files(self, language: str) -> dict[str, str]:
        """The blocks whose first line is a comment with the name of a file, by this name."""
        found = ((re.match(r"# ([\w-]+\.\w+)\n", text), text) for text in self.blocks(language))
        return {name[1]: text for name, text in found if name}


PAGES = tuple(
    Page(str(path.relative_to(ROOT)))
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md")))
    if "_build" not in path.parts
)
