"""Reads a scrape on standard input with a parser that is not ours, and writes as JSON what it found.

The only argument is the format: `text` (Prometheus 0.0.4) or `openmetrics`.
"""

import json
import sys

from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics


def shown_name(family):
    """The name under which its samples are queried."""
    for kind, suffix in (("counter", "_total"), ("info", "_info")):
        if family.type == kind and not family.name.endswith(suffix):
            return family.name + suffix
    return family.name


def main():
    parsers = {"text": parser, "openmetrics": openmetrics}
    families = []
    for family in parsers[sys.argv[1]].text_string_to_metric_families(sys.stdin.read()):
        name = shown_name(family)
        # The older format knows no infos.
        kind = "info" if name.endswith("_info") else family.type
        samples = [[sample.name, sample.labels, sample.value] for sample in family.samples]
        families.append({"name": name, "kind": kind, "help": family.documentation, "samples": samples})
    json.dump(families, sys.stdout)


main()
