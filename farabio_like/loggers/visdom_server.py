"""Starts a visdom server on loopback, without internet: what ``python -m farabio_like.loggers.visdom`` does.

The package visdom has no third-party files of its page in it and fetches them from several places at the first start.
This one starts without them; ``--fetch`` takes them from npm once.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import warnings
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from ..packages import needs

# The versions that visdom 0.2.4 names in its server/build.py, as npm has them.
PACKAGES = (
    *("jquery@3.1.1", "bootstrap@3.3.7", "react@16.2.0", "react-dom@16.2.0", "plotly.js-dist-min@2.11.1", "sjcl@1.0.7"),
    *("layout-bin-packer@1.4.0", "d3@3.5.17", "d3-selection-multi@1.0.1", "save-svg-as-png@1.4.17"),
    *("react-resizable@1.4.6", "react-grid-layout@0.16.3", "mathjax@2.7.5"),
)
FILES = {
    "jquery/dist/jquery.min.js": "js/jquery.min.js",
    "bootstrap/dist/js/bootstrap.min.js": "js/bootstrap.min.js",
    "bootstrap/dist/css/bootstrap.min.css": "css/bootstrap.min.css",
    "bootstrap/dist/fonts": "fonts",
    "react/umd/react.production.min.js": "js/react-react.min.js",
    "react-dom/umd/react-dom.production.min.js": "js/react-dom.min.js",
    "plotly.js-dist-min/plotly.min.js": "js/plotly-plotly.min.js",
    "sjcl/sjcl.js": "js/sjcl.js",
    "layout-bin-packer/dist/layout-bin-packer.js": "js/layout_bin_packer.js",
    "d3/d3.min.js": "js/d3.v3.min.js",
    "d3-selection-multi/build/d3-selection-multi.min.js": "js/d3-selection-multi.v1.js",
    "save-svg-as-png/lib/saveSvgAsPng.js": "js/saveSvgAsPng.js",
    "react-resizable/css/styles.css": "css/react-resizable-styles.css",
    "react-grid-layout/css/styles.css": "css/react-grid-layout-styles.css",
    "mathjax/MathJax.js": "js/mathjax/2.7.5/MathJax.js",
    "mathjax/config": "js/mathjax/2.7.5/config",
    "mathjax/extensions": "js/mathjax/2.7.5/extensions",
    "mathjax/jax": "js/mathjax/2.7.5/jax",
    "mathjax/fonts/HTML-CSS/TeX/woff": "js/mathjax/2.7.5/fonts/HTML-CSS/TeX/woff",
}


def cache() -> Path:
    """Return the folder of the page's files."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "farabio_like" / f"visdom-{version('visdom')}"


def is_complete(folder: Path) -> bool:
    """Return whether all files of the page are in a folder."""
    return all((folder / name).exists() for name in FILES.values())


def fetch(folder: Path) -> None:
    """Put the files of the page into a folder: visdom's own, and the others from npm.

    Raises
    ------
    SystemExit
        Where npm is missing, or does not get them.
    """
    if shutil.which("npm") is None:
        raise SystemExit("npm is missing, which fetches the files of the page. Install it: apt-get install npm")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:  # where a rename is enough
        # Of these packages alone the archives: nothing that they depend on, and no script of theirs is run.
        command = ["npm", "pack", "--ignore-scripts", "--pack-destination", temporary]
        done = subprocess.run([*command, *PACKAGES], cwd=temporary, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"npm did not get the files of the page:\n{done.stderr}")
        for package in PACKAGES:
            name, _, number = package.partition("@")
            with tarfile.open(Path(temporary) / f"{name}-{number}.tgz") as archive:
                archive.extractall(Path(temporary) / name, filter="data")
        ready = Path(temporary) / "ready"
        shutil.copytree(_static(), ready)
        for source, target in FILES.items():
            name, _, inside = source.partition("/")
            path = Path(temporary) / name / "package" / inside
            (ready / target).parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                shutil.copytree(path, ready / target, dirs_exist_ok=True)
            else:
                shutil.copyfile(path, ready / target)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(ready, folder)


def serve(port: int, environments: Path, page: Path) -> None:
    """Serve on loopback until the process ends.

    Parameters
    ----------
    port : int
    environments : Path
        Folder of the saved environments.
    page : Path
        Folder of the page's files.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # visdom's own, at import
        from visdom.server import app, run_server

    app.tornado_settings["static_path"] = str(page)
    app.tornado_settings["template_path"] = str(page)
    environments.mkdir(parents=True, exist_ok=True)
    put_aside_damaged(environments)

    def say(port: int) -> None:
        print(f"visdom serves http://127.0.0.1:{port}, this machine only; Ctrl-C ends it", flush=True)

    # Not visdom.server.main, which downloads first. A trailing separator: visdom joins some paths by hand.
    run_server.start_server(port=port, base_url="", env_path=f"{environments}/", bind_local=True, print_func=say)


def put_aside_damaged(environments: Path) -> None:
    """Rename the environments that cannot be read: a server that was killed amid a save has left one.

    visdom answers every request for such an environment with an error.
    """
    for path in environments.glob("*.json"):
        try:
            json.loads(path.read_bytes())
        except ValueError:
            path.replace(path.with_suffix(".damaged"))
            print(f"{path} cannot be read, and is now called {path.stem}.damaged", file=sys.stderr, flush=True)


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(
        prog="python -m farabio_like.loggers.visdom",
        description="Start a visdom server that only this machine reaches. It needs no internet.",
    )
    parser.add_argument("--port", type=int, default=int(os.environ.get("VISDOM_PORT") or 8097))
    parser.add_argument(
        "--environments", type=Path, default=Path.home() / ".visdom", help="folder of the saved environments"
    )
    parser.add_argument("--page", type=Path, help="folder of the page's files; default: a cache in the home folder")
    parser.add_argument("--fetch", action="store_true", help="get the files of the page from npm first")
    given = parser.parse_args()
    needs("visdom", "the server")
    page = given.page or cache()
    if given.fetch:
        fetch(page)
        print(f"the files of the page are in {page}", flush=True)
    if not is_complete(page):
        if given.page is None and is_complete(_static()):
            page = _static()  # visdom has been started by itself before
        else:
            print(
                f"The page will stay empty: its files are not in {page}. Runs are recorded all the same. Get the files "
                "once, where npm and a network are: python -m farabio_like.loggers.visdom --fetch",
                file=sys.stderr,
            )
            page = _static()
    try:
        serve(given.port, given.environments, page)
    except OSError as error:
        raise SystemExit(f"port {given.port} cannot be served: {error.strerror or error}. Write --port 8098.") from None
    except KeyboardInterrupt:
        pass


def _static() -> Path:
    spec = find_spec("visdom")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "static"
