"""What a request says of itself and may cost."""

from urllib.parse import parse_qs

import msgspec

from rustygate.core.request_schema import CHARACTERS_PER_TOKEN, read_request

# A model name is a label in logs; a longer one is nobody's model.
MODEL_NAME_LIMIT = 128

# Where a model writes text: chat's and the older completions, and the Responses API.
_WRITERS = ("/completions", "/responses")


class RequestFacts(msgspec.Struct, frozen=True):
    """What matters of a request's body; the defaults are what an empty one tells.

    Args:
        input_characters: of text and definitions; media and token ids as what they are worth.
        output_cap: the most tokens that the answer may take, all choices together; 0 if it takes
            none, None if the request does not say.
        readable: whether it could be told at all what it asks.
    """

    model: str | None = None
    streaming: bool = False
    input_characters: int = 0
    output_cap: int | None = 0
    readable: bool = True

    def cost(self, typical_output: int) -> int:
        """The model's tokens to reserve; `typical_output` stands in for a cap not said."""
        output = typical_output if self.output_cap is None else self.output_cap
        return -(-self.input_characters // CHARACTERS_PER_TOKEN) + output


NO_FACTS = RequestFacts()


def read_request_facts(body: bytes, path: str | None = None) -> RequestFacts:
    """Read a held body. One that is not a JSON object tells nothing and costs its length.

    Args:
        path: the request's, by which answers that a model writes are told from embeddings and
            the like; without it, any request is taken for one that wants such an answer.
    """
    if not body:
        return NO_FACTS
    not_said = None if path is None or path.endswith(_WRITERS) else 0
    request = read_request(body)
    if request is None:
        return RequestFacts(input_characters=len(body), output_cap=not_said, readable=False)
    cap = request.output_cap()
    return RequestFacts(
        _model_name(request.model),
        request.stream is True,
        request.input_characters(),
        not_said if cap is None else cap,
    )


def model_in_query(target: str) -> str | None:
    """The model that a target's query names, as a WebSocket's does.

    None if there are several: which of them upstream takes nobody knows.
    """
    models = parse_qs(target.partition("?")[2], keep_blank_values=True).get("model", [])
    return _model_name(models[0]) if len(models) == 1 else None


def _model_name(model: object) -> str | None:
    return model if isinstance(model, str) and 0 < len(model) <= MODEL_NAME_LIMIT else None
