"""Build the documentation site without network: `make docs`. A broken link or anchor stops the build.

The pages are docs/*.md and the files of `PAGES`. Their links work in the repository; this script rewrites them for the
site, writes the reference of commands, and runs zensical in strict mode.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
#: File of the repository -> page of the site.
PAGES = {
    "README.md": "index.md",
    "config/README.md": "configuration.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}
#: Summary of the documentation for language models (llmstxt.org).
LLMS = "llms.txt"
#: Word after the language of a block of commands -> title of the block (tests/docs/test_commands.py has their meaning).
MARKS = {
    "gpu": "needs a GPU",
    "cluster": "on a cluster",
    "network": "needs the internet",
    "long": "",
    "fails": "",
    "stages": "",
}
FENCE = re.compile(r"^( *)(`{3,})(\w*)([^\n`]*)\n(.*?)^\1\2$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[([^\]]*)\]\(([^()\s#]+)(#[^()\s]*)?\)")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
PICTURE = re.compile(r'<picture>.*?srcset="([^"]*)".*?src="([^"]*)".*?alt="([^"]*)".*?</picture>', re.DOTALL)


def main() -> None:
    """Build the site and print where it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "build/docs", help="folder to write to")
    print(f"{build(parser.parse_args().out.resolve())}/index.html")


def build(out: Path) -> Path:
    """Write the pages to a folder, and return the folder of the site that is built from them."""
    shutil.rmtree(out, ignore_errors=True)
    pages = out / "pages"
    pages.mkdir(parents=True)
    for source, name in sources():
        (pages / name).write_text(for_site(source), encoding="utf-8")
    for file in [*DOCS.glob("*.svg"), *DOCS.glob("*.png"), DOCS / "site.css"]:
        shutil.copy(file, pages)
    summary = prose((ROOT / LLMS).read_text(encoding="utf-8"), ROOT / LLMS)
    (pages / LLMS).write_text(summary.replace(".md)", ".html)"), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    commands = [sys.executable, "-m", "typer", "atp.cli", "utils", "docs", "--name", "atp", "--title", "Commands"]
    subprocess.run(
        [*commands, "--output", pages / "commands.md"], check=True, env=environment, stdout=subprocess.DEVNULL
    )
    shutil.copy(DOCS / "zensical.toml", out)
    built = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict", "--config-file", out / "zensical.toml"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if built.returncode:
        sys.exit(COLOUR.sub("", built.stdout))
    return out / "site"


def sources() -> Iterator[tuple[Path, str]]:
    """Yield each page's file in the repository and its name on the site."""
    for path in sorted(DOCS.glob("*.md")):
        yield path, path.name
    for file, name in PAGES.items():
        yield ROOT / file, name


def for_site(source: Path) -> str:
    """Return a page's text with the site's links, titles of blocks and pictures."""
    text = source.read_text(encoding="utf-8")
    parts, end = [], 0
    for fence in FENCE.finditer(text):
        parts += [prose(text[end : fence.start()], source), block(fence)]
        end = fence.end()
    return "".join([*parts, prose(text[end:], source)])


def block(fence: re.Match[str]) -> str:
    """Return a fenced block whose mark is its title."""
    indent, ticks, language, options, body = fence.groups()
    titles = re.findall(r'title="([^"]*)"', options) or [MARKS[mark] for mark in options.split() if mark in MARKS]
    title = f' title="{"; ".join(titles)}"' if any(titles) else ""
    return f"{indent}{ticks}{language}{title}\n{body}{indent}{ticks}"


def prose(text: str, source: Path) -> str:
    """Return the text between blocks with the site's links and pictures."""
    text = PICTURE.sub(r"![\3](\2#only-light)\n![\3](\1#only-dark)", text)
    return LINK.sub(lambda link: site_link(link, source), text)


def site_link(link: re.Match[str], source: Path) -> str:
    """Return a link of a page as it is on the site, where a page's title replaces its file name."""
    text, target, anchor = link[1], link[2], link[3] or ""
    if re.match(r"[a-z]+:", target):
        return link[0]
    path = (source.parent / target).resolve()
    page = PAGES.get(path.relative_to(ROOT).as_posix()) or (path.name if path.parent == DOCS else None)
    if page is None or not path.is_file():
        sys.exit(f"{source.relative_to(ROOT)}: links to {target}, which is no page of the site: write its name as code")
    if re.fullmatch(r"[\w./-]+\.md", text):
        text = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
    return f"[{text}]({page}{anchor})"


if __name__ == "__main__":
    main()
