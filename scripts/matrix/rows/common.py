# Owns: what several rows share: servers on the kernel's stack, ways to write an address, normalised output.

import os
import shutil
import sys

from network import PEER

PYTHON = sys.executable or shutil.which("python3")
PROGRAMS = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", "..", "..", "Tests", "programs"))
SMALL, MEGABYTE, GIGABYTE = 4321, 1_000_000, 1 << 30
WEB = 8000


def url(path, port=WEB, host=PEER):
    return f"http://{host}:{port}/{path}"


def script(name):
    return os.path.join(PROGRAMS, name)


def big(trial):
    """Size of the large transfers."""
    return 64 << 20 if trial.quick else GIGABYTE


def web_root(trial, *sizes):
    """A directory with files named after their sizes."""
    root = trial.path("www")
    os.makedirs(root, exist_ok=True)
    for size in sizes:
        os.symlink(trial.fixtures.file(size), os.path.join(root, f"{size}.bin"))
    return root


def nginx_command(trial, root):
    """nginx in the foreground, one process, all files in the trial's directory; PUT below /put/ stores files.

    `user root`: in a user namespace no other user is known, and nginx would hand its directories to one.
    """
    os.makedirs(trial.path("put"), exist_ok=True)
    with open(trial.path("nginx.conf"), "w") as file:
        file.write(
            f"""daemon off; master_process off; user root root; pid {trial.path("nginx.pid")};
            error_log {trial.path("nginx.log")} warn;
            events {{ worker_connections 1024; }}
            http {{
              access_log off; sendfile on; keepalive_requests 1000000; client_max_body_size 0;
              client_body_temp_path {trial.path("body")}; proxy_temp_path {trial.path("proxy")};
              fastcgi_temp_path {trial.path("fastcgi")}; uwsgi_temp_path {trial.path("uwsgi")};
              scgi_temp_path {trial.path("scgi")};
              server {{ listen {WEB} backlog=511; listen [::]:{WEB} backlog=511; root {root};
                location /put/ {{ root {trial.directory}; dav_methods PUT; }} }}
            }}"""
        )
    return ["nginx", "-e", trial.path("nginx.log"), "-c", trial.path("nginx.conf")]


def nginx_peer(trial, *sizes):
    return trial.peer(nginx_command(trial, web_root(trial, *sizes)), listens=WEB)
