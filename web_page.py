"""What every page that a program writes or serves here has in common: its frame, and who may ask for it.

A page is one file: style sheets and scripts are inside, named by their hashes in a content policy that lets
nothing else in. What stands in it comes from the pages' own modules (report_page.py, demo_page.py).
"""

import base64
import hashlib
import ipaddress
import re
import socket
from collections.abc import Sequence
from html import escape
from pathlib import Path

LOOPBACK = "127.0.0.1"
_LOOPBACK_NAMES = (LOOPBACK, "localhost", "[::1]")
_ASSETS = Path(__file__).parent
_SHARED_STYLE = "web_page.css"


def render(
    title: str,
    body: str,
    *,
    styles: Sequence[str] = (),
    scripts: Sequence[str] = (),
    head: str = "",
    asks_server: bool = False,
) -> str:
    """A page.

    Args:
        title: as text.
        body: HTML.
        styles, scripts: files beside this one; web_page.css comes first by itself.
        head: further HTML of the head.
        asks_server: whether the scripts may ask the server that the page comes from.
    """
    style = _contents([_SHARED_STYLE, *styles])
    script = _contents(scripts)
    connect = "; connect-src 'self'" if asks_server else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:;
 style-src '{_hash(style)}'; script-src '{_hash(script)}'{connect}; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
{head}
<title>{escape(title)}</title>
<style>{style}</style>
</head>
<body>
{body}
<script>{script}</script>
</body>
</html>
"""


def is_own_name(host: str, address: str) -> bool:
    """Whether a request was meant for this server, by the header Host that it came with.

    A browser that another site has led here under a name of its own sends that name (DNS rebinding).

    Args:
        host: the header, with or without a port.
        address: what the server is bound to, by which it may always be asked for. Beyond this machine it may
            be by the machine's name too and by any number, for which no other site can have a page.
    """
    name = re.sub(r":\d*$", "", host).lower()
    bare = name.strip("[]")
    # The loopback network has more addresses than the usual one: 127.0.0.2, or Debian's 127.0.1.1.
    if name in _LOOPBACK_NAMES or bare == address.lower():
        return True
    if is_loopback(address):
        return False
    return name == socket.gethostname().lower() or _is_number(bare)


def is_loopback(address: str) -> bool:
    """Whether nobody but this machine reaches the address."""
    return address == "localhost" or (_is_number(address) and ipaddress.ip_address(address).is_loopback)


def _is_number(address: str) -> bool:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True


def _contents(names: Sequence[str]) -> str:
    return "".join((_ASSETS / name).read_text(encoding="utf-8") for name in names)


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode("utf-8")).digest()).decode("ascii")
