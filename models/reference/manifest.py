"""Writes pack.toml (schema 1): plain tables as key = value lines, references and lists of them inline."""

import json


def inline(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        # TOML basic strings share JSON's escapes.
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {inline(item)}" for key, item in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        if any(isinstance(item, dict) for item in value):
            return "[\n" + "".join(f"  {inline(item)},\n" for item in value) + "]"
        return "[" + ", ".join(inline(item) for item in value) + "]"
    raise TypeError(f"no TOML for {type(value)}")


def is_table(name, value):
    """Sub-tables of a module or of [tasks]; a FileRef ({file, sha256, bytes}) stays inline."""
    return isinstance(value, dict) and "sha256" not in value


def table(lines, header, content, path):
    """CONTENT under HEADER; its sub-tables follow as [PATH.name]."""
    lines.append("")
    lines.append(header)
    subs = {key: value for key, value in content.items() if is_table(key, value)}
    lines.extend(f"{key} = {inline(value)}" for key, value in content.items() if key not in subs)
    for key, value in subs.items():
        table(lines, f"[{path}.{key}]", value, f"{path}.{key}")


def render(pack):
    """The text of pack.toml. PACK: the top-level keys; "tasks" and "captioner" tables; "modules", a list of tables."""
    lines = ["# Written by models/reference/build.py."]
    for key, value in pack.items():
        if key not in ("tasks", "captioner", "modules"):
            lines.append(f"{key} = {inline(value)}")
    for name, task in pack["tasks"].items():
        table(lines, f"[tasks.{name}]", task, f"tasks.{name}")
    if pack.get("captioner"):
        table(lines, "[captioner]", pack["captioner"], "captioner")
    for module in pack["modules"]:
        table(lines, "[[module]]", module, "module")
    return "\n".join(lines) + "\n"
