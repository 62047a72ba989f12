"""The API described on a plain page, made from its OpenAPI schema; nothing is loaded from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any


def api_page(schema: Mapping[str, Any]) -> str:
    """Return the page (HTML) of an OpenAPI schema."""
    operations = [
        _operation(method, path, operation, schema)
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    ]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(schema["info"]["title"])}: API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="page.css">
</head>
<body>
<main>
<h1>API</h1>
<p>{escape(schema["info"].get("description", ""))} Machine-readable: <a href="openapi.json">openapi.json</a>.
<a href=".">Back to the page</a></p>
{"".join(operations)}
</main>
</body>
</html>
"""


def _operation(method: str, path: str, operation: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    parts = [f"<section><h2><code>{method.upper()} {escape(path)}</code></h2>"]
    parts.append(f"<p>{escape(operation.get('summary', ''))}.</p>")
    body = operation.get("requestBody")
    if body:
        model = _model(body["content"]["application/json"]["schema"], schema)
        parts.append(f"<h3>Request</h3>{_fields(model, schema)}")
        for example in model.get("examples", []):
            text = escape(json.dumps(example, ensure_ascii=False))
            parts.append(f"<pre><code>{text}</code></pre>")
    parts.append("<h3>Answers</h3><dl>")
    for status, answer in operation["responses"].items():
        parts.append(f"<dt>{escape(status)}</dt><dd>{escape(answer['description'])}")
        content = answer.get("content", {}).get("application/json", {}).get("schema")
        # FastAPI lists its own form of 422 for requests without a body, too
        if content and not str(content.get("$ref", "")).endswith("HTTPValidationError"):
            parts.append(_fields(_model(content, schema), schema))
        parts.append("</dd>")
    return "".join(parts) + "</dl></section>\n"


def _model(reference: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" in reference:
        found: Mapping[str, Any] = schema["components"]["schemas"][reference["$ref"].rpartition("/")[2]]
        return found
    return reference


def _fields(model: Mapping[str, Any], schema: Mapping[str, Any], depth: int = 0) -> str:
    rows = []
    for name, field in model.get("properties", {}).items():
        note = field.get("description", "")
        if "default" in field:
            note = f"{note} Default: {json.dumps(field['default'])}.".strip()
        inner = _model(field.get("items", field), schema)
        nested = _fields(inner, schema, depth + 1) if depth < 2 and inner.get("properties") else ""
        kind = escape(_type(field, schema))
        rows.append(f"<li><code>{escape(name)}</code> <i>{kind}</i> {escape(note)}{nested}</li>")
    return f"<ul>{''.join(rows)}</ul>" if rows else ""


def _type(field: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_type(one, schema) for one in field["anyOf"])
    if "$ref" in field:
        return "object"
    if field.get("type") == "array":
        return f"list of {_type(field.get('items', {}), schema)}s"
    return str(field.get("type", "any"))
