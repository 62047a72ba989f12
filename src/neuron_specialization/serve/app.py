"""The HTTP API: ``POST /translate``, ``GET /directions``, ``GET /health``, and the pages."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import anyio
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from neuron_specialization import __version__
from neuron_specialization.directions import Direction
from neuron_specialization.errors import NeuronSpecializationError, TranslationError
from neuron_specialization.serve.api_page import api_page
from neuron_specialization.serve.limits import BodyLimit, Gate, Limits, RefusedError
from neuron_specialization.serve.waiting import AwaitedAnswer
from neuron_specialization.translation.engine import SearchOptions
from neuron_specialization.translation.translator import Translator

STATIC = Path(__file__).parent / "static"
_LINE_BREAK = re.compile(r"\r\n?|\n")
_PAGES = {"/": "page.html", "/page.css": "page.css", "/page.js": "page.js"}
# nothing is loaded from anywhere else
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:;"
    " base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


class TranslationRequest(BaseModel):
    """Text to translate."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"direction": "de-en", "text": ["Gerät hinzufügen"]}]},
    )

    direction: str = Field(description="e.g. de-en; GET /directions lists them")
    text: str | list[str] = Field(description="A segment a line, or a list of segments.")
    beam: Annotated[int, Field(ge=1)] = 5
    nbest: Annotated[int, Field(ge=1)] = 1
    refuse_long: bool = Field(
        False, description="Refuse lines longer than the model takes; else they are split."
    )


class Candidate(BaseModel):
    """A translation and its score: mean log-probability a token."""

    text: str
    score: float


class Translated(BaseModel):
    """A line and its translations, best first."""

    source: str
    translation: str
    score: float
    hypotheses: list[Candidate]


class TranslationResponse(BaseModel):
    """As many translations as there are lines, in their order; a blank line stays blank."""

    direction: str
    translations: list[Translated]
    seconds: float


class LayerShare(BaseModel):
    """Neurons of a feed-forward layer that a direction uses."""

    layer: str
    kept: int
    of: int
    share: float


class DirectionFacts(BaseModel):
    """A direction, and what part of the model it uses."""

    direction: str
    source: str
    target: str
    masked: bool
    share: float
    layers: list[LayerShare]


class Directions(BaseModel):
    """All directions of the model."""

    model: str
    directions: list[DirectionFacts]


class Health(BaseModel):
    """The service is up; how busy it is."""

    status: str
    model: str
    version: str
    directions: int
    active: int
    waiting: int


class ErrorBody(BaseModel):
    """What went wrong: ``code`` for programs, ``message`` for people, and further keys."""

    model_config = ConfigDict(extra="allow")

    code: str
    message: str


class Problem(BaseModel):
    """Every answer that is not a success."""

    error: ErrorBody


