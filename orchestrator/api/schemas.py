"""The JSON schemas of what customers send and get, from the types that decode and encode it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec

from orchestrator.api.endpoints import Endpoint
from orchestrator.api.replies import ErrorReply, Reply

Json = dict[str, Any]
REF: Final = "#/components/schemas/{name}"


class Schemas:
    """The JSON schemas of all types; answers say which of their fields are always there."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        types = [ErrorReply] + [
            one
            for endpoint in endpoints
            for one in (
                endpoint.request, endpoint.form, endpoint.reply, endpoint.query, *endpoint.events
            )
            if one is not None
        ]  # fmt: skip
        _, made = msgspec.json.schema_components(types, ref_template=REF)
        components: dict[str, Json] = {name: _tidied(schema) for name, schema in made.items()}
        for type_ in _structs(types):
            if issubclass(type_, Reply):
                schema = components[type_.__name__]
                schema["required"] = list(_always_there(type_))
                # What is always there needs no default.
                for one in schema["properties"].values():
                    one.pop("default", None)
        # What stands in a query string is described as parameters.
        queries = {one.query.__name__ for one in endpoints if one.query is not None}
        self._queries = {name: components.pop(name) for name in queries}
        self.components = components

    def ref(self, type_: type[msgspec.Struct]) -> Json:
        return {"$ref": REF.format(name=type_.__name__)}

    def one_of(self, types: Sequence[type[msgspec.Struct]]) -> Json:
        """Return the schema of a value of one of ``types``, told apart by their tags, if any."""
        if len(types) == 1:
            return self.ref(types[0])
        refs = [self.ref(one) for one in types]
        configs = [one.__struct_config__ for one in types]
        if any(one.tag is None for one in configs):
            return {"anyOf": refs}
        mapping = {str(config.tag): ref["$ref"] for config, ref in zip(configs, refs, strict=True)}
        tells = {"propertyName": configs[0].tag_field, "mapping": mapping}
        return {"oneOf": refs, "discriminator": tells}

    def fields(self, query: type[msgspec.Struct]) -> Iterable[tuple[str, Json]]:
        """Return the schemas of a query string's parameters by name."""
        properties: dict[str, Json] = self._queries[query.__name__]["properties"]
        return properties.items()


def _structs(types: Iterable[type]) -> Iterator[type[msgspec.Struct]]:
    """Yield every struct that ``types`` are made of, once."""
    seen: set[type] = set()
    todo: list[msgspec.inspect.Type] = list(msgspec.inspect.multi_type_info(types))
    while todo:
        match todo.pop():
            case msgspec.inspect.StructType(cls=cls, fields=fields) if cls not in seen:
                seen.add(cls)
                yield cls
                todo += [one.type for one in fields]
            case msgspec.inspect.UnionType(types=inner):
                todo += inner
            case msgspec.inspect.Metadata(type=one):
                todo.append(one)
            case (
                msgspec.inspect.ListType(item_type=one)
                | msgspec.inspect.VarTupleType(item_type=one)
                | msgspec.inspect.DictType(value_type=one)
            ):
                todo.append(one)
            case _:
                pass


def _always_there(type_: type[msgspec.Struct]) -> Iterator[str]:
    config = type_.__struct_config__
    omits = config.omit_defaults
    if config.tag_field is not None:
        yield config.tag_field
    for one in msgspec.structs.fields(type_):
        if one.default is not msgspec.UNSET and (one.required or not omits):
            yield one.encode_name


def _tidied(schema: Any) -> Any:
    """Return a schema as people read it: no default where that is null, a type for choices."""
    if isinstance(schema, list):
        return [_tidied(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    tidy = {name: _tidied(value) for name, value in schema.items()}
    if tidy.get("default", 0) is None:
        del tidy["default"]
    if isinstance(tidy.get("description"), str):
        tidy["description"] = tidy["description"].replace("``", "`")
    choices = tidy.get("enum")
    if isinstance(choices, list) and all(isinstance(one, str) for one in choices):
        tidy = {"type": "string", **tidy}
    if tidy.get("required") == []:
        del tidy["required"]
    match tidy:
        case {"anyOf": [{"description": str(text), **rest}, {"type": "null"} as null]}:
            tidy = {"description": text, **tidy, "anyOf": [rest, null]}
    return tidy


def without_null(schema: Json) -> Json:
    """Return the schema of a parameter: it is left out, never null."""
    match schema:
        case {"anyOf": [one, {"type": "null"}]}:
            return {**one, **{name: value for name, value in schema.items() if name != "anyOf"}}
    return schema
