# Importing a file of this folder adds its rows. The order here is the order of the table.

from . import (  # noqa: F401
    transfer_tools, web_servers, runtimes, databases, datagrams, throughput, probes, hosts, names, posix,
)
