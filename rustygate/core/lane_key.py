"""The key of the lane of a request that names no model: its endpoint.

An endpoint is a method and a path in which identifiers are collapsed to `*`, as in
`POST /v1/threads/*/runs`. So a limit that upstream reports at one endpoint holds up no other, and
requests for different objects share a lane. Keys go into metrics: their words are a fixed
vocabulary, but for the first one, which look-alikes choose; a lane whose endpoint upstream has not
confirmed is forgotten (`admission.lanes`).
"""

import re

READ_METHODS = frozenset({"GET", "HEAD"})

_METHODS = READ_METHODS | {"DELETE", "OPTIONS", "PATCH", "POST", "PUT"}

# Words in paths of OpenAI's API and its look-alikes, behind `/v1/` and another word.
_WORDS = {
    "accept", "activate", "admin_api_keys", "alpha", "api_keys", "archive", "audio",
    "audit_logs", "batches", "calls", "cancel", "certificates", "chat", "checkpoints",
    "client_secrets", "compact", "complete", "completions", "containers", "content",
    "contents", "conversations", "costs", "count_tokens", "deactivate", "deployments", "edits",
    "embeddings", "events", "evals", "file_batches", "files", "fine_tuning", "generate",
    "generations", "graders", "groups", "hangup", "images", "info", "input_items",
    "input_tokens", "invites", "items", "jobs", "messages", "metadata", "models",
    "moderations", "organization", "output_items", "parts", "pause", "permissions", "projects",
    "rate_limits", "realtime", "refer", "reject", "remix", "rerank", "resume", "responses",
    "roles", "run", "runs", "score", "search", "service_accounts", "sessions", "speech",
    "steps", "stream", "submit_tool_outputs", "tasks", "threads", "transcription_sessions",
    "transcriptions", "translations", "uploads", "usage", "users", "validate", "variations",
    "vector_stores", "verify", "versions", "videos", "voices",
}  # fmt: skip
_FIRST_WORD = re.compile(r"[a-z][a-z_-]{0,31}", re.ASCII | re.IGNORECASE)

# No endpoint of OpenAI's is deeper; what follows is left out.
_MAX_SEGMENTS = 6


def endpoint_key(method: str, path: str) -> str:
    """The lane key of a request by its method and its path, which begins with `/v1/`."""
    first, *others = path.removeprefix("/v1/").rstrip("/").split("/", _MAX_SEGMENTS)
    segments = [first if _FIRST_WORD.fullmatch(first) else "*"]
    segments += [segment if segment in _WORDS else "*" for segment in others[: _MAX_SEGMENTS - 1]]
    return f"{method if method in _METHODS else '*'} /v1/{'/'.join(segments)}"
