"""Check README and docs: links lead somewhere, every exported name is documented, every command parses."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import polar_adapter
from polar_adapter.cli import build_parser

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def broken_links(page: Path, text: str) -> list[str]:
    """Relative links of a page that lead nowhere."""
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    local = [target for target in targets if "://" not in target]
    return [f"{page.name}: {target} does not exist" for target in local if not (page.parent / target).exists()]


def broken_commands(page: Path, text: str) -> list[str]:
    """``polar-adapter`` commands in code blocks that the parser refuses."""
    problems = []
    for block in re.findall(r"```(?:bash|console)\n(.*?)```", text, flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words[:1] == ["polar-adapter"]:
                try:
                    build_parser().parse_args(words[1:])
                except SystemExit as stop:
                    if stop.code:
                        problems.append(f"{page.name}: the command line refuses {line!r}")
    return problems


def main() -> None:
    """Print what is wrong and exit accordingly."""
    texts = {page: page.read_text() for page in PAGES}
    everything = "\n".join(texts.values())
    problems = [f"{name} is exported but not documented" for name in polar_adapter.__all__ if name not in everything]
    for page, text in texts.items():
        problems += broken_links(page, text) + broken_commands(page, text)
    print("\n".join(problems) or f"{len(PAGES)} pages checked")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
