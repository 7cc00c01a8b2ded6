"""What all wire types share: strict requests, answers that leave keys out, lists."""

from __future__ import annotations

from typing import Any, ClassVar, Generic, Literal, TypeVar, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    model_serializer,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

T = TypeVar("T", bound=BaseModel)


class StrictRequest(BaseModel):
    """Parameters of a request; unknown keys are refused, and no type is guessed."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class LenientRequest(BaseModel):
    """Parameters of a request for an answer; what becomes of other keys is decided elsewhere."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, frozen=True)

    @property
    def unknown_parameters(self) -> dict[str, Any]:
        """The keys that no field is declared for, with their values."""
        return self.model_extra or {}


class Wire(BaseModel):
    """A part of an answer."""

    model_config = ConfigDict(frozen=True)

    left_out_when_none: ClassVar[frozenset[str]] = frozenset()
    """Keys that OpenAI leaves out, where others are sent as ``null``."""

    @model_serializer(mode="wrap")
    def _without_absent(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        return {
            key: value
            for key, value in written.items()
            if value is not None or key not in self.left_out_when_none
        }

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Describe the fields, of which the serializer only leaves some out."""
        plain = {key: part for key, part in core_schema.items() if key != "serialization"}
        schema = handler(cast("CoreSchema", plain))
        fields = handler.resolve_ref_schema(schema)
        required = [key for key in fields.get("required", ()) if key not in cls.left_out_when_none]
        fields["required"] = required
        return schema


class ErrorObject(Wire):
    """What is wrong, as OpenAI says it."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorEnvelope(Wire):
    """The body of every answer that is not a success."""

    error: ErrorObject


class ListPage(Wire, Generic[T]):
    """A list, or a part of one."""

    object: Literal["list"] = "list"
    data: list[T]
    has_more: bool


class CursorPage(ListPage[T], Generic[T]):
    """A list that names its first and last item."""

    first_id: str | None
    last_id: str | None
