"""What the gate needs to know about a request: its model, whether it streams, what it may cost.

It is read from a copy: the bytes that cross the gate are never changed. The cost is estimated as
OpenAI does before it has counted the tokens (OpenAI's guide "Rate limits"): the characters of the
input, four to a token, plus the most tokens that the response may take.

Bodies come from outside. Whatever is in them, these functions return and do not raise.
"""

from urllib.parse import parse_qs

import msgspec

from rustygate.core.request_schema import CHARACTERS_PER_TOKEN, read_request

# A model name is a label in logs. No model has a longer name.
MODEL_NAME_LIMIT = 128

# Endpoints at which a model writes text: chat and legacy completions, and the Responses API.
_TEXT_ENDPOINTS = ("/completions", "/responses")


# Made for each exchange: a Struct costs a tenth of a frozen dataclass.
class RequestFacts(msgspec.Struct, frozen=True):
    """What matters in a request's body. The defaults are those of an empty body.

    Args:
        input_characters: of text and definitions; media and token ids count at a fixed rate.
        output_cap: the most tokens that the response may take, all choices together; 0 if the
            response takes no tokens, None if the request sets no cap.
        readable: whether the body could be parsed.
    """

    model: str | None = None
    streaming: bool = False
    input_characters: int = 0
    output_cap: int | None = 0
    readable: bool = True

    def cost(self, typical_output: int) -> int:
        """The model tokens to reserve, with `typical_output` if the request sets no cap."""
        output = typical_output if self.output_cap is None else self.output_cap
        return -(-self.input_characters // CHARACTERS_PER_TOKEN) + output


NO_FACTS = RequestFacts()


def read_request_facts(body: bytes, path: str | None = None) -> RequestFacts:
    """Read a buffered body. One that is not a JSON object costs its length.

    Args:
        path: the request's path, which distinguishes text generation from embeddings and others.
            Without a path, the request counts as text generation.
    """
    if not body:
        return NO_FACTS
    default_cap = None if path is None or path.endswith(_TEXT_ENDPOINTS) else 0
    request = read_request(body)
    if request is None:
        return RequestFacts(input_characters=len(body), output_cap=default_cap, readable=False)
    cap = request.output_cap()
    return RequestFacts(
        _model_name(request.model),
        request.stream is True,
        request.input_characters(),
        default_cap if cap is None else cap,
    )


def model_in_query(target: str) -> str | None:
    """The model in a target's query, where WebSocket requests name it.

    None if it is named more than once, because upstream might use any of them.
    """
    models = parse_qs(target.partition("?")[2], keep_blank_values=True).get("model", [])
    return _model_name(models[0]) if len(models) == 1 else None


def _model_name(model: object) -> str | None:
    return model if isinstance(model, str) and 0 < len(model) <= MODEL_NAME_LIMIT else None
