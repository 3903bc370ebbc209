"""The simulator's application: its routes, and the state that they share."""

from functools import partial

from aiohttp import web

from rustygate.simulator.control import ControlEndpoints
from rustygate.simulator.endpoints.batches import Batches
from rustygate.simulator.endpoints.completions import CompletionRequest
from rustygate.simulator.endpoints.containers import Containers
from rustygate.simulator.endpoints.embeddings import EmbeddingsRequest
from rustygate.simulator.endpoints.files import Files
from rustygate.simulator.endpoints.generation import GenerationHandlers
from rustygate.simulator.endpoints.images import (
    ImageEditRequest,
    ImageGenerationRequest,
    ImageVariationRequest,
)
from rustygate.simulator.endpoints.moderations import ModerationRequest
from rustygate.simulator.endpoints.response_store import ResponseStore
from rustygate.simulator.endpoints.speech import SpeechRequest
from rustygate.simulator.endpoints.stored_chats import StoredChats
from rustygate.simulator.endpoints.stored_responses import StoredResponses
from rustygate.simulator.endpoints.transcription import (
    AudioFile,
    TranscriptionRequest,
    TranslationRequest,
)
from rustygate.simulator.endpoints.uploads import Uploads
from rustygate.simulator.limits import Limits, Quotas
from rustygate.simulator.middleware import Middleware
from rustygate.simulator.models import Models
from rustygate.simulator.options import Options
from rustygate.simulator.request_summary import Report
from rustygate.simulator.stats import Stats
from rustygate.simulator.storage.file_store import FileStore
from rustygate.simulator.transport.delivery import send_json

# JSON bodies are held in memory. OpenAI accepts this much for its largest inputs.
MAX_BODY_BYTES = 64 * 1024 * 1024


def make_app(options: Options, report: Report | None = None) -> web.Application:
    """The simulator as an application, with quotas, counts and files of its own.

    `report` is called at the end of each request to the API.
    """
    stats = Stats()
    quotas = Quotas(Limits(options.rpm, options.tpm), dict(options.model_limits))
    middleware = Middleware(options, stats, report)
    app = web.Application(
        middlewares=[middleware.handle],
        client_max_size=MAX_BODY_BYTES,
        # The handler must end when its client disconnects: it may be stalled forever.
        handler_args={"handler_cancellation": True},
    )
    app.on_response_prepare.append(middleware.add_headers)
    app.on_shutdown.append(middleware.cancel_open_requests)
    models = Models(options.strict_models, (name for name, _ in options.model_limits))
    generation = GenerationHandlers(models, quotas, stats)
    app.add_routes(_generation_routes(generation))
    chats, responses = StoredChats(), ResponseStore()
    app.add_routes(
        [
            web.post("/v1/chat/completions", generation.chat_handler(chats)),
            web.post("/v1/responses", generation.responses_handler(responses)),
            web.get("/v1/responses", generation.responses_websocket(responses)),
        ]
    )
    app.add_routes(chats.routes())
    app.add_routes(StoredResponses(responses, stats).routes())
    app.add_routes(
        [
            web.get("/v1/models", partial(_list_models, models)),
            web.get("/v1/models/{model:.+}", partial(_show_model, models)),
        ]
    )
    file_store = FileStore()
    files = Files(file_store)
    app.add_routes(files.routes())
    app.add_routes(Uploads(file_store, files).routes())
    app.add_routes(Containers(file_store, files).routes())
    app.add_routes(Batches(files).routes())
    app.add_routes(ControlEndpoints(quotas, stats).routes())
    return app


def _generation_routes(generation: GenerationHandlers) -> list[web.RouteDef]:
    return [
        web.get("/v1/realtime", generation.realtime),
        web.post("/v1/completions", generation.json_handler(CompletionRequest)),
        web.post("/v1/embeddings", generation.json_handler(EmbeddingsRequest)),
        web.post("/v1/moderations", generation.json_handler(ModerationRequest)),
        web.post(
            "/v1/audio/transcriptions", generation.form_handler(TranscriptionRequest, AudioFile)
        ),
        web.post("/v1/audio/translations", generation.form_handler(TranslationRequest, AudioFile)),
        web.post("/v1/audio/speech", generation.json_handler(SpeechRequest)),
        web.post("/v1/images/generations", generation.json_handler(ImageGenerationRequest)),
        web.post("/v1/images/edits", generation.form_handler(ImageEditRequest)),
        web.post("/v1/images/variations", generation.form_handler(ImageVariationRequest)),
    ]


async def _list_models(models: Models, request: web.Request) -> web.StreamResponse:
    return await send_json(request, models.list())


async def _show_model(models: Models, request: web.Request) -> web.StreamResponse:
    return await send_json(request, models.find(request.match_info["model"]))
