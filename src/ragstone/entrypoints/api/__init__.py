"""The HTTP interface: `/v1/search`, `/v1/answers`, `/v1/evidence/{id}`, health, and the console at `/`.

Errors are problem documents (RFC 9457); a `traceparent` that comes in names the record; what is over the
bounds is refused at once with `Retry-After`.
"""
