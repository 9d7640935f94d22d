# Importing a file of this folder adds its rows. The order here is the order of the table.

from . import transfer_tools, web_servers, runtimes, databases, throughput, probes, hosts, names, posix  # noqa: F401
