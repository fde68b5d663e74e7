"""The page as one browser sees it: the talk, what is typed and uploaded, the settings.

Whatever a person or a model says is put into the page as text, never as HTML or Markdown: an answer can neither run
nor fetch anything.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from nicegui import ui

from vlcore.boxes import draw_answer
from vlcore.config import GenerateConfig, pick
from vlcore.errors import MediaError, UsageError, VlcoreError, first_line
from vlcore.generate import DEFAULTS
from vlcore.messages import Message, user
from vlcore.web.pictures import LARGE, Upload, read_upload, write_preview
from vlcore.web.settings import WebConfig
from vlcore.web.talk import Talk

LOG = logging.getLogger("vlcore.web")
HERE = Path(__file__).parent
#: What an event of the page leads to.
Handler = Callable[[Any], Awaitable[None]]
#: What asks, handing on the answer so far, and tells whether there is one.
Ask = Callable[[Callable[[str], None]], Awaitable[bool]]


class Page:
    """One open page.

    Args:
        talk: its talk.
        config: the limits of uploads, and the settings that answers begin with.
    """

    def __init__(self, talk: Talk, config: WebConfig) -> None:
        self.talk, self.config = talk, config
        self.waiting: list[Upload] = []
        self.bubbles: list[Any] = []
        self.again: Any = None
        self.gone = False

    def build(self) -> None:
        """Puts everything into the page."""
        ui.colors(primary="#2f5fa8")
        ui.add_css(HERE / "page.css")
        ui.add_body_html(f"<script>{(HERE / 'page.js').read_text('utf8')}</script>")
        self._build_header()
        self._build_settings()
        self.column = ui.column().classes("talk")
        self._show_hint()
        self._build_composer()
        # A page that is closed leaves no answer running, and no memory behind.
        ui.context.client.on_delete(self._leave)

    def _build_header(self) -> None:
        names = list(self.talk.models.served)
        with ui.header().style("gap: 12px; padding: 8px 16px; align-items: center"):
            ui.label("vlcore").style("font-size: 20px; font-weight: 600; line-height: 40px")
            if len(names) == 1:
                ui.label(names[0]).style("font-size: 15px; line-height: 40px")
            else:
                choice = ui.select(names, value=names[0], label="Model", on_change=self._choose)
                choice.props("dense outlined dark options-dense").style("min-width: 220px")
            ui.space()
            button = ui.button("Export", icon="download", on_click=self._guarded(self._export))
            button.props("flat dense no-caps color=white").tooltip("The talk as a row to train on")
            button = ui.button("Clear", icon="delete_outline", on_click=self._guarded(self._clear))
            button.props("flat dense no-caps color=white").tooltip("Forget the talk")

    def _build_settings(self) -> None:
        family = self.talk.session.model.checkpoint.family
        usual = DEFAULTS | dict(family.generation)
        drawer = ui.right_drawer(value=True, bordered=True, bottom_corner=True).props("width=250 breakpoint=900")
        with drawer.style("gap: 14px"):
            ui.label("Settings").style("font-weight: 600")
            self.temperature = ui.number("Temperature", value=self.config.temperature, step=0.1)
            self.temperature.props(f'hint="0 is greedy; empty is {usual["temperature"]:g}" stack-label clearable')
            self.temperature.classes("full-width")
            self.longest = ui.number("Longest answer in tokens", value=self.config.max_new_tokens, step=1)
            self.longest.props(f'hint="empty is {usual["max_new_tokens"]}" stack-label clearable').classes("full-width")
            ui.label("Pictures can be chosen, pasted or dropped.").classes("hint").style("margin-top: 14px")
            ui.label("Enter sends, Shift+Enter begins a new line.").classes("hint")

    def _build_composer(self) -> None:
        with ui.footer().props("bordered").classes("foot"), ui.column().classes("full-width").style("gap: 8px"):
            self.thumbs = ui.row().classes("composer thumbs waiting")
            self.thumbs.set_visibility(False)
            with ui.row().classes("composer"):
                self.uploader = self._build_uploader()
                add = ui.button(icon="add_photo_alternate", on_click=lambda: self.uploader.run_method("pickFiles"))
                add.props('flat round aria-label="Add pictures"').tooltip("Add pictures")
                self.input = ui.textarea(placeholder="Ask something").classes("col")
                self.input.props('outlined dense autogrow autofocus rows=1 aria-label="Question"')
                self.input.on("keydown.enter.exact.prevent", self._guarded(self._send))
                self.send = ui.button("Send", icon="send", on_click=self._guarded(self._send))
                self.send.props("unelevated no-caps")
                self.stop = ui.button("Stop", icon="stop", on_click=self.talk.stop)
                self.stop.props("unelevated no-caps color=negative")
                self.stop.set_visibility(False)

    def _build_uploader(self) -> Any:
        uploader = ui.upload(multiple=True, auto_upload=True, max_file_size=self.config.max_image_bytes,
                             on_upload=self._guarded(self._take), on_rejected=self._refuse)
        ui.add_body_html(f"<script>window.uploaderId = {uploader.id};</script>")
        return uploader.classes("hidden-upload")

    def _guarded(self, work: Handler) -> Handler:
        """A handler whose errors are shown in one line."""

        async def run(event: Any) -> None:
            try:
                await work(event)
            except Exception as error:
                if not isinstance(error, VlcoreError):
                    LOG.exception("the page")
                self.tell(error)

        return run

    def tell(self, error: Exception) -> None:
        """Shows an error in one line."""
        with self.column:
            ui.notify(first_line(error), type="negative", position="top", timeout=10_000, close_button="Close")

    def _leave(self) -> None:
        """The page has been closed: nothing of it is touched any more."""
        self.gone = True
        self.talk.stop()

    async def _choose(self, event: Any) -> None:
        if event.value == self.talk.name:
            return
        try:
            self.talk.choose(event.value)
        except UsageError as error:
            event.sender.set_value(self.talk.name)
            self.tell(error)

    async def _take(self, event: Any) -> None:
        self.uploader.run_method("removeUploadedFiles")
        name = event.file.name
        if len(self.waiting) >= self.config.max_images:
            most = f"a question may have {self.config.max_images} pictures"
            raise MediaError(f"image {name}", most, "ask with fewer")
        upload = await asyncio.to_thread(read_upload, name, await event.file.read(), self.config)
        self._show_waiting([*self.waiting, upload])

    async def _refuse(self) -> None:
        self.tell(MediaError("a file", f"it exceeds {self.config.max_image_bytes} bytes", "make it smaller"))

    def _fill_composer(self, text: str, uploads: list[Upload]) -> None:
        self.input.set_value(text)
        self._show_waiting(uploads)

    def _show_waiting(self, uploads: list[Upload]) -> None:
        self.waiting = uploads
        self.thumbs.clear()
        self.thumbs.set_visibility(bool(uploads))
        with self.thumbs:
            for upload in self.waiting:
                with ui.element("div").style("position: relative"):
                    show_picture(upload.preview, "thumb", upload.name)
                    rest = [other for other in self.waiting if other is not upload]
                    remove = ui.button(icon="close", on_click=partial(self._show_waiting, rest))
                    remove.props('round dense size=xs color=grey-8 aria-label="Remove"')
                    remove.style("position: absolute; top: -6px; right: -6px")

    async def _send(self, _: Any) -> None:
        text, uploads = str(self.input.value or "").strip(), self.waiting
        if self.talk.answering or not (text or uploads):
            return
        settings, question = self._read_settings(), user(text, [upload.data for upload in uploads])
        known = len(self.talk.messages)
        self._fill_composer("", [])
        bubble = self._show_question(question, [upload.preview for upload in uploads])

        def take_back() -> None:
            """The question goes back into its field, to be asked again or otherwise."""
            self._remove_bubble(bubble)
            self._fill_composer(text, uploads)

        if await self._answer(lambda show: self.talk.ask(question, settings, show), take_back):
            self._drop_forgotten(known + 2 - len(self.talk.messages))

    async def _ask_again(self, _: Any) -> None:
        settings, old = self._read_settings(), self.bubbles[-1]
        old.set_visibility(False)
        if await self._answer(lambda show: self.talk.ask_again(settings, show), lambda: old.set_visibility(True)):
            self._remove_bubble(old)

    async def _answer(self, ask: Ask, undo: Callable[[], None]) -> bool:
        """Shows an answer while it is made; `undo` is called when there is none. Returns whether there is one."""
        bubble, said = self._show_answer()
        self._show_running(True)
        done, fault = False, None
        try:
            done = await ask(lambda text: self._grow(said, text))
        except Exception as error:
            fault = error
        if self.gone:
            raise asyncio.CancelledError
        self._show_running(False)
        if not done:
            self._remove_bubble(bubble)
            undo()
        if fault is not None:
            raise fault
        if done:
            await self._finish(bubble, said)
        return done

    def _grow(self, said: Any, text: str) -> None:
        if self.gone:
            return
        said.set_text(text)
        with self.column:
            ui.run_javascript("followAnswer(false)")

    async def _finish(self, bubble: Any, said: Any) -> None:
        """Completes an answer: its last words, boxes on the picture, the button for another one."""
        messages = self.talk.messages
        said.set_text(messages[-1].text)
        drawn = await asyncio.to_thread(self._draw_boxes, messages)
        if self.gone:
            raise asyncio.CancelledError
        if self.again is not None:
            self.again.delete()
        with bubble:
            if drawn:
                show_picture(drawn, "drawn", "The picture with the boxes of the answer")
            self.again = ui.button("Regenerate", icon="refresh", on_click=self._guarded(self._ask_again))
            self.again.props("flat dense no-caps")
            ui.run_javascript("followAnswer(true)")

    def _drop_forgotten(self, count: int) -> None:
        """Takes turns out of the page that the model no longer sees."""
        if count <= 0:
            return
        for bubble in self.bubbles[:count]:
            self._remove_bubble(bubble)
        with self.column:
            ui.notify(f"{count // 2} turns are forgotten: the talk exceeds max_length {self.config.max_length}",
                      type="warning", position="top", timeout=10_000)

    def _remove_bubble(self, bubble: Any) -> None:
        bubble.delete()
        self.bubbles.remove(bubble)

    def _draw_boxes(self, messages: tuple[Message, ...]) -> str:
        grounding = self.talk.session.model.checkpoint.family.grounding
        drawn = draw_answer(messages, grounding) if grounding else None
        return write_preview(drawn, LARGE) if drawn else ""

    def _show_hint(self) -> None:
        with self.column:
            self.hint = ui.label("Ask something, with pictures or without.").classes("hint")

    def _show_question(self, question: Message, previews: list[str]) -> Any:
        self.hint.set_visibility(False)
        with self.column, ui.column().classes("bubble question") as bubble:
            if previews:
                with ui.row().classes("thumbs"):
                    for preview in previews:
                        show_picture(preview, "thumb", "A picture of the question")
            if question.text:
                ui.label(question.text).classes("said")
        self.bubbles.append(bubble)
        return bubble

    def _show_answer(self) -> tuple[Any, Any]:
        waits = self.talk.models.turn.locked()
        with self.column, ui.column().classes("bubble answer") as bubble:
            ui.label(self.talk.name).classes("who")
            said = ui.label("Waiting for another answer …" if waits else "…").classes("said")
            ui.run_javascript("followAnswer(true)")
        self.bubbles.append(bubble)
        return bubble, said

    def _show_running(self, running: bool) -> None:
        self.send.set_visibility(not running)
        self.stop.set_visibility(running)

    def _read_settings(self) -> GenerateConfig:
        longest = self.longest.value
        # A browser's numbers have a point in them.
        whole = int(longest) if longest is not None and longest == int(longest) else longest
        return replace(pick(GenerateConfig, self.config), temperature=self.temperature.value, max_new_tokens=whole)

    async def _clear(self, _: Any) -> None:
        self.talk.clear()
        self.column.clear()
        self.bubbles, self.again = [], None
        self._show_hint()

    async def _export(self, _: Any) -> None:
        ui.download.content(await asyncio.to_thread(self.talk.write), "talk.jsonl", "application/jsonl")


def show_picture(source: str, style: str, text: str) -> None:
    """Puts a picture into the page, with what is read out for it."""
    picture = ui.element("img").classes(style)
    picture.props["src"], picture.props["alt"] = source, text
