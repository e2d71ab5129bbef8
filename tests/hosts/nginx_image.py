"""An image of Debian's nginx for containers, as ``nginx:stable``: no registry is asked.

It is not installed on the machine, where it would start.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

from hosts import image_cache, prerequisites, tiny_image

NAME = "nginx:stable"
PAGES = "/usr/share/nginx/html"
CONF = f"""\
user user;
pid /tmp/nginx.pid;
events {{}}
http {{
    access_log /dev/stdout;
    client_body_temp_path /tmp/body;
    fastcgi_temp_path /tmp/fastcgi;
    proxy_temp_path /tmp/proxy;
    scgi_temp_path /tmp/scgi;
    uwsgi_temp_path /tmp/uwsgi;
    server {{ listen 80; root {PAGES}; }}
}}
"""
#: As that of the image which the project publishes: it runs without a command of the user's.
CONFIG = {**tiny_image.CONFIG, "Cmd": ["nginx", "-g", "daemon off;"], "StopSignal": "SIGQUIT"}


def nginx_image() -> Path:
    """Return the archive of the image ``NAME``, as `docker save` writes it; made once per machine."""
    cache = image_cache.cache_directory()
    path = cache / f"nginx-{image_cache.digest(['nginx_image.py', 'tiny_image.py'])}.tar"
    with image_cache.locked(path.with_suffix(".lock")):
        if not path.exists():
            partial = path.with_suffix(".partial")
            with tempfile.TemporaryDirectory() as folder:
                partial.write_bytes(tiny_image.archive(NAME, _files(Path(folder)), CONFIG))
            partial.rename(path)
    return path


def _files(folder: Path) -> dict[str, bytes]:
    """Return the program, and the machine's libraries that it is linked with."""
    try:
        _run(["apt-get", "download", "nginx"], folder)
    except subprocess.CalledProcessError:  # a machine that has no lists of packages, or old ones
        _run(prerequisites.as_root(["apt-get", "update"]), folder)
        _run(["apt-get", "download", "nginx"], folder)
    (package,) = folder.glob("nginx_*.deb")
    _run(["dpkg", "-x", str(package), "."], folder)
    program = folder / "usr/sbin/nginx"
    libraries = re.findall(r"(/\S+) \(0x", _run(["ldd", str(program)], folder))
    files = {library.removeprefix("/"): Path(library).read_bytes() for library in libraries}
    return {**files, "bin/nginx": program.read_bytes(), "etc/nginx/nginx.conf": CONF.encode()}


def _run(argv: list[str], folder: Path) -> str:
    return subprocess.run(argv, check=True, cwd=folder, capture_output=True, text=True, timeout=300).stdout
