"""Values as messages show them."""

from __future__ import annotations

__all__ = ["shown"]


def shown(value: object, limit: int = 120) -> str:
    """A repr that is safe for error messages: at most ``limit`` characters of it, and it never raises.

    Cases: a long string, of which no more is built than is shown; an integer that Python refuses to write; an object
    whose own repr raises.
    """
    kind = type(value)
    if isinstance(value, (str, bytes)) and kind in (str, bytes) and len(value) > limit:
        units = "characters" if kind is str else "bytes"
        return f"{repr(value[:limit])[:limit]}... ({len(value)} {units})"
    try:
        text = repr(value)
    except Exception as exc:
        if isinstance(value, int):
            return f"<an integer of {int.bit_length(value)} bits>"
        return f"<{kind.__name__} whose repr raises {type(exc).__name__}>"
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"
