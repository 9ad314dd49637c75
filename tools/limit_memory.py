"""Run a command that may use so much memory and no more (Linux only):  python limit_memory.py MEGABYTES COMMAND [ARGUMENT ...]"""
import os
import resource
import sys

limit = int(sys.argv[1])*1_000_000
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))  # private memory; code and weights that are mapped from files do not count
os.execv(sys.argv[2], sys.argv[2:])
