"""Every task at every scale that it has."""

from sa_bench.core import registry
from sa_bench.engine.cells import list_scales

AT_SCALES = [
    (entry.name, scale)
    for entry in registry.list_entries("task")
    for scale in list_scales(registry.get_task(entry.name))
]
