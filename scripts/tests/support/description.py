"""Prints the description of the API at URL. As `open`: as it is to be read where clients have no
tokens.

usage: description.py URL with_tokens|open
"""

import json
import sys
import urllib.request

url, kind = sys.argv[1:]
with urllib.request.urlopen(url, timeout=10) as answer:
    description = json.load(answer)
if kind == "open":
    for item in description["paths"].values():
        for operation in item.values():
            operation["security"] = [it for it in operation["security"] if "operator" in it]
json.dump(description, sys.stdout)
