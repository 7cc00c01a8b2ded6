"""Reduces OpenAI's published specification to the facts that this suite checks.

``python tests/conformance/reduce_spec.py SPEC.yaml`` writes ``openai.json`` beside this file:
the claimed paths with their parameters and schemas, and the schemas that those refer to. Facts
stay (names, types, required, enums, ranges, defaults); prose and examples do not. ``allOf`` is
merged into one object, so that a reader can close an object to fields that it does not know.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

CLAIMED = (
    "/files",
    "/uploads",
    "/fine_tuning/jobs",
    "/fine_tuning/checkpoints",
    "/models",
    "/chat/completions",
    "/completions",
    "/batches",
)
"""What the paths that we claim begin with."""
SOURCE = {
    "repository": "https://github.com/openai/openai-openapi",
    "commit": "f85dbe2",
    "license": "MIT",
}
TARGET = Path(__file__).with_name("openai.json")

_METHODS = ("get", "post", "delete", "put", "patch")
_PLAIN = (
    "type",
    "enum",
    "const",
    "required",
    "format",
    "default",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "minLength",
    "maxLength",
    "pattern",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "uniqueItems",
)
_REF = "#/components/schemas/"

Node = dict[str, Any]


class Reducer:
    """Reduces one document; ``needed`` are the components that what was reduced refers to."""

    def __init__(self, document: Node) -> None:
        self._document = document
        self._components: Node = document["components"]["schemas"]
        self.needed: list[str] = []

    def operation(self, operation: Node) -> Node:
        """Return parameters, body and answers of one operation."""
        kept: Node = {"operationId": operation["operationId"]}
        if operation.get("parameters"):
            kept["parameters"] = [self._parameter(one) for one in operation["parameters"]]
        if "requestBody" in operation:
            body = operation["requestBody"]
            kept["requestBody"] = {
                "required": bool(body.get("required")),
                "content": self._content(body["content"]),
            }
        kept["responses"] = {
            status: {"description": "", "content": self._content(self._at(answer)["content"])}
            for status, answer in operation["responses"].items()
            if "content" in self._at(answer)
        }
        return kept

    def schema(self, node: Node) -> Node:
        """Return the facts of a schema."""
        node = self._merged(node)
        kept: Node = {key: node[key] for key in _PLAIN if key in node}
        if "$ref" in node:
            kept["$ref"] = self._note(node["$ref"])
        if "properties" in node:
            kept["properties"] = {k: self.schema(v) for k, v in node["properties"].items()}
        for key in ("items", "additionalProperties", "propertyNames", "not"):
            if key in node:
                kept[key] = self.schema(node[key]) if isinstance(node[key], dict) else node[key]
        for key in ("anyOf", "oneOf"):
            if key in node:
                kept[key] = [self.schema(branch) for branch in node[key]]
        return _modern(kept, is_nullable=bool(node.get("nullable")))

    def component(self, name: str) -> Node:
        """Return the facts of a named schema."""
        return self.schema(self._components[name])

    def _parameter(self, parameter: Node) -> Node:
        parameter = self._at(parameter)
        kept = {
            key: parameter[key] for key in ("name", "in", "style", "explode") if key in parameter
        }
        return {
            **kept,
            "required": bool(parameter.get("required")),
            "schema": self.schema(parameter["schema"]),
        }

    def _content(self, content: Node) -> Node:
        return {kind: {"schema": self.schema(one["schema"])} for kind, one in content.items()}

    def _note(self, ref: str) -> str:
        name = ref.removeprefix(_REF)
        if name not in self.needed:
            self.needed.append(name)
        return ref

    def _at(self, node: Node) -> Node:
        """Return what a reference points to, which may be any part of the document."""
        while "$ref" in node:
            found: Any = self._document
            for part in node["$ref"].removeprefix("#/").split("/"):
                found = found[part]
            node = found
        return node

    def _merged(self, node: Node) -> Node:
        """Return a schema whose ``allOf``, if it has one, is one object."""
        if "allOf" not in node:
            return node
        own = {key: value for key, value in node.items() if key != "allOf"}
        merged: Node = {"properties": {}, "required": []}
        for member in (*node["allOf"], own):
            whole = self._merged(self._at(member))
            merged["properties"] |= whole.get("properties", {})
            merged["required"] += whole.get("required", [])
            merged |= {k: v for k, v in whole.items() if k not in ("properties", "required")}
        return {key: value for key, value in merged.items() if value not in ({}, [])}


def _modern(kept: Node, *, is_nullable: bool) -> Node:
    """Return a schema of OpenAPI 3.1: ``nullable`` and yes-or-no bounds are of older ones."""
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if kept.get(exclusive) is True:
            kept[exclusive] = kept.pop(bound)
        elif kept.get(exclusive) is False:
            del kept[exclusive]
    return {"anyOf": [kept, {"type": "null"}]} if is_nullable else kept


def is_claimed(path: str) -> bool:
    """Tell whether a path belongs to what we claim."""
    return any(path == start or path.startswith(f"{start}/") for start in CLAIMED)


def reduce(document: Node) -> Node:
    """Return the facts of the claimed paths, as a document of OpenAPI 3.1."""
    reducer = Reducer(document)
    paths = {
        path: {m: reducer.operation(item[m]) for m in _METHODS if m in item}
        for path, item in document["paths"].items()
        if is_claimed(path)
    }
    reducer.needed.append("ErrorResponse")
    components: Node = {}
    while names := [name for name in reducer.needed if name not in components]:
        components |= {name: reducer.component(name) for name in names}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Facts of OpenAI's API",
            "version": document["info"]["version"],
            "x-source": SOURCE,
        },
        "servers": [{"url": "/v1"}],
        "paths": paths,
        "components": {"schemas": dict(sorted(components.items()))},
    }


def main() -> None:
    """Read the specification named on the command line and write the facts."""
    import yaml

    document = yaml.load(Path(sys.argv[1]).read_text(encoding="utf-8"), yaml.CSafeLoader)
    text = json.dumps(reduce(document), indent=1, ensure_ascii=False, allow_nan=False)
    TARGET.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
