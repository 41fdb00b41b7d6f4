"""A Sphinx extension: every page tells the browser that it loads nothing from other hosts.

A page that asks for a script, an image, or anything else from another host, by mistake or because somebody
smuggled it in, is stopped by the browser. Scripts and styles within a page are allowed, since the theme has
some; ``eval`` isn't, but the demo may compile WebAssembly.
"""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx

HERE = "'self' file:"  # file: for pages that are opened from a disk
POLICY = {
    "default-src": "'none'",
    "script-src": f"{HERE} blob: 'unsafe-inline' 'wasm-unsafe-eval'",
    "style-src": f"{HERE} 'unsafe-inline'",
    "img-src": f"{HERE} data: blob:",
    "font-src": f"{HERE} data:",
    "media-src": f"{HERE} blob:",
    "connect-src": f"{HERE} blob:",
    "worker-src": f"{HERE} blob:",
    "base-uri": "'none'",
    "form-action": HERE,
}


def add_policy(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    content = "; ".join(f"{kind} {sources}" for kind, sources in POLICY.items())
    tag = f'<meta http-equiv="Content-Security-Policy" content="{content}">'
    context["metatags"] = f"{tag}\n{context.get('metatags', '')}"


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("html-page-context", add_policy)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