def create_app(
    translator: Translator,
    directions: Mapping[str, Mapping[str, Any]],
    *,
    name: str,
    limits: Limits,
    stopping: Callable[[], bool] = lambda: False,
) -> FastAPI:
    """Build the application.

    Args:
        translator: thread-safe, engine ctranslate2.
        directions: see directions.describe_directions.
        name: what the model is called.
        limits: see Limits.
        stopping: whether the service has been told to stop.
    """
    problems: dict[int | str, dict[str, Any]] = {
        status: {"model": Problem, "description": text}
        for status, text in (
            (413, "The request is too large."),
            (422, "The request is not valid, or its direction is not known."),
            (429, "The client has too many requests open."),
            (503, "The service is busy, or stops; come again."),
        )
    }
    app = FastAPI(
        title="Neuron Specialization: translation",
        version=__version__,
        description=f"Translates with {name}.",
        docs_url=None,  # FastAPI's pages load their scripts from elsewhere
        redoc_url=None,
    )
    gate = Gate(limits)
    app.add_middleware(BodyLimit, limit=limits.body)

    @app.middleware("http")
    async def add_headers(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Content-Security-Policy"] = POLICY
        return response

    @app.exception_handler(RefusedError)
    async def refused(request: Request, error: RefusedError) -> JSONResponse:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        details = [
            {"where": ".".join(str(part) for part in one["loc"][1:]) or "body", "what": one["msg"]}
            for one in error.errors()
        ]
        first = f"{details[0]['where']}: {details[0]['what']}" if details else "not valid"
        return RefusedError(422, "invalid_request", first, details=details).response()

    @app.exception_handler(HTTPException)
    async def no_such(request: Request, error: HTTPException) -> Response:
        refusal = RefusedError(
            error.status_code, "not_found" if error.status_code == 404 else "http", error.detail
        )
        return refusal.response()

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return RefusedError(500, "internal", "the service failed to answer; its log says why").response()

    @app.post("/translate", responses=problems, summary="Translate lines")
    async def translate(request: Request, wanted: TranslationRequest) -> TranslationResponse:
        lines = _LINE_BREAK.split(wanted.text) if isinstance(wanted.text, str) else wanted.text
        options = _checked(wanted, lines, directions, limits)
        client = request.client.host if request.client else "unknown"
        async with (
            AwaitedAnswer.of(request, stopping, limits.stop_seconds) as answer,
            gate.enter(client),
        ):
            start = time.monotonic()

            def before_chunk(pieces_left: int) -> None:
                _check_work(pieces_left, wanted.beam, limits)
                answer.look()

            translations = await answer.in_thread(
                lambda: _translate(translator, lines, wanted, options, before_chunk), threads
            )
        return TranslationResponse(
            direction=wanted.direction,
            translations=translations,
            seconds=round(time.monotonic() - start, 4),
        )

    # the gate decides how many run; the pool of threads is only as large
    threads = anyio.CapacityLimiter(limits.concurrency)

    @app.get("/directions", summary="What the model translates, and which neurons it uses for it")
    async def list_directions() -> Directions:
        return Directions.model_validate({"model": name, "directions": list(directions.values())})

    @app.get("/health", summary="Whether the service is up, and how busy")
    async def health() -> Health:
        return Health(
            status="ok",
            model=name,
            version=__version__,
            directions=len(directions),
            active=gate.active,
            waiting=gate.waiting,
        )

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(api_page(app.openapi()))

    for path, file in _PAGES.items():
        _serve_file(app, path, STATIC / file)
    return app


def _serve_file(app: FastAPI, path: str, file: Path) -> None:
    @app.get(path, include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(file, headers={"Cache-Control": "no-cache"})


def _checked(
    wanted: TranslationRequest, lines: list[str], directions: Mapping[str, Any], limits: Limits
) -> SearchOptions:
    if len(lines) > limits.lines:
        raise RefusedError(
            413,
            "too_many_lines",
            f"{len(lines):,} lines; a request may have {limits.lines:,}",
            limit_lines=limits.lines,
        )
    if any("\n" in line or "\r" in line for line in lines):
        raise RefusedError(422, "line_break", "a segment of the list holds a line break")
    for number, line in enumerate(lines, 1):
        try:
            line.encode()
        except UnicodeEncodeError:  # JSON can say it, text cannot hold it
            message = f"line {number}: half a surrogate pair, which is no character"
            raise RefusedError(422, "no_character", message) from None
    if wanted.direction not in directions:
        raise RefusedError(
            422,
            "unknown_direction",
            f"the model does not translate {wanted.direction!r}",
            known=sorted(directions),
        )
    if wanted.beam > limits.beam:
        raise RefusedError(
            422, "beam_too_large", f"a beam of {wanted.beam}; at most {limits.beam} is allowed"
        )
    try:
        return SearchOptions(beam=wanted.beam, nbest=wanted.nbest)
    except TranslationError as error:
        raise RefusedError(422, "invalid_request", error.what) from None


def _check_work(pieces: int, beam: int, limits: Limits) -> None:
    if pieces * beam > limits.work:
        raise RefusedError(
            413,
            "too_much_work",
            f"{pieces:,} pieces of words; a request may have {limits.work // beam:,} at a beam of {beam}",
            limit_work=limits.work,
        )


def _translate(
    translator: Translator,
    lines: list[str],
    wanted: TranslationRequest,
    options: SearchOptions,
    before_chunk: Callable[[int], None],
) -> list[Translated]:
    """Runs in a thread."""
    try:
        found = translator.hypotheses(
            lines,
            Direction.parse(wanted.direction),
            options,
            too_long="refuse" if wanted.refuse_long else "split",
            before_chunk=before_chunk,
        )
    except NeuronSpecializationError as error:
        if wanted.refuse_long and str(error.where).startswith("line "):
            raise RefusedError(422, "line_too_long", f"{error.where}: {error.what}") from None
        logging.getLogger("uvicorn.error").error("translation failed: %s", error)
        raise RefusedError(500, "model", f"the model cannot be used: {error.what}") from None
    return [
        Translated(
            source=line,
            translation=best.text,
            score=best.score,
            hypotheses=[Candidate(text=one.text, score=one.score) for one in (best, *others)],
        )
        for line, (best, *others) in zip(lines, found, strict=True)
    ]
