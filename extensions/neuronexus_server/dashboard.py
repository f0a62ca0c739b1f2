"""The dashboard: one notebook, rendered by Voila for each visitor.

Of Voila only what this one page needs is mounted: the page itself, its scripts and styles, and
the address that ends its kernel.  There is no tree of notebooks, no choice of template, nothing
from another host.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_server.auth.decorator import allow_unauthenticated
from jupyter_server.base.handlers import APIHandler, FileFindHandler
from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager
from jupyterlab_server.themes_handler import ThemesHandler
from tornado import web
from voila.configuration import VoilaConfiguration
from voila.paths import collect_static_paths, collect_template_paths
from voila.static_file_handler import MultiStaticFileHandler, TemplateStaticFileHandler
from voila.tornado.handler import TornadoVoilaHandler
from voila.utils import get_data_dir, get_voila_labextensions_path

from neuronexus_server.authorizer import ForMembers, OwnKernelOnly, Renews
from neuronexus_server.context import context_of
from neuronexus_server.kernels import ShowsKernel

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp

TEMPLATE = "neuronexus"
EXTENSIONS = (
    "@jupyter-widgets/jupyterlab-manager",
    "@voila-dashboards/widgets-manager8",
    "bqplot",
    "bqscales",
    "jupyter-threejs",
    "jupyterlab-datawidgets",
)
_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; connect-src 'self' data: blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'self'"
)


class NotebookFolder(AsyncLargeFileManager):
    """The folder of the dashboard's notebook; what is packaged needs no signature."""

    def mark_trusted_cells(self, nb: Any, path: str = "") -> None:
        """Leave the cells as they are: Voila runs them anew for every visitor."""


class DashboardPage(ForMembers, Renews, ShowsKernel, TornadoVoilaHandler):
    """Renders the dashboard with a kernel of the visitor's own."""

    def initialize(self, notebook: Path, folder: NotebookFolder, **kwargs: Any) -> None:
        """Take the notebook and Voila's configuration."""
        super().initialize(notebook_path=notebook.name, **kwargs)
        self._notebook = notebook
        self._folder = folder

    @property
    def contents_manager(self) -> NotebookFolder:
        """Read the notebook from where it is, not from the server's own folder."""
        return self._folder

    @property
    def content_security_policy(self) -> str:
        """Keep the page to this server: Voila's scripts need `eval`, but nothing from outside."""
        return _POLICY

    @web.authenticated
    async def get(self) -> None:  # type: ignore[override]
        """Send the page."""
        context_of(self).touch()
        if not self._notebook.exists():
            raise web.HTTPError(404, f"There is no dashboard at {self._notebook}.")
        try:
            await super().get(None)
        finally:
            self.kernel_manager.page_sent(self)


class VoilaFiles(MultiStaticFileHandler):
    """Voila's scripts and styles: public, as they are the same for everybody."""

    get = allow_unauthenticated(MultiStaticFileHandler.get)
    head = allow_unauthenticated(MultiStaticFileHandler.head)


class TemplateFiles(TemplateStaticFileHandler):
    """Files of page templates: public likewise."""

    get = allow_unauthenticated(TemplateStaticFileHandler.get)
    head = allow_unauthenticated(TemplateStaticFileHandler.head)


class KernelEnd(OwnKernelOnly, APIHandler):
    """Ends the kernel of a page that is being left."""

    @web.authenticated
    async def post(self, kernel_id: str) -> None:
        """End the kernel if it is the visitor's own."""
        await self.kernel_manager.end(kernel_id)
        self.set_status(204)
        self.finish()


def dashboard_handlers(server: ServerApp, notebook: Path) -> list[tuple[str, Any, dict[str, Any]]]:
    """Return the patterns and handlers of the dashboard.

    Parameters
    ----------
    server
        The server they will be added to.
    notebook
        The dashboard's notebook.
    """
    configuration = _configuration(server)
    template_paths = collect_template_paths(["voila", "nbconvert"], configuration.template)
    labextensions = get_voila_labextensions_path([])
    themes = str(Path(get_data_dir()) / "themes")
    static_paths = collect_static_paths(["voila", "nbconvert"], configuration.template)
    page = {
        "notebook": notebook,
        "folder": NotebookFolder(parent=server, root_dir=str(notebook.parent)),
        "config": server.config,
        "template_paths": template_paths,
        "voila_configuration": configuration,
    }
    files = {"path": labextensions, "no_cache_paths": ["/"]}
    theme_files = {
        "themes_url": "/voila/api/themes",
        "path": themes,
        "labextensions_path": labextensions,
        "no_cache_paths": ["/"],
    }
    return [
        ("/neuronexus/dashboard", DashboardPage, page),
        (r"/voila/api/shutdown/(?P<kernel_id>\w+-\w+-\w+-\w+-\w+)", KernelEnd, {}),
        (r"/voila/static/(.*)", VoilaFiles, {"paths": static_paths}),
        (r"/voila/templates/(.*)", TemplateFiles, {}),
        (r"/voila/labextensions/(.*)", FileFindHandler, files),
        (r"/voila/api/themes/(.*)", ThemesHandler, theme_files),
    ]


def find_dashboard() -> Path:
    """Return the packaged notebook: beside this package in a wheel, else in the repository."""
    here = Path(__file__).resolve().parent
    packaged = here / "notebooks" / "dashboard.ipynb"
    return packaged if packaged.exists() else here.parents[1] / "notebooks" / "dashboard.ipynb"


def _configuration(server: ServerApp) -> VoilaConfiguration:
    return VoilaConfiguration(
        parent=server,
        template=TEMPLATE,
        theme="dark",
        allow_template_override="NO",
        allow_theme_override="NO",
        extension_allowlist=list(EXTENSIONS),
        page_config_hook=_without_other_hosts,
        strip_sources=True,
        show_tracebacks=False,
    )


def _without_other_hosts(page_config: dict[str, Any], **_: Any) -> dict[str, Any]:
    # Voila loads MathJax from a public host unless it is told that there is none.
    page_config["mathjaxConfig"] = None
    page_config["fullMathjaxUrl"] = None
    return page_config
