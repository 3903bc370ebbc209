"""The routes."""

from aiohttp import web

from rustygate.simulator import models
from rustygate.simulator.control import Pages
from rustygate.simulator.endpoints.batches import Batches
from rustygate.simulator.endpoints.chat import ChatAsked
from rustygate.simulator.endpoints.completions import CompletionAsked
from rustygate.simulator.endpoints.containers import Containers
from rustygate.simulator.endpoints.embeddings import EmbeddingsAsked
from rustygate.simulator.endpoints.files import Files
from rustygate.simulator.endpoints.generation import Generation
from rustygate.simulator.endpoints.images import EditAsked, GenerationAsked, VariationAsked
from rustygate.simulator.endpoints.moderations import ModerationAsked
from rustygate.simulator.endpoints.responses import ResponseAsked
from rustygate.simulator.endpoints.speech import SpeechAsked
from rustygate.simulator.endpoints.transcription import (
    AudioFile,
    TranscriptionAsked,
    TranslationAsked,
)
from rustygate.simulator.endpoints.uploads import Uploads
from rustygate.simulator.limits import Limits, Quotas
from rustygate.simulator.middleware import Front
from rustygate.simulator.options import Options
from rustygate.simulator.stats import Stats
from rustygate.simulator.storage.file_store import Shelf
from rustygate.simulator.transport.delivery import put

# JSON bodies are held whole. OpenAI takes as much in one request for its largest inputs.
MAX_BODY = 64 * 1024 * 1024


def make_app(options: Options) -> web.Application:
    """The simulator as an application; it keeps its quotas, counts and files for itself."""
    stats = Stats()
    quotas = Quotas(Limits(options.rpm, options.tpm), dict(options.model_limits))
    front = Front(options, stats)
    app = web.Application(
        middlewares=[front.attend],
        client_max_size=MAX_BODY,
        # A client that leaves must end its handler, which may be stalled for ever.
        handler_args={"handler_cancellation": True},
    )
    app.on_response_prepare.append(front.stamp)
    app.on_shutdown.append(front.end)
    app.add_routes(_generation_routes(Generation(quotas, stats)))
    app.add_routes(
        [
            web.get("/v1/models", _list_models),
            web.get("/v1/models/{model:.+}", _show_model),
        ]
    )
    shelf = Shelf()
    files = Files(shelf)
    app.add_routes(files.routes())
    app.add_routes(Uploads(shelf, files).routes())
    app.add_routes(Containers(shelf, files).routes())
    app.add_routes(Batches(files).routes())
    app.add_routes(Pages(quotas, stats).routes())
    return app


def _generation_routes(generation: Generation) -> list[web.RouteDef]:
    return [
        web.post("/v1/chat/completions", generation.json(ChatAsked)),
        web.post("/v1/responses", generation.json(ResponseAsked)),
        web.get("/v1/responses", generation.responses),
        web.get("/v1/realtime", generation.realtime),
        web.post("/v1/completions", generation.json(CompletionAsked)),
        web.post("/v1/embeddings", generation.json(EmbeddingsAsked)),
        web.post("/v1/moderations", generation.json(ModerationAsked)),
        web.post("/v1/audio/transcriptions", generation.form(TranscriptionAsked, AudioFile)),
        web.post("/v1/audio/translations", generation.form(TranslationAsked, AudioFile)),
        web.post("/v1/audio/speech", generation.json(SpeechAsked)),
        web.post("/v1/images/generations", generation.json(GenerationAsked)),
        web.post("/v1/images/edits", generation.form(EditAsked)),
        web.post("/v1/images/variations", generation.form(VariationAsked)),
    ]


async def _list_models(request: web.Request) -> web.StreamResponse:
    return await put(request, models.listing())


async def _show_model(request: web.Request) -> web.StreamResponse:
    return await put(request, models.model(request.match_info["model"]))
