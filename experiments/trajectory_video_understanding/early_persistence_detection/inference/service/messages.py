"""What goes over the wire, version 1. Boxes are in px unless the camera's `box_format` says otherwise."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

Number = Annotated[float, Field(allow_inf_nan=False)]
Box4 = tuple[Number, Number, Number, Number]
BoxFormat = Literal["xywh", "xyxy", "cxcywh", "xywhn"]
MOST_PX = 65_536


class CameraSettings(BaseModel):
    """How one camera is watched. What is left out has the default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str | None = Field(
        default=None, max_length=2_000, description="rtsp(s) or http(s) address that the service pulls"
    )
    model: Literal["evidence", "pixels"] = "evidence"
    rule: Literal["threshold", "per_age", "certified"] = "threshold"
    confidence_threshold: float | None = Field(default=None, gt=0.5, le=1)
    box_format: BoxFormat = Field(
        default="xywh", description="x, y: upper left corner; cx, cy: centre; xywhn: of the picture"
    )
    width: int | None = Field(default=None, ge=1, le=MOST_PX, description="of the picture in px; needed for xywhn")
    height: int | None = Field(default=None, ge=1, le=MOST_PX)
    detector: str | None = Field(
        default=None, max_length=100, description="whose scores the boxes have, if the model knows it"
    )
    adapt: bool = Field(default=False, description="learn from the camera's own tracks; asks whether they outlive")
    target: Literal["real_or_clutter", "outlives_clip"] | None = None
    on_overload: Literal["wait", "drop_oldest", "drop_latest"] = "wait"
    track_ids: bool = Field(default=False, description="every box comes with the id that a tracker gave it")
    shadow: bool = Field(
        default=False, description="beside a tracker in charge: track_ids and confirmed come with the boxes"
    )

    explain: bool = Field(default=False, description="keep what decisions followed from, so that they can be explained")

    @model_validator(mode="after")
    def _fits_together(self) -> CameraSettings:
        if self.box_format == "xywhn" and (self.width is None or self.height is None):
            raise ValueError("box_format xywhn needs width and height")
        if (self.width is None) != (self.height is None):
            raise ValueError("give width and height, or neither")
        if self.shadow and not self.track_ids:
            raise ValueError("shadow needs track_ids: the tracks are the tracker's")
        if self.model == "pixels" and (self.adapt or self.detector is not None or self.target is not None):
            raise ValueError(
                "adapt, detector and target are of evidence; a model that looks at pixels has none of them"
            )
        if self.adapt and self.target == "real_or_clutter":
            raise ValueError("adapt learns whether tracks outlive; set target to outlives_clip or leave it out")
        if self.adapt and self.rule == "certified":
            raise ValueError("a certificate holds for the model as it was certified; leave adapt out")
        if self.source is not None and self.track_ids:
            raise ValueError("a camera with a source finds its boxes itself, so they have no track_ids")
        return self


class FrameMessage(BaseModel):
    """One frame. `boxes` null: the detector was not run; an empty list: it found nothing."""

    model_config = ConfigDict(extra="forbid")

    seconds: Number | None = Field(default=None, description="time of the frame by any clock that does not go back")
    boxes: list[Box4] | None
    scores: list[Number] | None = Field(default=None, description="one a box; default 1")
    track_ids: list[Annotated[int, Field(gt=0, lt=2**62)]] | None = None
    class_ids: list[Annotated[int, Field(ge=-1, lt=2**31)]] | None = None
    confirmed: list[bool] | None = Field(default=None, description="shadow mode: whether the tracker shows it")


class TrackMessage(BaseModel):
    """One track after a frame."""

    track_id: int | None = Field(description="null: an overload, in which the box was not looked at")
    box: Box4 = Field(description="xywh in px")
    seen: bool
    age: int
    p: float | None = Field(description="P(persistent)")
    decision: Literal["persistent", "transient", "undecided"]
    state: Literal["provisional", "final", "retracted", "restored"]
    decision_frame: int | None
    gate: Literal["watch", "full_budget", "stop"]
    reason: str | None = None


class FrameAnswer(BaseModel):
    """What a frame told. Of a dropped frame `dropped` is true and nothing else is there."""

    frame_index: int | None = None
    dropped: bool = False
    dropped_frames: int = Field(default=0, description="of this camera, in all")
    tracks: list[TrackMessage] = []
    events: list[dict[str, Any]] = []


class CameraState(BaseModel):
    """A camera as the service has it."""

    id: str
    state: str = Field(description="idle, live, or what is wrong with its source")
    settings: CameraSettings
    live_tracks: int
    counters: dict[str, int]
    width: int | None
    height: int | None
    has_picture: bool


class CameraDetail(CameraState):
    """With the tracks of its last frame."""

    tracks: list[TrackMessage]


class CameraList(BaseModel):
    """All cameras."""

    cameras: list[CameraState]


class TrackHistory(BaseModel):
    """What became of one track. Probabilities are kept while the track is remembered, events for as long as stored."""

    track_id: int
    decision: str | None
    decision_frame: int | None
    probabilities: list[float] = Field(description="at ages 1, 2, ... until its decision")
    events: list[dict[str, Any]]


class SentenceMessage(BaseModel):
    """A sentence and the facts of the evidence that it states."""

    text: str
    facts: list[str]


class TrackExplanation(BaseModel):
    """Why a track was decided as it was. `evidence` is the record that the text is made of."""

    track_id: int
    verdict: str = Field(description="persistent or transient")
    decision_frame: int
    probability: float
    text: str
    sentences: list[SentenceMessage]
    evidence: dict[str, Any]


class ShadowDay(BaseModel):
    """A day beside the tracker that is in charge."""

    day: str
    days: list[str]
    summary: dict[str, Any]
    words: str


class JobState(BaseModel):
    """A video that is decided as a whole."""

    id: str
    status: Literal["waiting", "running", "done", "failed"]
    name: str
    progress: str | None = None
    problem: str | None = None
    summary: dict[str, Any] | None = None
    decisions: list[dict[str, str]] | None = None


frame_message = TypeAdapter(FrameMessage)
